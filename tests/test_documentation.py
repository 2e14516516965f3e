"""The Python in the documentation runs as it stands, each block by itself."""

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
from planted import SETTINGS, SIZE, PlantedNetwork, planted_batches

import interp_cnn
from interp_cnn.evaluation.filters.comparison import compare
from interp_cnn.evaluation.filters.measure_network import OBSERVED, measure_network
from interp_cnn.report.evaluation.tables import markdown, measure_figures
from interp_cnn.report.measures import MEASURES, measure

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "docs/api.md",
    "docs/trained_networks.md",
    "docs/bridges.md",
    *(f"docs/contributing/{page.name}" for page in sorted((ROOT / "docs/contributing").glob("*.md"))),
)
BLOCKS = [
    (page, number, block)
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.S))
]
EXAMPLES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in sorted((ROOT / "interp_cnn").rglob("*.py"))
    if re.search(r"^ +>>> ", file.read_text("utf-8"), re.M)
]


@pytest.mark.parametrize(("page", "number", "block"), BLOCKS, ids=[f"{p}-{n}" for p, n, _ in BLOCKS])
def test_an_example_runs(page, number, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, f"{page}, example {number + 1}", "exec"), {})


@pytest.mark.parametrize("name", [name for name in interp_cnn.__all__ if name != "__version__"])
def test_every_public_name_has_an_example(name):
    thing = getattr(interp_cnn, name)
    found = doctest.DocTestFinder(recurse=False).find(thing, name)
    assert found and found[0].examples
    assert thing.__module__ in EXAMPLES, "the test below runs it"


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_in_a_docstring_runs(name):
    module = import_module(name)
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for found in doctest.DocTestFinder().find(module, name):
        runner.run(found, out=said.append)
    assert runner.summarize(verbose=False).attempted > 0
    assert not said, "".join(said)


def test_there_are_five_examples_beside_the_readme():
    assert sum(page == "docs/api.md" for page, _, _ in BLOCKS) == 5


def test_a_measure_is_added_as_its_page_says(monkeypatch):
    page = (ROOT / "docs/contributing/measure.md").read_text("utf-8")
    [block] = re.findall(r"```python\n(.*?)```", page, re.S)
    for registry in (OBSERVED, MEASURES):
        monkeypatch.setitem(registry, "border_peaks", None)  # so that it is gone afterwards
    exec(compile(block.split("try:")[0], "docs/contributing/measure.md", "exec"), {})
    parts = ("head", "tail")
    measured = measure_network(PlantedNetwork(), planted_batches(), **SETTINGS, name="net", parts=parts)
    cells = torch.cat(
        [
            (batch.images[:, 2] == batch.images[:, 2].amax((1, 2), True)).nonzero()
            for batch in planted_batches()
        ]
    )
    literal = ((cells[:, 1:] == 0) | (cells[:, 1:] == SIZE - 1)).any(dim=1).double().mean()
    assert measured.filters["border_peaks"][2] == pytest.approx(float(literal))
    assert measured.filters["border_peaks"][1] == 0
    comparison = compare([measured])
    assert "| Peaks at the border ↓ |" in markdown(comparison).splitlines()[0]
    assert "border_peaks" in dict(measure_figures(comparison))
    assert measure("border_peaks").write(0.25) == "25.0\u00a0%"
