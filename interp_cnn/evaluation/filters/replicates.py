"""Every measure of every filter, with the replicates that its interval and the network's mean come from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy.stats import norm
from torch import Tensor

from interp_cnn.evaluation.filters.class_labels import class_purity, label_agreement
from interp_cnn.evaluation.filters.dissection import unique_detectors
from interp_cnn.evaluation.filters.judge import Judge, Judgement, best_part
from interp_cnn.evaluation.filters.landmark_regression import FEWEST, images_to_learn_from, landmark_errors
from interp_cnn.evaluation.filters.noise import NoiseStability
from interp_cnn.evaluation.filters.observations import Block, Observations
from interp_cnn.evaluation.filters.part_windows import PartStability, part_purity
from interp_cnn.evaluation.filters.passes import MaskResult, PassResult
from interp_cnn.evaluation.filters.selectivity import (
    category_means,
    category_selectivity,
    effective_filters,
    label_information,
    redundancy,
    score_correlations,
)
from interp_cnn.evaluation.filters.translation import TranslationTest
from interp_cnn.evaluation.statistics import (
    Resampling,
    Sampled,
    benjamini_hochberg,
    jackknife_error,
    percentile_interval,
    resampling,
    weighted_mean,
)

__all__ = [
    "FilterFigure",
    "concentration_figure",
    "error_figure",
    "mask_figures",
    "probe_figures",
    "regression_figures",
    "score_figures",
    "strongest_figures",
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
        limits: that no value can leave.
    """

    value: Tensor
    bootstrap: Tensor
    jackknife: Tensor
    n: int
    limits: tuple[float, float] = (-math.inf, math.inf)

    @classmethod
    def from_rows(cls, rows: Tensor, draws: Resampling, n: int) -> FilterFigure:
        """From (1 + R + G, D), one row per row of `draws`."""
        ends = 1 + draws.resamples
        return cls(rows[0], rows[1:ends], rows[ends:], n)

    def mean(self) -> Sampled:
        """The network's figure: the mean over the filters that have one."""
        rows = (self.bootstrap.nanmean(1), self.jackknife.nanmean(1))
        return Sampled(float(self.value.nanmean()), *rows, self.n, self.limits)

    def share_above_zero(self) -> Sampled:
        """Share of the filters that have a value above zero."""

        def share(values: Tensor) -> Tensor:
            return (values > 0).double().where(values.isfinite(), torch.nan).nanmean(dim=-1)

        return Sampled(float(share(self.value)), share(self.bootstrap), share(self.jackknife), self.n)

    def interval(self) -> tuple[Tensor, Tensor]:
        """(D,) low and high ends: percentile, or the jackknife's normal ones."""
        if len(self.bootstrap):
            return percentile_interval(self.bootstrap)
        half = norm.ppf(0.975) * jackknife_error(self.jackknife)
        low, high = self.limits
        return (self.value - half).clamp(min=low), (self.value + half).clamp(max=high)


def concentration_figure(seen: PassResult, draws: Resampling) -> FilterFigure:
    """Share of each map's mass near its peak, over all maps that are not silent."""
    grouped = resampling(len(seen.near), resamples=draws.resamples, seed=draws.seed)
    shares = (grouped.rows.double() @ seen.near) / (grouped.rows.double() @ seen.active)
    return FilterFigure.from_rows(shares, grouped, len(seen.images.labels))


def tracking_figures(judgement: Judgement, draws: Resampling, n: int) -> dict[str, FilterFigure]:
    """Instability and gains on the filters' own images."""
    return {measure: FilterFigure.from_rows(values, draws, n) for measure, values in judgement.rows().items()}


def tracks_a_part(figure: FilterFigure, parts: int, *, rate: float = 0.05) -> Tensor:
    """(D,) bool: filters whose gain for their best part is above zero, at a false-discovery rate over all
    filters.

    One-sided p-values from the bootstrap's standard deviation, times the number of parts, for the best was
    picked.
    """
    z = figure.value / figure.bootstrap.std(dim=0).clamp(min=1e-12)
    p = torch.from_numpy(norm.sf(z.numpy())) * max(parts, 1)
    return benjamini_hochberg(p.clamp(max=1)) <= rate


