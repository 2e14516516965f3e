"""The notebooks run from top to bottom as they stand, and are kept without outputs."""

import ast
import json
import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "docs/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PICTURES = {"main_job": 4, "your_network": 2}  # cells that end in something that shows itself


def code_of(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebooks_are_there_and_kept_without_outputs():
    assert [path.stem for path in NOTEBOOKS] == sorted(PICTURES)
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text("utf-8"))["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), path.name


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_run_and_the_last_values_show_themselves(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    shown = 0
    for source in code_of(path):
        tree = ast.parse(source)
        last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, path.name, "exec"), names)
        if last is not None:
            value = eval(compile(last, path.name, "eval"), names)
            shown += "base64" in getattr(value, "_repr_html_", str)()
    assert shown == PICTURES[path.stem]
    assert not [*tmp_path.iterdir()], "a notebook leaves nothing behind"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own packages
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_jupyter_runs_the_notebook(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient (group notebooks) is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel (group notebooks) is not installed")
    import nbformat

    monkeypatch.setitem(os.environ, "IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    html = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    assert sum("data:image/png" in text for text in html) == PICTURES[path.stem]
    assert not any(output["output_type"] == "stream" and output["name"] == "stderr" for output in outputs)
