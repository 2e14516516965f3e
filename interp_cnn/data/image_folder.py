"""Your own images: a folder per class, as torchvision reads it, and if you have them landmarks in a CSV file.

Either `root/train/<class>/...` and `root/val/<class>/...` (also `training`; `valid`, `validation` or `test`), or
`root/<class>/...`, from which a share of each class is held out: every image by a hash of its name, so that the others
stay where they are when images come and go (`split.hashed_sides`). Which files count, `folders` says. A picture that
is there twice is on one side: in one folder its copies are decided together, and so are `a.png` and `a.jpg`, which may
be one picture in two formats; of train and val folders a training image that is a validation image as well is left out.

The annotation table has the columns `file` (relative to `root`), `part`, `x`, `y` (pixels of the image file as it is
seen, 0-based pixel centres, x to the right and y downwards), one row per landmark; a part with several rows for one
file occurs several times, and its landmark is unknown. A further column `group` keeps images of one group (one
photograph, one patient, one film) on the same side of the split; a row may give a group and leave part, x and y empty.
"""

from __future__ import annotations

import difflib
import logging
import math
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd
import torch

from interp_cnn.data.file_set import FileSet, checked_root
from interp_cnn.data.folders import pictures_in, say_left_out, subfolders
from interp_cnn.data.image_files import ImageFiles, content_of, skips
from interp_cnn.data.images import SUFFIXES, image_size, square
from interp_cnn.data.split import hashed_sides
from interp_cnn.data.tables import file_below, numbers, read_table
from interp_cnn.storage.names import printable

log = logging.getLogger(__name__)
FITS = ("crop", "squeeze")
SIDE_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test", "testing")}


class ImageFolderParts(FileSet):
    """One side of the split; see the module.

    Args:
        split: "train" or "val".
        root: the folder.
        annotations: CSV file, relative to `root` or to the current folder; None: no landmarks.
        image_size: side in pixels.
        fit: "crop" keeps the proportions and cuts out the middle; "squeeze" resizes the whole image to a square.
        val_fraction: share of each class that is held out, when `root` has no train and val folders.
        split_seed: of that choice.
        on_error: "raise" at the first bad image, or "skip" it and list it in `skipped`.
        cache: "memory", "none" or "auto"; see `ImageFiles`.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | os.PathLike[str],
        annotations: str | os.PathLike[str] | None = None,
        image_size: int = 128,
        fit: str = "squeeze",
        val_fraction: float = 0.2,
        split_seed: int = 0,
        on_error: str = "raise",
        cache: str = "auto",
    ) -> None:
        root = checked_root(root, split, holds="a folder of images per class")
        if fit not in FITS:
            raise ValueError(f"data.fit={fit}: expected {' or '.join(FITS)}")
        self.image_size, self.crop = square(image_size), fit == "crop"
        files = _files(root, aloud=split == "train")
        table, csv = None, None
        if annotations is not None:
            csv = root / annotations if (root / annotations).is_file() else Path(annotations).expanduser()
            table = _table(csv, root, {file.name for file in files})
        self.classes = tuple(sorted({file.label for file in files}))
        groups = _groups(files, table, csv)
        sides = self._sides(files, groups, fraction=val_fraction, seed=split_seed, aloud=split == "train")
        chosen = [file for file, side in zip(files, sides, strict=True) if side == split]
        self.images = ImageFiles(
            [file.path for file in chosen],
            self.image_size,
            skip_bad=skips(on_error),
            cache=cache,
            crop=self.crop,
        )
        self.in_memory = self.images.pixels is not None
        self.skipped = self.images.skipped
        chosen = [chosen[index] for index in self.images.kept]
        self.names = [file.name for file in chosen]
        self.labels = torch.tensor([self.classes.index(file.label) for file in chosen], dtype=torch.int64)
        self.parts = () if table is None else tuple(part for part in table["part"].unique() if part)
        self.landmarks = torch.full((len(chosen), len(self.parts), 2), torch.nan)
        if table is not None and csv is not None:
            self._place_landmarks(table, csv)

    def looks(self) -> list[str]:
        """Every image's coarse look, where its pixels lie in memory."""
        return self.images.looks

    def _sides(
        self, files: Sequence[_File], groups: Sequence[str], *, fraction: float, seed: int, aloud: bool
    ) -> list[str]:
        """The side of every file: "train", "val", or "" for one that is left out."""
        contents = [content_of(file.path) for file in files]
        if files[0].side is None:
            labels = [self.classes.index(file.label) for file in files]
            stems = [str(PurePosixPath(file.name).with_suffix("")) for file in files]
            held = hashed_sides(labels, groups, contents, stems, fraction=fraction, seed=seed)
            sides = ["val" if each else "train" for each in held]
        else:
            judging = {content for file, content in zip(files, contents, strict=True) if file.side == "val"}
            sides = [
                "" if file.side == "train" and content in judging else str(file.side)
                for file, content in zip(files, contents, strict=True)
            ]
        if aloud:
            _say_copies(files, contents, sides)
        return sides

    def _place_landmarks(self, table: pd.DataFrame, csv: Path) -> None:
        index_of = {name: index for index, name in enumerate(self.names)}
        rows = table[(table["part"] != "") & table["file"].isin(index_of)]
        instances = Counter(zip(rows["file"], rows["part"], strict=True))
        sizes = {name: image_size(self.images.paths[index_of[name]]) for name in rows["file"].unique()}
        for line, name, part, x, y in rows[["file", "part", "x", "y"]].itertuples():
            height, width = sizes[name]
            if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):  # an empty x or y too
                raise ValueError(
                    f"{csv}, line {line} ({name}): {part} lies at x={x:g}, y={y:g}, "
                    f"outside the image of {width}x{height} pixels"
                )
            if instances[name, part] == 1:
                mark = self._resized((y, x), (height, width))
                self.landmarks[index_of[name], self.parts.index(part)] = torch.tensor(mark)

    def _resized(self, mark: tuple[float, float], size: tuple[int, int]) -> list[float]:
        """Where a landmark (row, column) of an image of this size lies in the resized one; NaN where it is cut off."""
        scales = [side / length for side, length in zip(self.image_size, size, strict=True)]
        if self.crop:
            scales = [max(scales)] * 2
        moved = [
            (place + 0.5 - length / 2) * scale + side / 2 - 0.5
            for place, length, scale, side in zip(mark, size, scales, self.image_size, strict=True)
        ]
        inside = all(-0.5 <= place < side - 0.5 for place, side in zip(moved, self.image_size, strict=True))
        return moved if inside else [math.nan, math.nan]


