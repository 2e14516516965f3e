"""Photographs of animals with head and leg annotations: the folder format of the Animal-Part data.

A folder with image files and an `annotations.csv`: one row per image with `file`, `wnid`, `name`, `label`
(1 an animal, -1 a negative), `split_by_photo` (`train` or `val`, no photograph on both sides) and for every
part `<part>_n` (instances), `<part>_x`, `<part>_y` (centre), `<part>_w`, `<part>_h` (box) and `<part>_multi`
("x y w h;x y w h" when there are several). Lengths are shares of the image; 0 and 1 are its outer edges, so a
centre x becomes the pixel coordinate x * W - 0.5. The landmark of a part that occurs several times is unknown.

One category is learned against the negatives, as in the single-category experiments of Q. Zhang, Y. N. Wu,
S.-C. Zhu, "Interpretable Convolutional Neural Networks", CVPR 2018; several against each other.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp_cnn.data.file_set import checked_root
from interp_cnn.data.image_files import ImageFiles, skips
from interp_cnn.data.images import square
from interp_cnn.data.parts import PartSample, PartSet
from interp_cnn.data.tables import file_below, numbers, read_table

Box = tuple[float, float, float, float]  # x, y, w, h: the centre and the size, as shares of the image


class AnimalParts(PartSet):
    """One side of the split; see the module.

    Args:
        split: "train" or "val".
        root: folder with `annotations.csv`.
        categories: names or WordNet ids; None: all that the table has.
        negatives: whether "negative" is a class (the first, and the background): True, False, or "auto",
            which means yes for one category and no for several.
        held_out: "split", validation images as the table has them; or "parts": besides, of every category, every
            second training photograph with a known landmark (in the order of their hashes, `photo`). Filters are
            judged on images with landmarks, of which the table's validation side has few.
        image_size: side in pixels; other images are resized.
        on_error: "raise" at the first bad image, or "skip" it and list it in `skipped`.
        cache: "memory", "none" or "auto"; see `ImageFiles`.
    """

    channels = 3

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | os.PathLike[str],
        categories: Sequence[str] | str | None = None,
        negatives: bool | str = "auto",
        held_out: str = "split",
        image_size: int = 64,
        on_error: str = "raise",
        cache: str = "auto",
    ) -> None:
        root = checked_root(root, split, holds="annotations.csv and the images")
        csv = root / "annotations.csv"
        table = read_table(csv, ["file", "wnid", "name", "label", "split_by_photo"])
        if held_out not in ("split", "parts"):
            raise ValueError(f"held_out={held_out!r}: expected split or parts")
        _check(table, csv)
        self.parts = tuple(
            column.removesuffix("_n")
            for column in table.columns
            if column.endswith("_n") and f"{column.removesuffix('_n')}_x" in table.columns
        )
        names = _chosen(table, categories, csv)
        if negatives not in (True, False, "auto"):
            raise ValueError(f"negatives={negatives!r}: expected true, false or auto")
        with_negatives = len(names) == 1 if negatives == "auto" else bool(negatives)
        if with_negatives and not (table["label"] == "-1").any():
            raise ValueError(
                f"{csv}: one category needs negatives to be learned against, and no row has label -1"
            )
        if len(names) + with_negatives < 2:
            raise ValueError(f"categories={names}, negatives={negatives}: there is nothing to tell apart")
        self.classes = ("negative", *names) if with_negatives else tuple(names)
        self.background = 0 if with_negatives else None

        class_of = table["name"].where(table["label"] == "1", "negative" if with_negatives else "")
        chosen = table[class_of.isin(self.classes)]
        rows = chosen[_splits(chosen, self.parts, held_out, csv) == split]
        where = [f"{csv}, line {line}" for line in rows.index]
        self.image_size = square(image_size)
        self.images = ImageFiles(
            [file_below(root, name, at) for name, at in zip(rows["file"], where, strict=True)],
            self.image_size,
            where=where,
            skip_bad=skips(on_error),
            cache=cache,
        )
        self.in_memory = self.images.pixels is not None
        self.skipped = self.images.skipped
        rows = rows.iloc[self.images.kept]
        self.names = rows["file"].tolist()
        index_of = {name: index for index, name in enumerate(self.classes)}
        self.labels = torch.tensor([index_of[name] for name in class_of[rows.index]], dtype=torch.int64)
        self.boxes = [_boxes(rows, part, csv) for part in self.parts]  # P lists of N lists of boxes
        self.landmarks = self._landmarks()

    def view(self, index: int, generator: torch.Generator | None) -> PartSample:
        """Photograph `index`; random views differ by augmentation only."""
        return PartSample(
            image=self.images[index],
            label=int(self.labels[index]),
            landmarks=self.landmarks[index].clone(),
            part_masks=self._part_masks(index),
            name=self.names[index],
        )

    def contents(self) -> list[str]:
        """A hash of every image file."""
        return self.images.contents()

    def _landmarks(self) -> Tensor:
        height, width = self.image_size
        landmarks = torch.full((len(self.names), len(self.parts), 2), torch.nan)
        for part, boxes in enumerate(self.boxes):
            for index, instances in enumerate(boxes):
                if len(instances) == 1:
                    x, y, _, _ = instances[0]
                    landmarks[index, part] = torch.tensor([y * height - 0.5, x * width - 0.5])
        return landmarks

    def _part_masks(self, index: int) -> Tensor:
        height, width = self.image_size
        masks = np.zeros((len(self.parts), height, width), dtype=bool)
        for part, boxes in enumerate(self.boxes):
            for x, y, w, h in boxes[index]:
                masks[part, _pixels(y, h, height), _pixels(x, w, width)] = True
        return torch.from_numpy(masks)


def _splits(table: pd.DataFrame, parts: Sequence[str], held_out: str, csv: Path) -> pd.Series:
    """The side, train or val, of every row; see `AnimalParts.held_out`."""
    splits = table["split_by_photo"]
    if held_out == "split":
        return splits
    if "photo" not in table.columns:
        raise ValueError(f"{csv} has no column photo; held_out=parts keeps photographs apart by it")
    single = [numbers(table, f"{part}_n", csv) == 1 for part in parts]
    annotated = table[np.any(single, axis=0) & (splits == "train")]
    held = {photo for _, group in annotated.groupby("name") for photo in sorted(set(group["photo"]))[::2]}
    return splits.mask(table["photo"].isin(held), "val")


def _pixels(centre: float, size: float, length: int) -> slice:
    """The pixels whose centres lie between the two edges of a box, at least one."""
    if not size > 0:  # a part with a centre and no box
        size = 0.0
    first = min(max(round((centre - size / 2) * length), 0), length - 1)
    return slice(first, max(round((centre + size / 2) * length), first + 1))


def _check(table: pd.DataFrame, csv: Path) -> None:
    for column, allowed in (("label", ("1", "-1")), ("split_by_photo", ("train", "val"))):
        wrong = table.index[~table[column].isin(allowed)]
        if len(wrong):
            raise ValueError(
                f"{csv}, line {wrong[0]}: {column} is {table[column][wrong[0]]!r}, expected {' or '.join(allowed)}"
            )


def _chosen(table: pd.DataFrame, categories: Sequence[str] | str | None, csv: Path) -> list[str]:
    positives = table[table["label"] == "1"]
    known = dict(zip(positives["name"], positives["wnid"], strict=True))
    if categories is None:
        return list(known)
    by_id = {wnid: name for name, wnid in known.items()}
    chosen: list[str] = []
    for category in [categories] if isinstance(categories, str) else categories:
        name = by_id.get(category, category)
        if name not in known:
            near = difflib.get_close_matches(str(category), [*known, *by_id], 3, 0.4) or list(known)
            raise ValueError(f"categories: {csv} has no {category!r}; nearest: {', '.join(near)}")
        if name not in chosen:
            chosen.append(name)
    if not chosen:
        raise ValueError(f"categories=[]: expected names such as {', '.join(list(known)[:3])}")
    return chosen


def _boxes(rows: pd.DataFrame, part: str, csv: Path) -> list[list[Box]]:
    """The boxes of a part in every row: none, one from its columns, or several from `<part>_multi`."""
    counts = numbers(rows, f"{part}_n", csv)
    columns = [
        numbers(rows, name, csv) if (name := f"{part}_{axis}") in rows.columns else np.full(len(rows), np.nan)
        for axis in "xywh"
    ]
    single = np.stack(columns, axis=1)  # (N, 4)
    several = rows.get(f"{part}_multi", pd.Series("", rows.index))
    boxes: list[list[Box]] = []
    for line, name, count, box, text in zip(rows.index, rows["file"], counts, single, several, strict=True):
        where = f"{csv}, line {line} ({name})"
        if count == 1:
            if not (0 <= box[0] <= 1 and 0 <= box[1] <= 1):
                raise ValueError(
                    f"{where}: {part} lies at x={box[0]:g}, y={box[1]:g}, outside the image (expected 0 to 1)"
                )
            boxes.append([tuple(box.tolist())])
        elif count > 1:
            instances = [_parsed(instance, part, where) for instance in text.split(";") if instance.strip()]
            if len(instances) != count:
                raise ValueError(f"{where}: {part}_n is {count:g}, but {part}_multi lists {len(instances)}")
            boxes.append(instances)
        else:
            boxes.append([])
    return boxes


def _parsed(text: str, part: str, where: str) -> Box:
    try:
        x, y, w, h = map(float, text.split())
    except ValueError:
        raise ValueError(f"{where}: {part}_multi has {text!r}, expected 'x y w h'") from None
    if not np.isfinite([x, y, w, h]).all():
        raise ValueError(f"{where}: {part}_multi has {text!r}, expected finite numbers")
    return x, y, w, h
