"""Which pixels a cell of a feature map sees, by exact arithmetic over the network's graph.

Cell i of a layer sees, along each axis, the pixels  first + stride * i  ...  last + stride * i.  The image
itself has stride 1 and first = last = 0. A window (convolution or pooling) with kernel k, step t, padding p
and dilation d turns (stride s, first, last) into

    stride' = s * t,    first' = first - s * p,    last' = last + s * (d * (k - 1) - p)

and where branches meet (residual, inception, dense blocks) the interval is the union. The receptive-field
centre of a peak, (first + last) / 2 + stride * i, is the filter's inferred position in the image (Zhang, Wu,
Zhu, CVPR 2018, section 4.2). The formulas are those of Araujo, Norris, Sim, "Computing Receptive Fields of
Convolutional Neural Networks", Distill 2019.

The graph comes from torch.fx; `receptive_graph` follows it. A `PartMask` is
pointwise. A gate from a global average (squeeze and excitation) reaches every cell in the same way and
says nothing about its place: it is left out, and `sees_everything` says so. Where torch.fx cannot follow the
network, the support of the gradient on noise images is measured instead, and a log message says so once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.feature_maps import evaluation_mode, feature_maps, named_layer
from interp_cnn.explanation.network.layers import layer_name
from interp_cnn.explanation.receptive_field.graph import follow
from interp_cnn.explanation.receptive_field.rules import CannotFollowError

logger = logging.getLogger(__name__)
_warned: set[str] = set()

NOISE_IMAGES = 8
MEASURED_CELLS = 24


@dataclass(frozen=True)
class ReceptiveField:
    """Affine map from cells to pixels, per axis in (row, column) order; pixel coordinates are 0-based pixel
    centres.

    Attributes:
        stride: pixels between neighbouring cells.
        size: pixels that a cell sees, padding included.
        start: receptive-field centre of the cell (0, 0); may lie outside the image.
        grid: (h, w) of the layer for this image size.
        image_size: (H, W).
        sees_everything: True where a global average (a gate) lets every cell see the whole image faintly.
        exact: False where the field was measured by gradients.
    """

    stride: tuple[float, float]
    size: tuple[float, float]
    start: tuple[float, float]
    grid: tuple[int, int]
    image_size: tuple[int, int]
    sees_everything: bool = False
    exact: bool = True

    def centres(self, positions: Tensor) -> Tensor:
        """Centres (..., 2) in pixels, float, of cells `positions` (..., 2), both (row, column)."""
        dtype = positions.dtype if positions.is_floating_point() else torch.get_default_dtype()
        stride = torch.tensor(self.stride, dtype=dtype, device=positions.device)
        start = torch.tensor(self.start, dtype=dtype, device=positions.device)
        return start + stride * positions.to(dtype)

    def boxes(self, positions: Tensor, *, clip: bool = False) -> Tensor:
        """Boxes (..., 4) = (left, top, right, bottom) of cells `positions` (..., 2).

        Left and top are the first pixel inside, right and bottom the first beyond, so `image[top:bottom,
        left:right]` is the patch and right - left its width. With `clip` the boxes end at the image's border.
        """
        centres = self.centres(positions)
        half = torch.tensor(self.size, dtype=centres.dtype, device=centres.device) / 2
        top_left, bottom_right = centres - half + 0.5, centres + half + 0.5
        if clip:
            limit = torch.tensor(self.image_size, dtype=centres.dtype, device=centres.device)
            top_left, bottom_right = (
                top_left.clamp(min=0).minimum(limit),
                bottom_right.clamp(min=0).minimum(limit),
            )
        return torch.cat((top_left.flip(-1), bottom_right.flip(-1)), dim=-1)

    def cell_centres(self) -> Tensor:
        """Centres (h*w, 2) of all cells in row-major order: every position that a filter can report."""
        rows, columns = (torch.arange(size) for size in self.grid)
        return self.centres(torch.cartesian_prod(rows, columns).reshape(-1, 2))


def receptive_field(
    network: nn.Module, layer: str | nn.Module, image_size: tuple[int, int], channels: int = 3
) -> ReceptiveField:
    """Receptive field of the cells of `layer`.

    Args:
        network: any classifier; runs once on one blank image, where its parameters lie.
        layer: dotted module name, or the module.
        image_size: (H, W) in pixels.
        channels: C of the images.

    Raises:
        ValueError: unknown layer, or one whose output is no map (B, D, h, w).

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
        >>> field = receptive_field(network, network[2], (8, 8))
        >>> field.size, field.stride, field.grid
        ((4, 4), (2, 2), (3, 3))
    """
    layer = layer_name(network, layer)
    named_layer(network, layer)
    parameter = next(network.parameters(), torch.zeros(()))
    blank = torch.zeros(1, channels, *image_size, device=parameter.device, dtype=parameter.dtype)
    try:
        with evaluation_mode(network):
            field, grid = follow(network, layer, blank)
    except CannotFollowError as reason:
        key = f"{type(network).__name__}:{layer}"
        if key not in _warned:
            _warned.add(key)
            logger.warning("receptive field of %s measured by gradients: %s", key, reason)
        return measured_receptive_field(network, layer, image_size, channels)
    return ReceptiveField(
        stride=(field.rows.stride, field.columns.stride),
        size=(field.rows.last - field.rows.first + 1, field.columns.last - field.columns.first + 1),
        start=((field.rows.first + field.rows.last) / 2, (field.columns.first + field.columns.last) / 2),
        grid=grid,
        image_size=(int(image_size[0]), int(image_size[1])),
        sees_everything=field.sees_everything,
    )


def measured_receptive_field(
    network: nn.Module, layer: str | nn.Module, image_size: tuple[int, int], channels: int = 3
) -> ReceptiveField:
    """Receptive field from the support of the gradient of single cells on noise images: a lower bound of the
    exact one.

    Ends that touch the image's border say nothing, so stride, first and last pixel come from the other cells;
    where every cell sees the whole image, the centre of mass of the gradient is taken instead.
    """
    layer = layer_name(network, layer)
    parameter = next(network.parameters(), torch.zeros(()))
    noise = torch.rand(NOISE_IMAGES, channels, *image_size, generator=torch.Generator().manual_seed(0))
    noise = noise.to(parameter.device, parameter.dtype)
    with evaluation_mode(network):
        _, _, rows, columns = feature_maps(network, noise[:1], layer).shape
        grid = (rows, columns)
        stride_r, first_r, last_r = _measured_axis(network, layer, noise, grid, axis=0)
        stride_c, first_c, last_c = _measured_axis(network, layer, noise, grid, axis=1)
    size = (last_r - first_r + 1, last_c - first_c + 1)
    return ReceptiveField(
        stride=(stride_r, stride_c),
        size=size,
        start=((first_r + last_r) / 2, (first_c + last_c) / 2),
        grid=grid,
        image_size=(int(image_size[0]), int(image_size[1])),
        sees_everything=any(seen >= length for seen, length in zip(size, image_size, strict=True)),
        exact=False,
    )


def _measured_axis(
    network: nn.Module, layer: str, noise: Tensor, grid: tuple[int, int], axis: int
) -> tuple[float, float, float]:
    """(stride, first, last) along one axis, from cells in the middle of the other axis."""
    pixels, cells = noise.shape[2 + axis], grid[axis]
    count = min(cells, MEASURED_CELLS)
    chosen = torch.linspace(0, cells - 1, count).round().long().unique().tolist()
    firsts, lasts, masses = [], [], []
    for cell in chosen:
        position = (cell, grid[1] // 2) if axis == 0 else (grid[0] // 2, cell)
        profile = _gradient_of_cell(network, layer, noise, position).sum(dim=1 - axis)  # (pixels,)
        seen = profile.nonzero().flatten()
        if len(seen) == 0:
            continue
        firsts.append((cell, int(seen[0])))
        lasts.append((cell, int(seen[-1])))
        masses.append((cell, float((profile * torch.arange(pixels)).sum() / profile.sum())))
    if not masses:
        raise ValueError(
            f"layer {layer!r} has no gradient with respect to the image; expected one to measure"
        )
    inner_firsts = [end for end in firsts if end[1] > 0]
    inner_lasts = [end for end in lasts if end[1] < pixels - 1]
    slopes = [_slope(ends) for ends in (inner_firsts, inner_lasts) if len(ends) > 1]
    if slopes and inner_firsts and inner_lasts:
        stride = sum(slopes) / len(slopes)
        first = min(pixel - stride * cell for cell, pixel in inner_firsts)
        last = max(pixel - stride * cell for cell, pixel in inner_lasts)
        return stride, first, last
    stride = pixels / cells if len(masses) < 2 else _slope(masses)
    middle = sum(mass - stride * cell for cell, mass in masses) / len(masses)
    half = (max(end[1] for end in lasts) - min(end[1] for end in firsts)) / 2
    return stride, middle - half, middle + half


def _gradient_of_cell(network: nn.Module, layer: str, noise: Tensor, position: tuple[int, int]) -> Tensor:
    """|gradient| (H, W), summed over images and channels, of one cell's sum over channels with random
    signs.
    """
    outputs: list[Tensor] = []
    handle = named_layer(network, layer).register_forward_hook(
        lambda _m, _i, output: outputs.append(output.clone())
    )
    images = noise.clone().requires_grad_()
    try:
        with torch.enable_grad():
            network(images)
            cell = outputs[-1][:, :, position[0], position[1]]  # (B, D)
            signs = torch.randn(cell.shape, generator=torch.Generator().manual_seed(1)).to(cell)
            (gradient,) = torch.autograd.grad((cell * signs).sum(), images)
    finally:
        handle.remove()
    return gradient.abs().double().sum(dim=(0, 1)).cpu()


def _slope(ends: list[tuple[int, float]]) -> float:
    """Least-squares slope of pixel against cell."""
    cells = torch.tensor([float(cell) for cell, _ in ends], dtype=torch.float64)
    values = torch.tensor([float(value) for _, value in ends], dtype=torch.float64)
    centred = cells - cells.mean()
    return float((centred * values).sum() / (centred * centred).sum())
