"""The sheet of feature visualisations: a picture of every filter, real patches beside it, and what networks see in it.

feature_visualisation.html   (or index.html) all pictures with their checks, averages at the top
feature_visualisation.csv    a row for every picture
figures/feature_visualisation/NETWORK/0007.png   the pictures in their own size
feature_visualisation-NETWORK.png                all of a network's as one sheet
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import ArrayLike

from interp_cnn import figures
from interp_cnn.evaluation.statistics import Estimate
from interp_cnn.figures.colours import Rgb
from interp_cnn.figures.png import save_png
from interp_cnn.report.album import Album, Picture, within
from interp_cnn.report.numbers import number, percent
from interp_cnn.report.site import Site, templates, write_assets
from interp_cnn.report.words import class_words
from interp_cnn.storage.files import write_text, written_table
from interp_cnn.storage.names import distinct_slugs

TABLE = "feature_visualisation.csv"
SIDE, PATCH_SIDE, GAP = 150, 48, 3  # pixels shown
MEASURES = {
    "reactivation": ("re-activation", "the filter's peak over its mean peak on its strongest images"),
    "control": ("control", "other filters that reach as much of theirs"),
    "first": ("first of the layer", "pictures that no other filter answers as much"),
    "own_class": ("class seen", "pictures in which the network sees the class of the filter's images"),
    "others_class": ("class seen by the others", "the same of the other networks"),
    "distance": ("distance from real images", "to the nearest; 1: as a real image to the nearest other"),
}
SHARES = ("control", "first", "own_class", "others_class")
SORTED_BY = ("reactivation", "control", "rank", "distance")


@dataclass(frozen=True, eq=False)
class FilterPicture:
    """One filter's picture.

    Attributes:
        filter: its number.
        category: the class that most of its strongest images show.
        picture: (C, H, W) in [0, 1].
        patches: (C, h, w) of its strongest images, around its peaks.
        checks: reactivation, control, rank, distance.
        real: the same of the filter's strongest image.
        seen: network -> (class, probability).
    """

    filter: int
    category: str
    picture: ArrayLike
    patches: Sequence[ArrayLike]
    checks: Mapping[str, float]
    real: Mapping[str, float]
    seen: Mapping[str, tuple[str, float]]


@dataclass(frozen=True, eq=False)
class VisualisationReading:
    """One network's pictures.

    Attributes:
        network: its name.
        layer: whose filters.
        filters: of the layer.
        silent: of them that fire on no image.
        pictures: that were made.
        means: measure -> its mean over the pictures, of `MEASURES`.
        real_means: the same of the filters' strongest real images.
    """

    network: str
    layer: str
    filters: int
    silent: int
    pictures: Sequence[FilterPicture]
    means: Mapping[str, Estimate]
    real_means: Mapping[str, Estimate]


@dataclass(frozen=True)
class Sheet:
    """One picture as the page shows it."""

    it: FilterPicture
    network: str
    picture: Picture
    patches: Picture
    lines: Sequence[str]
    sort_values: str


def write_visualisations(
    folder: Path, readings: Sequence[VisualisationReading], *, facts: Mapping[str, str], first: str
) -> Path:
    """Write page, table and pictures and return the page.

    Args:
        folder: of the site.
        readings: of the networks.
        facts: how the pictures were made, in words, by name.
        first: name of the page.
    """
    album, sheets, sheet_files = Album(folder), [], {}
    slugs = distinct_slugs([it.network for it in readings])
    for slug, reading in zip(slugs, readings, strict=True):
        for it in reading.pictures:
            sheets.append(_sheet(it, reading.network, album, f"feature_visualisation/{slug}/{it.filter:04d}"))
        sheet_files[reading.network] = f"feature_visualisation-{slug}.png"
        whole = figures.montage([_side_by_side(it) for it in reading.pictures], gap=10)
        save_png(folder / sheet_files[reading.network], whole)
    write_assets(folder, "feature_visualisation.css")
    page = templates(Site("Pictures of filters", [TABLE])).get_template("feature_visualisation.html.j2")
    text = page.render(
        root="",
        here=first,
        readings=readings,
        sheets=sheets,
        sheet_files=sheet_files,
        rows=_rows(readings),
        facts=facts,
        sortable=list(enumerate(SORTED_BY)),
        categories=sorted({it.it.category for it in sheets}),
    )
    write_text(folder / first, text)
    _write_table(folder / TABLE, readings, sheets)
    return folder / first


def said_of_pictures(reading: VisualisationReading) -> str:
    """A network's averages in a sentence."""
    means, real = reading.means, reading.real_means
    peak, away = number(means["reactivation"].value, digits=2), number(means["distance"].value, digits=1)
    control, usual = (f"{100 * it['control'].value:.1f} %" for it in (means, real))
    return (
        f"{reading.network}: {len(reading.pictures)} pictures, re-activation {peak}, as much by {control} of the other "
        f"filters (on real images {usual}), class seen in {percent(means['own_class'])}, {away} times as far "
        f"from real images as these from each other"
    )


