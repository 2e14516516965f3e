"""Pages and a table over a folder of explained images (`explained`), read one at a time, however many there
are.

index.html, page-2.html, ...    the images, a few dozen on a page, with all their maps
images/<name>/index.html        one image: its maps large, with what they sum to and what they cost
maps.csv                        a row per image, network and method
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from interp_cnn.figures.map_sheet import ColourBar, value_text
from interp_cnn.report.maps.costs import method_rows, short_seconds
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
    read_record,
    read_records,
)
from interp_cnn.report.site import Site, css_colour, templates, write_assets
from interp_cnn.report.words import method_title, reading
from interp_cnn.storage.files import write_text, written_table

IMAGES_ON_A_PAGE = 40
TABLE = "maps.csv"
COLUMNS = (
    *(
        "file",
        "label",
        "network",
        "target",
        "against",
        "score",
        "method",
        "sum",
        "expected",
        "relative_error",
    ),
    *("seconds", "forward_passes", "low", "high", "unit", "maps", "refused"),
)


@dataclass(frozen=True)
class About:
    """What the pages say that no image says.

    Attributes:
        title: of the pages.
        facts: what was asked of what, name -> text.
        meanings: method -> what its values say.
        command: that makes the same again.
    """

    title: str
    facts: dict[str, str]
    meanings: dict[str, str]
    command: str


@dataclass(frozen=True)
class MapView:
    """One network's map of a method; without pictures where it was refused."""

    answer: Answer
    record: MapRecord
    plate: str
    overlay: str
    alt: str
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


@dataclass(frozen=True)
class ImageView:
    """One image on a page; `place` is its folder from the first page."""

    place: str
    record: ImageRecord
    methods: list[MethodView]
    drawn: bool

    @property
    def wide(self) -> int:
        """How many maps a method has."""
        return len(self.record.answers)


def write_pages(
    folder: Path,
    names: Sequence[str],
    about: About,
    look: Look,
    others: Sequence[str] = (),
    *,
    beside: Mapping[str, str] | None = None,
) -> Path:
    """Write pages and the table of all images and return the first page.

    Args:
        folder: in which `images/` lies.
        names: the images' folders in order; those without a record are left out.
        about: what the pages say beside the images.
        look: how the maps were drawn.
        others: further files to link to.
        beside: further pages of the site, title -> address.
    """
    _write_table(folder, names)
    site = Site(about.title, [TABLE, *others], beside=beside or {})
    environment = templates(site, about=about)
    write_assets(folder, "explained.css")
    views = [names[start : start + IMAGES_ON_A_PAGE] for start in range(0, len(names), IMAGES_ON_A_PAGE)]
    pages = ["index.html", *(f"page-{number}.html" for number in range(2, len(views) + 1))]
    rows = method_rows(folder, names, about.meanings)
    words, index_of = reading(look.colours), {name: index for index, name in enumerate(names)}
    for number, (page, chosen) in enumerate(zip(pages, views or [[]], strict=False)):
        images = [view for view in (_image_view(folder, name, about, look) for name in chosen) if view]
        values = {"images": images, "pages": pages, "number": number, "rows": rows, "reading": words}
        values["several"] = any(len(row.networks) > 1 for row in rows)
        text = environment.get_template("explained.html.j2").render(root="", here="index", **values)
        write_text(folder / page, text)
        for view in images:
            index = index_of[view.place.rpartition("/")[2]]
            after = names[index + 1] if index + 1 < len(names) else None
            around = {"before": names[index - 1] if index else None, "after": after}
            text = environment.get_template("explained_image.html.j2").render(
                root="../../", here="", image=view, back=page, files=(PANEL, MAPS, RECORD), **around
            )
            write_text(folder / view.place / "index.html", text)
    return folder / "index.html"


def _image_view(folder: Path, name: str, about: About, look: Look) -> ImageView | None:
    record = read_record(folder / "images" / name)
    if record is None:
        return None
    methods = []
    for method in dict.fromkeys(one.method for answer in record.answers for one in answer.maps):
        bar = look.bar(method, record.answers)
        maps = [
            _map_view(record, answer, one, bar)
            for answer in record.answers
            for one in answer.maps
            if one.method == method
        ]
        low, high = (value_text(value, signed=bar.limits[0] < 0, digits=2) for value in bar.limits)
        title = method_title(method)
        key = [(css_colour(colour), name) for colour, name in bar.key()]
        methods.append(
            MethodView(title, about.meanings.get(method, ""), bar.colours, low, high, bar.unit, maps, key)
        )
    return ImageView(f"images/{name}", record, methods, (folder / "images" / name / IMAGE).is_file())


def _map_view(record: ImageRecord, answer: Answer, one: MapRecord, bar: ColourBar) -> MapView:
    plate, overlay = picture_names(record, one.method, answer)
    numbers = []
    if one.sum is not None:
        ends = [value_text(value, signed=one.signed) for value in (one.low, one.high)]
        numbers.append(f"values from {ends[0]} to {ends[1]}")
        if one.expected is not None:
            occlusion = one.method.startswith("occlusion")
            what = "per pixel of the window they add up" if occlusion else "they add up"
            numbers.append(f"{what} to {value_text(one.sum)}, expected {value_text(one.expected)}")
    if not one.refused:
        numbers += [one.note] if one.note else []
        numbers.append(f"{short_seconds(one.seconds)}, {_count(one.forward_passes)}")
    alt = f"Map of {method_title(one.method)} by {answer.network} over {record.file}, for {answer.question}"
    return MapView(answer, one, plate, overlay, alt, "; ".join(numbers))


def _write_table(folder: Path, names: Sequence[str]) -> None:
    with written_table(folder / TABLE) as writer:
        writer.writerow(COLUMNS)
        for name, record in read_records(folder, names):
            for answer in record.answers:
                start = (
                    record.file,
                    record.label,
                    answer.network,
                    answer.target,
                    answer.against,
                    answer.score,
                )
                for one in answer.maps:
                    error = "" if math.isnan(one.relative_error) else one.relative_error
                    cost = (one.seconds, one.forward_passes)
                    numbers = (one.sum, one.expected, error, *cost, one.low, one.high)
                    place = f"images/{name}/{MAPS}"
                    writer.writerow([*start, one.method, *numbers, one.unit, place, one.refused])


def _count(passes: float) -> str:
    return "1 forward pass" if round(passes) == 1 else f"{passes:,.0f} forward passes"
