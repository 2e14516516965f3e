"""The translation test: when the image is cropped and shifted, does a filter's position move with the
content?

A view shows at its pixel q what the image has at  p = offset + scale * q.  If the filter looks at content,
its position v in the view is where its position p in the image has gone, e = (p - offset) / scale; if it
answers a fixed spot, v = p. With the displacements m = e - p (expected) and o = v - p (observed), over the
images of the filter's category,

    following = sum o.m / sum m.m                  1 moves with the content, 0 stays translation gain = 1 -
    sqrt( sum |v - e|^2 / sum |m|^2 )      1 moves exactly, 0 any constant, below 0 wanders

No landmark is needed. Landmarks, where there are any, move along (`View.points`), so that location
instability and tracking gain can be measured on views too: there a constant spot is worth less.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.evaluation.filters.part_interpretability import GROUPS
from interp_cnn.evaluation.statistics import Resampling


@dataclass(frozen=True)
class ShiftedView:
    """Transformed images, and where their points have gone.

    Attributes:
        images: (B, C, H, W).
        offset: (B, 2) pixels, (row, column).
        scale: (B, 1).
    """

    images: Tensor
    offset: Tensor
    scale: Tensor

    def points(self, points: Tensor) -> Tensor:
        """Places in the view of `points` (B, n, 2) of the image; NaN outside the view."""
        places = (points - self.offset.unsqueeze(1)) / self.scale.unsqueeze(1)
        size = torch.tensor(self.images.shape[2:], device=places.device)
        inside = ((places >= -0.5) & (places <= size - 0.5)).all(dim=-1, keepdim=True)
        return places.where(inside, torch.nan)


def random_views(
    images: Tensor, generator: torch.Generator, *, shift: float = 0.15, crop: float = 0.85
) -> ShiftedView:
    """Random crops and shifts, one per image.

    Args:
        images: (B, C, H, W).
        generator: on the CPU.
        shift: largest shift along each axis, as a share of the image's side.
        crop: smallest side of the crop, as a share; 1 for shifts by whole pixels alone.

    What lies beyond the border repeats the border's pixels.
    """
    if not (0 <= shift < 1 and 0 < crop <= 1):
        raise ValueError(f"shift is {shift} and crop {crop}; expected 0 <= shift < 1 and 0 < crop <= 1")
    size = torch.tensor(images.shape[2:], dtype=torch.float32)
    draws = torch.rand(len(images), 3, generator=generator)
    scale = crop + (1 - crop) * draws[:, :1]  # (B, 1)
    moved = ((2 * draws[:, 1:] - 1) * shift * size).round()  # (B, 2)
    offset = (1 - scale) * (size - 1) / 2 + moved
    return view_of(images, offset.to(images.device), scale.to(images.device))


def view_of(images: Tensor, offset: Tensor, scale: Tensor) -> ShiftedView:
    """The view with pixel q from image pixel offset + scale * q, bilinear; `offset` (B, 2), `scale` (B,
    1).
    """
    height, width = images.shape[2:]
    rows = offset[:, :1] + scale * torch.arange(height, device=images.device)  # (B, H)
    columns = offset[:, 1:] + scale * torch.arange(width, device=images.device)  # (B, W)
    y, x = (2 * rows + 1) / height - 1, (2 * columns + 1) / width - 1
    grid = torch.stack((x.unsqueeze(1).expand(-1, height, -1), y.unsqueeze(2).expand(-1, -1, width)), dim=3)
    moved = F.grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )
    return ShiftedView(moved, offset, scale)


class TranslationTest:
    """Sums over images, per group of images and filter."""

    def __init__(self, categories: Tensor) -> None:
        self.categories = categories
        self.along, self.expected, self.missed = (
            torch.zeros(GROUPS, len(categories), dtype=torch.float64) for _ in range(3)
        )
        self.seen = 0

    def update(
        self, before: Tensor, after: Tensor, active: Tensor, labels: Tensor, view: ShiftedView
    ) -> None:
        """Add a batch.

        Args:
            before: (B, D, 2) positions in the images, in pixels.
            after: (B, D, 2) positions in the views.
            active: (B, D) bool, where the filter fires in both.
            labels: (B,) int64.
            view: the views.
        """
        moved = view.points(before.to(view.offset))
        before, after, moved = before.double().cpu(), after.double().cpu(), moved.double().cpu()
        counted = active.cpu() & (labels.cpu().unsqueeze(1) == self.categories) & moved.isfinite().all(dim=2)
        expected, observed, missed = moved - before, after - before, after - moved  # (B, D, 2)
        group = (self.seen + torch.arange(len(labels))) % GROUPS
        self.seen += len(labels)
        for sums, values in (
            (self.along, (observed * expected).sum(dim=2)),
            (self.expected, expected.square().sum(dim=2)),
            (self.missed, missed.square().sum(dim=2)),
        ):
            sums.index_add_(0, group, values.where(counted, 0.0))

    def following(self, draws: Resampling) -> Tensor:
        """(R, D) slope of the observed on the expected displacement; NaN for a filter without images."""
        weights = draws.rows.double()
        return (weights @ self.along[: self.seen]) / (weights @ self.expected[: self.seen])

    def gain(self, draws: Resampling) -> Tensor:
        """(R, D) translation gain."""
        weights = draws.rows.double()
        return 1 - ((weights @ self.missed[: self.seen]) / (weights @ self.expected[: self.seen])).sqrt()
