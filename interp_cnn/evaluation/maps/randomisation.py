"""Does a map change when the network forgets what it learned? J. Adebayo et al., "Sanity checks for saliency maps"
(NeurIPS 2018).

The layers' weights are shuffled, from the output down one after another (cascading) or one layer alone (independent).
A map that depends on the network must then look different: its rank correlation and SSIM with the former map fall. An
edge detector, which does not ask the network, keeps 1. Shuffled weights keep the scale of each layer: what
changes is what was learned.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from interp_cnn.evaluation.maps.agreement import structural_similarity
from interp_cnn.evaluation.statistics import rank_correlation

Relevance = Callable[[nn.Module, Tensor, Tensor], Tensor]  # network, images, targets -> (B, H, W)
STILL_ALIKE = 0.5  # rank correlation above which a map has not noticed that the network was shuffled


class Similarity(NamedTuple):
    """How alike a map still is when a layer (cascading: and all above) is shuffled; (B,) each."""

    layer: str
    rank: Tensor
    structure: Tensor


def layers_from_the_top(network: nn.Module) -> list[str]:
    """Names of the modules with weights of their own, the last first."""
    names = [
        name for name, module in network.named_modules() if any(p.dim() for p in module.parameters(False))
    ]
    return names[::-1]


def shuffled_networks(
    network: nn.Module, *, cascading: bool, generator: torch.Generator
) -> Iterator[tuple[str, nn.Module]]:
    """Copies of the network with one more layer shuffled each time, or with that layer alone; names from the top."""
    current = copy.deepcopy(network)
    for name in layers_from_the_top(network):
        if not cascading:
            current = copy.deepcopy(network)
        for parameter in current.get_submodule(name).parameters(False):
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.data = parameter.data.flatten()[order].view_as(parameter).contiguous()
        yield name, current


def randomisation_check(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    relevance: Relevance,
    *,
    cascading: bool = True,
    generator: torch.Generator | None = None,
) -> list[Similarity]:
    """How alike the maps stay, layer by layer from the top.

    Args:
        network: images (B, C, H, W) -> logits (B, K); it is not changed.
        images: (B, C, H, W).
        targets: (B,) classes, asked about in every network.
        relevance: the method.
        cascading: shuffle all layers above too.
        generator: of the shuffles.
    """
    generator = generator or torch.Generator().manual_seed(0)
    before = relevance(network, images, targets)
    similarities = []
    for name, other in shuffled_networks(network, cascading=cascading, generator=generator):
        after = relevance(other, images, targets)
        similarities.append(
            Similarity(name, rank_correlation(before, after), structural_similarity(before, after))
        )
    return similarities
