"""What is left of a decision without its filters: they are switched off one by one, and the logit is looked at.

A filter is off where its map is zero. Three orders: those that speak for the class most first, those that speak against
it most first (the least relevant first), and at random. Shares that tell the truth let the logit fall fastest in the
first order and last in the second; the area between the two curves measures it, the random order lies between.

Every point is a pass of the head that `Head` keeps, and no sum of shares: where the head is linear the two agree, and
that is a check, not an assumption.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_cnn.explanation.decisions.contributions import Contributions
from interp_cnn.explanation.decisions.head import Head
from interp_cnn.explanation.network.logits import check_images, checked_evaluation, seeded
from interp_cnn.explanation.network.precision import precision
from interp_cnn.storage.brief import Brief

EVIDENCE = 0.9
RANDOM_ORDERS = 4
BYTES = 1 << 28  # of maps in one pass


@dataclass(frozen=True, eq=False, repr=False)
class Removal(Brief):
    """What a network answers to one image while P times filters are switched off.

    Attributes:
        counts: (P,) int64, how many filters are off, from 0 to all D.
        most: (P, K) logits, the filters off that speak for the class most.
        least: (P, K), those that speak against it most, or for it least.
        random: (R, P, K), random ones.
        tried: (d,) int64, the filters that were switched off alone; all of them by default.
        alone: (d, K) logits with one of them off each.
        target: the class asked about.
    """

    counts: Tensor
    most: Tensor
    least: Tensor
    random: Tensor
    tried: Tensor
    alone: Tensor
    target: int

    @property
    def drops(self) -> Tensor:
        """(d,) what the target's logit loses without each of the filters alone."""
        return self.most[0, self.target] - self.alone[:, self.target]

    @property
    def area(self) -> float:
        """Least minus most relevant first: the mean gap of the target's logit, over the span of both curves.

        0 where the order tells nothing, up to 1; negative where it is the wrong way round.
        """
        gap = (self.least - self.most)[:, self.target].double()
        both = torch.cat([self.least, self.most])[:, self.target].double()
        span = both.max() - both.min()
        mean = torch.trapezoid(gap, self.counts.to(gap)) / self.counts[-1]
        return float(mean / span) if span > 0 else 0.0

    def probability(self, logits: Tensor) -> Tensor:
        """Of the target, for logits (..., K)."""
        return logits.softmax(-1)[..., self.target]


@torch.inference_mode(False)
@precision("float32")
def removal(
    network: nn.Module,
    image: Tensor,
    contributions: Contributions,
    *,
    number: int = 0,
    orders: int = RANDOM_ORDERS,
    alone: int | None = None,
    generator: torch.Generator | None = None,
) -> Removal:
    """Switch a layer's filters off one by one.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        image: (C, H, W) or (1, C, H, W).
        contributions: the shares, of this image in row `number`.
        number: the row.
        orders: random orders.
        alone: so many filters are switched off alone, evenly spread from the one that speaks for the class most to the
            one that speaks against it most; None: all.
        generator: of the random orders; None: seed 0.

    Example:
        >>> from interp_cnn import filter_contributions
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> image = torch.rand(3, 8, 8)
        >>> removal(network, image, filter_contributions(network, image, 2)).most.shape
        torch.Size([5, 5])
    """
    images = check_images(image)
    with checked_evaluation(network, images, alone=True), torch.no_grad():
        head = Head(network, images, contributions.layer)
        depth, place = head.maps.shape[1], head.maps.device
        order, draws = contributions.order(number).cpu(), seeded(generator)
        ways = torch.stack(
            [order, order.flip(0), *(torch.randperm(depth, generator=draws) for _ in range(orders))]
        )
        counts = steps_to(depth)
        rank = ways.argsort(1)  # (orders, D): when each filter is switched off
        kept = (rank[:, None] >= counts[:, None]).flatten(0, 1)
        some = min(depth, alone or depth)
        tried = order[torch.linspace(0, depth - 1, some).round().long()].sort().values
        kept = torch.cat([kept, ~torch.eye(depth, dtype=torch.bool)[tried]]).to(place)
        logits = logits_with(head, kept)
    curves = logits[:-some].unflatten(0, (len(ways), len(counts)))
    target = int(contributions.targets[number])
    return Removal(counts, curves[0], curves[1], curves[2:], tried, logits[-some:], target)


def steps_to(depth: int) -> Tensor:
    """How many filters are off at each point of a curve: every number up to 64, else some that grow apart."""
    if depth <= 64:
        return torch.arange(depth + 1)
    return torch.unique(
        torch.cat([torch.arange(8), torch.logspace(3, math.log2(depth), 33, 2)]).round().long()
    )


def logits_with(head: Head, kept: Tensor) -> Tensor:
    """Logits (N, K) of an image with its filters' maps times kept (N, D) of truth values."""
    batch = max(1, BYTES // (head.maps.numel() * head.maps.element_size()))
    return torch.cat([head(head.maps * some[:, :, None, None]) for some in kept.split(batch)])


def filters_for(shares: Tensor, part: float = EVIDENCE) -> Tensor:
    """How many filters it takes, the largest first, to gather a part of all that speaks for the class.

    Args:
        shares: (B, D).
        part: of the sum of the positive shares.

    Returns:
        (B,) int64; 0 where nothing speaks for it.

    Example:
        >>> filters_for(torch.tensor([[5.0, 4.0, 0.5, 0.5, -7.0]]))
        tensor([2])
    """
    positive = shares.double().clamp(min=0).sort(dim=1, descending=True).values
    gathered = positive.cumsum(1)
    enough = gathered >= part * gathered[:, -1:] * (1 - 1e-12)
    return torch.where(gathered[:, -1] > 0, enough.to(torch.int64).argmax(1) + 1, 0)
