"""What data sets have in common whose images are files below a folder."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from interp_cnn.data.image_files import ImageFiles
from interp_cnn.data.parts import PartSample, PartSet


def checked_root(root: str | os.PathLike[str], split: str, *, holds: str) -> Path:
    """The folder of a data set, with the user's home in place of ~.

    Raises:
        ValueError: a `split` that is neither train nor val.
        FileNotFoundError: no such folder; `holds` says in words what should be in it.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split={split!r}: expected 'train' or 'val'")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"root={root}: no such folder; it should hold {holds}")
    return root


class FileSet(PartSet):
    """A data set of whole image files and landmarks; a subclass sets `images` and `landmarks` (N, P, 2) besides."""

    channels = 3
    images: ImageFiles
    landmarks: torch.Tensor

    def view(self, index: int, generator: torch.Generator | None) -> PartSample:
        """Image `index`; random views differ by augmentation only."""
        return PartSample(
            image=self.images[index],
            label=int(self.labels[index]),
            landmarks=self.landmarks[index].clone(),
            name=self.names[index],
        )

    def contents(self) -> list[str]:
        """A hash of every image file."""
        return self.images.contents()

    def shown(self) -> list[str]:
        """A hash of every image's pixels, where they lie in memory."""
        return self.images.shown
