"""Photographs of 200 species of birds with 15 part locations: the folder format of CUB-200-2011.

A folder as it is published, of text files with one record a line, its fields apart by spaces:

    classes.txt             class, name                 images.txt             image, file below images/
    image_class_labels.txt  image, class                train_test_split.txt   image, 1 for training
    bounding_boxes.txt      image, x, y, width, height  parts/parts.txt        part, name
    parts/part_locs.txt     image, part, x, y, 1 where the part is visible

Lengths are pixels of the image file, (0, 0) the centre of its top left pixel. Images are cut to the bird's box and
resized to a square, as the interpretable CNN does it (Q. Zhang, Y. N. Wu, S.-C. Zhu, CVPR 2018, section 4), which
knows one class, bird; part-prototype networks and this data set tell the species apart. Validation images are the
official test images.

Left and right are the bird's own. Purity in PIP-Net (M. Nauta et al., CVPR 2023) merges `left eye` and `right eye`,
wings and legs; `merge_sides` does so. A merged part of which both sides are visible occurs twice, and like every such
part its landmark is unknown.

Source: C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie, "The Caltech-UCSD Birds-200-2011 Dataset", Technical
Report CNS-TR-2011-001, California Institute of Technology, 2011.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from interp_cnn.data.file_set import FileSet, checked_root
from interp_cnn.data.image_files import ImageFiles, good, skips
from interp_cnn.data.images import Box, image_size, square
from interp_cnn.data.tables import file_below

SIDES = ("left ", "right ")


class Cub200(FileSet):
    """One side of the official split; see the module.

    Args:
        split: "train" or "val" (the official test images).
        root: folder with `images.txt`.
        categories: species by name (`Black footed Albatross`, or as in `classes.txt`) or number; None: all.
        crop_to_box: cut images to the bird's bounding box; else the whole picture is squeezed.
        merge_sides: make one part of `left eye` and `right eye`, and so on.
        image_size: side in pixels.
        on_error: "raise" at the first bad image, or "skip" it and list it in `skipped`.
        cache: "memory", "none" or "auto"; see `ImageFiles`.

    Raises:
        FileNotFoundError: no such folder, or a file of the layout is missing.
        ValueError: a line that is none of the layout (named with its file), or an option that does not fit.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | os.PathLike[str],
        categories: Sequence[str | int] | str | int | None = None,
        crop_to_box: bool = True,
        merge_sides: bool = False,
        image_size: int = 128,
        on_error: str = "raise",
        cache: str = "auto",
    ) -> None:
        root = checked_root(root, split, holds="images.txt and the other files of CUB-200-2011")
        self.image_size = square(image_size)
        species = {
            number: _readable(record.fields[0])
            for number, record in _records(root / "classes.txt", fields=1).items()
        }
        chosen = _chosen(species, categories, root / "classes.txt")
        self.classes = tuple(species[number] for number in chosen)
        files = _records(root / "images.txt", fields=1)
        labels = _numbers(root / "image_class_labels.txt", species, of=files)
        training = _numbers(root / "train_test_split.txt", (0, 1), of=files)
        images = [
            image for image in files if labels[image] in chosen and training[image] == (split == "train")
        ]
        names = [files[image].fields[0] for image in images]
        where = [files[image].where for image in images]
        paths = [file_below(root / "images", name, at) for name, at in zip(names, where, strict=True)]
        boxes = _boxes(root / "bounding_boxes.txt", files)
        cuts, kept, skipped = good(
            lambda index: _cut(paths[index], boxes[images[index]] if crop_to_box else None, where[index]),
            range(len(images)),
            paths,
            skips(on_error),
        )
        self.images = ImageFiles(
            [paths[index] for index in kept],
            self.image_size,
            where=[where[index] for index in kept],
            skip_bad=skips(on_error),
            cache=cache,
            boxes=cuts,
        )
        self.in_memory = self.images.pixels is not None
        self.skipped = skipped + self.images.skipped
        cuts = [cuts[index] for index in self.images.kept]
        kept = [kept[index] for index in self.images.kept]
        self.names = [names[index] for index in kept]
        self.labels = torch.tensor([chosen.index(labels[images[index]]) for index in kept], dtype=torch.int64)
        part_names = {n: r.fields[0] for n, r in _records(root / "parts" / "parts.txt", fields=1).items()}
        self.parts = tuple(dict.fromkeys(_part(name, merge_sides) for name in part_names.values()))
        self.mirrored_parts = _mirrored(self.parts)
        self.landmarks = torch.full((len(kept), len(self.parts), 2), torch.nan)
        places = {images[index]: at for at, index in enumerate(kept)}
        column_of = {
            number: self.parts.index(_part(name, merge_sides)) for number, name in part_names.items()
        }
        for image, points_of_parts in _visible(root / "parts" / "part_locs.txt", files, column_of).items():
            if image in places:
                at = places[image]
                for part, points in points_of_parts.items():
                    if len(points) == 1:
                        self.landmarks[at, part] = self._in_cut(points[0], cuts[at])

    def _in_cut(self, point: tuple[float, float], cut: Box) -> Tensor:
        """Where (x, y) of the file lies in the resized cut, (row, column); NaN outside it."""
        (x, y), (left, top, right, bottom), (height, width) = point, cut, self.image_size
        row = (y - top + 0.5) * height / (bottom - top) - 0.5
        column = (x - left + 0.5) * width / (right - left) - 0.5
        inside = -0.5 <= row < height - 0.5 and -0.5 <= column < width - 0.5
        return torch.tensor([row, column]) if inside else torch.full((2,), torch.nan)


