"""From the valid cells of a map to pixels: round or exact receptive fields, or bilinear interpolation.

Pixels that the same cells cover are one piece: there are far fewer pieces than pixels, and counting them by their
sizes gives the same whole numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp_cnn.explanation.receptive_field.field import ReceptiveField

FIELDS = ("round", "exact")
THRESHOLDS = ("sketch", "exact")
MANY_CELLS = 1024  # beyond, nearly every pixel is a piece of its own


def round_radius(field: ReceptiveField) -> float:
    """The default radius in pixels: two cells, but no more than half the receptive field.

    What a cell responds to is far smaller than what it sees (Zhou, Khosla, Lapedriza, Oliva, Torralba,
    "Object Detectors Emerge in Deep Scene CNNs", ICLR 2015): at stride 16 they measured about 70 pixels in
    diameter.
    """
    return min(2 * sum(field.stride) / 2, sum(field.size) / 4)


@dataclass(frozen=True)
class RegionRule:
    """Which cells of a filter's maps are valid, and which pixels they stand for.

    Attributes:
        tail: the share of all cells of all maps that exceeds the filter's threshold T_f. T_f is never below 0: a
            silent cell is not valid, and an image without a valid cell has an empty region, which is a miss.
        field: "round", discs around the receptive-field centres of the valid cells; or "exact", their whole
            receptive fields.
        radius: of the discs, in pixels; None: `round_radius`.
        threshold: "sketch", T_f to better than 0.8 %; or "exact", for one more pass over the images (`quantile`).
        settings: whether part interpretability is also found over radii and tails (`region_settings`).
    """

    tail: float = 0.005
    field: str = "round"
    radius: float | None = None
    threshold: str = "sketch"
    settings: bool = False

    def __post_init__(self) -> None:
        if self.threshold not in THRESHOLDS:
            raise ValueError(f"regions.threshold is {self.threshold!r}; expected {' or '.join(THRESHOLDS)}")
        if self.field not in FIELDS:
            raise ValueError(f"regions.field is {self.field!r}; expected {' or '.join(FIELDS)}")
        if not 0 < self.tail < 1:
            raise ValueError(f"regions.tail is {self.tail}; expected a share between 0 and 1")
        if self.radius is not None and (self.field == "exact" or not self.radius >= 0):
            raise ValueError(
                f"regions.radius is {self.radius}; expected pixels, 0 or more, with regions.field=round"
            )

    def regions(self, field: ReceptiveField) -> Regions:
        """From valid cells to pixels, for the layer with this receptive field."""
        if self.field == "exact":
            return Boxes(field)
        return Discs(field, round_radius(field) if self.radius is None else self.radius)


class Regions(ABC):
    """Unions of what valid cells stand for, as sets of pieces.

    Attributes:
        piece_of: (H, W) the piece that each pixel lies in.
        sizes: (S,) pixels of each piece, float.
        grid: (h, w) cells of a map.
    """

    def __init__(self, piece_of: Tensor, grid: tuple[int, int]) -> None:
        self.piece_of, self.grid = piece_of, grid
        self.sizes = piece_of.flatten().bincount().float()

    @abstractmethod
    def pieces(self, valid: Tensor) -> Tensor:
        """(M, S) float, 1 where a piece is in the region, for `valid` (M, h, w) bool."""

    def counts(self, masks: Tensor) -> Tensor:
        """(P, S) float, pixels of `masks` (P, H, W) bool in each piece."""
        if masks.shape[1:] != self.piece_of.shape:
            raise ValueError(
                f"masks are {tuple(masks.shape[1:])}; expected the images' {tuple(self.piece_of.shape)}"
            )
        number = len(self.sizes)
        part, pixel = masks.flatten(1).nonzero(as_tuple=True)
        pieces = self.piece_of.flatten().to(masks.device)[pixel] + number * part
        return pieces.bincount(minlength=len(masks) * number).reshape(len(masks), number).float()

    def __call__(self, valid: Tensor) -> Tensor:
        """(M, H, W) bool for `valid` (M, h, w) bool."""
        return self.pieces(valid)[:, self.piece_of.to(valid.device)] > 0


class Discs(Regions):
    """Union of discs around the receptive-field centres of valid cells."""

    def __init__(self, field: ReceptiveField, radius: float) -> None:
        height, width = field.image_size
        centres = field.cell_centres().double()  # (h*w, 2)
        rows = (torch.arange(height) - centres[:, :1]).square()  # (h*w, H)
        columns = (torch.arange(width) - centres[:, 1:]).square()
        discs = (rows.unsqueeze(2) + columns.unsqueeze(1) <= radius**2).flatten(1)
        piece_of, self.members = _alike(discs)  # (H*W,), (h*w, S)
        super().__init__(piece_of.reshape(height, width), field.grid)

    def pieces(self, valid: Tensor) -> Tensor:
        """See `Regions`."""
        self.members = self.members.to(valid.device)
        if valid.is_cuda:  # one product, exact for zeros and ones, instead of a loop that waits for the card
            return (valid.flatten(1).float() @ self.members.float()).clamp_(max=1)
        covered = torch.zeros(len(valid), len(self.sizes), dtype=torch.bool)
        maps, cells = valid.flatten(1).nonzero(as_tuple=True)
        while len(maps):  # one valid cell of each map per turn, so that no two write to the same place
            first = torch.ones_like(maps, dtype=torch.bool)
            first[1:] = maps[1:] != maps[:-1]
            covered[maps[first]] |= self.members[cells[first]]
            maps, cells = maps[~first], cells[~first]
        return covered.float()


class Boxes(Regions):
    """Union of the exact receptive fields of valid cells: along each axis an interval."""

    def __init__(self, field: ReceptiveField) -> None:
        row_of, self.rows = _alike(_membership(field, 0))  # (H,), (h, R)
        column_of, self.columns = _alike(_membership(field, 1))
        super().__init__(row_of.unsqueeze(1) * self.columns.shape[1] + column_of, field.grid)

    def pieces(self, valid: Tensor) -> Tensor:
        """See `Regions`."""
        rows, columns = self.rows.to(valid.device).float(), self.columns.to(valid.device).float()
        return (rows.T @ valid.float() @ columns).clamp_(max=1).flatten(1)


class Interpolation:
    """Bilinear upsampling, anchored at the receptive-field centres; constant beyond the outermost ones."""

    def __init__(self, field: ReceptiveField) -> None:
        self.rows = _interpolation(field, 0)  # (H, h)
        self.columns = _interpolation(field, 1)  # (W, w)

    def __call__(self, maps: Tensor) -> Tensor:
        """(M, H, W) for `maps` (M, h, w)."""
        self.rows, self.columns = self.rows.to(maps.device), self.columns.to(maps.device)
        return self.rows @ maps.float() @ self.columns.T


def _alike(members: Tensor) -> tuple[Tensor, Tensor]:
    """For `members` (cells, N) bool: the kind of each of N, (N,), and the cells of each kind, (cells, S) bool."""
    if len(members) > MANY_CELLS:
        return torch.arange(members.shape[1]), members
    packed = np.ascontiguousarray(np.packbits(members.numpy(), axis=0).T)  # (N, bytes)
    _, first, kinds = np.unique(packed.view(f"V{packed.shape[1]}"), return_index=True, return_inverse=True)
    return torch.from_numpy(kinds.reshape(-1)), members[:, torch.from_numpy(first)]


def _membership(field: ReceptiveField, axis: int) -> Tensor:
    cells, pixels = torch.arange(field.grid[axis]), torch.arange(field.image_size[axis])
    centres = field.start[axis] + field.stride[axis] * cells.double()
    return (pixels - centres.unsqueeze(1)).abs() <= (field.size[axis] - 1) / 2 + 1e-9


def _interpolation(field: ReceptiveField, axis: int) -> Tensor:
    cells = field.grid[axis]
    pixels = torch.arange(field.image_size[axis], dtype=torch.float64)
    places = ((pixels - field.start[axis]) / field.stride[axis]).clamp(0, cells - 1)
    return (1 - (places.unsqueeze(1) - torch.arange(cells)).abs()).clamp(min=0).float()
