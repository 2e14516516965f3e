"""Network dissection: over the whole data set, how well does a filter's region match a part?

Maps are upsampled bilinearly, anchored at the receptive-field centres, and cut at T_f with p(x > T_f) =
0.005. With A_f the pixels above and M_k those of part k,

    IoU_fk = sum_I |A_f(I) and M_k(I)| / sum_I |A_f(I) or M_k(I)|

A filter is a detector where max_k IoU_fk > 0.04; the number of different parts that have a detector is that
of unique detectors (Bau, Zhou, Khosla, Oliva, Torralba, "Network Dissection", CVPR 2017, section 3.2). Images
of which no part is annotated are left out.

The null shifts every image's maps around by a random number of rows and columns: excitations of the same size
and shape that look nowhere in particular.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interp_cnn.evaluation.filters.part_interpretability import GROUPS
from interp_cnn.evaluation.filters.regions import Interpolation
from interp_cnn.evaluation.filters.squares import Squares
from interp_cnn.explanation.receptive_field.field import ReceptiveField

DETECTOR = 0.04


@dataclass(frozen=True)
class Overlaps:
    """Pixel counts of D filters and P parts, over G groups of images, float64.

    Attributes:
        inside: (G, D, P) pixels of both.
        regions: (G, D) pixels of the filter.
        parts: (G, P) pixels of the part.
    """

    inside: Tensor
    regions: Tensor
    parts: Tensor

    def ious(self, weights: Tensor | None = None) -> Tensor:
        """(R, D, P) data-set level IoU under group weights (R, G); 0 where both are empty."""
        weights = torch.ones(1, len(self.inside)) if weights is None else weights
        weights = weights.double()
        inside = torch.einsum("rg,gdp->rdp", weights, self.inside)
        union = (weights @ self.regions).unsqueeze(2) + (weights @ self.parts).unsqueeze(1) - inside
        return inside / union.clamp(min=1)


def unique_detectors(ious: Tensor) -> Tensor:
    """(R,) number of different parts that have a detector, from `ious` (R, D, P)."""
    best = ious.max(dim=2)
    parts = torch.nn.functional.one_hot(best.indices, ious.shape[2]).bool()
    return (parts & (best.values > DETECTOR).unsqueeze(2)).any(dim=1).sum(dim=1)


class NetworkDissection:
    """Second pass over the images, with the thresholds of the first; counts where the thresholds lie."""

    def __init__(
        self,
        thresholds: Tensor,
        parts: int,
        field: ReceptiveField,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        self.thresholds, self.upsampled, self.generator = thresholds, Interpolation(field), generator
        self.squares = None if thresholds.is_cuda else Squares(self.upsampled)  # a card wants few large calls
        filters, sums = len(thresholds), {"dtype": torch.float64, "device": thresholds.device}
        self.inside = torch.zeros(GROUPS, filters, parts, **sums)
        self.regions = torch.zeros(GROUPS, filters, **sums)
        self.parts = torch.zeros(GROUPS, parts, **sums)
        self.null_inside, self.null_regions = self.inside.clone(), self.regions.clone()
        self.seen = 0

    def update(self, maps: Tensor, part_masks: Tensor) -> None:
        """Add a batch: maps (B, D, h, w) and part_masks (B, P, H, W) bool; an image without any part is left
        out.
        """
        for image, masks in zip(maps, part_masks, strict=True):
            if not masks.any():
                continue
            group, self.seen = self.seen % GROUPS, self.seen + 1
            self.parts[group] += masks.flatten(1).sum(dim=1).to(self.parts)
            masks = masks.to(maps.device, non_blocking=True)
            masks = masks.flatten(1).float() if self.squares is None else self.squares.masks(masks)
            self._count(self.inside[group], self.regions[group], image, masks)
            if self.generator is not None:
                shift = [int(torch.randint(size, (), generator=self.generator)) for size in image.shape[1:]]
                shifted = image.roll(shift, dims=(1, 2))
                self._count(self.null_inside[group], self.null_regions[group], shifted, masks)

    def result(self) -> Overlaps:
        return self._overlaps(self.inside, self.regions)

    def null(self) -> Overlaps:
        """The same excitations, shifted at random; needs a generator."""
        return self._overlaps(self.null_inside, self.null_regions)

    def _overlaps(self, *sums: Tensor) -> Overlaps:
        return Overlaps(*(each[: self.seen].cpu() for each in (*sums, self.parts)))

    def _count(self, inside: Tensor, regions: Tensor, maps: Tensor, masks: Tensor) -> None:
        thresholds = self.thresholds
        if self.squares is not None:
            overlaps = self.squares.overlaps(maps, thresholds, masks)
            inside += overlaps[0]
            regions += overlaps[1]
            return
        active = (maps.flatten(1).amax(dim=1) > thresholds).nonzero().flatten()  # no pixel exceeds all cells
        above = self.upsampled(maps[active]) > thresholds[active].reshape(-1, 1, 1)  # (M, H, W)
        above = above.flatten(1).float()
        inside[active] += (above @ masks.T).double()
        regions[active] += above.sum(dim=1).double()
