"""What is released: one version everywhere, and a wheel and an sdist with all that the package reads."""

import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def test_one_version_stands_everywhere():
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.findall(r"^## (\S+)", changes, re.M)[0] == VERSION
    assert re.search(rf"^version: {re.escape(VERSION)}$", (ROOT / "CITATION.cff").read_text("utf-8"), re.M)
    if (ROOT / ".git").exists() and shutil.which("git"):
        said = subprocess.run(["git", "tag", "--points-at", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        releases = [tag for tag in said.stdout.split() if re.fullmatch(r"v\d+\.\d+\.\d+", tag)]
        assert releases in ([], [f"v{VERSION}"])


def test_changes_are_told_under_the_headings_of_keep_a_changelog():
    headings = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert set(headings) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """dist/ of a build, with this machine's packages."""
    pytest.importorskip("hatchling", reason="hatchling (group dev) is not installed")
    folder = tmp_path_factory.mktemp("dist")
    from hatchling.builders.sdist import SdistBuilder
    from hatchling.builders.wheel import WheelBuilder

    return [
        Path(next(builder(str(ROOT)).build(directory=str(folder), versions=["standard"])))
        for builder in (WheelBuilder, SdistBuilder)
    ]


def test_a_wheel_has_everything_that_the_package_reads(built):
    wheel, sdist = built
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = [
        file
        for file in (ROOT / "interp_cnn").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]
    wanted = {file.relative_to(ROOT).as_posix() for file in package}
    wanted |= {f"interp_cnn/{file.relative_to(ROOT).as_posix()}" for file in (ROOT / "conf").rglob("*.yaml")}
    assert wanted <= names
    assert {"interp_cnn/play/page/play.js", "interp_cnn/conf/play.yaml"} <= names
    assert wheel.stat().st_size < 5e6
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    assert {"tests/reference.py", "conf/compare.yaml", "README.md", "LICENSE", "pyproject.toml"} <= sources
