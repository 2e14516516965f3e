"""Does the class that a filter is said to belong to show in the images that it fires for?

Over the ten strongest images of a filter, of any class: class purity is the share of the most frequent class, and the
label agrees where that is the filter's category. By chance: the same with the labels dealt out anew.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_cnn.evaluation.filters.part_windows import hits_of_strongest, share_of_strongest


def class_purity(scores: Tensor, labels: Tensor, weights: Tensor, classes: int) -> Tensor:
    """(R, D) share of the most frequent class among the strongest images under `weights` (R, N); NaN for a silent
    filter. `scores` is (N, D), `labels` (N,).
    """
    return share_of_strongest(_shown(labels, classes, scores), scores, weights)


def label_agreement(
    scores: Tensor, labels: Tensor, categories: Tensor, weights: Tensor, classes: int
) -> Tensor:
    """(R, D) 1 where no class is more frequent among the strongest images than the filter's category, else 0; NaN
    for a filter without a category (-1).
    """
    rows = []
    for hits, _ in hits_of_strongest(_shown(labels, classes, scores), scores, weights):
        agreed = hits.gather(0, categories.clamp(min=0).expand(1, *hits.shape[1:])).squeeze(0)  # (r, D)
        rows.append((agreed >= hits.amax(dim=0)).double())
    return torch.cat(rows).where(categories >= 0, torch.nan)


def _shown(labels: Tensor, classes: int, scores: Tensor) -> Tensor:
    """(K, N, D) bool: whether an image shows a class."""
    return (labels == torch.arange(classes).unsqueeze(1)).unsqueeze(2).expand(-1, -1, scores.shape[1])
