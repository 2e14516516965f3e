"""What becomes of the score while an image is taken apart in the order that a relevance map says.

Regions r_1 ... r_L are replaced one after another, the most relevant first (MoRF), the least relevant first (LeRF), or
in random order. A map that knows what matters makes MoRF fall fast and LeRF late:

    SRG = area under LeRF - area under MoRF, over the share of the image that is replaced (trapezoids)

Pixel flipping: Bach et al., PLOS ONE 2015. SRG: Bluecher et al., TMLR 2024, who
show that one curve ranks methods differently for every replacement, the difference of both does not. Deletion and
insertion: Petsiuk et al., BMVC 2018.

Regions of equal relevance share their fate: a curve is the mean over orders that differ in how ties are broken
(`most_relevant_first`), so that it does not depend on where in the image the tied regions lie.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.logits import (
    check_count,
    check_question,
    checked_evaluation,
    logits_of_images,
    target_logits,
)
from interp_cnn.explanation.occlusion.fills import Fill, blur, constant

TIE_DRAWS = 4  # orders of tied regions that a curve is averaged over


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
        sums = maps.new_zeros(len(maps), self.count, dtype=torch.float64)
        return sums.index_add_(1, self.of_pixel.flatten().to(maps.device), maps.flatten(1).double())


def most_relevant_first(values: Tensor, *, draws: int = TIE_DRAWS, seed: int = 0) -> Tensor:
    """Orders of regions by falling value that differ in the places of equal values alone.

    Ties are broken by random permutations of the regions, each followed by its reverse, so that of two tied regions
    each comes first in half of the orders. They depend on the seed alone: an image has the same orders whatever else
    is in the batch, and maps of the same image break their ties alike.

    Args:
        values: (B, L).
        draws: n, even.
        seed: of the permutations.

    Returns:
        (n, B, L) region numbers; (1, B, L) where nothing is tied.
    """
    if draws < 2 or draws % 2:
        raise ValueError(f"draws is {draws}; expected an even number, 2 or more")
    generator = torch.Generator().manual_seed(seed)
    half = [torch.randperm(values.shape[1], generator=generator) for _ in range(draws // 2)]
    orders = []
    for first in (permutation for drawn in half for permutation in (drawn, drawn.flip(0))):
        first = first.to(values.device)
        orders.append(first[values[:, first].argsort(dim=1, descending=True, stable=True)])
    ordered = values.gather(1, orders[0])
    tied = (ordered[:, 1:] == ordered[:, :-1]).any()
    return torch.stack(orders if tied else orders[:1])


def random_order(images: int, regions: int, generator: torch.Generator) -> Tensor:
    """A random order of regions for each image, (images, regions)."""
    return torch.rand(images, regions, generator=generator, dtype=torch.float64).argsort(dim=1)


def replaced_shares(steps: int) -> Tensor:
    """Shares of the regions that are replaced after 0, 1, ... `steps` steps: (steps + 1,) up to 1."""
    check_count(steps=steps)
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


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

    All steps of all images run through the network in batches; a fill with several samples is averaged, and so are
    several orders. What is replaced alike in several orders is asked once.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W).
        targets: (B,) classes.
        order: (B, L) regions, the first to be replaced first; or (n, B, L), n orders to average over.
        regions: what is replaced at once.
        shares: (S + 1,) shares of the regions that are replaced at each point.
        fill: what takes their place.
        batch_size: images in one pass.
    """
    images, targets = check_question(images, targets)
    orders = order if order.ndim == 3 else order[None]
    if orders.shape[1:] != (len(images), regions.count):
        raise ValueError(
            f"order has shape {tuple(order.shape)}; expected a place for each region, ({len(images)}, {regions.count})"
        )
    places = torch.empty_like(orders).scatter_(
        2, orders, torch.arange(regions.count, device=orders.device).expand_as(orders)
    )
    counts = (shares * regions.count).round().long().to(orders.device)
    replaced = places[:, :, None] < counts[:, None]  # (n, B, S + 1, L)
    new = (replaced != replaced[:1]).any(dim=3)
    new[0] = True
    entries = new.nonzero()  # (order, image, step)
    logits, chances = torch.zeros(2, len(entries), dtype=torch.float64, device=images.device)
    of_pixel = regions.of_pixel.to(orders.device)
    with checked_evaluation(network, images):
        for start in range(0, len(entries), batch_size):
            number, image, step = entries[start : start + batch_size].unbind(1)
            hidden = replaced[number, image, step][:, of_pixel][:, None].to(images.device)
            image = image.to(images.device)
            for sample in range(fill.samples):
                answers = logits_of_images(network, fill(images[image], hidden, sample))
                classes = targets[image]
                here = slice(start, start + len(image))
                logits[here] += target_logits(answers, classes).double() / fill.samples
                chances[here] += (
                    target_logits(answers, classes).sub(answers.logsumexp(1)).exp() / fill.samples
                )
    return Curves(*(_over_orders(values, new.to(values.device)) for values in (logits, chances)))


def _over_orders(values: Tensor, new: Tensor) -> Tensor:
    """(B, S + 1) means over the orders of `values`, one for each True of `new` (n, B, S + 1); elsewhere those of the
    first order count again.
    """
    each = values.new_zeros(new.shape)
    each[new] = values
    return each.where(new, each[:1]).mean(0)


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
    regions = Regions((images.shape[2], images.shape[3]))
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
    regions = Regions((images.shape[2], images.shape[3]))
    order, shares = most_relevant_first(maps.flatten(1)).flip(2), replaced_shares(steps)
    options = {"regions": regions, "shares": shares, "batch_size": batch_size}
    curve = score_curves(network, images, targets, order, fill=blur(11, 5.0), **options).probability.flip(1)
    return curve, area_under(curve)
