"""What a layer's filters bring to a logit, as one map over the image: where the decision comes from, cell by cell.

    filter_evidence    A_ij = sum_d R_dij            what all filters bring in a cell, for and against the class
    filter_maps        A_ij = sum_d max(s_d, 0) x_dij / sum_ij x_dij
                       each filter's map (behind its mask), weighted by what the filter brings to the logit where that
                       is above zero: where the filters look that speak for the class

R_dij is the share of a cell of a filter in the logit, s_d their sum (`contributions`). A cell's value stands in
the pixels that it takes of an even division of the image.
"""

import torch
from torch import Tensor
from torch.nn import functional

from interp_cnn.explanation.decisions.contributions import Contributions


def filter_evidence(contributions: Contributions, size: tuple[int, int]) -> Tensor:
    """What the filters bring in each place, (B, H, W) for images of `size`: in each pixel the sum of its cell."""
    return _in_pixels(contributions.maps.sum(1), size)


def filter_maps(contributions: Contributions, size: tuple[int, int]) -> Tensor:
    """Where the filters look that speak for the class, (B, H, W) for images of `size`, nowhere below zero."""
    maps = contributions.activations.clamp(min=0)
    total = maps.sum((2, 3), keepdim=True)
    weights = contributions.shares.clamp(min=0)[:, :, None, None]
    return _in_pixels((torch.where(total > 0, maps / total, 0.0) * weights).sum(1), size)


def _in_pixels(cells: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(cells[:, None], size, mode="nearest-exact")[:, 0]
