"""Photographs of cars with masks of 18 parts; the class is the side from which the car is seen.

A folder with `parts.csv` (one row per part that a picture shows: `file`, `mask`, `split`, `part_id`, `part`,
centroid `x`, `y` and `area` as shares of the picture), the pictures, and mask files whose pixel values are
part numbers. The annotation names no class, so the task is made from it: a car is seen

- from the *side* when doors cover more than half of the area of doors, front parts and back parts,
- else from the *front* or the *back*, whichever has more area (bumper, glass, lights, hood; tailgate, trunk).

The label thus follows from which parts show, and a network that is right should look at those parts.

A landmark is the centroid of the part's mask. All wheels of a car share one number: the wheel's landmark is
the centroid of its largest connected piece, unknown when a second piece is almost as large (over two thirds).
The object mask is the union of the parts; roof, windows and body panels are not annotated and not in it.

Source: K. Pasupa, P. Kittiworapanya, N. Hongngern, K. Woraratpanya, "Evaluation of deep learning algorithms
for semantic segmentation of car parts", Complex & Intelligent Systems, 2021.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage

from interp_cnn.data.file_set import checked_root
from interp_cnn.data.image_files import ImageFiles, content_of, good, skips
from interp_cnn.data.images import read_ids, square
from interp_cnn.data.parts import PartSample, PartSet
from interp_cnn.data.tables import file_below, numbers, read_table

VIEWS = ("front", "back", "side")
FRONT = ("front_bumper", "front_glass", "front_left_light", "front_right_light", "hood")
BACK = ("back_bumper", "back_glass", "back_left_light", "back_right_light", "tailgate", "trunk")
DOORS = ("front_left_door", "front_right_door", "back_left_door", "back_right_door")
ALIKE = 2 / 3  # of two wheels this similar in area, neither is the wheel


class CarParts(PartSet):
    """One side of the split; see the module.

    Args:
        split: "train" or "val" (the collection's test pictures).
        root: folder with `parts.csv`.
        image_size: side in pixels; other pictures and masks are resized.
        on_error: "raise" at the first bad picture or mask, or "skip" it and list it in `skipped`.
        cache: "memory", "none" or "auto"; see `ImageFiles`.
    """

    channels = 3
    classes = VIEWS

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | os.PathLike[str],
        image_size: int = 128,
        on_error: str = "raise",
        cache: str = "auto",
    ) -> None:
        root = checked_root(root, split, holds="parts.csv, images and masks")
        csv = root / "parts.csv"
        table = _table(csv)
        self.parts, identifiers = _numbering(table, csv)
        self.mirrored_parts = _mirrored(self.parts)
        self.image_size = square(image_size)
        rows = table[table["split"] == ("train" if split == "train" else "test")]
        cars = rows.groupby("file", sort=False)
        first = cars.head(1)
        where = [f"{csv}, line {line}" for line in first.index]
        images = ImageFiles(
            [file_below(root, name, at) for name, at in zip(first["file"], where, strict=True)],
            self.image_size,
            where=where,
            skip_bad=skips(on_error),
            cache=cache,
        )
        self.in_memory = images.pixels is not None
        masks = [file_below(root, name, at) for name, at in zip(first["mask"], where, strict=True)]
        part_of = np.full(256, -1)
        part_of[0] = 0
        part_of[identifiers] = np.arange(1, len(identifiers) + 1)

        def parts_of(index: int) -> NDArray[np.uint8]:
            try:
                ids = part_of[read_ids(masks[index], self.image_size)]
            except (ValueError, OSError) as error:
                raise type(error)(f"{where[index]}: {error}") from error
            if (ids < 0).any():
                raise ValueError(
                    f"{where[index]}: {masks[index]} has a pixel value that no part of the table has"
                )
            return ids.astype(np.uint8)

        # 0 is no part, p + 1 is part p
        self.part_maps, kept, skipped = good(parts_of, images.kept, masks, skips(on_error))
        place = {index: at for at, index in enumerate(images.kept)}
        self.images, self.image_index = images, [place[index] for index in kept]
        self.skipped = images.skipped + skipped
        self.names = first["file"].iloc[kept].tolist()
        rows_of = dict(list(cars))
        views = [VIEWS.index(_view(rows_of[name])) for name in self.names]
        self.labels = torch.tensor(views, dtype=torch.int64)
        self.landmarks = torch.full((len(self.names), len(self.parts), 2), torch.nan)
        for at, name in enumerate(self.names):
            self.landmarks[at] = self._landmarks(rows_of[name], at)

    def view(self, index: int, generator: torch.Generator | None) -> PartSample:
        """Picture `index`; random views differ by augmentation only."""
        part_map = torch.from_numpy(self.part_maps[index])
        return PartSample(
            image=self.images[self.image_index[index]],
            label=int(self.labels[index]),
            landmarks=self.landmarks[index].clone(),
            part_masks=part_map == torch.arange(1, len(self.parts) + 1)[:, None, None],
            object_mask=part_map > 0,
            name=self.names[index],
        )

    def contents(self) -> list[str]:
        """A hash of every picture file."""
        return [content_of(self.images.paths[index]) for index in self.image_index]

    def _landmarks(self, car: pd.DataFrame, index: int) -> torch.Tensor:
        height, width = self.image_size
        landmarks = torch.full((len(self.parts), 2), torch.nan)
        for part, x, y in zip(car["part"], car["x"], car["y"], strict=True):
            landmarks[self.parts.index(part)] = torch.tensor([y * height - 0.5, x * width - 0.5])
        if "wheel" in self.parts:
            wheel = self.parts.index("wheel")
            landmarks[wheel] = torch.tensor(largest_piece(self.part_maps[index] == wheel + 1))
        return landmarks


def largest_piece(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """(row, column) centroid of the largest connected piece of an (H, W) mask; NaN when two are alike."""
    pieces, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count == 0:
        return np.nan, np.nan
    areas = np.bincount(pieces.ravel())[1:]
    order = np.argsort(areas)[::-1]
    if count > 1 and areas[order[1]] > ALIKE * areas[order[0]]:
        return np.nan, np.nan
    row, column = np.nonzero(pieces == order[0] + 1)
    return float(row.mean()), float(column.mean())


def _table(csv: Path) -> pd.DataFrame:
    table = read_table(csv, ["file", "mask", "split", "part_id", "part", "x", "y", "area"])
    wrong = table.index[~table["split"].isin(["train", "test"])]
    if len(wrong):
        raise ValueError(
            f"{csv}, line {wrong[0]}: split is {table['split'][wrong[0]]!r}, expected train or test"
        )
    for column in ("x", "y", "area", "part_id"):
        values = numbers(table, column, csv)
        low, high = (1, 255) if column == "part_id" else (0, 1)
        outside = np.flatnonzero(~((values >= low) & (values <= high)))  # an empty value too
        if len(outside):
            line = table.index[outside[0]]
            raise ValueError(
                f"{csv}, line {line} ({table['file'][line]}): {column} is {table[column][line]!r}, "
                f"expected a number from {low} to {high}"
            )
        table[column] = values
    return table


def _numbering(table: pd.DataFrame, csv: Path) -> tuple[tuple[str, ...], list[int]]:
    pairs = table[["part_id", "part"]].drop_duplicates().sort_values("part_id")
    twice = pairs.index[pairs["part_id"].duplicated() | pairs["part"].duplicated()]
    if len(twice):
        line = twice[0]
        raise ValueError(
            f"{csv}, line {line}: part {pairs['part'][line]!r} and its part_id do not match other lines"
        )
    return tuple(pairs["part"]), pairs["part_id"].astype(int).tolist()


def _mirrored(parts: tuple[str, ...]) -> tuple[int, ...]:
    """Left and right are the car's own: in a mirror image the left door is a right door."""
    swap = {"left": "right", "right": "left"}
    partners = ["_".join(swap.get(word, word) for word in part.split("_")) for part in parts]
    return tuple(
        parts.index(b) if b in parts else parts.index(a) for a, b in zip(parts, partners, strict=True)
    )


def _view(car: pd.DataFrame) -> str:
    area = car.groupby("part")["area"].sum()
    front, back, doors = (area.reindex(parts).sum() for parts in (FRONT, BACK, DOORS))
    if doors > (front + back + doors) / 2:
        return "side"
    return "front" if front >= back else "back"
