"""Versions of installed packages, also where nothing was installed: of a source tree that is run as it lies."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

OWN = "interp-cnn"
PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"  # beside the package, in a source tree


def version_of(package: str = OWN) -> str:
    """Version of a package, "unknown" where none is written anywhere.

    This package's own is its metadata's where it is installed, else its `pyproject.toml`'s.

    Args:
        package: name of the distribution, such as `scikit-learn`.

    Example:
        >>> version_of("no-such-package")
        'unknown'
    """
    try:
        text = version(package)
    except PackageNotFoundError:
        text = _of_the_source_tree() if package == OWN else None
    return text or "unknown"  # metadata without a version answers None


def _of_the_source_tree() -> str | None:
    try:
        project = tomllib.loads(PROJECT.read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):  # no such file, or one that is not TOML or not text
        return None
    return project.get("version") if project.get("name") == OWN else None
