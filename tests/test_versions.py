"""Versions: of what is installed, and of a source tree that is run as it lies."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest

import interp_cnn
from interp_cnn.cli.main import main
from interp_cnn.runs.provenance import provenance
from interp_cnn.storage import versions
from interp_cnn.storage.versions import version_of

WRITTEN = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture
def without_metadata(monkeypatch):
    """As on a machine to which the source tree was copied."""

    def version(package: str) -> str:
        if package == "interp-cnn":
            raise importlib.metadata.PackageNotFoundError(package)
        return importlib.metadata.version(package)

    monkeypatch.setattr(versions, "version", version)
    monkeypatch.setitem(vars(interp_cnn), "__version__", "")  # so that nothing stays behind
    monkeypatch.delitem(vars(interp_cnn), "__version__")


def test_a_source_tree_without_metadata_says_the_version_of_its_project_file(without_metadata, capsys):
    assert interp_cnn.__version__ == WRITTEN
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"interp-cnn {WRITTEN}\n"
    assert provenance()["versions"]["interp-cnn"] == WRITTEN


@pytest.mark.parametrize(
    "text",
    [None, "", "[project]\nname = 'interp-cnn'", "[project]\nname = 'another'\nversion = '9.9'", "[", "\xff"],
)
def test_where_no_version_is_written_it_is_unknown(text, without_metadata, monkeypatch, tmp_path):
    monkeypatch.setattr(versions, "PROJECT", tmp_path / "pyproject.toml")
    if text is not None:
        (tmp_path / "pyproject.toml").write_bytes(text.encode("latin-1"))
    assert version_of() == interp_cnn.__version__ == "unknown"
    assert provenance()["versions"]["interp-cnn"] == "unknown"


def test_other_packages_have_their_own_or_none():
    assert version_of("torch") == importlib.metadata.version("torch")
    assert version_of("no-such-package") == "unknown"