def _sheet(it: FilterPicture, network: str, album: Album, name: str) -> Sheet:
    rgb = figures.to_rgb(it.picture)
    picture = album.picture(name, rgb, f"Picture of filter {it.filter}", scale=max(rgb.shape[:2]) / SIDE)
    patches = album.picture(
        f"{name}-real", _patches(it), f"Real patches on which filter {it.filter} fires most"
    )
    checks, real = it.checks, it.real
    lines = [
        f"re-activation {number(checks['reactivation'], digits=2)}, rank {checks['rank']:.0f}",
        f"others {percent(checks['control'])} (real image {percent(real['control'])})",
        f"distance {number(checks['distance'], digits=1)}",
        "; ".join(f"{who}: {class_words(seen)} {percent(share)}" for who, (seen, share) in it.seen.items()),
    ]
    values = " ".join(f"{checks[name]:.5g}" for name in SORTED_BY)
    return Sheet(it, network, picture, patches, lines, values.replace("nan", "-"))


def _patches(it: FilterPicture) -> Rgb:
    return figures.montage(
        [within(figures.to_rgb(patch), PATCH_SIDE) for patch in it.patches], columns=2, gap=GAP
    )


def _side_by_side(it: FilterPicture) -> Rgb:
    return figures.montage([within(figures.to_rgb(it.picture), SIDE), _patches(it)], columns=2, gap=GAP)


def _rows(readings: Sequence[VisualisationReading]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(title, meaning, a cell and its interval for the pictures and the real images of each network)."""
    rows = []
    for name, (title, meaning) in MEASURES.items():
        given = [means.get(name) for it in readings for means in (it.means, it.real_means)]
        if any(it is not None for it in given):
            rows.append((title, meaning, [_cell(it, name in SHARES) for it in given]))
    return rows


def _cell(estimate: Estimate | None, share: bool) -> tuple[str, str]:
    if estimate is None or estimate.n == 0:
        return "–", ""
    factor, digits = (100, 1) if share else (1, 2)
    value, low, high = (f"{factor * it:.{digits}f}" for it in (estimate.value, estimate.low, estimate.high))
    return f"{value}{' %' if share else ''}", "" if low == "nan" else f"{low} to {high}"


def _write_table(path: Path, readings: Sequence[VisualisationReading], sheets: Sequence[Sheet]) -> None:
    layers = {it.network: it.layer for it in readings}
    names = [it.network for it in readings]
    measured = list(SORTED_BY)
    with written_table(path) as writer:
        writer.writerow(
            (
                *("network", "layer", "filter", "class", *measured, *(f"real_{name}" for name in measured)),
                *(f"{what} {name}" for name in names for what in ("class seen by", "probability of")),
                "picture",
            )
        )
        for sheet in sheets:
            it = sheet.it
            writer.writerow(
                (
                    *(sheet.network, layers[sheet.network], it.filter, it.category),
                    *(f"{values[name]:.6g}" for values in (it.checks, it.real) for name in measured),
                    *(text for name in names for text in (it.seen[name][0], f"{it.seen[name][1]:.6g}")),
                    sheet.picture.source,
                )
            )
