"""The Python in the documentation runs as it stands, each block by itself."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "docs/api.md",
    *(f"docs/contributing/{page.name}" for page in sorted((ROOT / "docs/contributing").glob("*.md"))),
)
BLOCKS = [
    (page, number, block)
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.S))
]


@pytest.mark.parametrize(("page", "number", "block"), BLOCKS, ids=[f"{p}-{n}" for p, n, _ in BLOCKS])
def test_an_example_runs(page, number, block):
    exec(compile(block, f"{page}, example {number + 1}", "exec"), {})


def test_there_are_five_examples_beside_the_readme():
    assert sum(page == "docs/api.md" for page, _, _ in BLOCKS) == 5
