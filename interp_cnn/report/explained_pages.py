"""Pages and a table over a folder of explained images (`explained`), read one at a time, however many there
are.

index.html, page-2.html, ...    the images, a few dozen on a page, with all their maps
images/<name>/index.html        one image: its maps large, with what they sum to and what they cost
maps.csv                        a row per image, network and method
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import median
from urllib.parse import quote

import jinja2

from interp_cnn.figures.colours import colour_table
from interp_cnn.figures.plates import ColourBar, value_text
from interp_cnn.report.explained import (
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
    reading,
)
from interp_cnn.report.numbers import duration, is_known
from interp_cnn.report.writing import write_text

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
class Site:
    """What the report's base page asks for."""

    title: str
    tables: Sequence[str]
    networks: tuple = ()
    samples: int = 0
    made: str = ""


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


@dataclass(frozen=True)
class MethodRow:
    """One method of one network over all images."""

    network: str
    title: str
    meaning: str
    unit: str
    error: str
    seconds: str
    passes: str
    refused: str


def write_pages(
    folder: Path, names: Sequence[str], about: About, look: Look, others: Sequence[str] = ()
) -> Path:
    """Write pages and the table of all images and return the first page.

    Args:
        folder: in which `images/` lies.
        names: the images' folders in order; those without a record are left out.
        about: what the pages say beside the images.
        look: how the maps were drawn.
        others: further files to link to.
    """
    _write_table(folder, names)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("interp_cnn.report"),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(site=Site(about.title, [TABLE, *others]), gradient=_gradient, about=about)
    environment.filters["url"] = lambda text: quote(text, safe="/")
    for name in ("style.css", "script.js", "explained.css"):
        text = (files("interp_cnn.report") / "templates" / name).read_text("utf-8")
        write_text(folder / "assets" / name, text)
    views = [names[start : start + IMAGES_ON_A_PAGE] for start in range(0, len(names), IMAGES_ON_A_PAGE)]
    pages = ["index.html", *(f"page-{number}.html" for number in range(2, len(views) + 1))]
    rows = list(_method_rows(folder, names, about))
    words, index_of = reading(look.colours), {name: index for index, name in enumerate(names)}
    for number, (page, chosen) in enumerate(zip(pages, views or [[]], strict=False)):
        images = [view for view in (_image_view(folder, name, about, look) for name in chosen) if view]
        values = {"images": images, "pages": pages, "number": number, "rows": rows, "reading": words}
        text = environment.get_template("explained.html.j2").render(root="", here="index", **values)
        write_text(folder / page, text)
        for view in images:
            index = index_of[view.place.rpartition("/")[2]]
            around = {"before": names[index - 1] if index else None, "after": (*names[index + 1 :], None)[0]}
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
        title = method.replace("_", " ")
        methods.append(
            MethodView(title, about.meanings.get(method, ""), bar.colours, low, high, bar.unit, maps)
        )
    return ImageView(f"images/{name}", record, methods, (folder / "images" / name / IMAGE).is_file())


def _map_view(record: ImageRecord, answer: Answer, one: MapRecord, bar: ColourBar) -> MapView:
    plate, overlay = picture_names(record, one.method, answer)
    numbers = []
    if one.sum is not None:
        ends = [value_text(value, signed=one.signed) for value in (one.low, one.high)]
        numbers.append(f"values from {ends[0]} to {ends[1]}")
        if one.expected is not None:
            numbers.append(f"they add up to {value_text(one.sum)}, expected {value_text(one.expected)}")
        numbers.append(f"{_seconds(one.seconds)}, {_count(one.forward_passes)}")
    alt = (
        f"Map of {one.method.replace('_', ' ')} by {answer.network} over {record.file}, for {answer.question}"
    )
    return MapView(answer, one, plate, overlay, alt, "; ".join(numbers))


def _records(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, ImageRecord]]:
    for name in names:
        record = read_record(folder / "images" / name)
        if record is not None:
            yield name, record


def _method_rows(folder: Path, names: Sequence[str], about: About) -> Iterator[MethodRow]:
    found: dict[tuple[str, str], list[tuple[float, float, float, bool]]] = {}
    units: dict[str, str] = {}
    for _, record in _records(folder, names):
        for answer in record.answers:
            for one in answer.maps:
                numbers = (one.relative_error, one.seconds, one.forward_passes, bool(one.refused))
                found.setdefault((one.method, answer.network), []).append(numbers)
                units[one.method] = one.unit
    networks = {network for _, network in found}
    for (method, network), numbers in found.items():
        errors = [error for error, *_ in numbers if is_known(error)]
        done = [it for it in numbers if not it[3]]
        refused = len(numbers) - len(done)
        yield MethodRow(
            network=network if len(networks) > 1 else "",
            title=method.replace("_", " "),
            meaning=about.meanings.get(method, ""),
            unit=units[method],
            error=_percent(median(errors)) if errors else "–",
            seconds=_seconds(sum(it[1] for it in done) / len(done)) if done else "–",
            passes=f"{sum(it[2] for it in done) / len(done):,.0f}" if done else "–",
            refused=f"{refused} of {len(numbers)} images refused" if refused else "",
        )


def _percent(share: float) -> str:
    if share < 0.0001:
        return "under 0.01\u00a0%"
    return (
        f"{100 * share:.{0 if share >= 0.1 else 1 if share >= 0.01 else 2}f}\u00a0%"
        if share < 10
        else "over 1000\u00a0%"
    )


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else duration(seconds)


def _count(passes: float) -> str:
    return "1 forward pass" if round(passes) == 1 else f"{passes:,.0f} forward passes"


def _write_table(folder: Path, names: Sequence[str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, record in _records(folder, names):
        for answer in record.answers:
            start = (record.file, record.label, answer.network, answer.target, answer.against, answer.score)
            for one in answer.maps:
                error = "" if math.isnan(one.relative_error) else one.relative_error
                numbers = (one.sum, one.expected, error, one.seconds, one.forward_passes, one.low, one.high)
                writer.writerow(
                    [*start, one.method, *numbers, one.unit, f"images/{name}/{MAPS}", one.refused]
                )
    write_text(folder / TABLE, text.getvalue())


def _gradient(colours: str) -> str:
    """A colour map as the stops of a CSS gradient."""
    return ",".join("#{:02x}{:02x}{:02x}".format(*stop) for stop in colour_table(colours, 9))
