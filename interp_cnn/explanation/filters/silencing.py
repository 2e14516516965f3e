"""The smallest edit that silences a filter: the fewest cells of an image to paint over until its peak has fallen.

A filter's peak on an image is the maximum of its whole map, so it may not fire elsewhere instead. It is silenced where

    peak(edited image)  <  share * peak(image)

The image is divided into square cells, and an edit paints over a set of them, inside the set only. The search grows a
set by the block of cells that takes most of what the map has over the threshold, trying first where the filter's
occlusion map is high, until the filter is silent; then it gives cells back, those first without which it stays
quietest, until no single one can be given back. So the set is a local minimum; there may be a smaller one. The game is
the deletion game of Fong and Vedaldi, "Interpretable Explanations of Black Boxes by Meaningful Perturbation" (ICCV
2017), played with a filter. What was found is computed again on the edited image, from scratch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_cnn.explanation.filters.cells import CellGrid, painted_over
from interp_cnn.explanation.filters.occlusion import filter_drops
from interp_cnn.explanation.network.feature_maps import feature_maps, feature_maps_and_logits
from interp_cnn.explanation.network.placement import beside
from interp_cnn.explanation.occlusion.fills import Fill
from interp_cnn.explanation.occlusion.windows import map_of_drops

STEP = 1.3  # between the sizes that are tried
BLOCKS, TRIED = 6, 32  # a set grows by blocks of a sixth of the side; so many are tried in a step
POWER = 8  # of the map's excess over the limit: nearly its peak, but of two equal peaks it counts both
WINDOW, STRIDE = 3, 2  # of the occlusion that says where to begin, in cells
SLACK = 1e-5  # of the threshold: what one batch size may compute otherwise than another


@dataclass(frozen=True, eq=False)
class Silencing:
    """An edit of one image, and what became of one filter; of K classes.

    Attributes:
        cells: (rows, columns) bool, painted over; none where no set that was tried silences the filter.
        before: the filter's peak on the image.
        after: on the edited image.
        limit: below which it counts as silent.
        logits: (2, K), of the image and of the edited one.
    """

    cells: Tensor
    before: float
    after: float
    limit: float
    logits: Tensor

    @property
    def found(self) -> bool:
        """Whether the edit silences the filter."""
        return bool(self.cells.any()) and self.after < self.limit


@torch.no_grad()
def occlusion_order(
    network: nn.Module, image: Tensor, *, layer: str, filters: Tensor, grid: CellGrid, fill: Fill
) -> Tensor:
    """Where some filters look: how far each peak falls when a window over a cell is hidden, (n, rows, columns).

    Args:
        network: any classifier.
        image: (C, H, W), where its parameters lie.
        layer: dotted module name.
        filters: (n,) int64.
        grid: of the cells.
        fill: what hides.
    """
    window, stride = (
        (min(cells * grid.side, grid.size[0]), min(cells * grid.side, grid.size[1]))
        for cells in (WINDOW, STRIDE)
    )
    job = filter_drops(network, image[None], layer, window=window, stride=stride, fill=fill)
    return grid.means(map_of_drops(job.grid, job.drops[0, filters.to(job.drops.device)]).float())


@torch.no_grad()
def smallest_edit(
    network: nn.Module,
    image: Tensor,
    filter_number: int,
    *,
    layer: str,
    grid: CellGrid,
    order: Tensor,
    fill: Fill,
    share: float = 0.5,
    batch_size: int = 64,
) -> Silencing:
    """The fewest cells, as far as the search sees, that silence a filter on an image when they are painted over.

    Args:
        network: any classifier; runs where its parameters lie and keeps its mode.
        image: (C, H, W) in [0, 1], on which the filter fires.
        filter_number: of the layer.
        layer: dotted module name.
        grid: of the cells.
        order: (rows, columns), high where the search begins, see `occlusion_order`.
        fill: what the cells are painted over with, one sample.
        share: of its peak below which the filter counts as silent.
        batch_size: edited images at a time.

    Returns:
        An edit from which no single cell can be given back, with what it does computed again.

    Raises:
        ValueError: a share outside 0 to 1, an order of another grid, or a filter that does not fire on the image.

    Example:
        >>> from interp_cnn.explanation.filters.cells import cell_grid
        >>> from interp_cnn.explanation.occlusion.fills import constant
        >>> network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten())
        >>> _ = nn.init.ones_(network[0].weight)
        >>> image = torch.zeros(1, 6, 6)
        >>> image[0, 2, 5] = 1
        >>> cells, order = cell_grid((6, 6), 3), torch.zeros(3, 3)
        >>> edit = smallest_edit(network, image, 0, layer="1", grid=cells, order=order, fill=constant(0))
        >>> edit.cells.nonzero().tolist(), edit.before, edit.after
        ([[1, 2]], 1.0, 0.0)
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; expected a share of the peak, above 0 and below 1")
    if tuple(order.shape) != grid.shape or tuple(image.shape[1:]) != grid.size:
        given = f"order {tuple(order.shape)} and image {tuple(image.shape)}"
        raise ValueError(f"{given} do not fit a grid of {grid.shape} cells on {grid.size}")
    image = beside(network, image)
    maps, logits = feature_maps_and_logits(network, image[None], layer)
    before = float(maps[0, filter_number].max())
    if not before > 0:
        raise ValueError(
            f"filter {filter_number} has the peak {before:g}; expected an image on which it fires"
        )
    limit = share * before

    def judged(cells: Tensor) -> tuple[Tensor, Tensor]:
        found = edited_maps(
            network, image, cells, filter_number, layer=layer, grid=grid, fill=fill, batch_size=batch_size
        )
        over = (found.double() / limit - (1 - SLACK)).clamp(min=0)
        return found.amax((1, 2)), over.pow(POWER).sum((1, 2))

    start = _beginning(order.cpu(), judged)
    if start is None:
        nothing = torch.zeros(grid.shape, dtype=torch.bool)
        return Silencing(nothing, before, before, limit, logits.expand(2, -1).cpu())
    cells = _pruned(_grown(order.cpu(), start, judged), judged)
    edited = painted_over(image, cells[None], grid, fill)
    maps, edited_logits = feature_maps_and_logits(network, edited, layer)
    after = float(maps[0, filter_number].max())
    return Silencing(cells, before, after, limit, torch.cat((logits, edited_logits)).cpu())