@dataclass(frozen=True)
class _File:
    """An image file: its path below the root in letters that can be printed, its class, and its side where a folder
    says so ("train", "val", else None).
    """

    path: Path
    name: str
    label: str
    side: str | None


def _files(root: Path, *, aloud: bool) -> list[_File]:
    """Every image below the root, in the order of their names; `aloud`, one line on files that are left out."""
    files: list[_File] = []
    labels: dict[str | None, set[str]] = defaultdict(set)
    others: list[Path] = []
    for side, top in _tops(root, aloud=aloud).items():
        folders = subfolders(top)
        if not folders:
            raise FileNotFoundError(f"{top}: expected a folder of images per class, there is none")
        for folder in folders:
            pictures, left_out = pictures_in(folder)
            others += left_out
            if not pictures:
                raise ValueError(f"{printable(str(folder))}: no image ({', '.join(SUFFIXES)}) in this class")
            above = printable(folder.relative_to(root).as_posix())
            label = printable(folder.name)
            labels[side].add(label)
            files += [_File(file.path, f"{above}/{file.name}", label, side) for file in pictures]
    if aloud:
        say_left_out(f"data.root={root}", len(files), others)
    for label in labels["val"] - labels["train"]:
        near = difflib.get_close_matches(label, labels["train"], 1, 0.5)
        hint = f"; nearest: {near[0]}" if near else ""
        raise ValueError(f"{root / 'val' / label}: class {label!r} has no training images{hint}")
    if len({file.label for file in files}) < 2:
        raise ValueError(f"{root}: one class only, {files[0].label!r}; there is nothing to tell apart")
    return files


def _tops(root: Path, *, aloud: bool) -> dict[str | None, Path]:
    """The folders in which the classes lie, by side; one for None where the root holds the classes itself.

    A folder called like a side is one when it holds folders: a class may be called train, and holds images.
    """
    named: dict[str, list[Path]] = {side: [] for side in SIDE_NAMES}
    others = []
    for folder in subfolders(root):
        called = next((side for side, names in SIDE_NAMES.items() if folder.name.lower() in names), None)
        if called is not None and (subfolders(folder) or not any(folder.iterdir())):
            named[called].append(folder)
        else:
            others.append(folder.name)
    if not any(named.values()):
        return {None: root}
    for side, folders in named.items():
        if not folders:
            there = next(folders[0] for folders in named.values() if folders)
            raise FileNotFoundError(
                f"{root / side}: no such folder, though {there} is there; "
                f"expected {' or '.join(SIDE_NAMES[side])} beside it, or a folder of images per class"
            )
        folders.sort(key=lambda folder: SIDE_NAMES[side].index(folder.name.lower()))
    unused = [folder.name for folders in named.values() for folder in folders[1:]] + others
    if unused and aloud:
        used = " and ".join(folders[0].name for folders in named.values())
        log.warning("data.root=%s: %s are used, %s not", root, used, printable(", ".join(unused)))
    return {side: folders[0] for side, folders in named.items()}


def _say_copies(files: Sequence[_File], contents: Sequence[str], sides: Sequence[str]) -> None:
    """One line each on pictures that are in two classes and on training images that are left out."""
    first: dict[str, _File] = {}
    twofold = []
    for file, content in zip(files, contents, strict=True):
        other = first.setdefault(content, file)
        if other.label != file.label:
            twofold.append(f"{other.name} is {file.name}")
    if twofold:
        log.warning("%d images are in two classes, such as %s", len(twofold), twofold[0])
    out = [file.name for file, side in zip(files, sides, strict=True) if not side]
    if out:
        log.warning(
            "%d training images are validation images too and are left out of training, such as %s",
            len(out),
            out[0],
        )


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


def _groups(files: Sequence[_File], table: pd.DataFrame | None, csv: Path | None) -> list[str]:
    """What every file is decided with: the name of its group, or its own."""
    group_of: dict[str, str] = {}
    if table is not None and "group" in table.columns:
        for line, name, group in table.loc[table["group"] != "", ["file", "group"]].itertuples():
            if group_of.setdefault(name, group) != group:
                raise ValueError(
                    f"{csv}, line {line} ({name}): group {group!r}, but {group_of[name]!r} in a line before"
                )
    sides: dict[str, str | None] = {}
    for file in files:
        group = group_of.get(file.name)
        if group is not None and sides.setdefault(group, file.side) != file.side:
            raise ValueError(f"{csv}: group {group!r} has images in train and in val ({file.name})")
    # no name of a file begins with a slash
    return [f"/{group_of[file.name]}" if file.name in group_of else file.name for file in files]
