"""Sums that the eye can follow: bars that begin where the last one ended, on one scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from interp_cnn.report.numbers import minus


@dataclass(frozen=True)
class Bar:
    """A stretch of a sum, from `left` on, `width` wide, in parts of the whole scale in per cent."""

    left: float
    width: float
    sign: str
    text: str


def logits(value: float) -> str:
    """A signed number of logits."""
    return minus(f"{value:+.2f}")


def reach(shares: Iterable[float]) -> tuple[float, float]:
    """The lowest and the highest point that a sum passes."""
    steps = np.cumsum([0.0, *shares])
    low, high = float(steps.min()), float(steps.max())
    return (low, high) if high > low else (low, low + 1)


def place_on(value: float, scale: tuple[float, float]) -> float:
    """Where a value lies on a scale, in per cent."""
    return 100 * (value - scale[0]) / (scale[1] - scale[0])


def bar(start: float, length: float, scale: tuple[float, float]) -> Bar:
    """A stretch from `start` on; what is next to nothing is still seen."""
    left, right = sorted((place_on(start, scale), place_on(start + length, scale)))
    sign = "for" if length >= 0 else "against"
    return Bar(round(left, 2), round(max(right - left, 0.4), 2), sign, logits(length))


def bars(shares: Iterable[float], scale: tuple[float, float]) -> list[Bar]:
    """Stretches that begin where the last one ended, from 0 on."""
    drawn, reached = [], 0.0
    for share in shares:
        drawn.append(bar(reached, share, scale))
        reached += share
    return drawn
