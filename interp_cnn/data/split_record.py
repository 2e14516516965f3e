"""Which images a training saw and which it was judged by: kept with the run, so that later commands use the same sides.

A folder of images changes: pictures are added, removed, renamed, retouched. A later command that drew the split anew
would judge a network by images that it was trained on. The record names every image of both sides in their order, with
hashes of file and pixels; `followed` finds them by either, by their look (`looks`), else by name. What the run never
saw belongs to neither side. Pixels are known where they lie in memory (`data.cache`): decoding 60,000 images for a hash
alone would take minutes, hashing them takes 4 seconds (128 x 128 pixels, one core).
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from interp_cnn.data.looks import recognised
from interp_cnn.data.parts import PartSet
from interp_cnn.data.selection import Selection
from interp_cnn.storage.files import write_bytes

FILE = "images.json.gz"
LARGEST = 1 << 30  # bytes of text: ten million images; more is no record
SIDES = ("train", "val")
LATER = ("shown", "looks")  # columns that records of earlier versions lack


@dataclass(frozen=True)
class Side:
    """The images of one side in their order.

    Attributes:
        names: N names.
        labels: N indices of classes.
        contents: N hashes of what the images were made of; "" where the data set gives none.
        shown: N hashes of their pixels at the training's size, the same for copies in other formats; "" likewise.
        looks: N coarse looks (`looks`); "" likewise.
    """

    names: list[str]
    labels: list[int]
    contents: list[str]
    shown: list[str] = field(compare=False)
    looks: list[str] = field(compare=False)

    @classmethod
    def of(cls, images: PartSet) -> Side:
        """The side that a data set is."""
        return cls(
            list(images.names), images.labels.tolist(), images.contents(), images.shown(), images.looks()
        )

    @property
    def rows(self) -> list[tuple[str, int, str, str, str]]:
        """Name, label, content, what it shows and its look, of every image."""
        return list(zip(self.names, self.labels, self.contents, self.shown, self.looks, strict=True))

    def joined(self, others: Side) -> Side:
        """These images in their order, then those of the others that are none of them, by content or else by name."""
        contents, names = {*self.contents}, {*self.names}
        more = [row for row in others.rows if (row[2] not in contents if row[2] else row[0] not in names)]
        columns = zip(*self.rows, *more, strict=True) if self.names or more else ([], [], [], [], [])
        return Side(*map(list, columns))


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

    def went_on_with(self, now: SplitRecord) -> SplitRecord:
        """The record of a training that began with these images and went on with those of `now`: both."""
        return SplitRecord(self.classes, self.train.joined(now.train), self.val.joined(now.val))

    def write(self, folder: Path) -> None:
        """Into a run folder; some 45 bytes an image."""
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
            sides = [
                Side(**dict.fromkeys(LATER, [""] * len(content[name]["names"])) | content[name])
                for name in SIDES
            ]
            _check([content["classes"]], str)
            for side in sides:
                _check([side.names, side.contents, side.shown, side.looks], str)
                _check([side.labels], int)
                if len({*map(len, vars(side).values())}) > 1:
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
    judged_by: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def __str__(self) -> str:
        kinds = (
            (self.new, "new, of neither side and left out"),
            (self.missing, "missing, and done without"),
            (self.renamed, "renamed, and kept on their side"),
            (self.changed, "changed, and taken as they are now"),
            (self.trained_on, "now the same as training images, and left out of validation"),
            (self.judged_by, "now the same as validation images, and left out of training"),
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

    Raises:
        ValueError: another data set with a class that the record does not know.
    """
    now = SplitRecord.of(train, val)
    if now == record:
        return train, val, Differences()
    there = [
        _Image(name, content, shown, look, images.classes[label], images, index)
        for images, side in ((train, now.train), (val, now.val))
        for index, (name, label, content, shown, look) in enumerate(side.rows)
    ]
    paired, left = _paired(record, there)
    if not any(paired.values()):
        return *_another_set(record, train, val), None
    differences = Differences(new=[image.name for image in left])
    judging = Selection(_chosen(record, "val", paired, differences), record.classes, like=train)
    learning = Selection(_chosen(record, "train", paired, differences), record.classes, like=train)
    return learning, judging, differences


def _chosen(
    record: SplitRecord, side_name: str, paired: dict[str, dict[int, _Image]], differences: Differences
) -> list[tuple[PartSet, int, int]]:
    """Set, index and label of the images of one side, in the order of the record; notes what differs.

    An image that has become the same as one of the other side is left out: of validation what the training saw, of
    training what judges it.
    """
    side, other_name = getattr(record, side_name), "val" if side_name == "train" else "train"
    other = getattr(record, other_name)
    others = {*other.contents, *other.shown}
    out = differences.trained_on if side_name == "val" else differences.judged_by
    if side_name == "train":
        others.update(*((image.content, image.shown) for image in paired["val"].values()))
    number = {name: label for label, name in enumerate(record.classes)}
    chosen = []
    for place, (name, label, content, shown, _) in enumerate(side.rows):
        image = paired[side_name].get(place)
        if image is None:
            differences.missing.append(name)
            continue
        changed = image.content != content and not (shown and image.shown == shown)
        if changed and {image.content, image.shown} - {""} & others:
            out.append(name)
            continue
        if image.name != name:
            differences.renamed.append(f"{name} is {image.name}")
        label_now = number.get(image.label, label)  # a class that was renamed is the one that it was
        if changed or label_now != label:
            differences.changed.append(name)
        chosen.append((image.images, image.index, label_now))
    return chosen


