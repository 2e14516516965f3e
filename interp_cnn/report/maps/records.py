"""What is kept of an explained image: a folder with its raw maps, its pictures and a record of the numbers.

    images/<name>/explanation.json    what was asked and answered; written last: with it, the image is done
    images/<name>/maps.npz            raw maps, (H, W) float32, one array per network and method
    images/<name>/panel.png           all maps side by side
    images/<name>/<method>.png        a map with its colour bar; <method>-overlay.png: laid over the image;
                                      <method>-own.png: the same on a scale of the map's own, where the networks' common
                                      one is larger

A folder's name comes from the image's, but can neither leave its place nor meet another image's.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from interp_cnn.figures.colours import Rgb
from interp_cnn.figures.map_sheet import ColourBar, Group, coarse, map_plate, sheet, shown, veil
from interp_cnn.figures.pictures import to_rgb
from interp_cnn.figures.png import save_png
from interp_cnn.report.words import method_title, reading
from interp_cnn.storage.files import npz_bytes, save_json, write_bytes
from interp_cnn.storage.names import distinct_slugs

RECORD, MAPS, PANEL, IMAGE = "explanation.json", "maps.npz", "panel.png", "image.png"
SAME_SCALE = 0.9  # of the networks' common scale: a map that spans more of it has no picture of its own
WITHIN_SCALE = (
    0.995  # the share of a map's cells that its colours span: a few pixels alone would turn the rest pale
)


@dataclass(frozen=True)
class MapRecord:
    """The numbers of one map.

    Attributes:
        method: its name.
        unit: of its values.
        signed: whether values below zero speak against the class.
        low: smallest value.
        high: largest value.
        scale: the size that all but the strongest 0.5 % of the drawn cells stay within: what the colours span.
        grain: side in pixels of the cells that are drawn.
        cells: what a cell shows, the "sum" or the "mean" of its pixels.
        sum: of the map (occlusion: of the drops per pixel of the window), None where the map was refused.
        expected: what it should sum to, None where the method promises nothing.
        seconds: for this image.
        forward_passes: images sent through the network for this image.
        refused: why there is no map, in a sentence; empty where there is one.
        note: a sentence about this map, empty for none.
        classes: of a map whose values are classes: [value, name] of each; empty for other maps.
    """

    method: str
    unit: str
    signed: bool
    low: float = 0.0
    high: float = 0.0
    scale: float = 0.0
    grain: int = 1
    cells: str = "mean"
    sum: float | None = None
    expected: float | None = None
    seconds: float = 0.0
    forward_passes: float = 0.0
    refused: str = ""
    note: str = ""
    classes: Sequence[Sequence] = field(default_factory=list)

    @property
    def drawn_unit(self) -> str:
        """The unit of what is drawn."""
        whole = self.cells == "sum" and self.grain > 1
        return f"{self.unit} per {self.grain} x {self.grain} pixels" if whole else self.unit

    def drawn(self, values: NDArray) -> NDArray:
        """What is drawn of the map (H, W)."""
        return coarse(values, self.grain, add_up=self.cells == "sum")

    def with_values(self, values: NDArray) -> MapRecord:
        """This record with the smallest and largest value of a map (H, W), and the scale of what is drawn of it."""
        strength = np.abs(self.drawn(values))
        scale = float(np.quantile(strength, WITHIN_SCALE)) or float(strength.max())
        return replace(self, low=float(values.min()), high=float(values.max()), scale=scale)

    @property
    def relative_error(self) -> float:
        """|sum - expected| / |expected|, NaN where nothing is promised."""
        if self.sum is None or not self.expected:
            return math.nan
        return abs(self.sum - self.expected) / abs(self.expected)


@dataclass(frozen=True)
class ClassScore:
    """What a network gives one class."""

    name: str
    logit: float
    probability: float


@dataclass(frozen=True)
class Answer:
    """What one network says about an image.

    Attributes:
        network: its name.
        target: the class that is explained.
        against: the class whose logit is taken off, empty for none.
        score: what is explained, the target's logit or the difference.
        scores: the classes with the highest logits, and the target.
        maps: one per method.
    """

    network: str
    target: str
    against: str
    score: float
    scores: Sequence[ClassScore]
    maps: Sequence[MapRecord]

    @property
    def question(self) -> str:
        """`cat` or `cat against dog`."""
        return f"{self.target} against {self.against}" if self.against else self.target


@dataclass(frozen=True)
class ImageRecord:
    """One explained image.

    Attributes:
        file: its name.
        label: its class, empty where it is not known.
        size: (H, W) of the maps.
        question: fingerprint of everything that the maps depend on.
        answers: one per network.
        map_bytes: size of the file of maps.
        map_sha256: its checksum.
        pictures: fingerprint of everything else that the pictures depend on, empty while there are none.
    """

    file: str
    label: str
    size: tuple[int, int]
    question: str
    answers: Sequence[Answer]
    map_bytes: int = 0
    map_sha256: str = ""
    pictures: str = ""


@dataclass(frozen=True)
class Look:
    """How maps are drawn.

    Attributes:
        colours: of signed maps, `green-red` or `orange-blue`.
        contours: a line around the strongest regions.
        limits: method -> the size that its colours span in all images; a method without one has a scale per
            image.
        across_methods: one scale for all methods of the same unit.
    """

    colours: str = "green-red"
    contours: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)
    across_methods: bool = False

    def bar(self, method: str, answers: Sequence[Answer]) -> ColourBar:
        """The colour bar of a method for one image: one scale for all networks."""
        maps = [it for answer in answers for it in answer.maps if not it.refused]
        signed, unit = next(((it.signed, it.drawn_unit) for it in maps if it.method == method), (False, ""))
        alike = (it for it in maps if (it.drawn_unit == unit and self.across_methods) or it.method == method)
        if any(it.classes for it in maps if it.method == method):
            names = {int(v): name for it in maps if it.method == method for v, name in it.classes}
            return ColourBar("classes", (0.0, 1.0), unit, tuple(sorted(names.items())))
        size = max((self.limits.get(it.method, it.scale) for it in alike), default=0.0) or 1.0
        return ColourBar(self.colours if signed else "heat", (-size if signed else 0.0, size), unit)


def own_bar(map_record: MapRecord, bar: ColourBar) -> ColourBar | None:
    """The colour bar of a map alone; None where it is that of all networks, or has no values to span."""
    if map_record.refused or map_record.classes or not 0 < map_record.scale < SAME_SCALE * bar.limits[1]:
        return None
    return replace(bar, limits=(-map_record.scale if map_record.signed else 0.0, map_record.scale))


def map_key(network: str, method: str, networks: int) -> str:
    """The name of a map in maps.npz: the method, behind the network's name where there are several."""
    return method if networks == 1 else f"{network}.{method}"


