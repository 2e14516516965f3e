"""Explained images as pages show them: each method's maps by all networks on one scale, with their numbers in words.

The pages of `explain` and of a comparison show the same views by the same template, `explained_image`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from interp_cnn.figures.map_sheet import ColourBar, value_text
from interp_cnn.figures.png import png_size
from interp_cnn.report.album import Picture
from interp_cnn.report.maps.costs import short_seconds
from interp_cnn.report.maps.records import (
    IMAGE,
    MAPS,
    PANEL,
    RECORD,
    Answer,
    ImageRecord,
    Look,
    MapRecord,
    picture_names,
)
from interp_cnn.report.site import css_colour
from interp_cnn.report.words import method_title


@dataclass(frozen=True)
class MapView:
    """One network's map of a method; no pictures where it was refused, or nothing was drawn.

    The pictures' places are given from the image's folder. `own` is the overlay on a scale of its own, up to `end`;
    None where the common scale is the same.
    """

    answer: Answer
    record: MapRecord
    plate: Picture | None
    overlay: Picture | None
    own: Picture | None
    end: str
    numbers: str


@dataclass(frozen=True)
class MethodView:
    """All networks' maps of one method on one image, on one scale."""

    title: str
    meaning: str
    colours: str
    low: str
    high: str
    unit: str
    maps: list[MapView]
    classes: list[tuple[str, str]]  # of a map of classes: (colour, name) of each

    @property
    def targets(self) -> str:
        """The classes that are explained; those of the networks may differ."""
        return " and ".join(dict.fromkeys(it.answer.question for it in self.maps))

    @property
    def drawn(self) -> bool:
        """Whether there is a map, and so a scale."""
        return not all(it.record.refused for it in self.maps)

    def map_of(self, network: str) -> MapView | None:
        """A network's map; None where it was not asked for one."""
        return next((it for it in self.maps if it.answer.network == network), None)


@dataclass(frozen=True)
class ImageView:
    """One image on a page; `place` is its folder from the first page."""

    place: str
    record: ImageRecord
    methods: list[MethodView]
    picture: Picture | None

    files = (PANEL, MAPS, RECORD)

    @property
    def wide(self) -> int:
        """How many maps a method has."""
        return len(self.record.answers)


def image_view(
    folder: Path, place: str, record: ImageRecord, meanings: Mapping[str, str], look: Look
) -> ImageView:
    """One explained image as pages show it.

    Args:
        folder: of the site.
        place: the image's folder in it, from the first page.
        record: of the image.
        meanings: method -> what its values say.
        look: how its maps were drawn.
    """
    methods, here = [], folder / place
    for method in dict.fromkeys(map_record.method for answer in record.answers for map_record in answer.maps):
        bar = look.bar(method, record.answers)
        maps = [
            _map_view(here, record, answer, map_record, bar)
            for answer in record.answers
            for map_record in answer.maps
            if map_record.method == method
        ]
        low, high = _ends(bar)
        title = method_title(method)
        key = [(css_colour(colour), name) for colour, name in bar.key()]
        methods.append(
            MethodView(title, meanings.get(method, ""), bar.colours, low, high, bar.unit, maps, key)
        )
    return ImageView(place, record, methods, _picture(here, IMAGE, _name_in_words(record)))


def _map_view(
    folder: Path, record: ImageRecord, answer: Answer, map_record: MapRecord, bar: ColourBar
) -> MapView:
    plate, overlay, own_overlay = picture_names(record, map_record.method, answer)
    alt = f"Map of {method_title(map_record.method)} by {answer.network} over {record.file}, for {answer.question}"
    low, high = _ends(bar)
    pictures = (
        _picture(folder, plate, f"{alt}, with its scale from {low} to {high} {bar.unit}"),
        _picture(folder, overlay, alt),
        _picture(folder, own_overlay, f"{alt}, on its own scale"),
        value_text(map_record.scale, signed=map_record.signed, digits=2),
    )
    return MapView(answer, map_record, *pictures, _numbers(map_record))


def _picture(folder: Path, name: str, alt: str) -> Picture | None:
    """A picture in an image's folder; None where it was not drawn."""
    return Picture(name, *png_size(folder / name), alt) if (folder / name).is_file() else None


def _name_in_words(record: ImageRecord) -> str:
    return f"{record.file}, class {record.label}" if record.label else record.file


def _ends(bar: ColourBar) -> tuple[str, str]:
    """The values at the two ends of a scale."""
    low, high = (value_text(value, signed=bar.limits[0] < 0, digits=2) for value in bar.limits)
    return low, high


def _numbers(map_record: MapRecord) -> str:
    """What a map sums to, and what it cost."""
    numbers: list[str] = []
    if map_record.sum is not None:
        ends = [value_text(value, signed=map_record.signed) for value in (map_record.low, map_record.high)]
        numbers.append(f"values from {ends[0]} to {ends[1]}")
        if map_record.expected is not None:
            occlusion = map_record.method.startswith("occlusion")
            what = "per pixel of the window they add up" if occlusion else "they add up"
            numbers.append(
                f"{what} to {value_text(map_record.sum)}, expected {value_text(map_record.expected)}"
            )
    if not map_record.refused:
        numbers += [map_record.note] if map_record.note else []
        numbers.append(f"{short_seconds(map_record.seconds)}, {_count(map_record.forward_passes)}")
    return "; ".join(numbers)


def _count(passes: float) -> str:
    return "1 forward pass" if round(passes) == 1 else f"{passes:,.0f} forward passes"
