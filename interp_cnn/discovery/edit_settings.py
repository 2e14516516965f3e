"""How filters are changed: the settings of edits and patches."""

from __future__ import annotations

from dataclasses import dataclass

FILLS = ("neighbours", "blur")


@dataclass(frozen=True)
class EditSettings:
    """How filters are changed.

    Attributes:
        filters: of each network, spread over those that fire; None: all of them.
        exemplars: images per filter, spread over its nine strongest.
        cells: along the shorter side of an image.
        share: of its peak below which a filter counts as silent.
        fill: what cells are painted over with, of `FILLS`.
        controls: edits of the same shape elsewhere; random patches.
        pool: real patches that are tried on each filter.
        images: silent ones to paste on; half choose the patch, half measure it.
        patch: side of a patch at most, of the image's shorter side.
        shown: filters of each network on the page, around the median.
    """

    filters: int | None = 24
    exemplars: int = 3
    cells: int = 12
    share: float = 0.5
    fill: str = "neighbours"
    controls: int = 8
    pool: int = 16
    images: int = 6
    patch: float = 0.4
    shown: int = 6

    def __post_init__(self) -> None:
        least = {"filters": 1, "exemplars": 1, "cells": 2, "controls": 1, "pool": 1, "images": 2, "shown": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is None and name == "filters":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"edits.{name}={value}: expected {low} or more")
        if self.exemplars > 9:
            raise ValueError(
                f"edits.exemplars={self.exemplars}: expected 1 to 9, the images kept of a filter"
            )
        for name in ("share", "patch"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise ValueError(f"edits.{name}={value}: expected a share above 0 and below 1")
        if self.fill not in FILLS:
            raise ValueError(f"edits.fill={self.fill}: expected {' or '.join(FILLS)}")