def score_figures(seen: PassResult, categories: int, draws: Resampling, seed: int) -> dict[str, FilterFigure]:
    """What the scores say about the label."""
    labels = seen.images.labels
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    rows = [torch.ones(len(labels), dtype=torch.bool), *_left_out(draws)]

    def information(some: Tensor, their: Tensor) -> Tensor:
        return label_information(some, their, categories).amax(dim=1)

    def selectivity(some: Tensor, their: Tensor) -> Tensor:
        return category_selectivity(category_means(some.clamp(min=0), their, categories))

    measures = {
        "category_selectivity": (selectivity, labels),
        "label_information": (information, labels),
        "label_information_null": (information, shuffled),
    }

    def of_block(block: Block) -> Iterator[Tensor]:
        for measure, their in measures.values():
            yield torch.stack([measure(block.scores[row], their[row]) for row in rows])

    results = seen.images.by_filter(of_block)
    alive = seen.images.answers.heights > 0
    return {
        name: _jackknifed(values.where(alive, torch.nan), len(labels))
        for name, values in zip(measures, results, strict=True)
    }


def strongest_figures(
    seen: PassResult, categories: Tensor, kinds: Tensor, classes: int, draws: Resampling, seed: int
) -> dict[str, FilterFigure]:
    """What the ten strongest images of each filter have in common: a class, a part.

    `kinds` (P,) numbers the parts (`part_windows.sides_merged`).
    """
    observed, rows = seen.images, draws.rows
    labels, size = observed.labels, observed.field.image_size
    dealt = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]

    def of_block(block: Block) -> Iterator[Tensor]:
        yield class_purity(block.scores, labels, rows, classes)
        yield class_purity(block.scores, dealt, rows, classes)
        yield part_purity(block.positions, block.scores, observed.landmarks, kinds, rows, size)
        # which class is the most frequent is itself biased by resampling: an image drawn twice counts twice
        yield label_agreement(block.scores, labels, categories[block.filters], left_out, classes)

    names = ("class_purity", "class_purity_null", "part_purity")
    left_out = torch.stack([torch.ones(len(labels)), *(row.float() for row in _left_out(draws))])
    *purities, agreement = observed.by_filter(of_block)
    figures = {
        name: FilterFigure.from_rows(values, draws, len(labels))
        for name, values in zip(names, purities, strict=True)
    }
    return figures | {"label_agreement": _jackknifed(agreement, len(labels), limits=(0.0, 1.0))}


def regression_figures(observed: Observations, judge: Judge, draws: Resampling) -> dict[str, Sampled]:
    """Errors of landmarks predicted from the positions of all filters, and of a few."""
    chosen = images_to_learn_from(observed.landmarks, observed.labels, draws.seed)
    if len(chosen) < FEWEST:
        return {}
    places, scores = observed.by_filter(
        lambda block: [block.positions[chosen].transpose(1, 2), block.scores[chosen]]
    )
    about = observed.landmarks[chosen], observed.labels[chosen]
    errors = landmark_errors(
        places.transpose(1, 2), scores > 0, *about, diagonal=judge.diagonal, seed=draws.seed
    )
    return {
        "landmark_error": error_figure(errors.every, chosen, draws),
        "landmark_error_few": error_figure(errors.few, chosen, draws),
    }


def error_figure(errors: Tensor, images: Tensor, draws: Resampling) -> Sampled:
    """The mean over images of their mean over landmarks, from `errors` (n, P) on `images` (n,) of those drawn."""
    of_image = torch.full((draws.images,), torch.nan, dtype=torch.float64)
    of_image[images] = errors.nanmean(dim=1)
    return Sampled.from_rows(weighted_mean(of_image, draws.rows), draws, int(of_image.isfinite().sum()))


def network_figures(
    seen: PassResult, draws: Resampling
) -> tuple[dict[str, FilterFigure], dict[str, Sampled]]:
    """What filters are beside each other: the redundancy of each; for the whole network the effective number of
    filters, and the share of dead ones.
    """
    answers = seen.images.answers
    fires = torch.zeros(len(draws.rows), answers.filters)
    for images, _, scores in answers.chunks():
        fires += draws.rows[:, images].float() @ (scores > 0).float()
    left_out = _left_out(draws)
    affordable = answers.images * answers.filters**2 * len(left_out) <= AFFORDABLE
    alone, together = [], []
    for kept in [torch.ones(answers.images, dtype=torch.bool), *(left_out if affordable else [])]:
        correlations = score_correlations(scores[kept[images]] for images, _, scores in answers.chunks())
        alone.append(redundancy(correlations))
        together.append(effective_filters(correlations))
    alive = answers.heights > 0
    redundant = torch.stack(alone).where(alive, torch.nan)
    effective = torch.tensor(together, dtype=torch.float64)
    return {"redundancy": _jackknifed(redundant, answers.images, limits=(-1.0, 1.0))}, {
        "dead_filters": Sampled.from_rows((fires == 0).double().mean(dim=1), draws),
        "effective_filters": Sampled(together[0], torch.zeros(0), effective[1:], draws.images),
    }


