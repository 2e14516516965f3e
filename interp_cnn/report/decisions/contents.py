"""What a decision sheet says: plain values, filled in by whoever asked the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def others_of(shares: NDArray, shown: Sequence[int]) -> tuple[NDArray, NDArray]:
    """Of all shares (D,) those of filters that are not shown: the ones for a class, and the ones against it."""
    left = np.delete(shares, shown)
    return left[left > 0], left[left < 0]


@dataclass(frozen=True, eq=False)
class FilterShare:
    """One filter's part in a decision.

    Attributes:
        number: of the filter.
        share: in logits.
        drop: what the logit loses when this filter alone is switched off.
        place: (x, y) of the cell that brings most of the share, as parts of the image's width and height.
        label: what the filter is called beside its number, empty for nothing.
        map: (h, w), its map on this image.
        highest: the highest that its map reaches on its exemplars.
        exemplars: images (C, H, W) with its map on each, on which it fires most.
    """

    number: int
    share: float
    drop: float
    place: tuple[float, float]
    label: str
    map: NDArray
    highest: float
    exemplars: Sequence[tuple[ArrayLike, NDArray]] = ()


@dataclass(frozen=True, eq=False)
class Curves:
    """The target's logit while filters are switched off, and its probability in the first order.

    Attributes:
        counts: (P,) how many are off.
        most: (P,) logits, those that speak for the target most first.
        least: (P,) those that speak for it least first.
        random: (P,) at random, the mean of some orders.
        probability: (P,) of the target, most first.
    """

    counts: NDArray
    most: NDArray
    least: NDArray
    random: NDArray
    probability: NDArray


@dataclass(frozen=True, eq=False)
class Decision:
    """Why a network says what it says of one image.

    Attributes:
        network: its name.
        layer: whose filters share the logit.
        method: by which it was shared out, see `filter_contributions`.
        target: the class asked about.
        predicted: the class that the network says.
        label: the image's class; empty where not known.
        score: the target's logit.
        probability: of the target.
        rest: what no filter brings.
        shares: (D,) of all filters.
        shown: the filters with the largest shares, for and against.
        enough: how many filters carry 90 % of what speaks for the target.
        curves: what is left without filters.
        linear: nothing but sums lies behind the layer.
        bypassed: something reaches the logit round the layer.
    """

    network: str
    layer: str
    method: str
    target: str
    predicted: str
    label: str
    score: float
    probability: float
    rest: float
    shares: NDArray
    shown: Sequence[FilterShare]
    enough: int
    curves: Curves
    linear: bool
    bypassed: bool

    @property
    def others(self) -> tuple[NDArray, NDArray]:
        """Shares of the filters that are not shown: of those that speak for the target, and of those against it."""
        return others_of(self.shares, [share.number for share in self.shown])

    def as_json(self) -> dict[str, Any]:
        """Numbers and names, without pictures."""
        plain = {
            name: getattr(self, name)
            for name in ("network", "layer", "method", "target", "predicted", "label", "score", "probability")
        }
        return {
            **plain,
            "rest": self.rest,
            "linear_head": self.linear,
            "paths_round_the_layer": self.bypassed,
            "filters_for_90_percent": self.enough,
            "shares": [round(float(share), 7) for share in self.shares],
            "shown": [
                {
                    "filter": share.number,
                    "label": share.label,
                    "share": share.share,
                    "drop_when_off": share.drop,
                    "x": share.place[0],
                    "y": share.place[1],
                }
                for share in self.shown
            ],
            "others_for": float(self.others[0].sum()),
            "others_against": float(self.others[1].sum()),
            "removal": {
                name: np.round(getattr(self.curves, name), 6).tolist()
                for name in ("counts", "most", "least", "random", "probability")
            },
        }
