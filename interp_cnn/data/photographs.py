"""A folder of somebody's pictures without annotations: which files there are, and their pixels as a network wants them.

The folders may be nested; `folders` says which files count. Where pictures lie in a folder that carries the name of a
class, that is their label.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from interp_cnn.data.folders import pictures_in, say_left_out
from interp_cnn.data.images import SUFFIXES, read_image
from interp_cnn.storage.names import printable

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow


@dataclass(frozen=True)
class Photograph:
    """A picture file.

    Attributes:
        path: of the file.
        name: its path from the folder that was asked for, with forward slashes.
        folders: the folders it lies in, outermost first.
    """

    path: Path
    name: str
    folders: tuple[str, ...]

    def pixels(self, size: tuple[int, int] | None = None, *, channels: int = 3, crop: bool = False) -> Tensor:
        """(C, H, W) float32 in [0, 1]: at its own size or resized; C is 3 or 1 (grey). See `read_image`."""
        rgb = read_image(self.path, size, crop=crop)
        if channels == 3:
            return rgb
        if channels != 1:
            raise ValueError(f"{self.path}: a picture has 1 or 3 channels, the network wants {channels}")
        return (rgb * rgb.new_tensor(_GREY)[:, None, None]).sum(0, keepdim=True)

    def label(self, classes: Sequence[str]) -> str | None:
        """The class that its innermost folder with a class's name stands for, or None."""
        return next((folder for folder in reversed(self.folders) if folder in classes), None)


def photographs(place: str | os.PathLike[str]) -> list[Photograph]:
    """All picture files below a folder in the order of their names, or the one file named.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: no picture in it.
    """
    place = Path(place).expanduser()
    if place.is_file():
        folders = tuple(map(printable, place.absolute().parent.parts[-1:]))
        return [Photograph(place, printable(place.name), folders)]
    if not place.is_dir():
        parent = place.parent
        names = [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
        near = difflib.get_close_matches(place.name, names, 1, 0.5)
        hint = f"; did you mean {parent / near[0]}?" if near else ""
        raise FileNotFoundError(f"images={place}: no such folder{hint}")
    pictures, others = pictures_in(place)
    say_left_out(f"images={place}", len(pictures), others)
    if not pictures:
        raise ValueError(f"images={place}: no picture in it ({', '.join(SUFFIXES)})")
    top = tuple(map(printable, place.absolute().parts[-1:]))
    return [Photograph(file.path, file.name, (*top, *file.folders)) for file in pictures]
