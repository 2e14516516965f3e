"""Cards of patterns: real patches beside what a decoder draws of them, and whether the network agrees.

A card shows up to nine real patches; the same occurrences drawn from the window and from the pattern's channels alone;
the mean heat map; which parts it lies beside; its numbers. A pattern whose window pictures do not bring it back more
often than they bring back unrelated ones says so: "does not re-activate".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp_cnn import figures
from interp_cnn.figures.colours import Rgb
from interp_cnn.report.album import Album, Picture
from interp_cnn.report.concepts.measures import concept_cards_sorted_by
from interp_cnn.report.numbers import is_known, number
from interp_cnn.report.words import class_words

CELL = 64  # pixels of a patch
COLUMNS = 3
CONTEXT = 2.2  # a patch is so many times as wide as the cells that the pattern is drawn from
MARGIN = 0.2  # by which re-activation must exceed its control
CONTROLS = {"reactivation": "control", "witnessed": "witnessed_control"}
DRAWN = {"window": "drawn from the window", "channels": "drawn from its channels alone"}


@dataclass(frozen=True)
class Unit:
    """What a card is made of.

    Attributes:
        number: within its gallery.
        name: "3 & 17".
        category: name of its class.
        images: (n, C, H, W) in [0, 1] or uint8, where it occurs.
        boxes: (n, 4) pixels, the cells that its pictures are drawn from.
        pictures: mode -> (n, C, H, W) uint8.
        mean_map: (h, w), mean strength over its class's images.
        values: the numbers of `units.csv`.
        parts: names, in the order of annotation.
    """

    number: int
    name: str
    category: str
    images: NDArray
    boxes: NDArray
    pictures: Mapping[str, NDArray]
    mean_map: NDArray
    values: Mapping[str, float | str]
    parts: Sequence[str]

    @property
    def class_words(self) -> str:
        """The class as a word among numbers."""
        return class_words(self.category)

    @property
    def reactivates(self) -> bool | None:
        """Whether its window pictures bring it back; None where there are none."""
        seen, control = (self.values.get(f"window_{name}") for name in ("reactivation", "control"))
        if not is_known(seen):
            return None
        return seen > (control if is_known(control) else 0.0) + MARGIN


@dataclass(frozen=True)
class PartShare:
    """One piece of a part bar."""

    name: str
    percent: float
    colour: int


@dataclass(frozen=True)
class Card:
    """A unit as a page shows it."""

    unit: Unit
    sheets: list[tuple[Picture, str]]
    heat: Picture
    bar: list[PartShare]
    rows: list[tuple[str, str]]
    sort_values: str


def card(unit: Unit, album: Album, place: str) -> Card:
    """Draw a unit's pictures into an album, below a place without extension."""
    words = f"{unit.name}, {unit.class_words}"
    real = sheet_of(unit.images, unit.boxes)
    sheets = [(album.picture(f"{place}-real", real, f"Real patches of {words}", colours=128), "real patches")]
    for mode, caption in DRAWN.items():
        if mode in unit.pictures:
            drawn = sheet_of(unit.pictures[mode], unit.boxes)
            sheets.append(
                (
                    album.picture(f"{place}-{mode}", drawn, f"The same of {words}, {caption}", colours=128),
                    caption,
                )
            )
    heat = album.picture(f"{place}-heat", heat_map(unit.mean_map), f"Mean strength of {words} over the image")
    values = [unit.values.get(record.name) for record in concept_cards_sorted_by()]
    texts = " ".join(f"{value:.6g}" if is_known(value) else "-" for value in values)
    return Card(unit, sheets, heat, part_bar(unit), rows_of(unit), texts)


def strip_of(unit: Unit) -> Rgb:
    """A unit's sheets in one row, for a contact sheet."""
    sheets = [sheet_of(unit.images, unit.boxes)]
    sheets += [sheet_of(unit.pictures[mode], unit.boxes) for mode in DRAWN if mode in unit.pictures]
    return figures.montage(sheets, columns=len(sheets), gap=8, background=(255, 255, 255))


