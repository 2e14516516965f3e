"""Measures by their names, which all tables, charts, cards and pages ask.

A record says what a measure is called, what it means, which way is better, how it is written and where it is shown;
the lists of names are `shown_in(PLACE)`, in the order of the records. A measure without a record is shown too, under
"more measures". How to add one: docs/contributing/measure.md; those of concepts alone: `report.concepts.measures`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from interp_cnn.report.filter_measures import RECORDS
from interp_cnn.report.measure_record import Measure, Place
from interp_cnn.report.numbers import is_known

__all__ = ["MEASURES", "NULL", "Measure", "in_order", "known_in", "measure", "ranking_measures", "shown_in"]
NULL = "_null"

MEASURES = {record.name: record for record in RECORDS}


def shown_in(place: Place) -> list[str]:
    """Names of the measures that a place shows, in the order of the records."""
    return [record.name for record in MEASURES.values() if place in record.shown]


def known_in(place: Place, summaries: Iterable[Mapping[str, Any]], most: int) -> list[str]:
    """The first `most` measures of a place that some of `summaries` (measure -> estimate) knows: those that need
    annotations come first, and where there are none those that need none take their place.
    """
    rows = list(summaries)
    known = [
        name
        for name in shown_in(place)
        if any(is_known(getattr(row.get(name), "value", None)) for row in rows)
    ]
    return known[:most]


def ranking_measures() -> list[str]:
    """Names of the measures that rank filters, the one that is asked first at the beginning."""
    return sorted(
        (record.name for record in MEASURES.values() if record.ranks), key=lambda n: MEASURES[n].ranks
    )


def measure(name: str) -> Measure:
    """How to read the measure `name`; unknown names speak for themselves, `..._null` is what chance gives."""
    if name in MEASURES:
        return MEASURES[name]
    if name.endswith(NULL) and (base := measure(name.removesuffix(NULL))):
        meaning = "the same without the connection that it measures"
        title = f"{base.title}, by chance"
        return replace(base, name=name, title=title, better="", meaning=meaning, short="", shown=(), ranks=0)
    return Measure(name, name.replace("_", " ").capitalize())


def in_order(names: list[str]) -> list[str]:
    """Familiar measures first, as above, each followed by what chance gives; then the others as given."""
    familiar = [name for known in MEASURES for name in (known, known + NULL) if name in names]
    return familiar + [name for name in names if name not in familiar]
