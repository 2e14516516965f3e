"""The threshold that a filter exceeds in a given share of all cells of all maps, in memory that does not
grow.

Both part interpretability and network dissection call a cell valid where  x > T_f  with  p(x > T_f) = 0.005
over every cell of every map of the data set (Bau, Zhou, Khosla, Oliva, Torralba, "Network Dissection", CVPR
2017, section 3.2).

Non-negative floats order like their bits. One pass counts them by their upper 15 bits (exponent and 7 bits of
the mantissa), which gives T_f to better than 0.8 %, never with too many cells above it, and the share above
it exactly. A second pass over the same maps, if wanted, counts the lower 16 bits inside the one bin that
matters, which gives T_f exactly. T_f is never below zero: a cell that is not active is not valid.
"""

from __future__ import annotations

import torch
from torch import Tensor

UPPER = 1 << 15
LOWER = 1 << 16


class StreamingThreshold:
    """Counts of D filters' activations, where the maps lie: 128 KiB per filter, and 256 KiB more for the
    exact second pass.
    """

    def __init__(self, filters: int, *, tail: float = 0.005) -> None:
        if not 0 < tail < 1:
            raise ValueError(f"tail is {tail}; expected a share between 0 and 1")
        self.tail = tail
        self.cells = 0
        self.counts = torch.zeros(filters, UPPER, dtype=torch.int32)
        self.inner: Tensor | None = None

    def update(self, maps: Tensor) -> None:
        """First pass: count a batch of feature maps (B, D, h, w)."""
        bits, owners = _positive_bits(maps)
        self.counts = self.counts.to(maps.device)
        self.cells += maps.shape[0] * maps[0, 0].numel()
        _count(self.counts, owners, bits >> 16)

    def refine(self, maps: Tensor) -> None:
        """Second pass over the same maps, for the exact threshold."""
        if self.inner is None:
            self.inner = torch.zeros(len(self.counts), LOWER, dtype=torch.int32, device=maps.device)
        bits, owners = _positive_bits(maps)
        inside = (bits >> 16) == self._bins()[owners]
        _count(self.inner, owners[inside], bits[inside] & (LOWER - 1))

    def thresholds(self, tail: float | None = None) -> Tensor:
        """(D,) float32 T_f: the smallest bound that at most a share `tail` of the cells exceeds.

        After the first pass alone it is the upper end of its bin; after the second it is an activation, or
        zero. Another `tail` than the object's own is always answered from the first pass.
        """
        bins = self._bins(tail)
        if self.inner is None or tail is not None:
            edge = _as_float(((bins + 1) << 16) - 1)
        else:
            budget = self._budget() - self._above(self.counts, bins)
            low = _first_within(self.inner, budget)
            edge = _as_float((bins << 16) + low)
        return edge.where(bins >= 0, 0.0)

    def _budget(self, tail: float | None = None) -> int:
        if self.cells == 0:
            raise ValueError("no activation was counted; expected at least one map")
        return int((self.tail if tail is None else tail) * self.cells)

    def _bins(self, tail: float | None = None) -> Tensor:
        """(D,) the bin in which the threshold lies; -1 where so few cells are active that it is zero."""
        cells = self._budget(tail)
        few = self.counts.sum(dim=1, dtype=torch.int64) <= cells
        budget = torch.full((len(self.counts),), cells, device=self.counts.device)
        return _first_within(self.counts, budget).where(~few, -1)

    @staticmethod
    def _above(counts: Tensor, bins: Tensor) -> Tensor:
        """(D,) number of counts in bins beyond `bins`."""
        after = counts.flip(1).cumsum(dim=1, dtype=torch.int64).flip(1)  # from each bin on
        padded = torch.cat((after, after.new_zeros(len(after), 1)), dim=1)
        return padded.gather(1, (bins + 1).unsqueeze(1)).squeeze(1)


def _first_within(counts: Tensor, budget: Tensor) -> Tensor:
    """(D,) the smallest bin with at most `budget` counts beyond it."""
    beyond = counts.flip(1).cumsum(dim=1, dtype=torch.int64).flip(1) - counts  # (D, bins)
    return (beyond > budget.unsqueeze(1)).sum(dim=1)


def _positive_bits(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Bits of all positive activations, int32, and the filters that they belong to."""
    values = maps.detach().float().transpose(0, 1).flatten(1).contiguous()  # (D, B*h*w)
    owners, places = (values > 0).nonzero(as_tuple=True)
    return values.view(torch.int32)[owners, places], owners


def _count(counts: Tensor, owners: Tensor, bins: Tensor) -> None:
    flat = owners * counts.shape[1] + bins
    counts.view(-1).index_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype))


def _as_float(bits: Tensor) -> Tensor:
    return bits.clamp(min=0).to(torch.int32).view(torch.float32)
