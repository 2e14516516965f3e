"""Convolution of small delta frames: three exact ways, the cheapest chosen per frame size.

A convolution is linear, so `delta_out = weight * delta_in` without the bias. A frame of f cells grows to
f + k - 1: zeros all around it are exact, at the image border too.

- `matrix`: a 1x1 kernel is one matrix product over all cells.
- `direct`: torch's convolution with a padding of k - 1 (oneDNN skips the products with padding).
- `tiles`: a 3x3 kernel of stride 1 as polynomial products (Toom-Cook; Winograd's minimal filtering transposed).
  A tile of m inputs and 3 taps gives m + 2 outputs. Both sides are evaluated at m + 2 points, multiplied there,
  and interpolated: (m + 2)^2 products a tile instead of 9 m^2; m = 4 needs 4 times fewer. The points are those of
  B. Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution" (ACM TOMS 2020);
  the rounding error is 2e-6 of the result's norm for m = 4 and 5e-7 for m = 2, in float32.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.incremental_frames import Reach

POINTS = {2: (0.0, 1.0, -1.0), 3: (0.0, 1.0, -1.0, 0.5), 4: (0.0, 1.0, -1.0, 0.5, -2.0)}

# Costs in nanoseconds on one core with AVX-512 (measured; only their ratios matter).
PRODUCT = 1 / 70  # one multiply-add in a matrix product
CELL = 0.3  # one element read or written in an elementwise pass
TILE_CELL = 0.17  # the same in the passes of `_tiles`, whose buffers stay in the cache
TILES_AT_ONCE = 160
CALL = 2500.0  # one call of a torch function


class FrameConvolution:
    """Convolves delta frames (N, fh, fw, C) with one weight (D, C, kh, kw)."""

    def __init__(self, weight: Tensor, reach: tuple[Reach, Reach], groups: int = 1) -> None:
        self.weight = weight
        self.reach = reach
        self.groups = groups
        out_channels, in_channels, height, width = weight.shape
        plain = groups == 1 and all(axis.dilation == 1 and axis.stride == 1 for axis in reach)
        self.pointwise = plain and (height, width) == (1, 1)
        self.tileable = plain and (height, width) == (3, 3) and min(in_channels, out_channels) >= 16
        self.tileable &= weight.dtype in (torch.float32, torch.float64)
        self._tiled: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
        self._chosen: dict[tuple, tuple[int, int] | None] = {}
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, delta: Tensor, pads: tuple[tuple[int, int], tuple[int, int]]) -> Tensor:
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
        tile = self.tile(number, (height, width), pads)
        if tile is not None:
            return self._tiles(delta, pads, tile)
        return self._direct(delta, pads)

    def tile(
        self, number: int, size: tuple[int, int], pads: tuple[tuple[int, int], tuple[int, int]]
    ) -> tuple[int, int] | None:
        """The tile that is cheapest for these frames, None where the direct convolution is cheaper."""
        key = number, size, pads
        if key not in self._chosen:
            self._chosen[key] = None
            if self.tileable and min(*pads[0], *pads[1]) >= 0:
                cost, tile = min(
                    (self._tile_cost(number, size, (m, n)), (m, n)) for m in POINTS for n in POINTS
                )
                if cost < self._direct_cost(number, size, pads):
                    self._chosen[key] = tile
        return self._chosen[key]

    def cost(
        self, number: int, size: tuple[int, int], pads: tuple[tuple[int, int], tuple[int, int]]
    ) -> float:
        """Nanoseconds this takes, roughly."""
        direct = self._direct_cost(number, size, pads)
        if self.tile(number, size, pads) is None:
            return direct
        return min(direct, min(self._tile_cost(number, size, (m, n)) for m in POINTS for n in POINTS))

    def products(self, size: tuple[int, int], pads: tuple[tuple[int, int], tuple[int, int]]) -> int:
        """Multiply-adds of one window's direct convolution, products with padding left out."""
        per_axis = []
        for axis, length, (before, after) in zip(self.reach, size, pads, strict=True):
            reads = range(0, before + length + after - axis.dilation * (axis.kernel - 1), axis.stride)
            taps = [start + axis.dilation * tap for start in reads for tap in range(axis.kernel)]
            per_axis.append(sum(before <= cell < before + length for cell in taps))
        return per_axis[0] * per_axis[1] * self.weight.shape[0] * self.weight.shape[1]

    def _direct_cost(self, number: int, size: tuple[int, int], pads: tuple) -> float:
        rate = PRODUCT * (1 if min(self.weight.shape[:2]) >= 16 else 3)
        outputs = math.prod(length + sum(pad) for length, pad in zip(size, pads, strict=True))
        return CALL * 3 + number * (
            self.products(size, pads) * rate + outputs * self.weight.shape[0] * TILE_CELL
        )

    def _tile_cost(self, number: int, size: tuple[int, int], tile: tuple[int, int]) -> float:
        out_channels, in_channels = self.weight.shape[:2]
        tiles = number * math.ceil(size[0] / tile[0]) * math.ceil(size[1] / tile[1])
        inputs, points = math.prod(tile), math.prod(side + 2 for side in tile)
        products = points * in_channels * out_channels
        products += points * (inputs * in_channels + points * out_channels)
        cells = (2 * inputs + 2 * points) * in_channels + 5 * points * out_channels
        return CALL * 16 + tiles * (products * PRODUCT + cells * TILE_CELL)

    def _direct(self, delta: Tensor, pads: tuple[tuple[int, int], tuple[int, int]]) -> Tensor:
        stride = tuple(axis.stride for axis in self.reach)
        dilation = tuple(axis.dilation for axis in self.reach)
        padding = (0, 0)
        if all(before == after >= 0 for before, after in pads):
            padding = tuple(before for before, _ in pads)
        else:
            delta = _padded(delta, pads)
        out = F.conv2d(delta.permute(0, 3, 1, 2), self.weight, None, stride, padding, dilation, self.groups)
        return out.permute(0, 2, 3, 1)

    def _tiles(
        self, delta: Tensor, pads: tuple[tuple[int, int], tuple[int, int]], tile: tuple[int, int]
    ) -> Tensor:
        """Toom-Cook: cut into tiles, evaluate, multiply per point, interpolate, add the overlaps."""
        if tile not in self._tiled:
            self._tiled[tile] = _transforms(self.weight, tile)
        number, height, width, _ = delta.shape
        (m, n), out_channels = tile, len(self.weight)
        down, across = math.ceil(height / m), math.ceil(width / n)
        if down * m != height or across * n != width:
            delta = F.pad(delta, (0, 0, 0, across * n - width, 0, down * m - height))
        out = delta.new_empty(number, down + 1, m, across + 1, n, out_channels)
        # a few tiles at a time stay in the cache; with more channels the weights are worth more of them
        tiles_at_once = max(TILES_AT_ONCE, self.weight[:, :, 0, 0].numel() // 1024)
        step = max(1, tiles_at_once // (down * across)) if delta.device.type == "cpu" else number
        for first in range(0, number, step):
            self._some_tiles(delta[first : first + step], out[first : first + step], self._tiled[tile])
        out = out.flatten(3, 4).flatten(1, 2)
        # `out` is what a padding of 2 on all sides gives; the frame may need less of it, or more zeros
        (top, bottom), (left, right) = pads
        out = out[:, : height + 2, : width + 2]
        wanted = ((top - 2, bottom - 2), (left - 2, right - 2))
        return out if wanted == ((0, 0), (0, 0)) else _padded(out, wanted)

    def _some_tiles(self, delta: Tensor, out: Tensor, transforms: tuple[Tensor, Tensor, Tensor]) -> None:
        """(N, down * m, across * n, C) into (N, down + 1, m, across + 1, n, D)."""
        evaluate, kernel, interpolate = transforms  # (points, m n), (points, C, D), (points, points)
        number, down, m, across, n, out_channels = out.shape
        down, across, points, channels = down - 1, across - 1, len(kernel), delta.shape[-1]
        count = number * down * across
        tiles = self._buffer("tiles", delta, m, n, number, down, across, channels)
        tiles.copy_(delta.unflatten(1, (down, m)).unflatten(3, (across, n)).permute(2, 4, 0, 1, 3, 5))
        values = self._buffer("values", delta, points, count, channels)
        torch.mm(evaluate, tiles.view(m * n, -1), out=values.view(points, -1))
        products = self._buffer("products", delta, points, count, out_channels)
        torch.bmm(values, kernel, out=products)
        pieces = self._buffer("pieces", delta, m + 2, n + 2, number, down, across, out_channels)
        torch.mm(interpolate, products.view(points, -1), out=pieces.view(points, -1))
        # tile (i, j) covers m + 2 rows and n + 2 columns: its own block and the first two lines of the next ones
        pieces = pieces.permute(2, 3, 0, 4, 1, 5)  # (N, down, m + 2, across, n + 2, D)
        out[:, down] = 0
        out[:, :down, :, across] = 0
        out[:, :down, :, :across] = pieces[:, :, :m, :, :n]
        out[:, 1:, :2, :across] += pieces[:, :, m:, :, :n]
        out[:, :down, :, 1:, :2] += pieces[:, :, :m, :, n:]
        out[:, 1:, :2, 1:, :2] += pieces[:, :, m:, :, n:]

    def _buffer(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Memory kept between calls: fresh pages cost more than the arithmetic."""
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = like.new_empty(size)
        return self._buffers[name][:size].view(shape)


def _padded(delta: Tensor, pads: tuple[tuple[int, int], tuple[int, int]]) -> Tensor:
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


def _transforms(weight: Tensor, tile: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluation of tiles, the kernel at the points, and interpolation, for both axes at once."""
    (rows, row_taps, row_out), (columns, column_taps, column_out) = (_axis_transforms(side) for side in tile)
    kernel = torch.einsum("ua,vb,dcab->uvcd", row_taps, column_taps, weight.double().flip(2, 3).cpu())
    kernel = kernel.reshape(-1, weight.shape[1], weight.shape[0]).contiguous()
    return torch.kron(rows, columns).to(weight), kernel.to(weight), torch.kron(row_out, column_out).to(weight)


@functools.cache
def _axis_transforms(tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """(m + 2, m), (m + 2, 3), (m + 2, m + 2): values of tile and taps at the points, coefficients from values."""
    points = torch.tensor(POINTS[tile], dtype=torch.float64)

    def evaluation(terms: int) -> Tensor:
        powers = torch.stack([points**power for power in range(terms)], 1)
        at_infinity = torch.zeros(1, terms, dtype=torch.float64)
        at_infinity[0, -1] = 1
        return torch.cat([powers, at_infinity])

    inputs, taps = evaluation(tile), evaluation(3)
    coefficients = torch.linalg.inv(evaluation(tile + 2))
    # Powers of two balance the magnitudes without rounding
    for matrix in (inputs, taps):
        scale = torch.exp2(torch.log2(matrix.abs().sum(1)).round())
        matrix /= scale[:, None]
        coefficients *= scale[None, :]
    return inputs, taps, coefficients
