"""All measures of one network, in one pass over the images.

Every figure carries a BCa interval from a bootstrap over images, drawn within each category. A filter's
position is the receptive-field centre of its peak; each filter is judged on the images of its own category
(see `judge`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas
import torch
from torch import Tensor, nn

from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.judge import Judge, Judgement, best_part_gain
from interp_cnn.evaluation.location_instability import strongest_category
from interp_cnn.evaluation.observations import ObservationRecorder, Observations
from interp_cnn.evaluation.statistics import (
    Estimate,
    Resampling,
    Sampled,
    percentile_interval,
    resampling,
    weighted_mean,
)
from interp_cnn.explanation.activations import feature_maps_and_logits
from interp_cnn.explanation.receptive_field import receptive_field


@dataclass(frozen=True)
class NetworkMeasures:
    """Everything measured about one network.

    Attributes:
        name: as shown in tables.
        kind: e.g. "interpretable", "plain", "mask only", "untrained".
        layer: dotted module name.
        accuracy: on all images.
        filters: one row per filter.
        summary: measure to estimate, means over the filters that have it.
        categories: (D,) int64, the category of each filter, -1 for none.
        observations: the network's answers.
        judge: images and yardstick.
        draws: resampling of the images.
        samples: the figures behind `summary` with their replicates.
    """

    name: str
    kind: str
    layer: str
    accuracy: Estimate
    filters: pandas.DataFrame
    summary: dict[str, Estimate]
    categories: Tensor = field(repr=False)
    observations: Observations = field(repr=False)
    judge: Judge = field(repr=False)
    draws: Resampling = field(repr=False)
    samples: dict[str, Sampled] = field(repr=False)


def measure_network(
    network: nn.Module,
    loader: Iterable[PartBatch],
    *,
    layer: str,
    name: str,
    kind: str,
    classes: Sequence[str],
    parts: Sequence[str],
    image_size: tuple[int, int],
    background: int | None = None,
    filter_categories: Tensor | None = None,
    top_images: int = 100,
    resamples: int = 500,
    seed: int = 0,
) -> NetworkMeasures:
    """Measure the filters of `layer`, in one pass over `loader`.

    Args:
        network: any classifier; runs where its parameters lie and comes back in the mode it had.
        loader: batches of images with landmarks. Networks to be compared need the same images in the same
            order.
        layer: dotted module name.
        name: as shown in tables.
        kind: "interpretable", "plain", "mask only", ...
        classes: K names.
        parts: P names.
        image_size: (H, W).
        background: index of the class without objects, which gets no filters.
        filter_categories: (D,) int64, -1 for none. Without it each filter gets the category on whose images
            its mean score is highest.
        top_images: strongest images on which a filter is judged.
        resamples: of the images, for the intervals.
        seed: of the resampling; networks with the same seed and images are compared in pairs.
    """
    observed = _observe(network, loader, layer, image_size)
    images, filters = observed.scores.shape
    if observed.landmarks.shape[1] != len(parts):
        raise ValueError(
            f"parts names {len(parts)} parts; the images have {observed.landmarks.shape[1]} landmarks"
        )
    highest = strongest_category(observed.scores, observed.labels, len(classes), background=background)
    categories = highest if filter_categories is None else filter_categories.cpu().long()
    if categories.shape != (filters,):
        raise ValueError(f"filter_categories has shape {tuple(categories.shape)}; expected ({filters},)")
    categories = categories.where(
        observed.scores.amax(dim=0) > 0, -1
    )  # a filter that never fires has no place
    yardstick = Judge(
        observed.landmarks,
        observed.labels,
        observed.field.cell_centres(),
        math.hypot(*image_size),
        top_images,
    )
    draws = resampling(images, resamples=resamples, seed=seed, strata=observed.labels)
    judgement = yardstick.measure(observed.positions, observed.scores, categories, draws.rows)
    samples = _samples(observed, yardstick, draws, judgement, categories, highest)
    summary = {measure: one.estimate() for measure, one in samples.items()}
    table = _filter_table(observed, judgement, draws, categories, classes, parts)
    found = (categories, observed, yardstick, draws, samples)
    return NetworkMeasures(name, kind, layer, summary["accuracy"], table, summary, *found)


def _observe(
    network: nn.Module, loader: Iterable[PartBatch], layer: str, image_size: tuple[int, int]
) -> Observations:
    device = next(network.parameters(), torch.zeros(())).device
    recorder: ObservationRecorder | None = None
    for batch in loader:
        images = batch.images.to(device)
        if tuple(images.shape[2:]) != tuple(image_size):
            raise ValueError(f"images are {tuple(images.shape[2:])}; expected image_size {tuple(image_size)}")
        recorder = recorder or ObservationRecorder(
            receptive_field(network, layer, image_size, images.shape[1])
        )
        recorder.update(*feature_maps_and_logits(network, images, layer), batch)
    if recorder is None:
        raise ValueError("the loader gave no batch; expected at least one image")
    return recorder.result()


def _samples(
    observed: Observations,
    judge: Judge,
    draws: Resampling,
    judgement: Judgement,
    categories: Tensor,
    highest: Tensor,
) -> dict[str, Sampled]:
    """Figures of the network; those about filters are means over the filters that have one."""
    positions, scores = observed.positions, observed.scores
    judged = torch.isin(observed.labels, categories) & observed.landmarks.isfinite().all(dim=2).any(dim=1)
    smallest = judge.smallest(positions, scores, draws.rows).where(highest >= 0, torch.nan)
    by_highest = judge.measure(positions, scores, highest, draws.rows).instability
    rows = {
        "location_instability": judgement.instability.nanmean(dim=1),
        "best_constant": judgement.best_constant.nanmean(dim=1),
        "tracking_gain": judgement.gain.nanmean(dim=1),
        "part_gain": best_part_gain(judgement)[0].nanmean(dim=1),
        "tracking_filters": _share_above_zero(judgement.gain),
        "instability_highest": by_highest.nanmean(dim=1),
        "instability_minimum": smallest.nanmean(dim=1),
    }
    samples = {"accuracy": Sampled.from_rows(weighted_mean(observed.correct, draws.rows), draws)}
    return samples | {
        key: Sampled.from_rows(values, draws, int(judged.sum())) for key, values in rows.items()
    }


def _share_above_zero(gain: Tensor) -> Tensor:
    """(R,) share of the judged filters that beat the best constant."""
    return (gain > 0).double().where(gain.isfinite(), torch.nan).nanmean(dim=1)


def _filter_table(
    observed: Observations,
    judgement: Judgement,
    draws: Resampling,
    categories: Tensor,
    classes: Sequence[str],
    parts: Sequence[str],
) -> pandas.DataFrame:
    """One row per filter; intervals by percentile, n counts the images of its category that have a
    landmark.
    """
    landmarked = observed.landmarks.isfinite().all(dim=2).any(dim=1)
    counts = torch.bincount(observed.labels[landmarked], minlength=len(classes))
    owners = categories.tolist()
    part_gain, part = best_part_gain(judgement)
    columns: dict[str, object] = {
        "filter": range(len(owners)),
        "category": pandas.Series([classes[owner] if owner >= 0 else None for owner in owners], dtype=object),
        "n": [int(counts[owner]) if owner >= 0 else 0 for owner in owners],
        "score": observed.scores.amax(dim=0).tolist(),
        "part": pandas.Series([parts[k] if k >= 0 else None for k in part.tolist()], dtype=object),
    }
    measures = {
        "location_instability": judgement.instability,
        "best_constant": judgement.best_constant,
        "tracking_gain": judgement.gain,
        "part_gain": part_gain,
    }
    for measure, rows in measures.items():
        low, high = percentile_interval(rows[1 : 1 + draws.resamples])
        columns |= {
            measure: rows[0].tolist(),
            f"{measure}_low": low.tolist(),
            f"{measure}_high": high.tolist(),
        }
    return pandas.DataFrame(columns)
