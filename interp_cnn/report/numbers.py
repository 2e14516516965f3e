"""Measures and numbers in words: what a measure is called, which way is better, and how its numbers are
written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """How people read one measure; `better` is "higher", "lower" or "" where neither is, `short` fits on a
    card.
    """

    title: str
    better: str = ""
    meaning: str = ""
    short: str = ""
    percent: bool = False
    signed: bool = False
    secondary: bool = False

    def write(self, value: Any) -> str:
        """A value, e.g. `97.2 %`, `0.083` or `+0.05`; a dash where it is not known."""
        if not is_known(value):
            return "–"
        if self.percent:
            return f"{100 * value:.1f}\u00a0%"
        return number(value, signed=self.signed)

    def write_difference(self, value: Any) -> str:
        """A difference of two values, always signed: percentages differ by points."""
        if not is_known(value):
            return "–"
        return f"{signed(100 * value, 1)}\u00a0points" if self.percent else signed(value, 3)

    def write_interval(self, estimate: Any) -> str:
        """The interval around an estimate or difference, or nothing where it is not known."""
        return self.write_ends(getattr(estimate, "low", math.nan), getattr(estimate, "high", math.nan))

    def write_ends(self, low: Any, high: Any) -> str:
        """An interval from its ends, or nothing where they are not known."""
        if not (is_known(low) and is_known(high)):
            return ""
        if self.percent:
            return f"{minus(f'{100 * low:.1f}')} to {minus(f'{100 * high:.1f}')}"
        return f"{minus(f'{low:.3f}')} to {minus(f'{high:.3f}')}"

    @property
    def direction(self) -> str:
        """`lower is better`, `higher is better` or nothing."""
        return f"{self.better} is better" if self.better else ""


MEASURES = {
    "accuracy": Measure("Accuracy", "higher", "validation images classified correctly", percent=True),
    "location_instability": Measure(
        "Location instability",
        "lower",
        "spread of the distance between a filter's peak and the parts of the object, in image diagonals",
        short="instability",
    ),
    "tracking_gain": Measure(
        "Part-tracking gain",
        "higher",
        "1 − instability ÷ that of the best fixed spot: 0 is no better than a fixed spot, 1 is perfect",
        short="gain",
        signed=True,
    ),
    "tracking_filters": Measure(
        "Filters with a gain", "higher", "filters whose part-tracking gain is above 0", percent=True
    ),
    "best_constant": Measure(
        "Best fixed spot",
        "",
        "location instability of the fixed cell that is best on each filter's own images",
        secondary=True,
    ),
    "instability_highest": Measure(
        "Instability, strongest class",
        "lower",
        "location instability on the images of the class with the highest mean peak",
        secondary=True,
    ),
    "instability_minimum": Measure(
        "Instability, best class",
        "lower",
        "smallest location instability over classes, as published; low for every network",
        secondary=True,
    ),
    "part_interpretability": Measure(
        "Part interpretability",
        "higher",
        "images in which the filter's region covers one and the same part",
        short="part",
        percent=True,
    ),
    "dissection_iou": Measure(
        "Dissection IoU", "higher", "overlap of the filter's region with its best part"
    ),
    "score": Measure("Peak activation", "", "the filter's value on its strongest image", short="peak"),
    "category_purity": Measure(
        "Category purity", "higher", "strongest images that belong to the filter's category"
    ),
}

BASELINES = {
    "random_cell": "random cell",
    "centre": "image centre",
    "constant_centre": "image centre",
    "best_constant": "best fixed spot",
    "oracle": "oracle",
    "oracle_other_part": "oracle, other part",
    "oracle_jitter": "oracle with noise",
    "shuffled_images": "shuffled images",
}


MEANINGS = {
    "random_cell": "a filter that points at a random cell of the grid on every image",
    "centre": "a filter that always points at the middle of the image",
    "constant_centre": "a filter that always points at the middle of the image",
    "best_constant": "the fixed cell that scores best on these very images",
    "oracle": "a filter that always points at an annotated part itself",
    "oracle_other_part": "the same, judged by the other parts only",
    "oracle_jitter": "the same, off by 5 % of the image diagonal at random",
    "shuffled_images": "the network's own positions, dealt to other images of the class",
}


def measure(name: str) -> Measure:
    """How to read the measure `name`; unknown names speak for themselves."""
    return MEASURES.get(name) or Measure(name.replace("_", " ").capitalize())


def baseline(name: str) -> str:
    """A baseline in words; what stands in brackets, a network's name, is kept."""
    kind, bracket, rest = name.partition(" (")
    return (BASELINES.get(kind) or kind.replace("_", " ")) + bracket + rest


def baseline_meaning(name: str) -> str:
    """What a baseline does, if it is a familiar one."""
    return MEANINGS.get(name.partition(" (")[0], "")


def is_known(value: Any) -> bool:
    """Whether a value is a finite number."""
    try:
        return value is not None and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def value_of(estimate: Any) -> float:
    """The value of an estimate, or of a bare number; NaN where there is none."""
    value = getattr(estimate, "value", estimate)
    return float(value) if is_known(value) else math.nan


def minus(text: str) -> str:
    """A number with a real minus sign, as wide as a plus."""
    return text.replace("-", "−")


def signed(value: float, digits: int) -> str:
    """A number with its sign, none for what rounds to zero."""
    text = f"{value:+.{digits}f}"
    return minus(text) if float(text) else text[1:]


def number(value: float, *, signed: bool = False) -> str:
    """A number with three decimals up to 10, fewer above, in groups of thousands."""
    size = abs(value)
    digits = 3 if size < 10 else 1 if size < 1000 else 0
    text = f"{value:+,.{digits}f}" if signed and round(value, digits) else f"{value:,.{digits}f}"
    return minus("0." + "0" * digits if not round(value, digits) and digits else text)


def p_of(difference: Any) -> float:
    """The p-value of a difference, NaN where there is none."""
    return next(
        (float(p) for key in ("p", "p_value") if is_known(p := getattr(difference, key, None))), math.nan
    )


def p_value(p: Any) -> str:
    """`p < 0.001` or `p = 0.04`; nothing where it is not known."""
    if not is_known(p):
        return ""
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
    return text.replace(" ", "\u00a0")


def duration(seconds: float) -> str:
    """`0.8 s`, `73 s`, `12 min 5 s`, `2 h 10 min`."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
