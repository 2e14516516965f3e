"""What a run is on disk: a run folder, or a folder that holds some (a comparison's, a sweep's), which stands for them.
A trained network of `save_pretrained`, or one that comes with the package, by its name, stands for the run it was.

Every command that takes runs takes either, and the same settings for images that were moved: data=... data.root=DIR.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from interp_cnn.pretrained.shipped import is_pretrained, shipped_folder, shipped_names

CONFIG = "config.yaml"
FILES = ("data.root", "data.annotations", "model.weights")  # read by later commands too, from other folders


def run_folders(places: str | Path | int | Iterable[str | Path | int]) -> list[Path]:
    """The run folders that places stand for: themselves, or those inside, in the order in which all commands show them.

    Runs of one folder are sorted by name, numbers as numbers: 2 before 10, and those of a comparison as it trained
    them, a plain network after its twin. Several places keep the order in which they are given.

    Args:
        places: one or several; `~` is the home folder, and a number is a name, such as of a run of a sweep.

    Raises:
        FileNotFoundError: no such folder, or neither a run nor runs in it.
    """
    if isinstance(places, str | Path | int):
        places = [places]
    return [folder for place in places for folder in _runs_of(Path(str(place)).expanduser())]


def only_run(place: str | Path) -> Path:
    """The one run folder that a place stands for.

    Raises:
        ValueError: it holds several.
    """
    folders = run_folders(place)
    if len(folders) > 1:
        names = ", ".join(str(folder) for folder in folders)
        raise ValueError(f"{place} holds {len(folders)} runs; give one of them: {names}")
    return folders[0]


def with_full_paths(config: DictConfig) -> DictConfig:
    """A copy of a run's configuration whose files and folders are found from every folder.

    Args:
        config: of a training; paths in it are relative to the current folder. What is no path (`model.weights=DEFAULT`)
            stays as it is.

    Example:
        >>> with_full_paths(OmegaConf.create({"data": {"root": "images"}})).data.root == str(Path.cwd() / "images")
        True
    """
    absolute = config.copy()
    for key in FILES:
        value = OmegaConf.select(absolute, key)
        named = key != "model.weights" or (isinstance(value, str) and Path(value).expanduser().is_file())
        if isinstance(value, str) and named:
            OmegaConf.update(absolute, key, str(Path.cwd() / Path(value).expanduser()))
    return absolute


def without_places(config: DictConfig) -> DictConfig:
    """A copy of a run's configuration that tells no files and folders, to be given away.

    Example:
        >>> without_places(OmegaConf.create({"data": {"root": "/home/me/images"}})).data.root is None
        True
    """
    told = config.copy()
    for key in FILES:
        value = OmegaConf.select(told, key)
        if isinstance(value, str) and (key != "model.weights" or Path(value).expanduser().is_file()):
            OmegaConf.update(told, key, None)
    return told


def _runs_of(folder: Path) -> list[Path]:
    if not folder.is_dir() and (shipped := shipped_folder(str(folder))) is not None:
        return [shipped]
    if not folder.is_dir():
        raise FileNotFoundError(
            f"run folder {folder} does not exist; by name there are {', '.join(shipped_names())}"
        )
    if (folder / CONFIG).is_file() or is_pretrained(folder):
        return [folder]
    inside = [
        run
        for run in folder.iterdir()
        if not run.name.startswith(".") and ((run / CONFIG).is_file() or is_pretrained(run))
    ]
    if not inside:
        raise FileNotFoundError(f"{folder} is no run folder: it has no {CONFIG}, and no folder in it has one")
    return sorted(inside, key=lambda run: _with_numbers(run.name))


def _with_numbers(name: str) -> list[str | int]:
    """A name to sort by, its numbers as numbers: 2 before 10, interpretable before plain."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name))]
