"""Does relevance lie where the object is? Maps against masks; an image with an empty mask has no answer, NaN.

Pointing game: is the maximum inside (J. Zhang et al., IJCV 2018)? Relevance mass accuracy: the share of the positive
relevance that lies inside (`shares`). Relevance rank accuracy: of the K most relevant pixels, K the size of the mask,
the share inside (L. Arras et al., Information Fusion 2022). A random map scores the mask's share of the image in all
three.

Pixels that are equally relevant share their places: where the maximum, or the K-th place, is shared, the share of the
mask among those pixels counts.
"""

import torch
from torch import Tensor


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the maximum lies inside: (B, H, W), (B, H, W) bool -> (B,) in [0, 1]."""
    values, inside = _flat(maps, masks)
    highest = values == values.amax(1, keepdim=True)
    return _known(inside, (highest & inside).double().sum(1) / highest.double().sum(1))


def rank_accuracy(maps: Tensor, masks: Tensor) -> Tensor:
    """Of the K most relevant pixels, K those of the mask, the share inside, (B,)."""
    values, inside = _flat(maps, masks)
    size = inside.sum(1, keepdim=True)
    ordered = values.sort(dim=1, descending=True).values
    last = ordered.gather(1, (size - 1).clamp(min=0))
    above, tied = values > last, values == last
    left = size[:, 0] - above.sum(1)  # places for the pixels that share the last one
    hits = (above & inside).sum(1) + left * (tied & inside).sum(1) / tied.sum(1)
    return _known(inside, hits.double() / size[:, 0])


def shares(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of a map's positive part on each of M masks: (B, H, W), (B, M, H, W) -> (B, M); NaN where none."""
    positive = maps.double().clamp(min=0)
    return (positive[:, None] * masks).sum((2, 3)) / positive.sum((1, 2))[:, None]


def _flat(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    if maps.ndim != 3 or maps.shape != masks.shape or masks.dtype != torch.bool:
        raise ValueError(
            f"masks must be bool and as large as the maps {tuple(maps.shape)}, "
            f"got {str(masks.dtype).removeprefix('torch.')} {tuple(masks.shape)}"
        )
    return maps.flatten(1).double(), masks.flatten(1)


def _known(inside: Tensor, values: Tensor) -> Tensor:
    return torch.where(inside.any(1), values, torch.nan)
