"""Does the class that a filter is said to belong to show in the images that it fires for?

Over the ten strongest images of a filter, of any class: class purity is the share of the most frequent class, and the
label agrees where that is the filter's category. By chance: the same with the labels dealt out anew.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_cnn.evaluation.filters.location_instability import selections, strongest_images
from interp_cnn.evaluation.filters.part_windows import STRONGEST, share_of_strongest


def classes_of_strongest(
    scores: Tensor, labels: Tensor, classes: int, *, strongest: int = STRONGEST
) -> Tensor:
    """(K, D) int64: how many of each filter's strongest images show each class.

    Args:
        scores: (N, D); images where they are 0 or less do not count.
        labels: (N,) int64.
        classes: K.
        strongest: images a filter, fewer where it fires on fewer.
    """
    chosen = strongest_images(scores, strongest)  # (m, D)
    counts = torch.zeros(classes, scores.shape[1], dtype=torch.int64)
    return counts.scatter_add_(0, labels[chosen], (scores.gather(0, chosen) > 0).long())


def class_purity(scores: Tensor, labels: Tensor, weights: Tensor, classes: int) -> Tensor:
    """(R, D) share of the most frequent class among the strongest images under `weights` (R, N); NaN for a silent
    filter. `scores` is (N, D), `labels` (N,).
    """
    holds = (labels == torch.arange(classes).unsqueeze(1)).unsqueeze(2).expand(-1, -1, scores.shape[1])
    return share_of_strongest(holds, scores, weights)


def label_agreement(
    scores: Tensor, labels: Tensor, categories: Tensor, weights: Tensor, classes: int
) -> Tensor:
    """(R, D) 1 where no class is more frequent among the strongest images than the filter's category, else 0; NaN
    for a filter without a category (-1).
    """
    order = scores.argsort(dim=0, descending=True, stable=True)
    fires = scores > 0
    rows = []
    for counts, chosen in selections(order, weights, STRONGEST):
        counted = counts * fires.gather(0, chosen)  # (r, m, D)
        shown = torch.stack([(counted * (labels[chosen] == label)).sum(dim=1) for label in range(classes)])
        agreed = shown.gather(0, categories.clamp(min=0).expand(1, *shown.shape[1:])).squeeze(0)  # (r, D)
        rows.append((agreed >= shown.amax(dim=0)).double())
    return torch.cat(rows).where(categories >= 0, torch.nan)
