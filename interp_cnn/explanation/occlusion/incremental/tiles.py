"""3x3 convolutions of delta frames with fewer products: Toom-Cook, Winograd's minimal filtering transposed.

A tile of m inputs and 3 taps gives m + 2 outputs. Both sides are evaluated at m + 2 points, multiplied there, and
interpolated, one axis after the other: (m + 2)^2 products a tile instead of 9 m^2; m = 4 needs 4 times fewer. Up to
m = 4 the points are those of B. Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution"
(ACM TOMS 2020), beyond that the best found by search. Rounding error in float32, of the result's norm: 4e-7 for m = 2,
1.5e-6 for m = 4, 3e-6 for m = 5, 6e-6 for m = 6 (direct: 3e-7); deep networks get tiles of at most 3, those of more
than 30 convolutions of 2.

What they buy (time without them over time with them, one thread of an AMD EPYC, interleaved, beside other work, code
86f084e): 1.4 on the default network of the digits at 48 px, 1.2 on resnet18 at 224 px, 1.05 on the default network at
64 px; on five wide convolutions at 64 px they cost up to a fifth. So they stay, in this file alone:
`FrameConvolution.tiles = None` is the engine without them.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.occlusion.incremental.unit_costs import CALL, PRODUCT, TILE_CELL, WEIGHT

POINTS = {
    2: (0.0, 1.0, -1.0),
    3: (0.0, 1.0, -1.0, 0.5),
    4: (0.0, 1.0, -1.0, 0.5, -2.0),
    5: (0.0, 1.0, -1.0, 2.0, -2.0, -1 / 3),
    6: (0.0, 1.0, -1.0, -0.5, 2.0, -3.0, 1 / 3),
}
TILES_AT_ONCE = 160


class TiledConvolution:
    """Convolves delta frames with one weight (D, C, 3, 3) of stride 1, padded by 2 on all sides.

    Attributes:
        sides: of the tiles that it may cut frames into, (rows, columns).
    """

    def __init__(self, weight: Tensor, largest_tile: int) -> None:
        self.weight = weight
        lengths = [side for side in POINTS if side <= largest_tile]
        self.sides = [(m, n) for m in lengths for n in lengths]
        self._tiled: dict[tuple[int, int], _Transforms] = {}
        self._buffers: dict[str, Tensor] = {}

    def cost(self, number: int, size: tuple[int, int], tile: tuple[int, int]) -> float:
        """Nanoseconds, roughly, of so many frames of a size in tiles."""
        out_channels, in_channels = self.weight.shape[:2]
        tiles = number * math.ceil(size[0] / tile[0]) * math.ceil(size[1] / tile[1])
        inputs, points = math.prod(tile), math.prod(side + 2 for side in tile)
        weights = points * in_channels * out_channels
        cells = (inputs + 2 * points) * in_channels + 4.5 * points * out_channels
        return CALL * 16 + weights * WEIGHT / 4 + tiles * (weights * PRODUCT + cells * TILE_CELL)

    def __call__(self, delta: Tensor, tile: tuple[int, int]) -> Tensor:
        """Cut into tiles, evaluate, multiply per point, interpolate, add the overlaps.

        Args:
            delta: (N, fh, fw, C).
            tile: one of `sides`.

        Returns:
            (N, fh + 2, fw + 2, D).
        """
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
        return out[:, : height + 2, : width + 2]

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
