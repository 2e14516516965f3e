"""The position-only variant of part interpretability: is the filter's position on one and the same part?

Over the images of the filter's category that show part k, the share whose mask of k holds the pixel of the position;
the largest over parts. No region, no radius, no threshold. A silent filter is on no part. By chance: the masks of the
previous image of the category; and beside it the fixed cell that is on a part most often.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_cnn.evaluation.filters.part_interpretability import GROUPS, PartHits


class PeakOnPart:
    """Second pass over the images: counts of positions on parts."""

    def __init__(self, categories: Tensor, parts: int, centres: Tensor, image_size: tuple[int, int]) -> None:
        """`centres` (M, 2) are the cells' receptive-field centres in pixels; categories (D,), -1 for none."""
        self.categories = categories
        last = torch.tensor(image_size) - 1
        rows, columns = torch.minimum(centres.round().long().clamp(min=0), last).unbind(dim=1)
        self.pixels = rows * image_size[1] + columns  # (M,)
        shape = (GROUPS, len(categories), parts)
        self.hits, self.images, self.null_hits, self.null_images = (
            torch.zeros(shape, dtype=torch.int32) for _ in range(4)
        )
        known = sorted({label for label in categories.tolist() if label >= 0})
        self.spots = {label: torch.zeros(len(centres), parts, dtype=torch.int64) for label in known}
        self.shown = {label: torch.zeros(parts, dtype=torch.int64) for label in known}
        self.previous: dict[int, tuple[Tensor, Tensor]] = {}
        self.seen = 0

    def update(self, cells: Tensor, fires: Tensor, labels: Tensor, part_masks: Tensor) -> None:
        """Add a batch: row-major cells (B, D), where the filters fire (B, D), labels (B,), part_masks (B, P, H, W)."""
        at_cells = part_masks.flatten(2)[:, :, self.pixels]  # (B, P, M)
        shown = part_masks.flatten(2).any(dim=2)  # (B, P)
        for place, label in enumerate(labels.tolist()):
            group, self.seen = self.seen % GROUPS, self.seen + 1
            if label not in self.spots:
                continue
            of_category = self.categories == label
            self.spots[label] += at_cells[place].T
            self.shown[label] += shown[place]
            here, alive = cells[place, of_category].long(), fires[place, of_category].unsqueeze(1)
            self.hits[group, of_category] += (at_cells[place].T[here] & alive).int()
            self.images[group, of_category] += shown[place].int()
            if label in self.previous:
                before, before_shown = self.previous[label]
                self.null_hits[group, of_category] += (before.T[here] & alive).int()
                self.null_images[group, of_category] += before_shown.int()
            self.previous[label] = at_cells[place], shown[place]

    def result(self) -> PartHits:
        return PartHits(self.hits[: self.seen], self.images[: self.seen])

    def null(self) -> PartHits:
        """The same positions with the masks of the previous image of the category."""
        return PartHits(self.null_hits[: self.seen], self.null_images[: self.seen])

    def best_spots(self) -> Tensor:
        """(D,) the share of the fixed cell and part that are best for each filter's category; NaN for none."""
        best = torch.full((len(self.categories),), torch.nan, dtype=torch.float64)
        for label, hits in self.spots.items():
            shares = (hits / self.shown[label]).nan_to_num(nan=-1.0)
            if bool((self.shown[label] > 0).any()):
                best[self.categories == label] = float(shares.max())
        return best
