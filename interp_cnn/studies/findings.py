"""What a study found, in plain values: the report writes it, whatever the study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp_cnn.evaluation.statistics import Estimate, Sampled, resampling, weighted_mean
from interp_cnn.figures.colours import Rgb, Theme
from interp_cnn.studies.grids import Layout

FILTER_NOTE = (
    "filter_evidence: what all filters of the interpretable layer (the same layer of other networks) bring to the "
    "logit, cell by cell; filter_maps: the layer's maps behind their masks, weighted by what each filter brings. "
    "untrained: the same layers with random weights and without masks."
)


@dataclass(frozen=True)
class Figure:
    """A chart in two themes with what it shows.

    Attributes:
        name: of its files.
        draw: takes the theme.
        caption: beneath it.
        alt: which kind of picture it is and what its axes and curves are; the caption says the rest.
        scale: drawn pixels a display pixel.
    """

    name: str
    draw: Callable[[Theme], Rgb]
    caption: str
    alt: str
    scale: int = 2


@dataclass(frozen=True)
class Findings:
    """What a study's page says.

    Attributes:
        title: of the page.
        question: what was asked.
        answer: in one sentence, computed from the numbers.
        facts: network, images and settings in words.
        figures: charts, the most important first.
        tables: name -> rows, written as CSV.
        shown: what a table on the page shows -> its rows in words.
        notes: what to keep in mind.
    """

    title: str
    question: str
    answer: str
    facts: dict[str, str]
    figures: list[Figure]
    tables: dict[str, pd.DataFrame]
    shown: dict[str, pd.DataFrame]
    notes: list[str] = field(default_factory=list)


class OcclusionSettings(Protocol):
    """What is told needs of the occlusion study."""

    @property
    def windows(self) -> tuple[int, ...]: ...
    @property
    def occluders(self) -> tuple[int, ...]: ...
    @property
    def fills(self) -> tuple[str, ...]: ...
    @property
    def methods(self) -> tuple[str, ...]: ...
    @property
    def randomised(self) -> int: ...
    @property
    def cells(self) -> list[tuple[int, int, int, str]]: ...
    @property
    def seed(self) -> int: ...
    @property
    def resamples(self) -> int: ...


class DistractorSettings(Protocol):
    """What is told needs of the distractor study."""

    @property
    def methods(self) -> tuple[str, ...]: ...
    @property
    def signed(self) -> list[str]: ...
    @property
    def seed(self) -> int: ...
    @property
    def resamples(self) -> int: ...


class GridSettings(Protocol):
    """What is told needs of the grid study."""

    @property
    def methods(self) -> tuple[str, ...]: ...
    @property
    def layouts(self) -> list[Layout]: ...
    @property
    def seed(self) -> int: ...
    @property
    def resamples(self) -> int: ...


class DeletionSettings(Protocol):
    """What is told needs of the single-deletion study."""

    @property
    def methods(self) -> tuple[str, ...]: ...
    @property
    def seed(self) -> int: ...
    @property
    def resamples(self) -> int: ...


class Averages:
    """Means over images with bootstrap intervals; all from the same resampled images."""

    def __init__(self, images: int, *, resamples: int, seed: int) -> None:
        self.draws = resampling(images, resamples=resamples, seed=seed)

    def of(self, values: NDArray | Tensor) -> Estimate:
        """The mean of one value per image; images with NaN take no part."""
        values = torch.as_tensor(values, dtype=torch.float64)
        known = int(values.isfinite().sum())
        if known < 2:
            return Estimate(float(values.nanmean()), n=known)
        rows = weighted_mean(values, self.draws.rows)
        return Sampled.from_rows(rows, self.draws, known).estimate()

    def band(self, curves: NDArray | Tensor) -> tuple[NDArray, NDArray, NDArray]:
        """Mean curve of (N, S) with the ends of its 95 % interval, (S,) each."""
        curves = torch.as_tensor(curves, dtype=torch.float64)
        weights = self.draws.bootstrap.double()
        replicates = weights @ curves / weights.sum(1, keepdim=True)
        low, high = replicates.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
        return curves.mean(0).numpy(), low.numpy(), high.numpy()


def rows_of(table: pd.DataFrame) -> list[Any]:
    """The rows of a table; a column is an attribute."""
    return list(table.itertuples())


def bracketed(value: float, low: float, high: float, form: str) -> str:
    """A value with the ends of its interval, all in this form."""
    return f"{form} [{form}, {form}]".format(value, low, high)


def interval(row: Any, name: str, form: str) -> str:
    """A row's value with its ends `<name>_low` and `<name>_high`."""
    return bracketed(getattr(row, name), getattr(row, f"{name}_low"), getattr(row, f"{name}_high"), form)


def number(value: float, form: str) -> str:
    """A value in this form; nothing where there is none."""
    return form.format(value) if np.isfinite(value) else ""


def millions(value: float) -> str:
    """A large count in millions; nothing where there is none."""
    return (
        "" if not np.isfinite(value) else f"{value / 1e6:,.0f} M" if value >= 1e8 else f"{value / 1e6:.3g} M"
    )