class _Record(NamedTuple):
    """The fields behind a line's number, and the line by file and place."""

    fields: list[str]
    where: str


def _lines(path: Path, fields: int) -> list[_Record]:
    """The lines of a text file of so many fields; the last one takes the rest of its line, spaces and all."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; CUB-200-2011 comes with it")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file (byte {error.start} is not UTF-8)") from error
    records = []
    for line, content in enumerate(text.splitlines(), 1):
        if not content.strip():
            continue
        where, values = f"{path}, line {line}", content.split(None, fields - 1)
        if len(values) != fields or not content.isprintable():
            raise ValueError(
                f"{where}: {content!r}, expected {fields} fields, the first a number"
                if content.isprintable()
                else f"{where}: {content!r} has characters that cannot be printed"
            )
        records.append(_Record([value.strip() for value in values], where))
    if not records:
        raise ValueError(f"{path}: the file has no line; it is damaged, copy it again")
    return records


def _records(path: Path, *, fields: int) -> dict[int, _Record]:
    """What stands behind each number of a file, as so many fields."""
    records: dict[int, _Record] = {}
    for values, where in _lines(path, fields + 1):
        number = _whole(values[0], where)
        if number in records:
            raise ValueError(f"{where}: number {number} stands in a line before; expected each once")
        records[number] = _Record(values[1:], where)
    return records


def _numbers(
    path: Path, allowed: Mapping[int, object] | Sequence[int], *, of: Mapping[int, object]
) -> dict[int, int]:
    """One number for each image."""
    numbers = {}
    for image, (fields, where) in _records(path, fields=1).items():
        numbers[image] = _whole(fields[0], where)
        if numbers[image] not in allowed:
            known = sorted(allowed)
            raise ValueError(f"{where}: {fields[0]}, expected a number from {known[0]} to {known[-1]}")
    _check_all(path, numbers, of)
    return numbers


def _boxes(path: Path, files: Mapping[int, object]) -> dict[int, tuple[float, ...]]:
    """(x, y, width, height) for each image."""
    boxes = {}
    for image, (fields, where) in _records(path, fields=4).items():
        boxes[image] = _reals(fields, where)
        if not min(boxes[image][2:]) > 0:
            raise ValueError(f"{where}: a box of {fields[2]} x {fields[3]} pixels, expected more than 0")
    _check_all(path, boxes, files)
    return boxes


def _visible(
    path: Path, files: Mapping[int, object], column_of: Mapping[int, int]
) -> dict[int, dict[int, list[tuple[float, float]]]]:
    """The points (x, y) of every visible part, by image and column."""
    points_of_images: dict[int, dict[int, list[tuple[float, float]]]] = {}
    for (image_text, part_text, x, y, visible), where in _lines(path, 5):
        image, part = _whole(image_text, where), _whole(part_text, where)
        if image not in files or part not in column_of or visible not in ("0", "1"):
            raise ValueError(
                f"{where}: image {image}, part {part}, visible {visible!r}; expected an image of images.txt, a part "
                "of parts.txt, and 0 or 1"
            )
        if visible == "1":
            points = points_of_images.setdefault(image, {}).setdefault(column_of[part], [])
            points.append((_reals([x], where)[0], _reals([y], where)[0]))
    return points_of_images


def _check_all(path: Path, numbered: Mapping[int, object], files: Mapping[int, object]) -> None:
    missing = [image for image in files if image not in numbered]
    if missing:
        raise ValueError(f"{path}: no line for image {missing[0]} of images.txt; expected one for each")
    unknown = [image for image in numbered if image not in files]
    if unknown:
        raise ValueError(f"{path}: image {unknown[0]} is not in images.txt; the files do not belong together")


def _whole(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{where}: {text!r}, expected a whole number") from None


def _reals(texts: Sequence[str], where: str) -> tuple[float, ...]:
    try:
        values = tuple(float(text) for text in texts)
    except ValueError:
        values = ()
    if not values or not all(abs(value) < 1e6 for value in values):
        raise ValueError(f"{where}: {' '.join(texts)!r}, expected lengths in pixels")
    return values


def _cut(path: Path, box: tuple[float, ...] | None, where: str) -> Box:
    """What is cut out of an image file, in whole pixels: all of it, or its box as far as it lies inside."""
    try:
        height, width = image_size(path)
    except (ValueError, OSError) as error:
        raise type(error)(f"{where}: {error}") from error
    if box is None:
        return 0, 0, width, height
    x, y, wide, high = box
    left, right = (min(max(round(at), 0), width) for at in (x, x + wide))
    top, bottom = (min(max(round(at), 0), height) for at in (y, y + high))
    if right <= left or bottom <= top:
        raise ValueError(
            f"{where}: the bounding box {x:g} {y:g} {wide:g} {high:g} lies outside {path} ({width} x {height} pixels)"
        )
    return left, top, right, bottom


def _chosen(
    species: Mapping[int, str], categories: Sequence[str | int] | str | int | None, path: Path
) -> list[int]:
    """The numbers of the species asked for, in the order asked."""
    if categories is None:
        chosen = list(species)
    else:
        by_name = {name: number for number, name in species.items()}
        names = [categories] if isinstance(categories, str | int) else categories
        chosen = []
        for category in names:
            number = int(category) if str(category).isdigit() else by_name.get(_readable(str(category)))
            if number not in species:
                near = (
                    difflib.get_close_matches(_readable(str(category)), by_name, 3, 0.4) or list(by_name)[:3]
                )
                raise ValueError(f"categories: {path} has no {category!r}; nearest: {', '.join(near)}")
            chosen.append(number)
        chosen = list(dict.fromkeys(chosen))
    if len(chosen) < 2:
        raise ValueError(
            f"categories={categories}: there is nothing to tell apart; expected two species or more"
        )
    return chosen


def _readable(name: str) -> str:
    """`001.Black_footed_Albatross` as `Black footed Albatross`."""
    number, dot, rest = name.partition(".")
    return (rest if dot and number.isdigit() else name).replace("_", " ")


def _part(name: str, merged: bool) -> str:
    return name.removeprefix(SIDES[0]).removeprefix(SIDES[1]) if merged else name


def _mirrored(parts: Sequence[str]) -> tuple[int, ...]:
    """In a mirror image the left eye is a right eye."""
    partner = {name: name for name in parts}
    for name in parts:
        for side, other in (SIDES, SIDES[::-1]):
            swapped = other + name.removeprefix(side)
            if name.startswith(side) and swapped in partner:
                partner[name] = swapped
    return tuple(parts.index(partner[name]) for name in parts)
