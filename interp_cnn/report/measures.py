"""Measures and baselines: one record of each, which all tables, charts, cards and pages read.

A record says what a measure is called, what it means, which way is better, how it is written and where it is shown;
the lists of names are `shown_in(PLACE)`, in the order of the records. A measure without a record is shown too, under
"more measures". How to add one: docs/contributing/measure.md; those of concepts alone: `report.concepts.measures`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from interp_cnn.report.numbers import is_known, minus, number, signed

NULL = "_null"


Place = Literal[
    "front",  # the table of the first page
    "table",  # evaluate's tables in Markdown
    "terminal",  # what compare and evaluate print
    "spread",  # charts with a dot for every filter
    "card",  # a filter's card: the first three that it has
    "board",  # TensorBoard, beside the settings
    "model card",  # of an exported network
    "concept means",  # discovery's table: the mean over concepts, with an interval
    "concept cards",  # by which cards of concepts are sorted
]


@dataclass(frozen=True)
class Measure:
    """How people read one measure, and where.

    Attributes:
        name: in tables and code.
        title: its name in print.
        better: "higher", "lower", or "" where neither is.
        meaning: one line.
        short: its name on a card.
        percent: whether it is a share, written in percent.
        signed: whether a plus belongs to positive values.
        digits: after the point; None for as many as the size asks for.
        shown: the places that show it.
        ranks: 1 where filters are ranked by it first of all, 2 where only without that one, ...; 0: never.
    """

    name: str
    title: str
    better: str = ""
    meaning: str = ""
    short: str = ""
    percent: bool = False
    signed: bool = False
    digits: int | None = None
    shown: tuple[Place, ...] = ()
    ranks: int = 0

    def __post_init__(self) -> None:
        for place in self.shown:
            if place not in get_args(Place):
                raise ValueError(f"shown of {self.name} is {place!r}; expected {', '.join(get_args(Place))}")

    def write(self, value: Any) -> str:
        """A value, e.g. `97.2 %`, `0.083` or `+0.05`; a dash where it is not known."""
        if not is_known(value):
            return "–"
        if self.percent:
            return f"{100 * value:.1f}\u00a0%"
        return number(value, signed=self.signed, digits=self.digits)

    def write_difference(self, value: Any) -> str:
        """A difference of two values, always signed: percentages differ by points."""
        if not is_known(value):
            return "–"
        if self.percent:
            return f"{signed(100 * value, 1)}\u00a0points"
        return signed(value, 3 if self.digits is None else self.digits)

    def write_interval(self, estimate: Any) -> str:
        """The interval around an estimate or difference, why it has no width, or nothing where it is not known."""
        low, high = getattr(estimate, "low", math.nan), getattr(estimate, "high", math.nan)
        if is_known(low) and low == high:
            return getattr(estimate, "note", "") or "the same in every draw"
        return self.write_ends(low, high)

    def write_ends(self, low: Any, high: Any) -> str:
        """An interval from its ends, or nothing where they are not known."""
        if not (is_known(low) and is_known(high)):
            return ""
        if self.percent:
            return minus(f"{100 * low:.1f} to {100 * high:.1f}")
        return f"{number(low, digits=self.digits)} to {number(high, digits=self.digits)}"

    @property
    def direction(self) -> str:
        """`lower is better`, `higher is better` or nothing."""
        return f"{self.better} is better" if self.better else ""


_RECORDS = (
    Measure(
        "accuracy",
        "Accuracy",
        "higher",
        "validation images classified correctly",
        percent=True,
        shown=("front", "table", "terminal", "model card"),
    ),
    Measure(
        "location_instability",
        "Location instability",
        "lower",
        "spread of the distance between a filter's peak and the parts of the object, in image diagonals",
        short="instability",
        shown=("front", "table", "terminal", "spread", "card", "board", "model card", "concept means"),
        ranks=3,
    ),
    Measure(
        "tracking_gain",
        "Part-tracking gain",
        "higher",
        "1 − instability ÷ that of the best fixed spot: 0 is no better than a fixed spot, 1 is perfect",
        short="gain",
        signed=True,
        shown=(
            "front",
            "table",
            "terminal",
            "spread",
            "card",
            "board",
            "model card",
            "concept means",
            "concept cards",
        ),
        ranks=1,
    ),
    Measure(
        "offset_gain",
        "Offset gain",
        "higher",
        "1 − spread of the part's offset from the peak ÷ spread of the part itself, for the part that a filter "
        "follows best: 0 for any fixed spot, 1 at a fixed offset",
        short="offset",
        signed=True,
        shown=("front", "table", "spread", "card", "model card"),
        ranks=2,
    ),
    Measure(
        "translation_gain",
        "Translation gain",
        "higher",
        "1 when the position moves exactly with shifted content, 0 for any fixed spot; needs no annotation",
        short="shift gain",
        signed=True,
        shown=("front", "table", "spread"),
    ),
    Measure(
        "part_interpretability",
        "Part interpretability",
        "higher",
        "images in which the filter's region covers one and the same part",
        short="part",
        percent=True,
        shown=("front", "table", "spread"),
        ranks=4,
    ),
    Measure(
        "tracking_filters",
        "Filters with a gain",
        "higher",
        "filters whose part-tracking gain is above 0",
        percent=True,
        shown=("table",),
    ),
    Measure(
        "following",
        "Moves with the content",
        "higher",
        "share of shifted content's way that the position goes along",
        signed=True,
        shown=("table",),
    ),
    Measure(
        "shifted_instability",
        "Instability, shifted images",
        "lower",
        "location instability on randomly cropped and shifted images",
    ),
    Measure(
        "shifted_gain",
        "Gain, shifted images",
        "higher",
        "part-tracking gain on randomly cropped and shifted images",
        signed=True,
        shown=("table",),
    ),
    Measure(
        "shifted_offset_gain",
        "Offset gain, shifted images",
        "higher",
        "offset gain on randomly cropped and shifted images",
        signed=True,
    ),
    Measure(
        "noise_stability",
        "Stable under noise",
        "higher",
        "images whose peak stays within one cell under a little noise",
        percent=True,
    ),
    Measure(
        "dissection_iou",
        "Dissection IoU",
        "higher",
        "overlap of the filter's strongest pixels with its best part, over all images",
    ),
    Measure(
        "unique_detectors",
        "Detected parts",
        "higher",
        "different parts with a filter whose dissection IoU is above 0.04",
        digits=1,
    ),
    Measure(
        "category_selectivity",
        "Category selectivity",
        "higher",
        "1 for a filter that fires for one class only, 0 for equal means",
    ),
    Measure(
        "label_information",
        "Label information",
        "higher",
        "nats that the peak tells about 'is it the class it knows best'",
    ),
    Measure(
        "concentration",
        "Concentration",
        "higher",
        "share of the map's mass within a template's width of its peak",
        percent=True,
        shown=("table", "concept means"),
    ),
    Measure(
        "redundancy", "Redundancy", "lower", "highest correlation of a filter's peaks with another filter's"
    ),
    Measure(
        "dead_filters",
        "Silent filters",
        "lower",
        "filters that fire on no image",
        percent=True,
        shown=("model card",),
    ),
    Measure(
        "effective_filters",
        "Effective filters",
        "higher",
        "how many independent filters would vary as much",
        digits=1,
    ),
    Measure(
        "best_constant",
        "Best fixed spot",
        "",
        "location instability of the fixed cell that is best on each filter's own images",
    ),
    Measure(
        "instability_highest",
        "Instability, strongest class",
        "lower",
        "on the images of the class with the highest mean peak",
    ),
    Measure(
        "instability_minimum",
        "Instability, best class",
        "lower",
        "smallest over classes, as published; low for every network",
    ),
    Measure(
        "score",
        "Peak activation",
        "",
        "the filter's value on its strongest image",
        short="peak",
        shown=("card",),
        ranks=5,
    ),
)
MEASURES = {record.name: record for record in _RECORDS}


def shown_in(place: Place) -> list[str]:
    """Names of the measures that a place shows, in the order of the records."""
    return [record.name for record in MEASURES.values() if place in record.shown]


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