def write_maps(folder: Path, maps: Mapping[str, NDArray[np.float32]]) -> tuple[int, str]:
    """Write the raw maps of an image; returns the file's size and checksum. A record of earlier maps goes first."""
    (folder / RECORD).unlink(missing_ok=True)
    content = npz_bytes(maps)
    write_bytes(folder / MAPS, content)
    return len(content), hashlib.sha256(content).hexdigest()


def maps_are_whole(folder: Path, record: ImageRecord) -> bool:
    """Whether the file of maps is the one that the record was written with, to the bit."""
    return hashlib.sha256((folder / MAPS).read_bytes()).hexdigest() == record.map_sha256


def read_maps(folder: Path) -> dict[str, NDArray[np.float32]]:
    """The raw maps of an image; nothing in the file is executed."""
    with np.load(folder / MAPS, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def write_record(folder: Path, record: ImageRecord) -> None:
    """Write the record of an image."""
    save_json(folder / RECORD, asdict(record))


def read_record(folder: Path) -> ImageRecord | None:
    """The record of an image whose raw maps are whole; None for one that is not there or not whole."""
    try:
        stored = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        answers = [
            Answer(
                **{
                    **answer,
                    "scores": [ClassScore(**score) for score in answer["scores"]],
                    "maps": [MapRecord(**map_record) for map_record in answer["maps"]],
                }
            )
            for answer in stored["answers"]
        ]
        record = ImageRecord(**{**stored, "size": tuple(stored["size"]), "answers": answers})
        return record if (folder / MAPS).stat().st_size == record.map_bytes else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def read_records(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, ImageRecord]]:
    """The records of the images `names` below `images/` in a folder, one at a time; those without are left out."""
    for name in names:
        record = read_record(folder / "images" / name)
        if record is not None:
            yield name, record


