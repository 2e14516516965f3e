"""What is said of a class's filters, and of how few do: plain values, filled in by whoever asked the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike, NDArray

from interp_cnn.report.decisions.contents import others_of

Look = tuple[ArrayLike, NDArray]  # an image (C, H, W) and a filter's map (h, w) on it


@dataclass(frozen=True, eq=False)
class ClassShare:
    """What one filter brings to a class, on the mean of the class's images.

    Attributes:
        number: of the filter.
        share: in logits.
        often: in what part of the images it speaks for the class.
        place: (x, y), the middle of the cells that bring most of its shares, as parts of the image's width and height.
        label: what the filter is called beside its number, empty for nothing.
        also: other classes to which it brings at least half as much.
        highest: the highest that its map reaches on any image.
        fires: images of all classes on which it fires most.
        relevant: images of this class to which it brings most.
    """

    number: int
    share: float
    often: float
    place: tuple[float, float]
    label: str
    also: Sequence[str]
    highest: float
    fires: Sequence[Look] = ()
    relevant: Sequence[Look] = ()


@dataclass(frozen=True, eq=False)
class ClassSheet:
    """Which filters make a class.

    Attributes:
        network: its name.
        target: the class.
        images: that were looked at, all of this class.
        score: mean logit of the class on them.
        rest: mean of what no filter brings.
        shares: (D,) mean shares of all filters.
        often: (D,) in what part of the images each speaks for the class.
        shown: the filters that bring most, and those that take most away.
        mean_image: (C, H, W) of the images.
    """

    network: str
    target: str
    images: int
    score: float
    rest: float
    shares: NDArray
    often: NDArray
    shown: Sequence[ClassShare]
    mean_image: ArrayLike

    @property
    def others(self) -> tuple[NDArray, NDArray]:
        """Shares of the filters that are not shown: those for the class, and those against it."""
        return others_of(self.shares, [share.number for share in self.shown])


@dataclass(frozen=True)
class Scored:
    """A weight of a scoring sheet: class, number of the filter (None: the bias), weight."""

    target: str
    filter: int | None
    weight: float


@dataclass(frozen=True, eq=False)
class FewFilters:
    """How many filters per class a network needs.

    Attributes:
        network: its name.
        layer: whose filters.
        filters: D.
        images: on which accuracy is measured, none of them trained on.
        accuracy: of the network as it is.
        kept: filters per class -> accuracy when each class keeps only those that bring most to it on training images.
        sheets: (filters per class, accuracy) of scoring sheets from the sparsest to the fullest.
        sparsest: filters per class and accuracy of the sparsest sheet within one point of the network, chosen on one
            half of the images and judged on the other, both ways.
        scoring: the weights of the sparsest sheet within one point on all images.
    """

    network: str
    layer: str
    filters: int
    images: int
    accuracy: float
    kept: Sequence[tuple[int, float]]
    sheets: Sequence[tuple[float, float]]
    sparsest: tuple[float, float]
    scoring: Sequence[Scored]

    @property
    def enough(self) -> int | None:
        """The fewest filters that each class may keep at one point less; None where no tried number does."""
        return next((count for count, accuracy in self.kept if accuracy >= self.accuracy - 0.01 - 1e-9), None)


@dataclass(frozen=True, eq=False)
class ClassReading:
    """Everything about the filters of one network's classes."""

    sheets: Sequence[ClassSheet]
    few: FewFilters
