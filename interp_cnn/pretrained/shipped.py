"""Folders of trained networks: which files they have, and those that come with the package, by name.

    config.json          what builds the network, its classes, and the settings of its training
    model.safetensors    its weights, and nothing that could run
    README.md            the model card: what it is, how good it is, how to load it

Known without torch, so that a wrong name on the command line is answered at once.
"""

from pathlib import Path

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_HERE = Path(__file__).resolve().parent


def is_pretrained(folder: Path) -> bool:
    """Whether a folder has the files of a trained network."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def shipped_names() -> list[str]:
    """The names of the networks that come with the package."""
    return sorted(file.parent.name for file in _HERE.glob(f"*/{CONFIG}"))


def shipped_folder(name: str) -> Path | None:
    """The folder of the network of this name that comes with the package; None where there is none.

    Example:
        >>> shipped_folder("digits-interpretable").name
        'digits-interpretable'
    """
    return _HERE / name if name in shipped_names() else None
