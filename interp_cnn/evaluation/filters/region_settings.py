"""Part interpretability over all settings: does what it says hold whatever the discs' radius and the threshold?

The publication (Zhang, Wu, Zhu, CVPR 2018, section 4.2) fixes the share of cells above the threshold at .005 and takes
receptive fields "with a consideration of their round shapes", without a radius: its own implies those that Zhou et al.
(ICLR 2015) measured, about two cells of a deep layer, the default. Small discs can only match small parts, large ones
large parts; a filter with many valid cells gains from a large tail where parts are large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas
from torch import Tensor

from interp_cnn.evaluation.filters.part_interpretability import PartInterpretability
from interp_cnn.evaluation.filters.regions import Boxes, Discs, Regions
from interp_cnn.evaluation.statistics import Sampled, resampling
from interp_cnn.explanation.receptive_field.field import ReceptiveField

TAILS = (0.001, 0.005, 0.01, 0.02)
RADII = (1, 2, 3, 4)  # cells
EXACT = "exact"


@dataclass(frozen=True)
class RegionSetting:
    """One choice of regions, and what it finds.

    Attributes:
        tail: share of cells above the threshold.
        cells: radius of the discs in cells, or "exact" for whole receptive fields.
        radius: the same in pixels; half the receptive field's larger side where it is exact.
        interpretability: counts of hits.
    """

    tail: float
    cells: int | str
    radius: float
    interpretability: PartInterpretability


class RegionSettings:
    """Part interpretability once for every radius and tail, in one pass."""

    def __init__(
        self, thresholds: dict[float, Tensor], categories: Tensor, parts: int, field: ReceptiveField
    ) -> None:
        cell = sum(field.stride) / 2
        regions: list[tuple[int | str, float, Regions]] = [
            (cells, cells * cell, Discs(field, cells * cell)) for cells in RADII
        ]
        regions.append((EXACT, max(field.size) / 2, Boxes(field)))
        self.settings = [
            RegionSetting(
                tail, cells, radius, PartInterpretability(threshold, categories, parts, region=region)
            )
            for cells, radius, region in regions
            for tail, threshold in thresholds.items()
        ]

    def update(self, maps: Tensor, labels: Tensor, part_masks: Tensor) -> None:
        """Add a batch, as `PartInterpretability.update`."""
        for setting in self.settings:
            setting.interpretability.update(maps, labels, part_masks)

    def table(self, *, resamples: int, seed: int) -> pandas.DataFrame:
        """One row per setting: tail, cells, radius, value with its interval, by_chance."""
        rows = []
        for setting in self.settings:
            hits, null = setting.interpretability.result(), setting.interpretability.null()
            draws = resampling(len(hits.hits), resamples=resamples, seed=seed)
            means = [each.best(draws)[0].nanmean(dim=1) for each in (hits, null)]
            value, chance = (
                Sampled.from_rows(mean, draws, setting.interpretability.seen).estimate() for mean in means
            )
            rows.append(
                {
                    "tail": setting.tail,
                    "cells": setting.cells,
                    "radius": setting.radius,
                    "value": value.value,
                    "low": value.low,
                    "high": value.high,
                    "by_chance": chance.value,
                }
            )
        return pandas.DataFrame(rows)


def higher_in(tables: Sequence[pandas.DataFrame]) -> list[int]:
    """In how many settings each of the networks' `tables` has the highest value; ties count for none."""
    values = pandas.concat([table["value"] for table in tables], axis=1)
    best = values.eq(values.max(axis=1), axis=0)
    alone = best.sum(axis=1) == 1
    return best[alone].sum().astype(int).tolist()
