"""What was found out about one network's filters by changing them, each figure with an interval over filters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from interp_cnn.evaluation.statistics import (
    Estimate,
    Resampling,
    Sampled,
    resampling,
    share_of_hits,
    weighted_mean,
)
from interp_cnn.report.concepts.edit_records import EditSummary, FilterEdits, SilencedImage

FEWEST = 3  # filters from which an interval is drawn


def summary_of(filters: Sequence[FilterEdits]) -> EditSummary:
    """The figures of one network; an exemplar without an edit takes no part but in `silenced`."""

    def per_filter(value: Callable[[SilencedImage], float]) -> Tensor:
        """Mean over a filter's exemplars that were silenced, NaN without one."""
        means = []
        for one in filters:
            values = [value(it) for it in one.silenced if it.found]
            values = [it for it in values if math.isfinite(it)]
            means.append(sum(values) / len(values) if values else math.nan)
        return torch.tensor(means, dtype=torch.float64)

    images = [it for one in filters for it in one.silenced]
    patches = [one.patch for one in filters if one.patch is not None]

    def of_patches(value: Callable) -> Estimate:
        return mean_of(torch.tensor([value(it) for it in patches], dtype=torch.float64))

    fallen, fallen_elsewhere = per_filter(lambda it: it.fallen), per_filter(lambda it: it.fallen_elsewhere)
    return EditSummary(
        filters=len(filters),
        images=len(images),
        silenced=share_of_hits(torch.tensor([float(it.found) for it in images])),
        size=median_of(torch.tensor([one.size for one in filters], dtype=torch.float64)),
        fallen=mean_of(fallen),
        fallen_elsewhere=mean_of(fallen_elsewhere),
        over_control=mean_of(fallen - fallen_elsewhere),
        beaten=mean_of(per_filter(lambda it: it.beaten)),
        logit=mean_of(per_filter(lambda it: it.logits[1] - it.logits[0])),
        logit_elsewhere=mean_of(per_filter(lambda it: it.logits[2] - it.logits[0])),
        turned=mean_of(per_filter(lambda it: 1 - it.kept[0])),
        turned_elsewhere=mean_of(per_filter(lambda it: 1 - it.kept[1])),
        quiet=of_patches(lambda it: it.before / it.exemplar),
        excited=of_patches(lambda it: it.after / it.exemplar),
        excited_by_chance=of_patches(lambda it: it.control / it.exemplar),
        own=of_patches(lambda it: float(it.own)),
        patch_logit=of_patches(lambda it: it.logits[1] - it.logits[0]),
        patch_logit_by_chance=of_patches(lambda it: it.logits[2] - it.logits[0]),
        followed=of_patches(lambda it: it.decided[1] - it.decided[0]),
        followed_by_chance=of_patches(lambda it: it.decided[2] - it.decided[0]),
    )


def mean_of(values: Tensor) -> Estimate:
    """Mean of values (N,), NaN left out, with the interval of a bootstrap over them."""
    return _estimate(values, weighted_mean)


def median_of(values: Tensor) -> Estimate:
    """Median (of an even number of values the lower one of the middle) of values (N,), likewise."""

    def medians(known: Tensor, rows: Tensor) -> Tensor:
        return torch.stack([known.repeat_interleave(row.long()).median() for row in rows])

    return _estimate(values, medians)


def _estimate(values: Tensor, figure: Callable[[Tensor, Tensor], Tensor]) -> Estimate:
    known = values[values.isfinite()].double()
    if len(known) < FEWEST:
        return Estimate(
            float(figure(known, torch.ones(1, len(known)))[0]) if len(known) else math.nan, n=len(known)
        )
    draws: Resampling = resampling(len(known))
    if bool((known == known[0]).all()):
        return Estimate(float(known[0]), float(known[0]), float(known[0]), len(known))
    return Sampled.from_rows(figure(known, draws.rows), draws).estimate()