def sheet_of(images: NDArray, boxes: NDArray) -> Rgb:
    """Patches around boxes (n, 4) of images (n, C, H, W), three in a row, the box outlined."""
    cells = []
    for image, box in zip(images, boxes, strict=True):
        piece, inner = figures.crop_around(figures.to_rgb(image), box, context=CONTEXT)
        scale = CELL / len(piece)
        cells.append(figures.draw_boxes(figures.resize(piece, (CELL, CELL)), inner, scale=scale))
    blank = np.full((CELL, CELL, 3), 128, dtype=np.uint8)
    rows = max(1, -(-len(cells) // COLUMNS))
    return figures.montage([*cells, *[blank] * (rows * COLUMNS - len(cells))], columns=COLUMNS, gap=2)


def heat_map(values: NDArray) -> Rgb:
    """A mean map, each cell a square, dark at 0 and light at its own maximum."""
    limits = figures.common_limits([np.maximum(values, 0)])
    factor = max(1, -(-96 // max(values.shape)))
    return figures.enlarge(figures.colour_of(values, limits=limits), factor)


def part_bar(unit: Unit) -> list[PartShare]:
    """Shares of the firings beside each part and beside none; empty without annotated parts."""
    shares = [share for name in (*unit.parts, "none") if is_known(share := unit.values.get(f"beside_{name}"))]
    if not unit.parts or len(shares) <= len(unit.parts):
        return []
    names = [*unit.parts, "no part"]
    return [
        PartShare(name, 100 * share, -1 if name == "no part" else place)
        for place, (name, share) in enumerate(zip(names, shares, strict=True))
        if share > 0
    ]


def rows_of(unit: Unit) -> list[tuple[str, str]]:
    """The numbers on a card, in words."""
    of = unit.values.get
    rows = [
        (
            "fires on",
            f"{_percent(of('coverage'))} of {unit.class_words}, {_percent(of('confidence'))} of firings there",
        ),
        ("comes out again", f"{_percent(of('replication'))} with halves exchanged"),
        (
            "logit lost without it",
            f"{_number(of('effect'))}, without others {_number(of('effect_of_others'))}",
        ),
    ]
    if unit.parts and is_known(of("purity")):
        chance = f", by chance {_percent(of('purity_by_chance'))}"
        rows.insert(1, (f"beside {of('part') or 'a part'}", f"{_percent(of('purity'))}{chance}"))
    if is_known(of("tracking_gain")):
        spread = f"{_number(of('location_instability'))}, gain {_number(of('tracking_gain'))}"
        rows.append(("location instability", spread))
    return [*rows_of_pictures(unit), *rows]


def in_a_sentence(unit: Unit) -> str:
    """What there is to say first: whether pictures of it bring it back, else where it fires."""
    of = unit.values.get
    if is_known(of("window_reactivation")):
        back, chance = _percent(of("window_reactivation")), _percent(of("window_control"))
        return f"seen again in {back} of its pictures, unrelated patterns in {chance}"
    there = f"{_percent(of('confidence'))} of its firings are there"
    return f"fires on {_percent(of('coverage'))} of {unit.class_words}; {there}"


def rows_of_pictures(unit: Unit) -> list[tuple[str, str]]:
    """What networks see in the pictures drawn from the window; none without pictures."""
    of = unit.values.get
    if not is_known(of("window_reactivation")):
        return []

    def against_control(name: str) -> str:
        shares = (_percent(of(f"window_{measure}")) for measure in (name, CONTROLS[name]))
        return f"{' against control '.join(shares)}; everything kept {_percent(of(f'full_{name}'))}"

    rows = [("re-activation", against_control("reactivation"))]
    if is_known(of("window_witnessed")):
        rows.append(("other networks' patterns there", against_control("witnessed")))
    classes = {"own network": of("window_own_class")}
    for name, value in unit.values.items():
        if name.startswith("window_class_of.") and is_known(value):
            classes[name.partition(".")[2]] = value
    seen = ", ".join(f"{name} {_percent(value)}" for name, value in classes.items())
    rows.append((f"seen as {unit.class_words}", seen))
    rank = _number(of("window_reciprocal_rank"))
    rows.append(("strongest of all in its picture", f"mean reciprocal rank {rank}"))
    return rows


def _percent(value: float | str | None) -> str:
    return f"{100 * value:.0f}\u00a0%" if is_known(value) else "–"


def _number(value: float | str | None) -> str:
    return number(value, digits=2) if is_known(value) else "–"