def _jackknifed(rows: Tensor, n: int, *, limits: tuple[float, float] = (-math.inf, math.inf)) -> FilterFigure:
    """From (1 + G, D): all images, then with each share of them left out."""
    return FilterFigure(rows[0], rows.new_zeros(0, rows.shape[1]), rows[1:], n, limits)


def _left_out(draws: Resampling) -> list[Tensor]:
    """At most 20 masks (N,), each with a share of the images left out: enough for a standard error."""
    return [rows.amin(dim=0) > 0 for rows in draws.jackknife.chunk(20)]


def probe_figures(
    seen: PassResult, judge: Judge, categories: Tensor, draws: Resampling, *, n: int, seed: int
) -> dict[str, FilterFigure]:
    """The translation test, the same instability and gain on views, and stability under noise."""
    observed, viewed, disturbed = seen.images, seen.viewed, seen.disturbed
    assert viewed is not None and disturbed is not None  # the first pass was asked for probes
    grouped = resampling(min(len(observed.labels), len(seen.near)), resamples=draws.resamples, seed=seed)
    moving, stability = TranslationTest(categories), NoiseStability(categories)
    same_parts = PartStability(categories, observed.field.image_size)
    centres, columns = observed.field.cell_centres(), observed.field.grid[1]
    copies = (observations.answers.chunks() for observations in (observed, viewed, disturbed))
    for (images, cells, scores), (_, moved, moved_scores), (_, noisy, noisy_scores) in zip(
        *copies, strict=True
    ):
        labels, fires = observed.labels[images], scores > 0
        places = centres[cells.long()], centres[moved.long()]
        moving.update(*places, fires & (moved_scores > 0), labels, seen.views(images))
        clean, disturbance = (
            torch.stack((some // columns, some % columns), dim=2) for some in (cells, noisy)
        )
        stability.update(clean, disturbance, fires & (noisy_scores > 0), labels)
        after = centres[noisy.long()], noisy_scores > 0
        same_parts.update((places[0], fires), after, observed.landmarks[images], labels)
    on_views = Judge(viewed.landmarks, judge.labels, judge.cells, judge.image_size, judge.top_images)
    judgement = on_views.measure_network(viewed, categories, draws.rows)
    images = int(torch.isin(observed.labels, categories).sum())
    return {
        "following": FilterFigure.from_rows(moving.following(grouped), grouped, images),
        "translation_gain": FilterFigure.from_rows(moving.gain(grouped), grouped, images),
        "noise_stability": FilterFigure.from_rows(stability.shares(grouped), grouped, images),
        "part_stability": FilterFigure.from_rows(same_parts.shares(grouped), grouped, n),
        "shifted_instability": FilterFigure.from_rows(judgement.instability, draws, n),
        "shifted_gain": FilterFigure.from_rows(judgement.gain, draws, n),
        "shifted_offset_gain": FilterFigure.from_rows(best_part(judgement.offset_gain)[0], draws, n),
    }


def mask_figures(
    result: MaskResult, *, resamples: int, seed: int
) -> tuple[dict[str, FilterFigure], dict[str, Sampled]]:
    """Part interpretability, positions on parts and dissection with their nulls; the network's unique detectors."""
    interpretability, dissection = result.interpretability, result.dissection
    hits, null = interpretability.result(), interpretability.null()
    grouped = resampling(len(hits.hits), resamples=resamples, seed=seed)
    rows, _ = hits.best(grouped)
    overlaps, shifted = dissection.result(), dissection.null()
    regions = resampling(len(overlaps.parts), resamples=resamples, seed=seed)
    ious, null_ious = overlaps.ious(regions.rows), shifted.ious(regions.rows)
    on_part, by_chance = (each.best(grouped)[0] for each in (result.peaks.result(), result.peaks.null()))
    spots, regions_of = result.peaks.best_spots(), result.fixed.best()
    figures = {
        "peak_on_part": FilterFigure.from_rows(on_part, grouped, result.peaks.seen),
        "peak_on_part_null": FilterFigure.from_rows(by_chance, grouped, result.peaks.seen),
        "spot_on_part": _without_interval(spots, result.peaks.seen),
        "fixed_region": _without_interval(regions_of, result.peaks.seen),
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


def _without_interval(values: Tensor, n: int) -> FilterFigure:
    return FilterFigure(values, values.new_zeros(0, len(values)), values.expand(2, -1), n)


def _of_best_part(ious: Tensor) -> Tensor:
    """(R, D) IoU with the part that is each filter's best on all images, from (R, D, P)."""
    best = ious[0].argmax(dim=1)
    return ious.gather(2, best.reshape(1, -1, 1).expand(len(ious), -1, 1)).squeeze(2)
