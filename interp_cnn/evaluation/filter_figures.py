"""Every measure of every filter, with the replicates that its interval and the network's mean come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.stats import norm
from torch import Tensor

from interp_cnn.evaluation.dissection import NetworkDissection, unique_detectors
from interp_cnn.evaluation.filters import (
    category_means,
    category_selectivity,
    effective_filters,
    label_information,
    redundancy,
    score_correlations,
)
from interp_cnn.evaluation.judge import Judge, Judgement, best_part
from interp_cnn.evaluation.noise import NoiseStability
from interp_cnn.evaluation.part_interpretability import PartInterpretability
from interp_cnn.evaluation.passes import Seen
from interp_cnn.evaluation.statistics import (
    Resampling,
    Sampled,
    benjamini_hochberg,
    jackknife_error,
    percentile_interval,
    resampling,
)
from interp_cnn.evaluation.translation import TranslationTest

__all__ = [
    "FilterFigure",
    "mask_figures",
    "probe_figures",
    "score_figures",
    "tracking_figures",
    "tracks_a_part",
]

# Correlations of D filters on N images cost N D^2 per jackknife row: beyond this, no interval.
AFFORDABLE = 4e10


@dataclass(frozen=True)
class FilterFigure:
    """One measure of D filters.

    Attributes:
        value: (D,) NaN where a filter has none.
        bootstrap: (R, D), R = 0 where the interval comes from the jackknife.
        jackknife: (G, D).
        n: images behind it.
    """

    value: Tensor
    bootstrap: Tensor
    jackknife: Tensor
    n: int

    @classmethod
    def from_rows(cls, rows: Tensor, draws: Resampling, n: int) -> FilterFigure:
        """From (1 + R + G, D), one row per row of `draws`."""
        ends = 1 + draws.resamples
        return cls(rows[0], rows[1:ends], rows[ends:], n)

    def mean(self) -> Sampled:
        """The network's figure: the mean over the filters that have one."""
        return Sampled(
            float(self.value.nanmean()), self.bootstrap.nanmean(1), self.jackknife.nanmean(1), self.n
        )

    def share_above_zero(self) -> Sampled:
        """Share of the filters that have a value above zero."""
        columns = [
            (values > 0).double().where(values.isfinite(), torch.nan)
            for values in (self.bootstrap, self.jackknife)
        ]
        value = (self.value > 0).double().where(self.value.isfinite(), torch.nan).nanmean()
        return Sampled(float(value), *(column.nanmean(dim=1) for column in columns), self.n)

    def interval(self) -> tuple[Tensor, Tensor]:
        """(D,) low and high ends: percentile, or the jackknife's normal ones."""
        if len(self.bootstrap):
            return percentile_interval(self.bootstrap)
        half = norm.ppf(0.975) * jackknife_error(self.jackknife)
        return self.value - half, self.value + half


def tracking_figures(judgement: Judgement, draws: Resampling, n: int) -> dict[str, FilterFigure]:
    """Instability and gains on the filters' own images."""
    rows = {
        "location_instability": judgement.instability,
        "best_constant": judgement.best_constant,
        "tracking_gain": judgement.gain,
        "part_gain": best_part(judgement.part_gain)[0],
        "offset_gain": best_part(judgement.offset_gain)[0],
    }
    return {measure: FilterFigure.from_rows(values, draws, n) for measure, values in rows.items()}


def tracks_a_part(figure: FilterFigure, parts: int, *, rate: float = 0.05) -> Tensor:
    """(D,) bool: filters whose gain for their best part is above zero, at a false-discovery rate over all
    filters.

    One-sided p-values from the bootstrap's standard deviation, times the number of parts, for the best was
    picked.
    """
    z = figure.value / figure.bootstrap.std(dim=0).clamp(min=1e-12)
    p = torch.from_numpy(norm.sf(z.numpy())) * max(parts, 1)
    return benjamini_hochberg(p.clamp(max=1)) <= rate


def score_figures(seen: Seen, categories: int, draws: Resampling, seed: int) -> dict[str, FilterFigure]:
    """What the scores say about the label and about each other, and how concentrated the maps are."""
    scores, labels = seen.images.scores, seen.images.labels
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    kept = _left_out(draws)

    def jackknifed(
        measure: Callable[[Tensor, Tensor], Tensor], their: Tensor, rows: list[Tensor]
    ) -> FilterFigure:
        alive = scores.amax(dim=0) > 0
        value = measure(scores, their).where(alive, torch.nan)
        left_out = [measure(scores[row], their[row]).where(alive, torch.nan) for row in rows]
        return FilterFigure(value, value.new_zeros(0, len(value)), torch.stack(left_out), len(labels))

    def information(some: Tensor, their: Tensor) -> Tensor:
        return label_information(some, their, categories).amax(dim=1)

    figures = {
        "category_selectivity": jackknifed(
            lambda some, their: category_selectivity(category_means(some.clamp(min=0), their, categories)),
            labels,
            kept,
        ),
        "label_information": jackknifed(information, labels, kept),
        "label_information_null": jackknifed(information, shuffled, kept),
        "redundancy": jackknifed(
            lambda some, _: redundancy(score_correlations(some)),
            labels,
            kept if _affordable(seen, kept) else kept[:1],
        ),
    }
    grouped = resampling(len(seen.near), resamples=draws.resamples, seed=seed)
    shares = (grouped.rows.double() @ seen.near) / (grouped.rows.double() @ seen.active)
    return figures | {"concentration": FilterFigure.from_rows(shares, grouped, len(labels))}


