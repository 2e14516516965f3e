"""Convolution of small delta frames: four exact ways, the cheapest chosen per frame size.

A convolution is linear, so `delta_out = weight * delta_in` without the bias. A frame of f cells grows to
f + k - 1: zeros all around it are exact, at the image border too.

- `matrix`: a 1x1 kernel is one matrix product over all cells.
- `direct`: torch's convolution with a padding of k - 1 (oneDNN skips the products with padding).
- `whole`: frames of a few cells times the convolution written out as one matrix, products with padding included:
  one call, and no image-to-column step.
- `tiles`: a 3x3 kernel of stride 1 as polynomial products (Toom-Cook; Winograd's minimal filtering transposed).
  A tile of m inputs and 3 taps gives m + 2 outputs. Both sides are evaluated at m + 2 points, multiplied there,
  and interpolated, one axis after the other: (m + 2)^2 products a tile instead of 9 m^2; m = 4 needs 4 times fewer.
  Up to m = 4 the points are those of B. Barabasz et al., "Error analysis and improving the accuracy of Winograd
  convolution" (ACM TOMS 2020), beyond that the best found by search. Rounding error in float32, of the result's
  norm: 4e-7 for m = 2, 1.5e-6 for m = 4, 3e-6 for m = 5, 6e-6 for m = 6 (direct: 3e-7); deep networks get
  tiles of at most 3, those of more than 30 convolutions of 2.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.occlusion.incremental.frames import Reach

Pads = tuple[tuple[int, int], tuple[int, int]]  # rows and columns: zeros before and after
Way = tuple[int, int] | str  # the sides of the tiles; "whole"; "direct"

POINTS = {
    2: (0.0, 1.0, -1.0),
    3: (0.0, 1.0, -1.0, 0.5),
    4: (0.0, 1.0, -1.0, 0.5, -2.0),
    5: (0.0, 1.0, -1.0, 2.0, -2.0, -1 / 3),
    6: (0.0, 1.0, -1.0, -0.5, 2.0, -3.0, 1 / 3),
}

# Costs in nanoseconds on one core with AVX-512 (measured; only their ratios matter).
PRODUCT = 1 / 70  # one multiply-add in a matrix product
CELL = 0.3  # one element read or written in an elementwise pass
TILE_CELL = 0.17  # the same in the passes of `_tiles`, whose buffers stay in the cache
DIRECT_CELL = 0.6  # one output of torch's convolution of small frames, beside its products
TILES_AT_ONCE = 160
CALL = 2500.0  # one call of a torch function
WEIGHT = 0.2  # one weight brought into the order the processor wants, once per call
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
        sides = [side for side in POINTS if tileable and side <= largest_tile]
        self.tiles = [(m, n) for m in sides for n in sides]
        self._tiled: dict[tuple[int, int], _Transforms] = {}
        self._matrices: dict[tuple[tuple[int, int], Pads], Tensor] = {}
        self._chosen: dict[tuple[int, tuple[int, int], Pads], tuple[float, Way]] = {}
        self._buffers: dict[str, Tensor] = {}

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
            return self._tiles(delta, pads, way)
        return self._direct(delta, pads) if way == "direct" else self._whole(delta, pads)

    def cheapest(self, number: int, size: tuple[int, int], pads: Pads) -> tuple[float, Way]:
        """Nanoseconds that these frames take, roughly, and the way that takes them: a tile's sides, or its name."""
        key = number, size, pads
        if key not in self._chosen:
            costs: list[tuple[float, Way]] = [(self._direct_cost(number, size, pads), "direct")]
            if self._matrix_size(size, pads) <= LARGEST_MATRIX:
                costs.append((self._whole_cost(number, size, pads), "whole"))
            if min(*pads[0], *pads[1]) >= 0:
                costs += [(self._tile_cost(number, size, tile), tile) for tile in self.tiles]
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

    def _tile_cost(self, number: int, size: tuple[int, int], tile: tuple[int, int]) -> float:
        out_channels, in_channels = self.weight.shape[:2]
        tiles = number * math.ceil(size[0] / tile[0]) * math.ceil(size[1] / tile[1])
        inputs, points = math.prod(tile), math.prod(side + 2 for side in tile)
        weights = points * in_channels * out_channels
        cells = (inputs + 2 * points) * in_channels + 4.5 * points * out_channels
        return CALL * 16 + weights * WEIGHT / 4 + tiles * (weights * PRODUCT + cells * TILE_CELL)

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

    def _tiles(self, delta: Tensor, pads: Pads, tile: tuple[int, int]) -> Tensor:
        """Toom-Cook: cut into tiles, evaluate, multiply per point, interpolate, add the overlaps."""
        if tile not in self._tiled:
            self._tiled[tile] = _Transforms.of(self.weight, tile)
        number, height, width, _ = delta.shape
        (m, n), out_channels = tile, len(self.weight)
        down, across = math.ceil(height / m), math.ceil(width / n)
        out = delta.new_empty(number, down * m + 2, across * n + 2, out_channels)
        # a few tiles at a time stay in the cache; with more channels the weights are worth more of them
        tiles_at_once = max(TILES_AT_ONCE, self.weight[:, :, 0, 0].numel() // 1024)
        step = max(1, tiles_at_once // (down * across)) if delta.device.type == "cpu" else number
        for first in range(0, number, step):
            some = delta[first : first + step]
            if down * m != height or across * n != width:
                some = F.pad(some, (0, 0, 0, across * n - width, 0, down * m - height))
            self._some_tiles(some, out[first : first + step], self._tiled[tile], (down, across))
        # `out` is what a padding of 2 on all sides gives; the frame may need less of it, or more zeros
        (top, bottom), (left, right) = pads
        out = out[:, : height + 2, : width + 2]
        return _padded(out, ((top - 2, bottom - 2), (left - 2, right - 2)))

    def _some_tiles(
        self, delta: Tensor, out: Tensor, transforms: _Transforms, tiles: tuple[int, int]
    ) -> None:
        """(N, down * m, across * n, C) into (N, down * m + 2, across * n + 2, D)."""
        rows, columns, kernel = transforms.rows, transforms.columns, transforms.kernel
        (down, across), number, channels, out_channels = tiles, len(delta), delta.shape[-1], out.shape[-1]
        m, n = delta.shape[1] // down, delta.shape[2] // across
        count = number * down * across
        cut = self._buffer("first", delta, m, n, number, down, across, channels)
        cut.copy_(delta.unflatten(1, (down, m)).unflatten(3, (across, n)).permute(2, 4, 0, 1, 3, 5))
        half = self._buffer("second", delta, m + 2, n, count * channels)
        torch.mm(rows.evaluate, cut.view(m, -1), out=half.view(m + 2, -1))
        values = self._buffer("first", delta, m + 2, n + 2, count * channels)
        torch.bmm(columns.evaluate.expand(m + 2, -1, -1), half, out=values)
        products = self._buffer("second", delta, (m + 2) * (n + 2), count, out_channels)
        torch.bmm(values.view(-1, count, channels), kernel, out=products)
        half = self._buffer("first", delta, m + 2, n + 2, count * out_channels)
        torch.mm(rows.interpolate, products.view(m + 2, -1), out=half.view(m + 2, -1))
        pieces = self._buffer("second", delta, m + 2, n + 2, number, down, across, out_channels)
        torch.bmm(columns.interpolate.expand(m + 2, -1, -1), half, out=pieces.view(m + 2, n + 2, -1))
        pieces = pieces.permute(2, 3, 0, 4, 1, 5)  # (N, down, m + 2, across, n + 2, D)

        def lines(top: int, left: int, height: int, width: int) -> Tensor:
            """View of `out` from each tile's own (top, left) on."""
            image, row, column, _ = out.stride()
            return out.as_strided(
                (number, down, height, across, width, out_channels),
                (image, m * row, row, n * column, column, 1),
                out.storage_offset() + top * row + left * column,
            )

        # tile (i, j) covers m + 2 rows and n + 2 columns: its own block and the first two lines of the next ones
        out[:, down * m :] = 0
        out[:, :, across * n :] = 0
        lines(0, 0, m, n).copy_(pieces[:, :, :m, :, :n])
        lines(m, 0, 2, n).add_(pieces[:, :, m:, :, :n])
        lines(0, n, m, 2).add_(pieces[:, :, :m, :, n:])
        lines(m, n, 2, 2).add_(pieces[:, :, m:, :, n:])

    def _buffer(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Memory kept between calls: fresh pages cost more than the arithmetic."""
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = like.new_empty(size)
        return self._buffers[name][:size].view(shape)


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


@dataclass(frozen=True)
class _Axis:
    """One axis of a tile of m inputs."""

    evaluate: Tensor  # (m + 2, m): values at the points
    taps: Tensor  # (m + 2, 3): values of the kernel at the points
    interpolate: Tensor  # (m + 2, m + 2): outputs from products of values


@dataclass(frozen=True)
class _Transforms:
    rows: _Axis
    columns: _Axis
    kernel: Tensor  # (points, C, D)

    @classmethod
    def of(cls, weight: Tensor, tile: tuple[int, int]) -> _Transforms:
        rows, columns = (_axis(side) for side in tile)
        out_channels, in_channels = weight.shape[:2]
        taps = weight.double().cpu().flip(2, 3).permute(2, 3, 1, 0).reshape(9, -1)
        kernel = (torch.kron(rows.taps, columns.taps) @ taps).view(-1, in_channels, out_channels)
        own_rows, own_columns = (
            _Axis(*(matrix.to(weight) for matrix in (axis.evaluate, axis.taps, axis.interpolate)))
            for axis in (rows, columns)
        )
        return cls(rows=own_rows, columns=own_columns, kernel=kernel.to(weight))


@functools.cache
def _axis(tile: int) -> _Axis:
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
    return _Axis(inputs, taps, coefficients)
