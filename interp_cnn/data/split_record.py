"""Which images a training saw and which it was judged by: kept with the run, so that later commands use the same sides.

A folder of images changes: pictures are added, removed, renamed, retouched. A later command that drew the split anew
would judge a network by images that it was trained on. The record names every image of both sides in their order, with
a hash of what it was made of; `followed` finds them again, by name and else by content. What the run never saw belongs
to neither side.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from interp_cnn.data.parts import PartSample, PartSet
from interp_cnn.storage.files import write_bytes

FILE = "images.json.gz"
LARGEST = 1 << 30  # bytes of text: ten million images; more is no record
SIDES = ("train", "val")


@dataclass(frozen=True)
class Side:
    """The images of one side in their order.

    Attributes:
        names: N names.
        labels: N indices of classes.
        contents: N hashes of what the images were made of; "" where the data set gives none.
    """

    names: list[str]
    labels: list[int]
    contents: list[str]

    @classmethod
    def of(cls, images: PartSet) -> Side:
        """The side that a data set is."""
        return cls(list(images.names), images.labels.tolist(), images.contents())


@dataclass(frozen=True)
class SplitRecord:
    """Both sides of a data set."""

    classes: tuple[str, ...]
    train: Side
    val: Side

    @classmethod
    def of(cls, train: PartSet, val: PartSet) -> SplitRecord:
        """The record of two sets that belong together."""
        return cls(tuple(train.classes), Side.of(train), Side.of(val))

    def write(self, folder: Path) -> None:
        """Into a run folder; some 30 bytes an image."""
        sides = {name: vars(getattr(self, name)) for name in SIDES}
        text = json.dumps({"classes": self.classes, **sides}, separators=(",", ":"))
        write_bytes(folder / FILE, gzip.compress(text.encode(), mtime=0))

    @classmethod
    def read(cls, folder: Path) -> SplitRecord | None:
        """The record of a run folder; None where there is none.

        Raises:
            ValueError: a file that no training wrote.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            with gzip.open(path) as file:
                text = file.read(LARGEST + 1)
            if len(text) > LARGEST:
                raise ValueError("it is too large")
            content = json.loads(text)
            sides = [Side(**content[name]) for name in SIDES]
            _check([content["classes"]], str)
            for side in sides:
                _check([side.names, side.contents], str)
                _check([side.labels], int)
                if not len(side.names) == len(side.labels) == len(side.contents):
                    raise ValueError("its columns differ in length")
                if side.labels and not 0 <= min(side.labels) <= max(side.labels) < len(content["classes"]):
                    raise ValueError("a label has no class")
        except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is no list of images that a training wrote: {error}") from error
        return cls(tuple(content["classes"]), *sides)


@dataclass
class Differences:
    """How the images that are there differ from the record; names of images."""

    new: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    trained_on: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def __str__(self) -> str:
        kinds = (
            (self.new, "new, of neither side and left out"),
            (self.missing, "missing, and done without"),
            (self.renamed, "renamed, and kept on their side"),
            (self.changed, "changed, and taken as they are now"),
            (self.trained_on, "now the same as training images, and left out of validation"),
        )
        return "; ".join(f"{len(names):,} {what} ({_some(names)})" for names, what in kinds if names)


