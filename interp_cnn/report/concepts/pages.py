"""Pages of what layers stand for: the sources side by side, and a gallery of cards per source and kind.

patterns.html (or index.html)          all sources and kinds in one table, with intervals
patterns-<source>-<kind>.html          cards, sorted and filtered by class, part and number
patterns-<source>-<kind>.png           the best and the worst cards as one picture
patterns/units.csv, summary.csv        the numbers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from interp_cnn import figures
from interp_cnn.figures.colours import Rgb
from interp_cnn.figures.png import save_png
from interp_cnn.report.album import Album
from interp_cnn.report.concepts.cards import Card, Unit, card, in_a_sentence, strip_of
from interp_cnn.report.concepts.measures import CONCEPT_MEASURES, DECODER_MEASURES, concept_cards_sorted_by
from interp_cnn.report.measures import Measure
from interp_cnn.report.numbers import is_known, number
from interp_cnn.report.site import Site, templates, write_assets
from interp_cnn.storage.files import write_text

MOST_OPENINGS = 12  # classes whose best pattern opens the first page
ON_A_SHEET = 4  # best cards, and as many worst ones, on a contact sheet
KIND_WORDS = {"nmf": "NMF atoms", "topk": "TopK atoms"}
TABLES = ("patterns/summary.csv", "patterns/units.csv")


@dataclass(frozen=True)
class Gallery:
    """All units of one kind of one source."""

    source: str
    layer: str
    kind: str
    slug: str
    units: Sequence[Unit]

    @property
    def page(self) -> str:
        return f"patterns-{self.slug}-{self.kind}.html"

    @property
    def title(self) -> str:
        return f"{KIND_WORDS.get(self.kind, self.kind.capitalize())} of {self.source}"


@dataclass(frozen=True)
class GalleryAbout:
    """What the pages say that no unit says: title, facts by name, and the command that makes the same again."""

    title: str
    facts: dict[str, str]
    command: str


@dataclass(frozen=True)
class OverviewRow:
    """One measure of all galleries."""

    title: str
    meaning: str
    cells: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Opening:
    """The best pattern of one class and source: its first card's pictures and one sentence about it."""

    source: str
    card: Card
    sentence: str
    page: str


def write_gallery(
    folder: Path,
    galleries: Sequence[Gallery],
    tables: tuple[pd.DataFrame, pd.DataFrame],
    about: GalleryAbout,
    *,
    first: str = "patterns.html",
) -> Path:
    """Write all pages, pictures and tables and return the first page.

    Args:
        folder: of the site; pictures go to its `figures/patterns/`.
        galleries: what to show.
        tables: the sources side by side (columns source, kind, measure, value, low, high, n); a row per unit.
        about: the rest of what the pages say.
        first: name of the first page.
    """
    for name, table in zip(TABLES, tables, strict=True):
        write_text(folder / name, table.to_csv(index=False))
    site = Site(about.title, TABLES, beside={gallery.title: gallery.page for gallery in galleries})
    environment = templates(site, about=about, root="")
    write_assets(folder, "patterns.css")
    album = Album(folder)
    best: dict[str, list[Opening]] = {}
    for gallery in galleries:
        cards = [
            card(unit, album, f"patterns/{gallery.slug}-{gallery.kind}/{unit.number:04d}")
            for unit in gallery.units
        ]
        if gallery.kind == galleries[0].kind:
            for category, concept_card in best_of_each_class(cards).items():
                opening = Opening(
                    gallery.source, concept_card, in_a_sentence(concept_card.unit), gallery.page
                )
                best.setdefault(category, []).append(opening)
        sheet = gallery.page.replace(".html", ".png")
        save_png(folder / sheet, contact_sheet(gallery), colours=256)
        sorted_by = concept_cards_sorted_by()
        values = {
            "gallery": gallery,
            "cards": cards,
            "sheet": sheet,
            "sortable": [
                (place, record.title.lower(), record.better)
                for place, record in enumerate(sorted_by)
                if any(is_known(it.values.get(record.name)) for it in gallery.units)
            ],
            "categories": sorted({unit.category for unit in gallery.units}),
            "parts": sorted({str(it.values["part"]) for it in gallery.units if it.values.get("part")}),
        }
        page = environment.get_template("pattern_gallery.html.j2").render(here=gallery.page, **values)
        write_text(folder / gallery.page, page)
    rows = {
        "rows": _rows(tables[0], galleries, CONCEPT_MEASURES),
        "quality": _rows(tables[0], galleries, DECODER_MEASURES, kind="decoder"),
    }
    page = environment.get_template("patterns.html.j2").render(
        here="index", galleries=galleries, best=dict(list(best.items())[:MOST_OPENINGS]), **rows
    )
    write_text(folder / first, page)
    return folder / first


def best_of_each_class(cards: Sequence[Card]) -> dict[str, Card]:
    """Class in words -> the card whose pictures bring its pattern back most often beyond unrelated ones; without
    pictures, the one most of whose firings are on its class.
    """
    ranked = sorted(cards, key=lambda it: -_worth(it.unit))
    best: dict[str, Card] = {}
    for concept_card in ranked:
        best.setdefault(concept_card.unit.class_words, concept_card)
    return dict(sorted(best.items()))


def _worth(unit: Unit) -> float:
    seen = unit.values.get("window_reactivation")
    if is_known(seen):
        return seen - _or_zero(unit.values.get("window_control"))
    return _or_zero(unit.values.get("confidence"))


def contact_sheet(gallery: Gallery) -> Rgb:
    """The cards that re-activate best, then those that do so least, as one picture with captions."""
    ranked = sorted(
        gallery.units,
        key=lambda it: -_or_zero(it.values.get("window_reactivation", it.values.get("confidence"))),
    )
    chosen = ranked if len(ranked) <= 2 * ON_A_SHEET else [*ranked[:ON_A_SHEET], *ranked[-ON_A_SHEET:]]
    captions = []
    for unit in chosen:
        seen = unit.values.get("window_reactivation")
        back = f", back in {seen:.0%} of its pictures" if is_known(seen) else ""
        captions.append(f"{unit.class_words}: {unit.name}{back}")
    return figures.contact_sheet(
        [strip_of(unit) for unit in chosen], captions, columns=2, title=gallery.title
    )


def _or_zero(value: object) -> float:
    return float(value) if is_known(value) else 0.0


def _rows(
    summary: pd.DataFrame, galleries: Sequence[Gallery], records: Sequence[Measure], *, kind: str = ""
) -> list[OverviewRow]:
    """The measures that somebody has, a cell per gallery: value and interval."""
    known = {(row.source, row.kind, row.measure): row for row in summary.itertuples()}
    rows = []
    for record in records:
        cells = []
        for gallery in galleries:
            row = known.get((gallery.source, kind or gallery.kind, record.name))
            if row is None or not is_known(row.value):
                cells.append(("–", ""))
                continue
            low, high = row.low, row.high
            interval = f"{number(low)} to {number(high)}" if is_known(low) and is_known(high) else ""
            cells.append((number(row.value, digits=record.digits), interval))
        if any(value != "–" for value, _ in cells):
            rows.append(OverviewRow(record.title, record.meaning, cells))
    return rows