def _another_set(record: SplitRecord, train: PartSet, val: PartSet) -> tuple[PartSet, PartSet]:
    """Sets that share no image with the record, with its numbers for their classes."""
    number = {name: label for label, name in enumerate(record.classes)}
    unknown = [name for name in train.classes if name not in number]
    if unknown:
        raise ValueError(
            f"the images are of the classes {_some(train.classes)}; expected those of the training, "
            f"{_some(record.classes)} ({unknown[0]} is none of them)"
        )
    if tuple(train.classes) == record.classes:
        return train, val
    return _numbered(train, number, record.classes), _numbered(val, number, record.classes)


def _numbered(images: PartSet, number: Mapping[str, int], classes: Sequence[str]) -> Selection:
    """All images of a set, with these numbers for their classes."""
    labels = [number[images.classes[label]] for label in images.labels.tolist()]
    return Selection([(images, index, label) for index, label in enumerate(labels)], classes, like=images)


@dataclass(eq=False)
class _Image:
    name: str
    content: str
    shown: str
    look: str
    label: str
    images: PartSet
    index: int


def _paired(
    record: SplitRecord, there: Sequence[_Image]
) -> tuple[dict[str, dict[int, _Image]], list[_Image]]:
    """By side and place in the record the image that is there now, and the images that are nobody's.

    A picture is what it shows: first by content (where copies are there, the one of the same name), then by its pixels,
    so that it stays on its side whatever it is called and whatever becomes of its class's name. Then by its look, where
    that leaves no doubt, for those that were stored with losses or retouched; then by name, and without the ending.

    Of classes that the record does not know only those are taken that stand for a class that is no longer there.
    """
    known = {image.label for image in there}
    gone = [name not in known for name in record.classes]
    paired: dict[str, dict[int, _Image]] = {side: {} for side in SIDES}
    left, copies = list(there), dict[_Image, None]()
    for key in (_name_and_content, _content, _shown, None, _name, _stem):
        if key is None:
            copies = _pair_by_looks(record, left, paired, gone)
            left = [image for image in _not_in(paired, left) if image not in copies]
            continue
        waiting: dict[object, list[_Image]] = defaultdict(list)
        for image in reversed(left):
            if image.label in record.classes or key not in (_name, _stem):
                waiting[key(image.name, image.content, image.shown)].append(image)
        waiting.pop("", None)
        places: dict[object, list[tuple[str, int]]] = defaultdict(list)
        for side_name in SIDES:
            for place, (name, _, content, shown, _) in enumerate(getattr(record, side_name).rows):
                places[key(name, content, shown)].append((side_name, place))
        for value, images in waiting.items():
            wanted = places.get(value, [])
            if key is _stem and len(wanted) > 1:  # a.png and a.jpg: nobody knows which became a.bmp
                continue
            for side_name, place in wanted:
                if place in paired[side_name] or not images:
                    continue
                label = getattr(record, side_name).labels[place]
                if images[-1].label in record.classes or gone[label]:
                    paired[side_name][place] = images.pop()
        left = _not_in(paired, left)
    return paired, [*left, *copies]


def _pair_by_looks(
    record: SplitRecord, left: Sequence[_Image], paired: dict[str, dict[int, _Image]], gone: Sequence[bool]
) -> dict[_Image, None]:
    """Add images that are left to those found, by their looks; returns those that look like one which is found."""
    copies, looks = dict[_Image, None](), [*record.train.looks, *record.val.looks]
    places = [(name, place) for name in SIDES for place in range(len(getattr(record, name).names))]
    for number, known in recognised([image.look for image in left], looks).items():
        (side_name, place), image = places[known], left[number]
        label = getattr(record, side_name).labels[place]
        if place in paired[side_name]:
            copies[image] = None
        elif image.label in record.classes or gone[label]:
            paired[side_name][place] = image
    return copies


def _not_in(paired: dict[str, dict[int, _Image]], images: Sequence[_Image]) -> list[_Image]:
    taken = {image for side in paired.values() for image in side.values()}
    return [image for image in images if image not in taken]


def _name_and_content(name: str, content: str, shown: str) -> tuple[str, str]:
    return name, content


def _content(name: str, content: str, shown: str) -> str:
    return content


def _shown(name: str, content: str, shown: str) -> str:
    return shown


def _name(name: str, content: str, shown: str) -> str:
    return name


def _stem(name: str, content: str, shown: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if name else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _check(columns: Iterable[object], kind: type) -> None:
    for column in columns:
        if not isinstance(column, list) or not all(type(value) is kind for value in column):
            raise ValueError(f"expected lists of {kind.__name__}")
