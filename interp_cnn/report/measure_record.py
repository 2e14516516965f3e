"""One measure as people read it: its name, meaning and direction, how it is written, where it is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from interp_cnn.report.numbers import is_known, minus, number, signed

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
        unit: what a number is a share or a multiple of, as it stands behind it; empty where that goes without saying.
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
    unit: str = ""
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
    def heading(self) -> str:
        """The title with an arrow towards better, for the head of a column."""
        return self.title + {"higher": " ↑", "lower": " ↓"}.get(self.better, "")

    @property
    def direction(self) -> str:
        """`lower is better`, `higher is better` or nothing."""
        return f"{self.better} is better" if self.better else ""
