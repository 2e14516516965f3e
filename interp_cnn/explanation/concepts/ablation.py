"""Causal effect: what a class's logit loses when a concept's units are taken out of a layer, against as much of others.

    effect = logit(image) - logit(image, without the concept's share of the maps in the window around its occurrence)

The share of a filter or pattern are its channels, of an atom what it brings to them. Any units do something when they
vanish. So the same is done with others in the same window, until they carry the same energy (sum of squares of
activation / scale, or all there are where they carry less): instead of channels, other channels in random order, the
last one in part, so that it fits exactly; instead of an atom, its largest entries dealt out at random among channels
where others bring something, as much of this direction as fits. A concept matters to the class in so far as its effect
exceeds that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from interp_cnn.explanation.concepts.concepts import Concept, FiringRule
from interp_cnn.explanation.network.feature_maps import evaluation_mode, named_layer
from interp_cnn.explanation.network.placement import device_of

LARGEST, HALVINGS = 1e6, 30  # of the search for as much of a direction as carries an energy


@torch.no_grad()
def causal_effects(
    network: nn.Module,
    image_of: Callable[[int], Tensor],
    concepts: Sequence[Concept],
    *,
    layer: str,
    rule: FiringRule,
    generator: torch.Generator,
    reach: int = 1,
    draws: int = 4,
) -> tuple[Tensor, Tensor]:
    """Effects of every occurrence of every concept, in their order.

    Args:
        network: any classifier; keeps its mode.
        image_of: image number -> (C, H, W).
        concepts: with a category each.
        layer: dotted module name.
        rule: knows a concept's share of the maps, and what each channel is divided by before its energy is taken.
        generator: of the random channels and directions.
        reach: cells around an occurrence that belong to its window.
        draws: random choices that are averaged.

    Returns:
        Effect (M,) of the concepts' units and of random ones of the same energy, float64, in logits.
    """
    device = device_of(network)
    effects, random_effects = [], []
    for concept in concepts:
        for image, row, column in concept.occurrences.tolist():
            cut = _Cut(concept, (row, column), reach, rule, generator, draws)
            handle = named_layer(network, layer).register_forward_hook(cut)
            try:
                with evaluation_mode(network):
                    logits = network(image_of(image)[None].to(device).expand(2 + draws, -1, -1, -1))
            finally:
                handle.remove()
            drop = (logits[0] - logits)[:, concept.category].double().cpu()
            effects.append(drop[1])
            random_effects.append(drop[2:].mean())
    return torch.stack(effects), torch.stack(random_effects)


class _Cut:
    """Takes units out of a layer's output of one repeated image: none, the concept's, then random ones."""

    def __init__(
        self,
        concept: Concept,
        cell: tuple[int, int],
        reach: int,
        rule: FiringRule,
        generator: torch.Generator,
        draws: int,
    ) -> None:
        self.concept, self.cell, self.reach = concept, cell, reach
        self.rule, self.generator, self.draws = rule, generator, draws

    def __call__(self, _module: nn.Module, _inputs: object, maps: Tensor) -> Tensor:
        rows, columns = (slice(max(0, place - self.reach), place + self.reach + 1) for place in self.cell)
        maps = maps.clone()
        window = maps[0, :, rows, columns].clone()
        share = self.rule.shares(maps[:1], [self.concept])[0, :, rows, columns]
        scaled = window / self.rule.scale.to(window)[:, None, None]
        maps[1, :, rows, columns] = window * (1 - share)
        for draw in range(self.draws):
            if self.concept.atom is None:
                kept = other_channels(scaled, self.concept.channels, self.generator)
            else:
                kept = other_direction(scaled, share, self.generator)
            maps[2 + draw, :, rows, columns] = window * kept
        return maps


def other_channels(scaled: Tensor, channels: Sequence[int], generator: torch.Generator) -> Tensor:
    """(D, 1, 1): the share that is kept of every channel when others in random order are taken out, until they carry
    the energy of `channels`.

    Args:
        scaled: (D, h, w).
        channels: that are kept whole.
        generator: of the order.
    """
    energy = scaled.square().sum(dim=(1, 2))  # (D,)
    others = torch.ones(len(energy), dtype=torch.bool)
    others[list(channels)] = False
    numbers = others.nonzero().flatten()
    order = numbers[torch.randperm(len(numbers), generator=generator)].to(energy.device)
    before = energy[order].cumsum(dim=0) - energy[order]
    wanted = energy[list(channels)].sum()
    taken = ((wanted - before) / energy[order].clamp(min=1e-12)).clamp(0, 1)  # of the channel's energy
    kept = torch.ones_like(energy)
    kept[order] = (1 - taken).sqrt()
    return kept[:, None, None]


def other_direction(scaled: Tensor, share: Tensor, generator: torch.Generator) -> Tensor:
    """(D, h, w): the share that is kept when what a concept brings is dealt out anew among the channels and taken from
    what others bring, as much of this direction as carries the same energy.

    Args:
        scaled: (D, h, w).
        share: (D, h, w), what the concept brings.
        generator: of the new order.
    """
    there = scaled.clamp(min=0)
    brought, rest = there * share, there * (1 - share)
    wanted = float(brought.square().sum())
    active = (rest > 0).any(dim=2).any(dim=1).nonzero().flatten()
    entries = brought[brought.sum(dim=(1, 2)).argsort(descending=True)[: len(active)]]
    direction = torch.zeros_like(brought)
    direction[active[torch.randperm(len(active), generator=generator).to(active.device)]] = entries
    low, high = 0.0, 1.0
    while high < LARGEST and float(torch.minimum(high * direction, rest).square().sum()) < wanted:
        high *= 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = float(torch.minimum(middle * direction, rest).square().sum()) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    return 1 - torch.minimum(high * direction, rest) / there.clamp(min=1e-12)
