"""What becomes of the score while an image is taken apart in the order that a relevance map says.

Regions r_1 ... r_L are replaced one after another, the most relevant first (MoRF), the least relevant first (LeRF), or
in random order. A map that knows what matters makes MoRF fall fast and LeRF late:

    AOPC = 1/(L+1) sum_k f(x) - f(x_k)        ABPC = 1/(L+1) sum_k f(x_k, LeRF) - f(x_k, MoRF)
    SRG  = area under LeRF - area under MoRF, over the share of the image that is replaced (trapezoids)

Pixel flipping: Bach et al., PLOS ONE 2015. AOPC: Samek et al., IEEE TNNLS 2017. SRG: Bluecher et al., TMLR 2024, who
show that one curve ranks methods differently for every replacement, the difference of both does not. Deletion and
insertion: Petsiuk et al., BMVC 2018.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.logits import check_count, check_question, evaluation_mode, target_logits
from interp_cnn.explanation.occlusion.fills import Fill, blur, constant


class Curves(NamedTuple):
    """The target's score while regions are replaced: (B, steps + 1) each, from the whole image on."""

    logit: Tensor
    probability: Tensor


class Regions:
    """Square regions that tile an image, cut at the lower and right border.

    Attributes:
        of_pixel: (H, W), the number of each pixel's region.
        count: L.
    """

    def __init__(self, size: tuple[int, int], side: int = 1) -> None:
        check_count(side=side)
        rows, columns = (torch.arange(length) // side for length in size)
        self.of_pixel = rows[:, None] * (int(columns[-1]) + 1) + columns
        self.count = int(self.of_pixel.max()) + 1

    def means(self, maps: Tensor) -> Tensor:
        """The mean over each region: (B, H, W) -> (B, L)."""
        sums = self.sums(maps)
        return sums / self.sums(torch.ones_like(maps[:1]))

    def sums(self, maps: Tensor) -> Tensor:
        """The sum over each region: (B, H, W) -> (B, L), in double precision."""
        found = maps.new_zeros(len(maps), self.count, dtype=torch.float64)
        return found.index_add_(1, self.of_pixel.flatten().to(maps.device), maps.flatten(1).double())


def most_relevant_first(values: Tensor) -> Tensor:
    """The order of regions by falling value, ties in their own order: (B, L) -> (B, L)."""
    return values.argsort(dim=1, descending=True, stable=True)


def random_order(images: int, regions: int, generator: torch.Generator) -> Tensor:
    """A random order of regions for each image, (images, regions)."""
    return torch.rand(images, regions, generator=generator, dtype=torch.float64).argsort(dim=1)


def replaced_shares(steps: int, *, most: float = 1.0) -> Tensor:
    """Shares of the regions that are replaced after 0, 1, ... `steps` steps: (steps + 1,) up to `most`."""
    check_count(steps=steps)
    if not 0 < most <= 1:
        raise ValueError(f"most must be a share of the regions, above 0 and at most 1, got {most}")
    return torch.linspace(0, most, steps + 1, dtype=torch.float64)


@torch.no_grad()
def score_curves(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    order: Tensor,
    *,
    regions: Regions,
    shares: Tensor,
    fill: Fill,
    batch_size: int = 64,
) -> Curves:
    """The target's logit and probability while regions are replaced in an order.

    All steps of all images run through the network in batches; a fill with several samples is averaged.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W).
        targets: (B,) classes.
        order: (B, L) regions, the first to be replaced first.
        regions: what is replaced at once.
        shares: (S + 1,) shares of the regions that are replaced at each point.
        fill: what takes their place.
        batch_size: images in one pass.
    """
    images, targets = check_question(images, targets)
    if order.shape != (len(images), regions.count):
        raise ValueError(
            f"order must be ({len(images)}, {regions.count}), a place for each region, got {tuple(order.shape)}"
        )
    place = torch.empty_like(order).scatter_(1, order, torch.arange(regions.count).expand_as(order))
    rank = place[:, regions.of_pixel]  # (B, H, W)
    counts = (shares * regions.count).round().long()
    pairs = torch.cartesian_prod(torch.arange(len(images)), torch.arange(len(counts)))
    logits, chances = images.new_zeros(2, len(pairs), dtype=torch.float64)
    with evaluation_mode(network):
        for start in range(0, len(pairs), batch_size):
            image, step = pairs[start : start + batch_size].unbind(1)
            hidden = (rank[image] < counts[step][:, None, None])[:, None]
            for sample in range(fill.samples):
                answers = network(fill(images[image], hidden, sample))
                own = targets[image]
                here = slice(start, start + len(image))
                logits[here] += target_logits(answers, own).double() / fill.samples
                chances[here] += target_logits(answers, own).sub(answers.logsumexp(1)).exp() / fill.samples
    return Curves(logits.view(len(images), -1), chances.view(len(images), -1))


def aopc(curve: Tensor) -> Tensor:
    """Area over the perturbation curve, (B, S + 1) -> (B,)."""
    return (curve[:, :1] - curve).mean(1)


def abpc(least_first: Tensor, most_first: Tensor) -> Tensor:
    """Area between the perturbation curves, two (B, S + 1) -> (B,)."""
    return (least_first - most_first).mean(1)


def area_under(curve: Tensor) -> Tensor:
    """Area under a curve over [0, 1] by trapezoids, (B, S + 1) -> (B,)."""
    return torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1), dim=1)


def symmetric_relevance_gain(least_first: Tensor, most_first: Tensor) -> Tensor:
    """SRG: area under LeRF minus area under MoRF, two (B, S + 1) -> (B,)."""
    return area_under(least_first) - area_under(most_first)


def deletion(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    steps: int = 28,
    batch_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """The target's probability while pixels become black, most relevant first: curve (B, steps + 1), area (B,)."""
    regions = Regions(tuple(images.shape[2:]))
    order, shares = most_relevant_first(maps.flatten(1)), replaced_shares(steps)
    options = {"regions": regions, "shares": shares, "batch_size": batch_size}
    curve = score_curves(network, images, targets, order, fill=constant(0.0), **options).probability
    return curve, area_under(curve)


def insertion(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    steps: int = 28,
    batch_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """The target's probability while a blurred image becomes sharp, most relevant pixels first: curve, area.

    The same images as when the least relevant pixels are blurred first, seen from the other end.
    """
    regions = Regions(tuple(images.shape[2:]))
    order, shares = most_relevant_first(maps.flatten(1)).flip(1), replaced_shares(steps)
    options = {"regions": regions, "shares": shares, "batch_size": batch_size}
    curve = score_curves(network, images, targets, order, fill=blur(11, 5.0), **options).probability.flip(1)
    return curve, area_under(curve)
