"""A part moves with the image: the loss that asks a filter's position to follow a known change of the view.

No part is annotated, but whoever makes a second view of a training image (mirrored, zoomed, shifted, recoloured)
knows where each of its points has gone. With the posterior mean of the position under the part templates,

    p(T_mu | x) ~ exp(temperature x <x / scale, T_mu>)        v = sum_mu p(T_mu | x) mu

the loss of a filter compares its position in the view, v', with the place e(v) where its position in the image
has gone, relative to what a filter that always answers "the middle" would miss:

    loss = sum w |v' - e(v)|^2 / (sum w  x  mean |e(0)|^2)         0 follows exactly, 1 no better than a constant

w counts pairs in which the filter fires in both views and the place lies inside the second. A filter without a
definite place (colour, texture) has a position near the middle that does not move, and pays.

Source: equivariance as supervision follows Thewlis, Bilen, Vedaldi, Unsupervised learning of object landmarks by
factorized spatial embeddings, ICCV 2017; templates and posterior are those of Zhang, Wu, Zhu, CVPR 2018.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from interp_cnn.model.templates import expected_positions

LARGEST_WEIGHT = 4.0  # a pair of maps twice as high as usual counts four times, not more


class View(NamedTuple):
    """Second views of a batch; a point q of the view shows the point `matrix` q + `offset` of the image.

    Points are (x, y) from -1 (outer edge, left or top) to 1.
    """

    images: Tensor  # (B, C, H, W)
    matrix: Tensor  # (B, 2)  the diagonal: mirror and zoom
    offset: Tensor  # (B, 2)

    def places(self, points: Tensor) -> Tensor:
        """Where points (B, D, 2) of the images lie in the views; beyond -1 and 1 they are not seen."""
        return (points - self.offset[:, None]) / self.matrix[:, None]


def random_view(
    images: Tensor,
    generator: torch.Generator | Sequence[torch.Generator],
    *,
    flip: bool = True,
    zoom: float = 0.25,
    shift: float = 0.15,
    colour: float = 0.5,
) -> View:
    """One random view of every image, mirrored at the border.

    Args:
        images: (B, C, H, W) in [0, 1].
        generator: on the CPU; or one for each image, whose view then depends on no other image.
        flip: mirror every second view, left to right.
        zoom: largest zoom, a factor in [1 / (1 + zoom), 1 + zoom].
        shift: largest shift as a share of the side.
        colour: as `data.augmentation.colour`: saturation and brightness are not to be relied on.
    """
    batch = len(images)
    if isinstance(generator, torch.Generator):
        draws = torch.rand(batch, 10, generator=generator)
    else:
        draws = torch.stack([torch.rand(10, generator=image_generator) for image_generator in generator])
    draws = draws.to(images)
    scale = ((2 * draws[:, 0] - 1) * math.log1p(zoom)).exp()
    side = torch.where((draws[:, 1] < 0.5) & flip, -1.0, 1.0)
    matrix = torch.stack([side / scale, 1 / scale], dim=1)
    offset = (2 * draws[:, 2:4] - 1) * 2 * shift
    theta = torch.cat([matrix.diag_embed(), offset[:, :, None]], dim=2)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    seen = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    faded = torch.where(draws[:, 4] < colour, draws[:, 5], 0.0)[:, None, None, None]
    seen = torch.lerp(seen, seen.mean(1, keepdim=True).expand_as(seen), faded)
    gains = ((2 * draws[:, 6:] - 1) * math.log1p(colour)).exp()
    gains = (gains[:, :3] ** 0.5 * gains[:, 3:])[:, : images.shape[1]]  # each channel's and the whole image's
    return View((seen * gains[:, :, None, None]).clamp(0, 1), matrix, offset)


def equivariance_loss(posterior: Tensor, heights: Tensor, view: View, grid: tuple[int, int]) -> Tensor:
    """Mean squared miss of the positions in the views, relative to a constant's; ().

    Args:
        posterior: (2 B, D, h * w) `position_posterior` of the maps of the images, then of their views.
        heights: (2 B, D) peaks of these maps, 1 where they are as high as usual.
        view: of the images.
        grid: (h, w).
    """
    before, after = expected_positions(posterior, *grid).chunk(2)  # (B, D, 2)
    places = view.places(before)
    first, second = heights.detach().chunk(2)
    weight = (first * second).clamp(max=LARGEST_WEIGHT) * (places.detach().abs() < 1).all(-1)
    missed = (weight * (after - places).square().sum(-1)).sum()
    middle = view.places(torch.zeros_like(before[:, :1])).square().sum(-1).mean()
    return missed / (weight.sum() * middle).clamp(min=1e-6)


def crowding_loss(posterior: Tensor, heights: Tensor) -> Tensor:
    """How much the filters of an image look at one and the same place; ().

    1 - H(mean over filters of p(T | x), weighted by their peaks) / log(h w): 0 when the filters together cover
    the image evenly, 1 when all look at one cell. The arguments are those of `equivariance_loss`.

    Source: the diversity term of Thewlis, Bilen, Vedaldi, ICCV 2017, for more filters than places.
    """
    weight = heights.detach().clamp(max=LARGEST_WEIGHT**0.5)
    covered = torch.einsum("bd,bdt->bt", weight, posterior) / weight.sum(1, keepdim=True).clamp(min=1e-6)
    entropy = -(covered * covered.clamp(min=1e-12).log()).sum(1)
    return 1 - entropy.mean() / math.log(posterior.shape[2])
