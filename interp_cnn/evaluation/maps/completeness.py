"""Do the values of a relevance map add up to what hiding their pixels does to the score?

Completeness asks it of the whole image: sum A = f(x) - f(b). Sensitivity-n (M. Ancona et al., ICLR 2018) asks it of
random sets S of n pixels: the correlation between sum of A over S and f(x) - f(x without S); infidelity (C.-K. Yeh et
al., NeurIPS 2019) takes the mean squared difference of the two. For a linear network and A = w (x - b) the correlation
is 1 and the infidelity 0.

What hiding does is measured once (`removals`) and serves any number of maps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.logits import check_question, checked_evaluation, scores
from interp_cnn.explanation.occlusion.fills import Fill


class Completeness(NamedTuple):
    """How a map's sum compares with what it should be, (B,) each.

    Attributes:
        delta: sum - expected.
        ratio: sum / expected.
        error: |sum - expected| / |expected|.
    """

    delta: Tensor
    ratio: Tensor
    error: Tensor


def completeness(sums: Tensor, expected: Tensor) -> Completeness:
    """Compare what maps sum to, (B,), with what they should sum to, (B,); NaN where nothing is expected."""
    delta = sums - expected
    return Completeness(delta, sums / expected, delta.abs() / expected.abs())


class Removals(NamedTuple):
    """Random sets of pixels and what their absence does.

    Attributes:
        subsets: (R, H, W) bool, the same for every image.
        drops: (B, R), f(x) - f(x with the set replaced).
    """

    subsets: Tensor
    drops: Tensor


def random_pixels(size: tuple[int, int], count: int, number: int, generator: torch.Generator) -> Tensor:
    """`number` random sets of `count` pixels each, (number, H, W) bool."""
    pixels = size[0] * size[1]
    if not 1 <= count <= pixels:
        raise ValueError(f"count must be between 1 and the {pixels} pixels of the image, got {count}")
    keys = torch.rand(number, pixels, generator=generator, dtype=torch.float64)
    chosen = keys.argsort(dim=1)[:, :count]
    return torch.zeros(number, pixels, dtype=torch.bool).scatter_(1, chosen, True).view(number, *size)


def random_squares(size: tuple[int, int], number: int, generator: torch.Generator) -> Tensor:
    """`number` squares of random side and place, as in the paper of infidelity, (number, H, W) bool."""
    sides = torch.randint(1, min(size) + 1, (number,), generator=generator)
    squares = torch.zeros(number, *size, dtype=torch.bool)
    for square, side in zip(squares, sides.tolist(), strict=True):
        top, left = (int(torch.randint(n - side + 1, (), generator=generator)) for n in size)
        square[top : top + side, left : left + side] = True
    return squares


@torch.no_grad()
def removals(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    subsets: Tensor,
    *,
    fill: Fill,
    batch_size: int = 64,
) -> Removals:
    """What the absence of each set of pixels does to the target's logit.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W).
        targets: (B,) classes.
        subsets: (R, H, W) bool.
        fill: what takes the pixels' place; its samples are averaged.
        batch_size: images in one pass.
    """
    images, targets = check_question(images, targets)
    pairs = torch.cartesian_prod(torch.arange(len(images)), torch.arange(len(subsets)))
    left = []
    with checked_evaluation(network, images):
        whole = scores(network, images, targets).double()
        for image, subset in (part.unbind(1) for part in pairs.split(batch_size)):
            hidden = subsets[subset][:, None]
            draws = [fill(images[image], hidden, sample) for sample in range(fill.samples)]
            logits = [scores(network, draw, targets[image]).double() for draw in draws]
            left.append(torch.stack(logits).mean(0))
    return Removals(subsets, whole[:, None] - torch.cat(left).view(len(images), len(subsets)))


def removed_relevance(maps: Tensor, subsets: Tensor) -> Tensor:
    """The relevance inside each set: (B, H, W), (R, H, W) -> (B, R)."""
    return maps.flatten(1).double() @ subsets.flatten(1).double().T


def sensitivity_n(maps: Tensor, removals_of_images: Removals) -> Tensor:
    """Pearson correlation over the sets between relevance and drop, (B,); NaN where one of them does not vary."""
    relevance, drops = (
        values - values.mean(1, keepdim=True)
        for values in (removed_relevance(maps, removals_of_images.subsets), removals_of_images.drops)
    )
    norms = relevance.norm(dim=1) * drops.norm(dim=1)
    return torch.where(norms > 0, (relevance * drops).sum(1) / norms, torch.nan)


def infidelity(maps: Tensor, removals_of_images: Removals, *, scaled: bool = False) -> Tensor:
    """Mean squared difference between relevance and drop over the sets, (B,).

    Args:
        maps: (B, H, W), each pixel's contribution to the logit.
        removals_of_images: the sets and their drops.
        scaled: compare the best multiple of the map, so that units do not matter (the paper's normalisation).
    """
    relevance = removed_relevance(maps, removals_of_images.subsets)
    if scaled:
        power = relevance.square().sum(1, keepdim=True)
        factor = (relevance * removals_of_images.drops).sum(1, keepdim=True) / power
        relevance = relevance * torch.where(power > 0, factor, 0.0)
    return (relevance - removals_of_images.drops).square().mean(1)
