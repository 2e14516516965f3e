"""Your own images: a folder per class, as torchvision reads it, and if you have them landmarks in a CSV file.

Either `root/train/<class>/...` and `root/val/<class>/...`, or `root/<class>/...`, from which a share of each
class is held out. The annotation table has the columns `file` (relative to `root`), `part`, `x`, `y` (pixels
of the image file as it is seen, 0-based pixel centres, x to the right and y downwards), one row per landmark;
a part with several rows for one file occurs several times, and its landmark is unknown. A further column
`group` keeps images of one group (one photograph, one patient, one film) on the same side of the split; a row
may give a group and leave part, x and y empty.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from pathlib import Path

import pandas as pd
import torch

from interp_cnn.data.images import SUFFIXES, ImageFiles, image_size, skips, square
from interp_cnn.data.parts import PartSample, PartSet
from interp_cnn.data.split import held_out
from interp_cnn.data.tables import file_below, numbers, read_table


class ImageFolderParts(PartSet):
    """One side of the split; see the module.

    Args:
        split: "train" or "val".
        root: the folder.
        annotations: CSV file, relative to `root` or to the current folder; None: no landmarks.
        image_size: side in pixels; images are resized to it, ignoring the aspect ratio.
        val_fraction: share of each class that is held out, when `root` has no train and val folders.
        split_seed: of that choice.
        on_error: "raise" at the first bad image, or "skip" it and list it in `skipped`.
    """

    channels = 3

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | os.PathLike[str],
        annotations: str | os.PathLike[str] | None = None,
        image_size: int = 128,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        on_error: str = "raise",
    ) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"split={split!r}: expected 'train' or 'val'")
        root = Path(root)
        self.image_size = square(image_size)
        files = _files(root)
        table, csv = None, None
        if annotations is not None:
            csv = root / annotations if (root / annotations).is_file() else Path(annotations)
            table = _table(csv, root, {name for name, _, _ in files})
        self.classes = tuple(sorted({label for _, label, _ in files}))
        groups = _groups(files, table, csv)
        if files[0][2] is None:
            labels = [self.classes.index(label) for _, label, _ in files]
            validation = held_out(labels, groups, fraction=val_fraction, seed=split_seed)
            chosen = [file for file, held in zip(files, validation, strict=True) if held == (split == "val")]
        else:
            chosen = [file for file in files if file[2] == split]
        self.images = ImageFiles(
            [root / name for name, _, _ in chosen], self.image_size, skip_bad=skips(on_error)
        )
        self.skipped = self.images.skipped
        chosen = [chosen[index] for index in self.images.kept]
        self.names = [name for name, _, _ in chosen]
        self.labels = torch.tensor([self.classes.index(label) for _, label, _ in chosen], dtype=torch.int64)
        self.parts = () if table is None else tuple(part for part in table["part"].unique() if part)
        self.landmarks = torch.full((len(chosen), len(self.parts), 2), torch.nan)
        if table is not None:
            self._place_landmarks(table, csv, root)

    def view(self, index: int, generator: torch.Generator | None) -> PartSample:
        """Image `index`; random views differ by augmentation only."""
        return PartSample(
            image=self.images[index],
            label=int(self.labels[index]),
            landmarks=self.landmarks[index].clone(),
            name=self.names[index],
        )

    def _place_landmarks(self, table: pd.DataFrame, csv: Path, root: Path) -> None:
        index_of = {name: index for index, name in enumerate(self.names)}
        rows = table[(table["part"] != "") & table["file"].isin(index_of)]
        instances = Counter(zip(rows["file"], rows["part"], strict=True))
        sizes = {name: image_size(root / name) for name in rows["file"].unique()}
        for line, name, part, x, y in rows[["file", "part", "x", "y"]].itertuples():
            height, width = sizes[name]
            if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):  # an empty x or y too
                raise ValueError(
                    f"{csv}, line {line} ({name}): {part} lies at x={x:g}, y={y:g}, "
                    f"outside the image of {width}x{height} pixels"
                )
            if instances[name, part] == 1:
                row = (y + 0.5) * self.image_size[0] / height - 0.5
                column = (x + 0.5) * self.image_size[1] / width - 0.5
                self.landmarks[index_of[name], self.parts.index(part)] = torch.tensor([row, column])


def _files(root: Path) -> list[tuple[str, str, str | None]]:
    """(path relative to `root`, class, "train" | "val" | None for one folder) of every image, in order."""
    if not root.is_dir():
        raise FileNotFoundError(f"root={root}: no such folder; it should hold a folder of images per class")
    sides = [side for side in ("train", "val") if (root / side).is_dir()]
    if len(sides) == 1:
        missing = "val" if sides == ["train"] else "train"
        raise FileNotFoundError(f"{root / missing}: no such folder, though {root / sides[0]} is there")
    files: list[tuple[str, str, str | None]] = []
    found: dict[str | None, set[str]] = {}
    for side in sides or [None]:
        top = root / side if side else root
        folders = sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not folders:
            raise FileNotFoundError(f"{top}: expected a folder of images per class, there is none")
        for folder in folders:
            images = sorted(
                path
                for path in folder.rglob("*")
                if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
            )
            if not images:
                raise ValueError(f"{folder}: no image ({', '.join(SUFFIXES)}) in this class")
            files += [(path.relative_to(root).as_posix(), folder.name, side) for path in images]
            found.setdefault(side, set()).add(folder.name)
    for label in found.get("val", set()) - found.get("train", set()):
        near = difflib.get_close_matches(label, found["train"], 1, 0.5)
        hint = f"; nearest: {near[0]}" if near else ""
        raise ValueError(f"{root / 'val' / label}: class {label!r} has no training images{hint}")
    if len({label for _, label, _ in files}) < 2:
        raise ValueError(f"{root}: one class only, {files[0][1]!r}; there is nothing to tell apart")
    return files


def _table(csv: Path, root: Path, names: set[str]) -> pd.DataFrame:
    table = read_table(csv, ["file", "part", "x", "y"])
    for column in ("file", "part"):
        table[column] = table[column].str.strip()
    for line, name in table["file"].items():
        file_below(root, name, f"{csv}, line {line}")
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.5)
            hint = f"; nearest: {near[0]}" if near else ""
            raise ValueError(f"{csv}, line {line}: no image {name!r} in a class folder below {root}{hint}")
    for column in ("x", "y"):
        table[column] = numbers(table, column, csv)
    return table


def _groups(
    files: list[tuple[str, str, str | None]], table: pd.DataFrame | None, csv: Path | None
) -> list[tuple[str, str]]:
    group_of: dict[str, str] = {}
    if table is not None and "group" in table.columns:
        for line, name, group in table.loc[table["group"] != "", ["file", "group"]].itertuples():
            if group_of.setdefault(name, group) != group:
                raise ValueError(
                    f"{csv}, line {line} ({name}): group {group!r}, but {group_of[name]!r} in a line before"
                )
    sides: dict[str, str | None] = {}
    for name, _, side in files:
        group = group_of.get(name)
        if group is not None and sides.setdefault(group, side) != side:
            raise ValueError(f"{csv}: group {group!r} has images in train and in val ({name})")
    return [("group", group_of[name]) if name in group_of else ("file", name) for name, _, _ in files]
