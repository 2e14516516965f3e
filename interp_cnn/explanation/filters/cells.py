"""Sets of square cells of an image: as pixels, painted over, put elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from interp_cnn.explanation.occlusion.fills import Fill

MOST_OVERLAP = 0.5  # of a control's cells with the edit's, where it can be


@dataclass(frozen=True)
class CellGrid:
    """Square cells of `side` pixels over images of `size` (H, W); those at the right and below may be cut."""

    size: tuple[int, int]
    side: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return -(-self.size[0] // self.side), -(-self.size[1] // self.side)

    def pixels(self, cells: Tensor) -> Tensor:
        """Sets of cells (..., rows, columns) as pixels (..., H, W)."""
        spread = cells.repeat_interleave(self.side, -2).repeat_interleave(self.side, -1)
        return spread[..., : self.size[0], : self.size[1]]

    def share(self, cells: Tensor) -> float:
        """Share of the image that a set of cells (rows, columns) covers."""
        return float(self.pixels(cells).double().mean())

    def means(self, maps: Tensor) -> Tensor:
        """Maps (N, H, W) as means in the cells, (N, rows, columns)."""
        pooled = functional.avg_pool2d(maps[:, None], self.side, ceil_mode=True, count_include_pad=False)
        return pooled[:, 0]


def cell_grid(size: tuple[int, int], cells: int) -> CellGrid:
    """About so many cells along the shorter side of images of a size (H, W).

    Raises:
        ValueError: fewer than 2 cells, or more than there are pixels.

    Example:
        >>> cell_grid((48, 64), 12).shape
        (12, 16)
    """
    if not 2 <= cells <= min(size):
        raise ValueError(f"cells is {cells}; expected 2 to {min(size)} along images of {size[0]} x {size[1]}")
    return CellGrid((int(size[0]), int(size[1])), max(1, round(min(size) / cells)))


def painted_over(image: Tensor, cells: Tensor, grid: CellGrid, fill: Fill) -> Tensor:
    """Copies of an image (C, H, W), in each of which one of the sets of cells (B, rows, columns) is painted over."""
    hidden = grid.pixels(cells.to(image.device))[:, None]  # (B, 1, H, W)
    if fill.reach is None:
        return torch.where(hidden, fill.replace(image[None], None, 0), image)
    edited = image.expand(len(cells), *image.shape).clone()
    rows, columns = (hidden.any(0)[0].any(axis).nonzero().flatten() for axis in (1, 0))
    if len(rows):  # the fill looks no further than its reach
        box = tuple(
            slice(max(int(it[0]) - fill.reach, 0), int(it[-1]) + fill.reach + 1) for it in (rows, columns)
        )
        edited[:, :, *box] = fill(edited[:, :, *box], hidden[:, :, *box])
    return edited


def moved_cells(cells: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A set of cells (rows, columns) put elsewhere, whole and as it is: (n, rows, columns), n <= count.

    Places are drawn among those where it lies inside the grid and shares at most half of its cells with the set itself;
    a set too large for that is pushed over the border and comes in again on the other side. A set of all cells, or of
    none, has no other place.
    """
    rows, columns = cells.shape
    members = cells.nonzero()
    if not 0 < len(members) < cells.numel():
        return cells.new_zeros(0, rows, columns)
    low, high = members.amin(0).tolist(), members.amax(0).tolist()
    places: dict[tuple[bool, bool], list[Tensor]] = {}
    for down in range(-rows + 1, rows):
        for right in range(-columns + 1, columns):
            inside = low[0] + down >= 0 and high[0] + down < rows
            inside = inside and low[1] + right >= 0 and high[1] + right < columns
            if (down, right) == (0, 0) or (not inside and (down < 0 or right < 0)):
                continue  # over the border once around is enough
            moved = cells.roll((down, right), (0, 1))
            overlap = float((moved & cells).sum()) / len(members)
            if overlap < 1:
                places.setdefault((not inside, overlap > MOST_OVERLAP), []).append(moved)
    order = [(False, False), (True, False), (False, True), (True, True)]
    chosen = next((places[kind] for kind in order if kind in places), [])
    drawn = torch.randperm(len(chosen), generator=generator)[:count].tolist()
    return torch.stack([chosen[place] for place in drawn]) if drawn else cells.new_zeros(0, rows, columns)