@torch.no_grad()
def edited_maps(
    network: nn.Module,
    image: Tensor,
    cells: Tensor,
    filter_number: int,
    *,
    layer: str,
    grid: CellGrid,
    fill: Fill,
    batch_size: int = 64,
) -> Tensor:
    """The filter's map (B, h, w) on an image (C, H, W) with sets of cells (B, rows, columns) painted over."""
    found = [
        feature_maps(network, painted_over(image, some, grid, fill), layer)[:, filter_number].cpu()
        for some in cells.split(batch_size)
    ]
    return torch.cat(found)


Judged = Callable[
    [Tensor], tuple[Tensor, Tensor]
]  # sets of cells (B, ...) -> peaks and excess (B,); 0 is silent


def _beginning(order: Tensor, judged: Judged) -> Tensor | None:
    """The shortest beginning of the order that was seen to silence: sizes ever larger, then all below the first."""
    ranked = order.flatten().argsort(descending=True, stable=True)
    places = torch.empty_like(ranked)
    places[ranked] = torch.arange(len(ranked))

    def first(sizes: list[int]) -> int | None:
        sets = torch.stack([(places < size).view_as(order) for size in sizes])
        quiet = (judged(sets)[1] == 0).nonzero().flatten().tolist()
        return quiet[0] if quiet else None

    sizes = sizes_up_to(len(ranked))
    found = first(sizes)
    if found is None:
        return None
    between = list(range(sizes[found - 1] + 1 if found else 1, sizes[found] + 1))
    inner = first(between)
    return (places < (between[inner] if inner is not None else sizes[found])).view_as(order)


def _grown(order: Tensor, start: Tensor, judged: Judged) -> Tensor:
    """A set that silences, grown by the block that takes most of the map's excess over the limit, step by step.

    Of the blocks only those are tried that took most when they were last tried, at first by the order. `start`, a set
    that silences, is handed back where growing does not get there with fewer cells.
    """
    side = max(1, min(order.shape) // BLOCKS)
    blocks = []
    for row in range(order.shape[0] - side + 1):
        for column in range(order.shape[1] - side + 1):
            block = torch.zeros_like(start)
            block[row : row + side, column : column + side] = True
            blocks.append(block)
    every = torch.stack(blocks)  # (N, rows, columns)
    gains = (every * order).sum((1, 2)).double()
    gains = gains - gains.max() - 1  # what was tried comes before what was not
    cells, most = torch.zeros_like(start), int(start.sum())
    excess = float(judged(cells[None])[1])
    while int(cells.sum()) < most:
        new = (every & ~cells).any(2).any(1)
        tried = torch.where(new, gains, -torch.inf).argsort(descending=True, stable=True)[:TRIED]
        tried = tried[new[tried]]
        left = judged(cells | every[tried])[1]
        gains[tried] = excess - left
        best = int(left.argmin())
        cells, excess = cells | every[tried[best]], float(left[best])
        if excess == 0:
            return cells
    return start


def _pruned(cells: Tensor, judged: Judged) -> Tensor:
    """A subset of a set of cells that silences from which no cell can be taken."""
    while True:
        members = cells.nonzero()
        if len(members) == 1:
            return cells
        peaks, excess = judged(_without(cells, [members[place : place + 1] for place in range(len(members))]))
        order = torch.where(excess == 0, peaks, torch.inf).argsort(stable=True)[: int((excess == 0).sum())]
        if not len(order):
            return cells
        counts = [count for count in sizes_up_to(len(order)) if count < len(members)]
        trials = _without(cells, [members[order[:count]] for count in counts])
        quiet = (judged(trials)[1] == 0).nonzero().flatten()
        cells = trials[int(quiet[-1]) if len(quiet) else 0]  # one alone was seen to do


def _without(cells: Tensor, taken: list[Tensor]) -> Tensor:
    """Copies of a set of cells without some of its members (n, 2) each."""
    copies = cells.repeat(len(taken), 1, 1)
    for copy, members in zip(copies, taken, strict=True):
        copy[members[:, 0], members[:, 1]] = False
    return copies


def sizes_up_to(most: int) -> list[int]:
    """1, 2, 3, ... in ever larger steps, and the largest itself.

    Example:
        >>> sizes_up_to(20)
        [1, 2, 3, 4, 6, 8, 11, 15, 20]
    """
    sizes = [1]
    while sizes[-1] < most:
        sizes.append(min(most, max(sizes[-1] + 1, int(sizes[-1] * STEP) + 1)))
    return sizes
