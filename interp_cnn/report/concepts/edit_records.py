"""What a page of edits is told about each filter and network, and the figures in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import NDArray

from interp_cnn.evaluation.statistics import Estimate
from interp_cnn.report.numbers import is_known, minus, percent


@dataclass(frozen=True, eq=False)
class SilencedImage:
    """The smallest edit of one exemplar that silences the filter.

    Attributes:
        name: of the image.
        category: that the network takes it for.
        category_name: its name.
        found: whether an edit silences the filter; else the numbers of the edit are those of the image.
        size: of the edit, share of the image.
        side: longer side of the box around it, pixels.
        before: peak of the filter.
        after: on the edited image.
        controls: likewise, with edits of the same shape elsewhere.
        logits: of the class, before, after, and mean of the controls.
        kept: whether the decision is the same after the edit; share of the controls with which it is.
        image: (C, H, W) uint8.
        hidden: (H, W) bool, painted over.
        edited: (C, H, W) uint8.
    """

    name: str
    category: int
    category_name: str
    found: bool
    size: float
    side: int
    before: float
    after: float
    controls: tuple[float, ...]
    logits: tuple[float, float, float]
    kept: tuple[float, float]
    image: NDArray
    hidden: NDArray
    edited: NDArray

    @property
    def fallen(self) -> float:
        """How far the peak fell, as a share of what it was."""
        return 1 - self.after / self.before

    @property
    def control(self) -> float:
        """Mean peak with the controls, NaN without any."""
        return sum(self.controls) / len(self.controls)

    @property
    def fallen_elsewhere(self) -> float:
        """How far it fell with the controls."""
        return 1 - self.control / self.before

    @property
    def beaten(self) -> float:
        """Share of the controls that lower the peak less; NaN without any."""
        return (
            sum(it > self.after for it in self.controls) / len(self.controls)
            if is_known(self.control)
            else math.nan
        )


@dataclass(frozen=True, eq=False)
class PastedPatch:
    """The real patch that excites a filter most.

    Attributes:
        name: of the image that it was cut from.
        own: whether from an exemplar of the filter itself.
        side: pixels.
        size: share of the image.
        exemplar: mean peak on the filter's exemplars.
        before: mean peak on silent images.
        after: with the patch.
        control: with random patches.
        logits: of the filter's class, likewise.
        decided: share of the images taken for that class, likewise.
        patch: (C, side, side) uint8.
        image: a silent image, (C, H, W) uint8.
        pasted: with the patch in the middle.
    """

    name: str
    own: bool
    side: int
    size: float
    exemplar: float
    before: float
    after: float
    control: float
    logits: tuple[float, ...]
    decided: tuple[float, ...]
    patch: NDArray
    image: NDArray
    pasted: NDArray


@dataclass(frozen=True, eq=False)
class FilterEdits:
    """What changes one filter; `category` is the class that most of its exemplars are taken for."""

    number: int
    category: str
    silenced: Sequence[SilencedImage]
    patch: PastedPatch | None

    @property
    def size(self) -> float:
        """Median share of the image (the lower one of an even number) of its edits; infinite without any."""
        sizes = sorted(it.size for it in self.silenced if it.found)
        return sizes[(len(sizes) - 1) // 2] if sizes else math.inf


@dataclass(frozen=True)
class EditSummary:
    """Figures of one network, over its filters; what a name means stands in `ROWS`."""

    filters: int
    images: int
    silenced: Estimate
    size: Estimate
    fallen: Estimate
    fallen_elsewhere: Estimate
    over_control: Estimate
    beaten: Estimate
    logit: Estimate
    logit_elsewhere: Estimate
    turned: Estimate
    turned_elsewhere: Estimate
    quiet: Estimate
    excited: Estimate
    excited_by_chance: Estimate
    own: Estimate
    patch_logit: Estimate
    patch_logit_by_chance: Estimate
    followed: Estimate
    followed_by_chance: Estimate

    @property
    def sentence(self) -> str:
        """The most important figures in words."""
        return (
            f"painting over {share_in_words(self.size)} of the image silences a filter "
            f"(median of {self.filters}), "
            f"its peak falls by {percent(self.fallen)}, "
            f"by as much painted over elsewhere {percent(self.fallen_elsewhere)}; "
            f"the best real patch brings back {percent(self.excited)} of the peak on a silent image, "
            f"a random one {percent(self.excited_by_chance)}"
        )


@dataclass(frozen=True, eq=False)
class EditsReading:
    """One network: its filters, figures, and the places of the filters that the page shows."""

    network: str
    layer: str
    filters: Sequence[FilterEdits]
    summary: EditSummary
    shown: Sequence[int]


def share_in_words(estimate: Estimate | float) -> str:
    """A share in per cent, with a decimal below 10."""
    value, low, high = (getattr(estimate, end, estimate) for end in ("value", "low", "high"))
    if not is_known(value):
        return "unknown"
    if value >= 0.1 or value < 0:
        return minus(percent(estimate))
    interval = (
        f" [{100 * low:.1f}, {100 * high:.1f}]"
        if low is not value and is_known(low) and is_known(high)
        else ""
    )
    return minus(f"{100 * value:.1f} %{interval}")