def network_figures(seen: Seen, draws: Resampling) -> dict[str, Sampled]:
    """Figures that only a whole network has: the share of dead filters, the effective number of filters."""
    scores = seen.images.scores
    fires = (draws.rows @ (scores > 0).float()) > 0  # (rows, D)
    rows = _left_out(draws)
    rows = rows if _affordable(seen, rows) else []
    left_out = [effective_filters(score_correlations(scores[row])) for row in rows]
    value, nothing = effective_filters(score_correlations(scores)), torch.zeros(0)
    return {
        "dead_filters": Sampled.from_rows((~fires).double().mean(dim=1), draws),
        "effective_filters": Sampled(
            value, nothing, torch.tensor(left_out, dtype=torch.float64), draws.images
        ),
    }


def _left_out(draws: Resampling) -> list[Tensor]:
    """At most 20 masks (N,), each with a share of the images left out: enough for a standard error."""
    return [rows.amin(dim=0) > 0 for rows in draws.jackknife.chunk(20)]


def _affordable(seen: Seen, rows: list[Tensor]) -> bool:
    images, filters = seen.images.scores.shape
    return images * filters**2 * len(rows) <= AFFORDABLE


def probe_figures(
    seen: Seen, judge: Judge, categories: Tensor, draws: Resampling, *, n: int, seed: int
) -> dict[str, FilterFigure]:
    """The translation test, the same instability and gain on views, and stability under noise."""
    observed, viewed, disturbed = seen.images, seen.viewed, seen.disturbed
    grouped = resampling(min(len(observed.labels), len(seen.near)), resamples=draws.resamples, seed=seed)
    moving = TranslationTest(categories)
    fires = (observed.scores > 0) & (viewed.scores > 0)
    moving.update(observed.positions, viewed.positions, fires, observed.labels, seen.views())
    stability = NoiseStability(categories)
    cells = [
        torch.stack((one.cells // observed.field.grid[1], one.cells % observed.field.grid[1]), dim=2)
        for one in (observed, disturbed)
    ]
    stability.update(*cells, (observed.scores > 0) & (disturbed.scores > 0), observed.labels)
    on_views = Judge(viewed.landmarks, judge.labels, judge.cells, judge.diagonal, judge.top_images)
    judgement = on_views.measure(viewed.positions, viewed.scores, categories, draws.rows)
    images = int(torch.isin(observed.labels, categories).sum())
    return {
        "following": FilterFigure.from_rows(moving.following(grouped), grouped, images),
        "translation_gain": FilterFigure.from_rows(moving.gain(grouped), grouped, images),
        "noise_stability": FilterFigure.from_rows(stability.shares(grouped), grouped, images),
        "shifted_instability": FilterFigure.from_rows(judgement.instability, draws, n),
        "shifted_gain": FilterFigure.from_rows(judgement.gain, draws, n),
        "shifted_offset_gain": FilterFigure.from_rows(best_part(judgement.offset_gain)[0], draws, n),
    }


def mask_figures(
    interpretability: PartInterpretability, dissection: NetworkDissection, *, resamples: int, seed: int
) -> tuple[dict[str, FilterFigure], dict[str, Sampled], Tensor]:
    """Part interpretability and dissection with their nulls; the network's unique detectors; each filter's
    part (D,).
    """
    hits, null = interpretability.result(), interpretability.null()
    grouped = resampling(len(hits.hits), resamples=resamples, seed=seed)
    rows, _ = hits.best(grouped)
    overlaps, shifted = dissection.result(), dissection.null()
    regions = resampling(len(overlaps.parts), resamples=resamples, seed=seed)
    ious, null_ious = overlaps.ious(regions.rows), shifted.ious(regions.rows)
    figures = {
        "part_interpretability": FilterFigure.from_rows(rows, grouped, interpretability.seen),
        "part_interpretability_null": FilterFigure.from_rows(
            null.best(grouped)[0], grouped, interpretability.seen
        ),
        "dissection_iou": FilterFigure.from_rows(_of_best_part(ious), regions, dissection.seen),
        "dissection_iou_null": FilterFigure.from_rows(_of_best_part(null_ious), regions, dissection.seen),
    }
    network = {
        "unique_detectors": Sampled.from_rows(unique_detectors(ious).double(), regions, dissection.seen),
        "unique_detectors_null": Sampled.from_rows(
            unique_detectors(null_ious).double(), regions, dissection.seen
        ),
    }
    return figures, network


def _of_best_part(ious: Tensor) -> Tensor:
    """(R, D) IoU with the part that is each filter's best on all images, from (R, D, P)."""
    best = ious[0].argmax(dim=1)
    return ious.gather(2, best.reshape(1, -1, 1).expand(len(ious), -1, 1)).squeeze(2)
