"""Causal effect: what a class's logit loses when a concept's units are taken out of a layer, against as much of others.

    effect = logit(image) - logit(image, the concept's channels at 0 in the window around its occurrence)

Any units do something when they vanish. So the same is done with other channels in the same window, in random order,
until they carry the same energy (sum of squares of activation / scale; the last one is taken out in part, so that it
fits exactly, or all there are where they carry less). A concept matters to the class in so far as its effect exceeds
that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from interp_cnn.explanation.concepts.concepts import Concept
from interp_cnn.explanation.network.feature_maps import evaluation_mode, named_layer
from interp_cnn.explanation.network.placement import device_of


@torch.no_grad()
def causal_effects(
    network: nn.Module,
    image_of: Callable[[int], Tensor],
    concepts: Sequence[Concept],
    *,
    layer: str,
    scale: Tensor,
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
        scale: (D,), what each channel is divided by before its energy is taken.
        generator: of the random channels.
        reach: cells around an occurrence that belong to its window.
        draws: random choices that are averaged.

    Returns:
        Effect (M,) of the concepts' units and of random ones of the same energy, float64, in logits.
    """
    device = device_of(network)
    effects, random_effects = [], []
    for concept in concepts:
        for image, row, column in concept.occurrences.tolist():
            cut = _Cut(concept.channels, (row, column), reach, scale.to(device), generator, draws)
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
        channels: Sequence[int],
        cell: tuple[int, int],
        reach: int,
        scale: Tensor,
        generator: torch.Generator,
        draws: int,
    ) -> None:
        self.channels, self.cell, self.reach = list(channels), cell, reach
        self.scale, self.generator, self.draws = scale, generator, draws

    def __call__(self, _module: nn.Module, _inputs: object, maps: Tensor) -> Tensor:
        rows, columns = (slice(max(0, place - self.reach), place + self.reach + 1) for place in self.cell)
        maps = maps.clone()
        window = maps[0, :, rows, columns]
        energy = (window / self.scale[:, None, None]).square().sum(dim=(1, 2))  # (D,)
        wanted = energy[self.channels].sum()
        maps[1, self.channels, rows, columns] = 0
        others = torch.ones(len(energy), dtype=torch.bool)
        others[self.channels] = False
        numbers = others.nonzero().flatten()
        for draw in range(self.draws):
            order = numbers[torch.randperm(len(numbers), generator=self.generator)].to(energy.device)
            before = energy[order].cumsum(dim=0) - energy[order]
            share = ((wanted - before) / energy[order].clamp(min=1e-12)).clamp(0, 1)  # of its energy
            kept = (1 - share).sqrt()[:, None, None]
            maps[2 + draw, order, rows, columns] = window[order] * kept
        return maps
