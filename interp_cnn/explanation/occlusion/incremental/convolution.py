"""Convolution of small delta frames: four exact ways, the cheapest chosen per frame size.

A convolution is linear, so `delta_out = weight * delta_in` without the bias. A frame of f cells grows to
f + k - 1: zeros all around it are exact, at the image border too.

- `matrix`: a 1x1 kernel is one matrix product over all cells.
- `direct`: torch's convolution with a padding of k - 1 (oneDNN skips the products with padding).
- `whole`: frames of a few cells times the convolution written out as one matrix, products with padding included:
  one call, and no image-to-column step.
- `tiles`: a 3x3 kernel of stride 1 as polynomial products (`tiles`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.occlusion.incremental.frames import Reach
from interp_cnn.explanation.occlusion.incremental.tiles import TiledConvolution
from interp_cnn.explanation.occlusion.incremental.unit_costs import (
    CALL,
    DIRECT_CELL,
    PRODUCT,
    TILE_CELL,
    WEIGHT,
)

Pads = tuple[tuple[int, int], tuple[int, int]]  # rows and columns: zeros before and after
Way = tuple[int, int] | str  # the sides of the tiles; "whole"; "direct"

LARGEST_MATRIX = 2**20  # numbers in a convolution that is written out as a matrix


class FrameConvolution:
    """Convolves delta frames (N, fh, fw, C) with one weight (D, C, kh, kw)."""

    def __init__(
        self, weight: Tensor, reach: tuple[Reach, Reach], groups: int = 1, largest_tile: int = 4
    ) -> None:
        self.weight = weight
        self.reach = reach
        self.groups = groups
        out_channels, in_channels, height, width = weight.shape
        plain = groups == 1 and all(axis.dilation == 1 and axis.stride == 1 for axis in reach)
        self.pointwise = plain and (height, width) == (1, 1)
        tileable = plain and (height, width) == (3, 3) and min(in_channels, out_channels) >= 16
        tileable &= weight.dtype in (torch.float32, torch.float64)
        self.tiles = TiledConvolution(weight, largest_tile) if tileable else None
        self._matrices: dict[tuple[tuple[int, int], Pads], Tensor] = {}
        self._chosen: dict[tuple[int, tuple[int, int], Pads], tuple[float, Way]] = {}

    def __call__(self, delta: Tensor, pads: Pads) -> Tensor:
        """Convolve frames.

        Args:
            delta: (N, fh, fw, C), contiguous in its channels.
            pads: zeros (before, after) the frame's rows and columns; negative values cut the frame.

        Returns:
            (N, fh', fw', D).
        """
        number, height, width, channels = delta.shape
        if self.pointwise:
            delta = _padded(delta, pads)
            return (delta.reshape(-1, channels) @ self.weight[:, :, 0, 0].T).view(*delta.shape[:3], -1)
        _, way = self.cheapest(number, (height, width), pads)
        if isinstance(way, tuple):
            assert self.tiles is not None
            (top, bottom), (left, right) = pads
            # a padding of 2 on all sides; the frame may need less of it, or more zeros
            return _padded(self.tiles(delta, way), ((top - 2, bottom - 2), (left - 2, right - 2)))
        return self._direct(delta, pads) if way == "direct" else self._whole(delta, pads)

    def cheapest(self, number: int, size: tuple[int, int], pads: Pads) -> tuple[float, Way]:
        """Nanoseconds that these frames take, roughly, and the way that takes them: a tile's sides, or its name."""
        key = number, size, pads
        if key not in self._chosen:
            costs: list[tuple[float, Way]] = [(self._direct_cost(number, size, pads), "direct")]
            if self._matrix_size(size, pads) <= LARGEST_MATRIX:
                costs.append((self._whole_cost(number, size, pads), "whole"))
            if self.tiles is not None and min(*pads[0], *pads[1]) >= 0:
                costs += [(self.tiles.cost(number, size, tile), tile) for tile in self.tiles.sides]
            self._chosen[key] = min(costs, key=lambda each: each[0])
        return self._chosen[key]

    def products(self, size: tuple[int, int], pads: Pads) -> int:
        """Multiply-adds of one window's direct convolution, products with padding left out."""
        per_axis = []
        for axis, length, (before, after) in zip(self.reach, size, pads, strict=True):
            reads = range(0, before + length + after - axis.dilation * (axis.kernel - 1), axis.stride)
            taps = [start + axis.dilation * tap for start in reads for tap in range(axis.kernel)]
            per_axis.append(sum(before <= cell < before + length for cell in taps))
        return per_axis[0] * per_axis[1] * self.weight.shape[0] * self.weight.shape[1]

    def _direct_cost(self, number: int, size: tuple[int, int], pads: Pads) -> float:
        rate = PRODUCT * (1 if min(self.weight.shape[:2]) >= 16 else 3)
        cells = math.prod(self._outputs(size, pads)) * self.weight.shape[0]
        each = self.products(size, pads) * rate + cells * DIRECT_CELL
        return CALL * 3 + self.weight.numel() * WEIGHT + number * each

    def _whole_cost(self, number: int, size: tuple[int, int], pads: Pads) -> float:
        products = self._matrix_size(size, pads)
        cells = math.prod(self._outputs(size, pads)) * self.weight.shape[0]
        return CALL + products * WEIGHT + number * (products * PRODUCT + cells * TILE_CELL)

    def _outputs(self, size: tuple[int, int], pads: Pads) -> tuple[int, int]:
        """Cells of the output frame."""
        lengths = [
            (before + length + after - axis.dilation * (axis.kernel - 1) - 1) // axis.stride + 1
            for axis, length, (before, after) in zip(self.reach, size, pads, strict=True)
        ]
        return lengths[0], lengths[1]

    def _matrix_size(self, size: tuple[int, int], pads: Pads) -> int:
        channels = self.weight.shape[1] * self.groups
        return math.prod(size) * channels * math.prod(self._outputs(size, pads)) * self.weight.shape[0]

    def _direct(self, delta: Tensor, pads: Pads) -> Tensor:
        stride = tuple(axis.stride for axis in self.reach)
        dilation = tuple(axis.dilation for axis in self.reach)
        padding = (0, 0)
        if all(before == after >= 0 for before, after in pads):
            padding = tuple(before for before, _ in pads)
        else:
            delta = _padded(delta, pads)
        out = F.conv2d(delta.permute(0, 3, 1, 2), self.weight, None, stride, padding, dilation, self.groups)
        return out.permute(0, 2, 3, 1)

    def _whole(self, delta: Tensor, pads: Pads) -> Tensor:
        size = delta.shape[1], delta.shape[2]
        key = size, pads
        if key not in self._matrices:
            unit = torch.eye(delta[0].numel()).to(self.weight).view(-1, *delta.shape[1:])
            self._matrices[key] = self._direct(unit, pads).reshape(len(unit), -1)
        return (delta.reshape(len(delta), -1) @ self._matrices[key]).view(
            len(delta), *self._outputs(size, pads), -1
        )


def _padded(delta: Tensor, pads: Pads) -> Tensor:
    """Rows and columns with zeros around them; negative numbers cut."""
    if not any(before or after for before, after in pads):
        return delta
    (top, bottom), (left, right) = pads
    number, height, width, channels = delta.shape
    inner = delta[:, max(-top, 0) : height - max(-bottom, 0), max(-left, 0) : width - max(-right, 0)]
    if min(top, bottom, left, right) >= 0 or max(top, bottom, left, right) > 0:
        padded = delta.new_zeros(number, height + top + bottom, width + left + right, channels)
        first_row, first_column = max(top, 0), max(left, 0)
        rows, columns = inner.shape[1:3]
        padded[:, first_row : first_row + rows, first_column : first_column + columns] = inner
        return padded
    return inner