def picture_names(record: ImageRecord, method: str, answer: Answer) -> tuple[str, str, str]:
    """The file names of a map with its colour bar, of its overlay, and of its overlay on a scale of its own."""
    slugs = distinct_slugs([it.network for it in record.answers])
    word = re.sub(r"[^A-Za-z0-9_-]+", "-", method)
    start = word if len(slugs) == 1 else f"{slugs[record.answers.index(answer)]}-{word}"
    return f"{start}.png", f"{start}-overlay.png", f"{start}-own.png"


def draw(folder: Path, record: ImageRecord, look: Look, image: Callable[[], NDArray]) -> None:
    """Draw all pictures of an image, unless they are there and look like this already, and write its record.

    Args:
        folder: of the image.
        record: its numbers.
        look: colours and scales.
        image: gives its pixels (C, H, W) in [0, 1].
    """
    methods = list(dict.fromkeys(it.method for answer in record.answers for it in answer.maps))
    bars = {method: look.bar(method, record.answers) for method in methods}
    wanted = hashlib.sha256(f"{record.question} {look.contours} {bars}".encode()).hexdigest()[:16]
    if record.pictures == wanted and (folder / PANEL).is_file():
        return
    maps, rgb = read_maps(folder), to_rgb(image())
    small = shown(rgb)
    pictures: dict[str, Rgb] = {IMAGE: small}
    groups = [Group("image", [small], note=f"labelled {record.label}" if record.label else "")]
    for method in methods:
        overlays, bar = [], bars[method]
        for answer in record.answers:
            key = map_key(answer.network, method, len(record.answers))
            overlays.append(np.full_like(small, 128))
            if key in maps:
                map_record = next(it for it in answer.maps if it.method == method)
                values = map_record.drawn(maps[key])
                overlays[-1] = shown(veil(rgb, values, bar, contours=look.contours))
                plate, overlay, own_overlay = picture_names(record, method, answer)
                alone = own_bar(map_record, bar) if len(record.answers) > 1 else None
                if alone is not None:
                    pictures[own_overlay] = shown(veil(rgb, values, alone, contours=look.contours))
                of_network = f" ({answer.network})" if len(record.answers) > 1 else ""
                title = f"{method_title(method)} for {answer.question}{of_network}"
                pictures |= {plate: map_plate(values, bar, title=title), overlay: overlays[-1]}
        captions = [answer.network for answer in record.answers] if len(record.answers) > 1 else ()
        refused = all(it.refused for answer in record.answers for it in answer.maps if it.method == method)
        title = method_title(method) + (" (refused)" if refused else "")
        groups.append(Group(title, overlays, captions, None if refused else bar))
    pictures[PANEL] = sheet(groups, title=record.file, lines=sentences(record, look))
    for name, picture in pictures.items():
        save_png(folder / name, picture, colours=None if name in (IMAGE, PANEL) else 256)
    for left_over in folder.glob("*.png"):
        if left_over.name not in pictures:
            left_over.unlink()
    write_record(folder, replace(record, pictures=wanted))


def sentences(record: ImageRecord, look: Look) -> list[str]:
    """What an image's panel says in words."""
    words = []
    for answer in record.answers:
        first = max(answer.scores, key=lambda score: score.logit)
        prediction = f"{answer.network} says {first.name} ({100 * first.probability:.1f} %)"
        words.append(f"{prediction}; explained is the logit of {answer.question}, {answer.score:+.3g}")
    drawn = [it for answer in record.answers for it in answer.maps if not it.refused]
    if any(it.signed for it in drawn):
        words.append(reading(look.colours, {answer.question for answer in record.answers}))
    if any(not it.signed for it in drawn):
        words.append("Dark to bright: how strongly, without a sign.")
    return words
