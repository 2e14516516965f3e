"""Position stability: does a filter still point at the same place when the image gets a little noise?

For every image of the filter's category on which it fires: a hit if the peak stays within one cell along both
axes when Gaussian noise is added, clipped: the stability score of Huang et al., "Evaluation and Improvement of
Interpretability for Self-Explainable Part-Prototype Networks", ICCV 2023, section 3.2, with cells in place of
annotated parts (with parts: `part_windows.PartStability`). Their noise has a standard deviation of .2 and is clipped at
.25 in normalised units, which is .05 and .0625 of the range where images have a standard deviation of a quarter of it.
A constant spot is perfectly stable: read it beside the translation test.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_cnn.evaluation.filters.part_interpretability import GROUPS
from interp_cnn.evaluation.statistics import Resampling

CLIP = 1.25  # standard deviations


def noisy(images: Tensor, generator: torch.Generator, *, level: float = 0.05) -> Tensor:
    """`images` (B, C, H, W) in [0, 1] with Gaussian noise of standard deviation `level`, clipped, back in [0, 1]."""
    noise = torch.randn(images.shape, generator=generator).clamp_(-CLIP, CLIP).to(images)
    return (images + level * noise).clamp(0, 1)


class StableImages:
    """Counts of the images on which something stays under noise, per group of images and filter."""

    def __init__(self, categories: Tensor) -> None:
        self.categories = categories
        self.stable = torch.zeros(GROUPS, len(categories), dtype=torch.float64)
        self.images = torch.zeros_like(self.stable)
        self.seen = 0

    def count(self, stays: Tensor, counted: Tensor, labels: Tensor) -> None:
        """Add a batch: whether it stays and whether the image counts, (B, D) bool; those of other categories than the
        filter's, by the labels (B,), never do.
        """
        counted = counted & (labels.unsqueeze(1) == self.categories)
        group = (self.seen + torch.arange(len(labels))) % GROUPS
        self.seen += len(labels)
        self.images.index_add_(0, group, counted.double())
        self.stable.index_add_(0, group, (stays & counted).double())

    def shares(self, draws: Resampling) -> Tensor:
        """(R, D) share of stable images; NaN for a filter without images."""
        weights = draws.rows.double()
        return (weights @ self.stable[: self.seen]) / (weights @ self.images[: self.seen])


class NoiseStability(StableImages):
    """Images on which the peak stays."""

    def update(self, before: Tensor, after: Tensor, active: Tensor, labels: Tensor) -> None:
        """Add a batch: cells before and after noise (B, D, 2), where the filter fires (B, D), labels (B,)."""
        self.count(((before - after).abs() <= 1).all(dim=2), active, labels)