def followed(
    record: SplitRecord, train: PartSet, val: PartSet
) -> tuple[PartSet, PartSet, Differences | None]:
    """The two sides of a record, of the images that are there now.

    Args:
        record: of the training.
        train: images that are there.
        val: more of them; which of the two sets an image is in does not matter.

    Returns:
        training and validation images (the sets themselves where nothing has changed), and what differs; None instead
        of the differences where not one image of the record is there, and the sets are another data set's.
    """
    now = SplitRecord.of(train, val)
    if now == record:
        return train, val, Differences()
    there = [
        _Image(name, content, images, index)
        for images, side in ((train, now.train), (val, now.val))
        for index, (name, content) in enumerate(zip(side.names, side.contents, strict=True))
        if images.classes[side.labels[index]] in record.classes
    ]
    found, left = _paired(record, there)
    if not any(found.values()):
        return train, val, None
    differences = Differences(new=[image.name for image in left])
    differences.new += [
        name
        for images, side in ((train, now.train), (val, now.val))
        for name, label in zip(side.names, side.labels, strict=True)
        if images.classes[label] not in record.classes
    ]
    trained_on = {content for content in record.train.contents if content}
    sides = []
    for side_name in SIDES:
        side, chosen = getattr(record, side_name), []
        for place, (name, label, content) in enumerate(
            zip(side.names, side.labels, side.contents, strict=True)
        ):
            image = found[side_name].get(place)
            if image is None:
                differences.missing.append(name)
                continue
            changed = image.content != content
            if changed and side_name == "val" and image.content in trained_on:
                differences.trained_on.append(name)
                continue
            if image.name != name:
                differences.renamed.append(f"{name} is {image.name}")
            if changed or image.images.classes[image.images.labels[image.index]] != record.classes[label]:
                differences.changed.append(name)
            chosen.append(image)
        sides.append(Selection([(image.images, image.index) for image in chosen], record.classes, like=train))
    return (*sides, differences)


class Selection(PartSet):
    """Images of several sets that belong together, in a given order.

    Args:
        sources: sets and indices in them.
        classes: names; the images' labels become indices into them.
        like: a set that has the same parts, channels and sizes.
    """

    def __init__(
        self, sources: Sequence[tuple[PartSet, int]], classes: Sequence[str], *, like: PartSet
    ) -> None:
        self.sources = list(sources)
        self.classes = tuple(classes)
        self.parts, self.channels, self.image_size = like.parts, like.channels, like.image_size
        self.mirrored_parts, self.in_memory = like.mirrored_parts, like.in_memory
        background = None if like.background is None else like.classes[like.background]
        self.background = self.classes.index(background) if background in self.classes else None
        number = {name: index for index, name in enumerate(self.classes)}
        self.names = [images.names[index] for images, index in self.sources]
        self.labels = torch.tensor(
            [number[images.classes[images.labels[index]]] for images, index in self.sources],
            dtype=torch.int64,
        )

    def view(self, index: int, generator: torch.Generator | None) -> PartSample:
        """The image's own view, with the label's new number."""
        images, place = self.sources[index]
        return replace(images.view(place, generator), label=int(self.labels[index]))

    def contents(self) -> list[str]:
        """The contents of the chosen images."""
        known = {id(images): images.contents() for images, _ in self.sources}
        return [known[id(images)][index] for images, index in self.sources]


@dataclass(frozen=True)
class _Image:
    name: str
    content: str
    images: PartSet
    index: int


def _paired(
    record: SplitRecord, there: Sequence[_Image]
) -> tuple[dict[str, dict[int, _Image]], list[_Image]]:
    """By side and place in the record the image that is there now, and the images that are nobody's.

    First by name, then by content: a picture that was renamed stays on its side.
    """
    found: dict[str, dict[int, _Image]] = {side: {} for side in SIDES}
    left = list(there)
    for attribute, column in (("name", "names"), ("content", "contents")):
        waiting: dict[str, list[_Image]] = defaultdict(list)
        for image in reversed(left):
            waiting[getattr(image, attribute)].append(image)
        waiting.pop("", None)
        for side in SIDES:
            for place, value in enumerate(getattr(getattr(record, side), column)):
                if place not in found[side] and waiting.get(value):
                    found[side][place] = waiting[value].pop()
        taken = {(id(image.images), image.index) for side in SIDES for image in found[side].values()}
        left = [image for image in left if (id(image.images), image.index) not in taken]
    return found, left


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _check(columns: Iterable[object], kind: type) -> None:
    for column in columns:
        if not isinstance(column, list) or not all(type(value) is kind for value in column):
            raise ValueError(f"expected lists of {kind.__name__}")
