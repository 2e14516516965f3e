"""Bilinear maps above their thresholds, counted where something is above: a few squares between cells.

Interpolation never exceeds the largest of the four cells around a pixel. With 0.5 % of the cells above the threshold
nearly every square of four cells is below it, and only the others are interpolated: the same counts as those of whole
upsampled maps (`Interpolation`), but for a pixel whose value is the threshold up to rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.evaluation.filters.regions import Interpolation


class Squares:
    """The pixels of an image in squares: between four neighbouring cells, and beyond the outermost ones."""

    def __init__(self, interpolation: Interpolation) -> None:
        height, width = len(interpolation.rows), len(interpolation.columns)
        down, self.rows = _strips(interpolation.rows)
        right, self.columns = _strips(interpolation.columns)
        outside = (down < 0)[:, None, :, None] | (right < 0)[None, :, None, :]
        pixels = down[:, None, :, None] * width + right[None, :, None, :]
        self.pixels = pixels.masked_fill(outside, height * width).flatten(2).flatten(0, 1)  # (S, p q)

    def masks(self, masks: Tensor) -> Tensor:
        """(S, p q, P) float, zero beside the squares, for `masks` (P, H, W) bool."""
        return F.pad(masks.flatten(1).T, (0, 0, 0, 1))[self.pixels].float()

    def overlaps(self, maps: Tensor, thresholds: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels above the threshold inside each part, and all of them.

        Args:
            maps: (D, h, w) of one image.
            thresholds: (D,).
            masks: (S, p q, P), of `masks`.

        Returns:
            inside (D, P) and regions (D,), float64.
        """
        cells = F.pad(maps.float()[None], (1, 1, 1, 1), mode="replicate")[0]
        corners = cells.unfold(1, 2, 1).unfold(2, 2, 1)  # (D, h + 1, w + 1, 2, 2)
        filters, i, j = (corners.amax((3, 4)) > thresholds[:, None, None]).nonzero(as_tuple=True)
        places, order = (i * len(self.columns) + j).sort()
        filters, i, j = filters[order], i[order], j[order]
        values = self.rows[i] @ corners[filters, i, j] @ self.columns[j].transpose(1, 2)  # (N, p, q)
        above = (values > thresholds[filters][:, None, None]).flatten(1).float()
        there, counts = places.unique_consecutive(return_counts=True)
        blocks = zip(above.split(counts.tolist()), there.tolist(), strict=True)
        inside = [block @ masks[place] for block, place in blocks]
        pixels = torch.zeros(len(maps), masks.shape[2] + 1, dtype=torch.float64, device=maps.device)
        if inside:
            both = torch.cat([torch.cat(inside), above.sum(1, keepdim=True)], 1)
            pixels.index_add_(0, filters, both.double())
        return pixels[:, :-1], pixels[:, -1]


def _strips(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis: the pixels between neighbouring cells, the outermost cells repeated once.

    Args:
        weights: (H, h) of the cells in each pixel.

    Returns:
        (h + 1, p) pixels, -1 where a strip has fewer, and (h + 1, p, 2) weights of its two cells, NaN there.
    """
    cells = weights.shape[1]
    first, between = (weights > 0).int().argmax(1), (weights > 0).sum(1) == 2
    strip = torch.where(between | (first > 0), first + 1, 0)  # a pixel on a cell hangs on that one alone
    numbers = strip.bincount(minlength=cells + 1)
    pixels = torch.full((cells + 1, int(numbers.max())), -1)
    pixel_weights = torch.full((*pixels.shape, 2), torch.nan)
    for number, padded in enumerate(F.pad(weights, (1, 1)).unfold(1, 2, 1).unbind(1)):
        here = (strip == number).nonzero().flatten()
        pixels[number, : len(here)], pixel_weights[number, : len(here)] = here, padded[here]
    return pixels, pixel_weights
