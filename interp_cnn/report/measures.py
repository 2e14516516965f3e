"""Measures and baselines in words: what each is called, what it means, which way is better, how it is
written.

The first page shows the `primary` ones in its table; all others, also those that nobody described here, stand
under "more measures".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from interp_cnn.report.numbers import is_known, minus, number, signed

NULL = "_null"


@dataclass(frozen=True)
class Measure:
    """How people read one measure.

    Attributes:
        title: its name.
        better: "higher", "lower", or "" where neither is.
        meaning: one line.
        short: its name on a card.
        percent: whether it is a share, written in percent.
        signed: whether a plus belongs to positive values.
        digits: after the point; None for as many as the size asks for.
        primary: whether it belongs to the first page's table.
    """

    title: str
    better: str = ""
    meaning: str = ""
    short: str = ""
    percent: bool = False
    signed: bool = False
    digits: int | None = None
    primary: bool = False

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
        """The interval around an estimate or difference, or nothing where it is not known."""
        return self.write_ends(getattr(estimate, "low", math.nan), getattr(estimate, "high", math.nan))

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


MEASURES = {
    "accuracy": Measure(
        "Accuracy", "higher", "validation images classified correctly", percent=True, primary=True
    ),
    "location_instability": Measure(
        "Location instability",
        "lower",
        "spread of the distance between a filter's peak and the parts of the object, in image diagonals",
        short="instability",
        primary=True,
    ),
    "tracking_gain": Measure(
        "Part-tracking gain",
        "higher",
        "1 − instability ÷ that of the best fixed spot: 0 is no better than a fixed spot, 1 is perfect",
        short="gain",
        signed=True,
        primary=True,
    ),
    "offset_gain": Measure(
        "Offset gain",
        "higher",
        "1 − spread of the part's offset from the peak ÷ spread of the part itself, for the part that a filter "
        "follows best: 0 for any fixed spot, 1 at a fixed offset",
        short="offset",
        signed=True,
        primary=True,
    ),
    "translation_gain": Measure(
        "Translation gain",
        "higher",
        "1 when the position moves exactly with shifted content, 0 for any fixed spot; needs no annotation",
        short="shift gain",
        signed=True,
        primary=True,
    ),
    "part_interpretability": Measure(
        "Part interpretability",
        "higher",
        "images in which the filter's region covers one and the same part",
        short="part",
        percent=True,
        primary=True,
    ),
    "tracking_filters": Measure(
        "Filters with a gain", "higher", "filters whose part-tracking gain is above 0", percent=True
    ),
    "following": Measure(
        "Moves with the content",
        "higher",
        "share of shifted content's way that the position goes along",
        signed=True,
    ),
    "shifted_instability": Measure(
        "Instability, shifted images", "lower", "location instability on randomly cropped and shifted images"
    ),
    "shifted_gain": Measure(
        "Gain, shifted images",
        "higher",
        "part-tracking gain on randomly cropped and shifted images",
        signed=True,
    ),
    "shifted_offset_gain": Measure(
        "Offset gain, shifted images",
        "higher",
        "offset gain on randomly cropped and shifted images",
        signed=True,
    ),
    "noise_stability": Measure(
        "Stable under noise",
        "higher",
        "images whose peak stays within one cell under a little noise",
        percent=True,
    ),
    "dissection_iou": Measure(
        "Dissection IoU",
        "higher",
        "overlap of the filter's strongest pixels with its best part, over all images",
    ),
    "unique_detectors": Measure(
        "Detected parts",
        "higher",
        "different parts with a filter whose dissection IoU is above 0.04",
        digits=1,
    ),
    "category_selectivity": Measure(
        "Category selectivity", "higher", "1 for a filter that fires for one class only, 0 for equal means"
    ),
    "label_information": Measure(
        "Label information", "higher", "nats that the peak tells about 'is it the class it knows best'"
    ),
    "concentration": Measure(
        "Concentration",
        "higher",
        "share of the map's mass within a template's width of its peak",
        percent=True,
    ),
    "redundancy": Measure(
        "Redundancy", "lower", "highest correlation of a filter's peaks with another filter's"
    ),
    "dead_filters": Measure("Silent filters", "lower", "filters that fire on no image", percent=True),
    "effective_filters": Measure(
        "Effective filters", "higher", "how many independent filters would vary as much", digits=1
    ),
    "best_constant": Measure(
        "Best fixed spot",
        "",
        "location instability of the fixed cell that is best on each filter's own images",
    ),
    "instability_highest": Measure(
        "Instability, strongest class", "lower", "on the images of the class with the highest mean peak"
    ),
    "instability_minimum": Measure(
        "Instability, best class", "lower", "smallest over classes, as published; low for every network"
    ),
    "score": Measure("Peak activation", "", "the filter's value on its strongest image", short="peak"),
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
    "untrained": "untrained network",
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
    "untrained": "the same layers with random weights and without masks",
}


def measure(name: str) -> Measure:
    """How to read the measure `name`; unknown names speak for themselves, `..._null` is what chance gives."""
    if name in MEASURES:
        return MEASURES[name]
    if name.endswith(NULL) and (base := measure(name.removesuffix(NULL))):
        meaning = "the same without the connection that it measures"
        return replace(
            base, title=f"{base.title}, by chance", better="", meaning=meaning, short="", primary=False
        )
    return Measure(name.replace("_", " ").capitalize())


def in_order(names: list[str]) -> list[str]:
    """Familiar measures first, as above, each followed by what chance gives; then the others as given."""
    familiar = [name for known in MEASURES for name in (known, known + NULL) if name in names]
    return familiar + [name for name in names if name not in familiar]


def baseline(name: str) -> str:
    """A baseline in words; what stands in brackets, a network's name, is kept."""
    kind, bracket, rest = name.partition(" (")
    return (BASELINES.get(kind) or kind.replace("_", " ")) + bracket + rest


def baseline_meaning(name: str) -> str:
    """What a baseline does, if it is a familiar one."""
    return MEANINGS.get(name.partition(" (")[0], "")
