"""Where the occluding windows lie, and how their drops become a map.

A grid of windows is a product of row and column starts: window (i, j) hides the rectangle of `size` pixels
that begins at `(row_starts[i], column_starts[j])`, cut at the image border, or, with a boolean shape (a disc,
say), those pixels of the rectangle at which the shape is true.

Three ways to treat the image border (`overhang`):
- "none": only windows that lie fully inside the image, at multiples of the stride (default);
- "end": as Captum does it, one more window, cut at the lower or right border, if pixels are left over;
- "both": windows overhang all four borders, so that every pixel is covered about equally often.

From drops `d_w` to a map, for a pixel covered by windows W(p) (`unit`):
- "mean_drop": the mean of d_w over W(p) (Captum's unit);
- "contribution": the mean of d_w / |w| over W(p); the sum over the image is comparable with
  f(x) - f(all hidden), and equal to it for windows that tile the image on a linear network;
- "additive": the smallest map A with `sum_{p in w} A_p = d_w` in the least-squares sense.
A pixel that no window covers gets 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.network.precision import chosen_precision

WINDOW, STRIDE = 0.17, 0.04  # by default, as shares of the image's shorter side
Window = int | tuple[int, int] | Tensor
OVERHANGS = ("none", "end", "both")
UNITS = ("mean_drop", "contribution", "additive")


@dataclass(frozen=True, eq=False)
class WindowGrid:
    """Windows of one size and shape, as a product of row starts and column starts.

    Attributes:
        image_size: (H, W) in pixels.
        size: (height, width) of the whole, uncut window.
        stride: (rows, columns) between neighbours.
        row_starts: first row of each row of windows; negative where the window overhangs.
        column_starts: the same for columns.
        shape: boolean tensor of `size`, None for full rectangles.
    """

    image_size: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int]
    row_starts: tuple[int, ...]
    column_starts: tuple[int, ...]
    shape: Tensor | None = None

    def __len__(self) -> int:
        return len(self.row_starts) * len(self.column_starts)

    @property
    def rows(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of each row of windows, cut at the border."""
        return _cut(self.row_starts, self.size[0], self.image_size[0])

    @property
    def columns(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of each column of windows, cut at the border."""
        return _cut(self.column_starts, self.size[1], self.image_size[1])

    def hidden(self, row: int, column: int) -> Tensor:
        """Boolean mask of the cut rectangle of window (row, column)."""
        (top, bottom), (left, right) = self.rows[row], self.columns[column]
        if self.shape is None:
            return torch.ones(bottom - top, right - left, dtype=torch.bool)
        first, second = self.row_starts[row], self.column_starts[column]
        return self.shape[top - first : bottom - first, left - second : right - second]

    def mask(self, row: int, column: int) -> Tensor:
        """(H, W) boolean mask: true where window (row, column) hides the image."""
        mask = torch.zeros(self.image_size, dtype=torch.bool)
        (top, bottom), (left, right) = self.rows[row], self.columns[column]
        mask[top:bottom, left:right] = self.hidden(row, column)
        return mask

    def spread(self, values: Tensor) -> Tensor:
        """Sum of the values of the windows that cover each pixel: (N, rows, columns) -> (N, H, W)."""
        if self.shape is None:
            row_cover, column_cover = (cover.to(values) for cover in self._cover())
            return row_cover.T @ values @ column_cover
        kernel = self.shape.to(values)[None, None]
        canvas = F.conv_transpose2d(values[:, None], kernel, stride=self.stride)[:, 0]
        return _place(canvas, self)

    def gather(self, image: Tensor) -> Tensor:
        """Sum of the pixels each window covers: (N, H, W) -> (N, rows, columns); `spread` transposed."""
        if self.shape is None:
            row_cover, column_cover = (cover.to(image) for cover in self._cover())
            return row_cover @ image @ column_cover.T
        canvas = _canvas(image, self)
        return F.conv2d(canvas[:, None], self.shape.to(image)[None, None], stride=self.stride)[:, 0]

    def _cover(self) -> tuple[Tensor, Tensor]:
        covers = []
        for intervals, length in ((self.rows, self.image_size[0]), (self.columns, self.image_size[1])):
            cover = torch.zeros(len(intervals), length)
            for index, (start, stop) in enumerate(intervals):
                cover[index, start:stop] = 1
            covers.append(cover)
        return covers[0], covers[1]


def window_grid(
    image_size: tuple[int, int], window: Window, stride: int | tuple[int, int], overhang: str = "none"
) -> WindowGrid:
    """Lay windows over an image.

    Args:
        image_size: (H, W) in pixels.
        window: side of a square, (height, width), or a 2-d boolean tensor (see `disc`).
        stride: step between windows, one number or (rows, columns).
        overhang: "none", "end" or "both", see the module's text.

    Raises:
        ValueError: a size that is not positive, a window larger than the image, an unknown overhang.
    """
    if not isinstance(window, Tensor):
        shape, (height, width) = None, pair(window, "window")
    else:
        if window.ndim != 2 or window.dtype != torch.bool or not bool(window.any()):
            raise ValueError(f"window as a shape must be a 2-d boolean tensor with true cells, got {window}")
        shape, (height, width) = window.cpu(), window.shape
    row_stride, column_stride = pair(stride, "stride")
    if overhang not in OVERHANGS:
        raise ValueError(f"overhang must be one of {', '.join(OVERHANGS)}, got {overhang!r}")
    if height > image_size[0] or width > image_size[1]:
        raise ValueError(
            f"window must fit into the image of {tuple(image_size)} pixels, got {(height, width)}"
        )
    row_starts = _starts(image_size[0], height, row_stride, overhang)
    column_starts = _starts(image_size[1], width, column_stride, overhang)
    size, strides = (height, width), (row_stride, column_stride)
    return WindowGrid((image_size[0], image_size[1]), size, strides, row_starts, column_starts, shape)


def window_in_pixels(
    window: Window | float, stride: int | float | tuple[int, int], image_size: tuple[int, int]
) -> tuple[Window, tuple[int, int]]:
    """Window and stride in pixels, where they may be shares of the image's shorter side.

    A window given as a share is stretched a little, so that the last one ends where the image ends.

    Args:
        window: pixels (a whole number or two, or a shape), or a share between 0 and 1.
        stride: pixels, or a share.
        image_size: (H, W).

    Returns:
        window, unless it is a share as it came, and (rows, columns) of the stride.

    Example:
        >>> window_in_pixels(0.17, 0.04, (224, 224))
        ((35, 35), (9, 9))
    """
    shorter = min(image_size)
    if isinstance(stride, tuple):
        steps = stride
    else:
        step = _pixels(stride, shorter, "stride")
        steps = step, step
    if isinstance(window, int):
        side = _pixels(window, shorter, "window")
        return (side, side), steps
    if not isinstance(window, float):
        return window, steps
    side = _pixels(window, shorter, "window")
    rest = [
        length - step * round((length - side) / step) for length, step in zip(image_size, steps, strict=True)
    ]
    rows, columns = (
        max(1, left if left >= 1 else left + step) for left, step in zip(rest, steps, strict=True)
    )
    return (rows, columns), steps


def _pixels(value: int | float, side: int, name: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, float) and 0 < value < 1:
        return max(1, round(value * side))
    raise ValueError(
        f"{name} must be pixels (1 or more) or a share of the image (between 0 and 1), got {value!r}"
    )


def disc(diameter: int) -> Tensor:
    """(diameter, diameter) boolean disc: the cells whose centre lies within the circle."""
    side, _ = pair(diameter, "diameter")
    axis = torch.arange(side) - (side - 1) / 2
    return axis[:, None] ** 2 + axis[None, :] ** 2 <= (side / 2) ** 2


def pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    """(rows, columns) from one number or two, both at least 1."""
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2 or any(not isinstance(side, int) or side < 1 for side in both):
        raise ValueError(f"{name} must be a positive integer or two of them, got {value!r}")
    return both


@chosen_precision()
def map_of_drops(grid: WindowGrid, drops: Tensor, unit: str = "mean_drop") -> Tensor:
    """Turn the drops of a grid of windows into a map.

    Args:
        grid: the windows.
        drops: (N, rows, columns).
        unit: "mean_drop", "contribution" or "additive", see the module's text.

    Returns:
        (N, H, W), of the drops' type.
    """
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    exact = drops.double()
    if unit == "additive":
        return _additive_map(grid, exact).to(drops)
    ones = exact.new_ones(1, *drops.shape[1:])
    if unit == "contribution":
        exact = exact / grid.gather(exact.new_ones(1, *grid.image_size)).clamp(min=1)
    return (grid.spread(exact) / grid.spread(ones).clamp(min=1)).to(drops)


def _additive_map(grid: WindowGrid, drops: Tensor) -> Tensor:
    """Least-squares map of smallest norm: the pseudo-inverse of a product for rectangles, else CGLS."""
    if grid.shape is None:
        row_cover, column_cover = (cover.to(drops) for cover in grid._cover())
        return torch.linalg.pinv(row_cover) @ drops @ torch.linalg.pinv(column_cover).T
    solution, residual = drops.new_zeros(len(drops), *grid.image_size), drops
    gradient = grid.spread(residual)
    direction, norm = gradient, gradient.square().sum((1, 2), keepdim=True)
    small = 1e-24 * norm + 1e-300
    for _ in range(8 * drops[0].numel()):
        if bool((norm <= small).all()):
            break
        covered = grid.gather(direction)
        step = norm / covered.square().sum((1, 2), keepdim=True).clamp(min=1e-300)
        solution, residual = solution + step * direction, residual - step * covered
        gradient = grid.spread(residual)
        following = gradient.square().sum((1, 2), keepdim=True)
        direction, norm = gradient + following / norm.clamp(min=1e-300) * direction, following
    return solution


def _starts(length: int, size: int, stride: int, overhang: str) -> tuple[int, ...]:
    if overhang == "none":
        return tuple(range(0, length - size + 1, stride))
    if overhang == "end":
        count = math.ceil((length - size) / stride) + 1
        return tuple(start for start in range(0, count * stride, stride) if start < length)
    lead = stride * ((size - 1) // stride)  # the first window still covers the first pixel
    return tuple(range(-lead, length, stride))


def _cut(starts: tuple[int, ...], size: int, length: int) -> tuple[tuple[int, int], ...]:
    return tuple((max(start, 0), min(start + size, length)) for start in starts)


def _place(canvas: Tensor, grid: WindowGrid) -> Tensor:
    """Cut the image out of the canvas of all windows, padded where no window reaches."""
    top, left = -grid.row_starts[0], -grid.column_starts[0]
    canvas = canvas[:, top : top + grid.image_size[0], left : left + grid.image_size[1]]
    below, right = grid.image_size[0] - canvas.shape[1], grid.image_size[1] - canvas.shape[2]
    return F.pad(canvas, (0, right, 0, below))


def _canvas(image: Tensor, grid: WindowGrid) -> Tensor:
    """Pad (or cut) the image to the canvas that all uncut windows span."""
    top, left = -grid.row_starts[0], -grid.column_starts[0]
    below = grid.row_starts[-1] + grid.size[0] - grid.image_size[0]
    right = grid.column_starts[-1] + grid.size[1] - grid.image_size[1]
    return F.pad(image, (left, right, top, below))
