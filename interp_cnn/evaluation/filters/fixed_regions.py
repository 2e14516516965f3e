"""What part interpretability is worth: regions that stay where they are, whatever the image shows.

A fixed region stands for a square of one, 2 x 2 or 3 x 3 neighbouring cells, as a filter's stands for its valid cells,
and is judged by the same rule: over the images of a category that show part k,
the share with IoU(region, mask_k) > 0.2.
Of all of them and all parts the best is taken, on these very images. A filter that does no better might
as well not look.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_cnn.evaluation.filters.part_interpretability import IOU, intersection_over_union
from interp_cnn.evaluation.filters.regions import Regions

SIDES = (1, 2, 3)
MOST = 30_000_000  # pieces of all regions together; of a finer grid not every place is asked


class FixedRegions:
    """Second pass over the images: how often each fixed region covers each part."""

    def __init__(self, categories: Tensor, parts: int, region: Regions, *, iou: float = IOU) -> None:
        """Of filters with these categories (D,), -1 for none, and images with masks of so many parts."""
        self.categories, self.region, self.iou = categories.cpu(), region, iou
        valid = fixed_cells(*region.grid, most=MOST // len(region.sizes))
        self.pieces = region.pieces(valid)  # (M, S)
        known = sorted({label for label in categories.tolist() if label >= 0})
        self.hits = {label: torch.zeros(len(valid), parts, dtype=torch.int64) for label in known}
        self.shown = {label: torch.zeros(parts, dtype=torch.int64) for label in known}

    def update(self, labels: Tensor, part_masks: Tensor) -> None:
        """Add a batch: labels (B,), part_masks (B, P, H, W) bool, empty where a part is not shown."""
        for label, masks in zip(labels.tolist(), part_masks.cpu(), strict=True):
            if label in self.hits:
                counts = self.region.counts(masks)
                shown = counts.any(dim=1)
                overlaps = intersection_over_union(self.pieces, counts[shown], self.region.sizes.cpu())
                self.hits[label][:, shown] += overlaps > self.iou
                self.shown[label] += shown

    def best(self) -> Tensor:
        """(D,) the share of the region and part that are best for each filter's category; NaN for none."""
        best = torch.full((len(self.categories),), torch.nan, dtype=torch.float64)
        for label, hits in self.hits.items():
            if bool((self.shown[label] > 0).any()):
                shares = (hits / self.shown[label]).nan_to_num(nan=-1.0)
                best[self.categories == label] = float(shares.max())
        return best


def fixed_cells(height: int, width: int, *, most: int = MOST) -> Tensor:
    """(M, h, w) bool: every square of one, 2 x 2 or 3 x 3 cells; where these are more than `most`, those alone whose
    first cell lies in every second row and column, or every third, and so on.

    Example:
        >>> len(fixed_cells(4, 4))  # 16 + 9 + 4
        29
    """
    step = 1
    while (-(-height // step) * -(-width // step)) * len(SIDES) > max(most, len(SIDES)):
        step += 1
    squares = []
    for side in (it for it in SIDES if it <= min(height, width)):
        for row in range(0, height - side + 1, step):
            for column in range(0, width - side + 1, step):
                valid = torch.zeros(height, width, dtype=torch.bool)
                valid[row : row + side, column : column + side] = True
                squares.append(valid)
    return torch.stack(squares)
