"""Class sheets as pages show them: a class's mean logit as a sum over filters, and accuracy with few filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp_cnn import figures
from interp_cnn.figures.curves import Curve, curve_panels
from interp_cnn.report.album import Album, Chart, Picture, within
from interp_cnn.report.decisions.class_contents import ClassReading, ClassShare, ClassSheet, FewFilters, Look
from interp_cnn.report.decisions.sums import Bar, bar, bars, place_on, reach
from interp_cnn.report.decisions.views import DISC, IMAGE, lit_cell, spread_out, sums_of
from interp_cnn.report.measures import measure
from interp_cnn.report.words import class_words


@dataclass(frozen=True)
class ClassRow:
    """One filter on a class sheet."""

    place: int
    number: int
    label: str
    fires: Picture | None
    relevant: Picture | None
    often: str
    also: str
    bar: Bar
    x: float
    y: float


@dataclass(frozen=True)
class ClassSheetView:
    """One network's filters of one class."""

    network: str
    target: str
    images: int
    image: Picture
    rows: list[ClassRow]
    lesser: list[tuple[str, Bar]]
    total: Bar
    zero: float


@dataclass(frozen=True)
class FewView:
    """How few filters do: a sentence for each network, a row for each number of filters, a chart."""

    sentences: list[tuple[str, str]]
    networks: list[str]
    rows: list[tuple[str, list[str]]]
    chart: Chart


def class_sheet_views(sheets: Sequence[ClassSheet], album: Album, *, base: str) -> list[ClassSheetView]:
    """The sheets of one class, all on one scale of logits.

    Args:
        sheets: of one or several networks.
        album: that saves the pictures.
        base: where they go, `classes/0003`.
    """
    ends = [reach(share for _, share in _parts(sheet)) for sheet in sheets]
    scale = (min((low for low, _ in ends), default=0), max((high for _, high in ends), default=1))
    return [_view(sheet, album, f"{base}-{number}", scale) for number, sheet in enumerate(sheets)]


def _parts(sheet: ClassSheet) -> list[tuple[str, float]]:
    """What the class's mean logit is the sum of."""
    lines = [(str(share.number), share.share) for share in sheet.shown]
    return [*lines, *sums_of(sheet.others, "other" if sheet.shown else "filter"), ("rest", sheet.rest)]


def _view(sheet: ClassSheet, album: Album, base: str, scale: tuple[float, float]) -> ClassSheetView:
    parts = _parts(sheet)
    drawn = bars([share for _, share in parts], scale)
    spots = spread_out([share.place for share in sheet.shown], DISC / IMAGE)
    mean = within(figures.to_rgb(sheet.mean_image), IMAGE)
    rows = [
        ClassRow(
            place=place,
            number=share.number,
            label=share.label,
            fires=_strip(
                album, f"{base}-{place}-fires", share, share.fires, f"Where filter {share.number} fires most"
            ),
            relevant=_strip(
                album,
                f"{base}-{place}-relevant",
                share,
                share.relevant,
                f"Where filter {share.number} brings most to {sheet.target}",
            ),
            often=f"{100 * share.often:.0f} %",
            also=", ".join(map(class_words, share.also[:3]))
            + (f" and {len(share.also) - 3} more" if len(share.also) > 3 else ""),
            bar=stretch,
            x=100 * x,
            y=100 * y,
        )
        for place, (share, (x, y), stretch) in enumerate(zip(sheet.shown, spots, drawn, strict=False), 1)
    ]
    return ClassSheetView(
        network=sheet.network,
        target=sheet.target,
        images=sheet.images,
        image=album.picture(f"{base}-mean", mean, f"Mean image of {sheet.target}"),
        rows=rows,
        lesser=[
            (name, stretch) for (name, _), stretch in zip(parts[len(rows) :], drawn[len(rows) :], strict=True)
        ],
        total=bar(0.0, sheet.score, scale),
        zero=place_on(0.0, scale),
    )


def _strip(album: Album, name: str, share: ClassShare, looks: Sequence[Look], alt: str) -> Picture | None:
    if not looks:
        return None
    cells = [lit_cell(image, values, share.highest) for image, values in looks]
    return album.picture(name, figures.montage(cells, columns=len(cells), gap=2), alt, colours=96)


def few_view(readings: Sequence[ClassReading], album: Album) -> FewView | None:
    """How accuracy falls with fewer filters, of all networks; None without any."""
    all_few = [reading.few for reading in readings]
    if not all_few:
        return None
    counts = sorted({count for few in all_few for count, _ in few.kept})
    write = measure("accuracy").write
    rows = [
        (
            f"{count} strongest" if count < max(counts) else "all",
            [write(dict(few.kept).get(count)) for few in all_few],
        )
        for count in counts
    ]
    rows.append(("the network as it is", [write(few.accuracy) for few in all_few]))
    panels = {
        "Own head, strongest filters only": {
            few.network: _curve([it for it in few.kept if it[0] > 0]) for few in all_few
        },
        "New head (scoring sheet)": {few.network: _curve(few.sheets) for few in all_few},
    }
    chart = album.chart(
        "few-filters",
        lambda theme: curve_panels(
            panels,
            across="filters per class",
            up="accuracy",
            logarithmic=(True, False),
            shared=True,
            columns=1,
            width=560,
            theme=theme,
        ),
        "Accuracy against the number of filters that each class uses",
    )
    sentences = [(few.network, sentence(few)) for few in all_few]
    return FewView(sentences, [few.network for few in all_few], rows, chart)


def sentence(few: FewFilters) -> str:
    """What the numbers come to."""
    accuracy = measure("accuracy").write
    filters, reached = few.sparsest
    best = max((value for _, value in few.sheets), default=few.accuracy)
    per_class, whole = f"{filters:.1f} filters per class", f"with all {few.filters} filters of {few.layer}"
    if best < few.accuracy - 0.01 - 1e-9:
        words = (
            f"loses more than a point to any head that only adds up a few filters (a scoring sheet): "
            f"{accuracy(reached)} with {per_class}, {accuracy(few.accuracy)} {whole}"
        )
    else:
        words = (
            f"can do with {per_class}: a new head that only adds up that few (a scoring sheet) is right on "
            f"{accuracy(reached)} of the images, its own head {whole} on {accuracy(few.accuracy)}"
        )
    fewer = [count for count, _ in few.kept if count < few.filters]
    if not fewer:
        return words
    if few.enough in (None, few.filters):
        return f"{words}. Its own head loses more than a point even with each class's strongest {max(fewer)}"
    each = "filter" if few.enough == 1 else f"{few.enough}"
    return f"{words}. Its own head loses less than a point with each class's strongest {each} alone"


def _curve(points: Sequence[tuple[float, float]]) -> Curve:
    across, up = np.array(sorted(points), dtype=float).reshape(-1, 2).T
    return Curve(across, up)
