"""What is asked of one kind of map: does it add up, is it faithful, what does it cost, does it depend on the network,
and which other maps is it like?

`MapJudge` hides sets of pixels once and judges any number of maps of the same images by them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from interp_cnn.evaluation.maps.agreement import structural_similarity
from interp_cnn.evaluation.maps.completeness import (
    Completeness,
    infidelity,
    random_pixels,
    random_squares,
    removals,
    sensitivity_n,
)
from interp_cnn.evaluation.maps.pixel_flipping import (
    Regions,
    deletion,
    insertion,
    most_relevant_first,
    replaced_shares,
    score_curves,
    symmetric_relevance_gain,
)
from interp_cnn.evaluation.maps.randomisation import layers_from_the_top, randomisation_check
from interp_cnn.evaluation.statistics import rank_correlation
from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.network.logits import being_tried, checked_evaluation
from interp_cnn.studies.shared import answers, map_of, paper

SUBSETS, SUBSET_SHARE, STEPS, REGION, PIXEL_STEPS = 40, 0.1, 6, 2, 14
MEASURES = (
    "completeness_error",
    "ratio",
    "sensitivity_n",
    "infidelity",
    "srg",
    "deletion",
    "insertion",
    "passes",
    "multiply_adds",
    "seconds",
    "plain_multiply_adds",
    "plain_seconds",
)


class Cost(NamedTuple):
    """What one map took, per image; the plain costs are those of a whole pass through the network per question."""

    passes: float
    multiply_adds: float
    seconds: float
    plain_multiply_adds: float = torch.nan
    plain_seconds: float = torch.nan


class MapJudge:
    """Judges maps of some images by what the network answers when pixels are hidden behind the paper's colour.

    Attributes:
        one_pass: a `Cost` of one forward pass.
    """

    def __init__(self, network: nn.Module, images: Tensor, targets: Tensor, *, seed: int) -> None:
        self.network, self.images, self.targets = network, images, targets
        generator, size = torch.Generator().manual_seed(seed), (images.shape[2], images.shape[3])
        pixels = random_pixels(size, max(1, round(SUBSET_SHARE * size[0] * size[1])), SUBSETS, generator)
        squares = random_squares(size, SUBSETS, generator)
        self.pixels, self.squares = (
            removals(network, images, targets, sets, fill=paper()) for sets in (pixels, squares)
        )
        some = images[:1].expand(32, -1, -1, -1).contiguous()
        with checked_evaluation(network, some):  # tries the network, so that nothing but the pass is timed
            start = time.perf_counter()
            answers(network, some)
            seconds = (time.perf_counter() - start) / len(some)
        self.one_pass = Cost(1.0, multiply_adds(lambda: answers(network, images[:1])), seconds)

    def measures(
        self, maps: Tensor, cost: Cost, *, total: Completeness | None = None, pixelwise: bool = False
    ) -> Tensor:
        """(B, measures) of maps (B, H, W).

        Args:
            maps: one kind of map.
            cost: what it took.
            total: its sums against what they should be; None: it promises nothing.
            pixelwise: measure deletion and insertion too, which take the longest.
        """
        network, images, targets = self.network, self.images, self.targets
        regions, shares = Regions((images.shape[2], images.shape[3]), REGION), replaced_shares(STEPS)
        values = regions.means(maps)
        curves = [
            score_curves(
                network, images, targets, most_relevant_first(v), regions=regions, shares=shares, fill=paper()
            ).logit
            for v in (-values, values)
        ]
        nothing = torch.full((len(images),), torch.nan, dtype=torch.float64)
        areas = [
            rule(network, images, targets, maps, steps=PIXEL_STEPS)[1] if pixelwise else nothing
            for rule in (deletion, insertion)
        ]
        columns = [
            nothing if total is None else total.error,
            nothing if total is None else total.ratio,
            sensitivity_n(maps, self.pixels),
            infidelity(maps, self.squares, scaled=True) / self.squares.drops.square().mean(1),
            symmetric_relevance_gain(*curves),
            *areas,
            *(torch.full_like(nothing, float(value)) for value in cost),
        ]
        return torch.stack(columns, 1)


class _Counted(TorchDispatchMode):
    """Adds up what torch's own formulas say of every operation that they know.

    torch's `FlopCounterMode` also sorts by modules, for which it needs hooks that `autograd.grad` refuses.
    """

    operations = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        output = operation(*args, **(kwargs or {}))
        formula = flop_registry.get(operation._overloadpacket)
        if formula is not None and not being_tried():
            self.operations += formula(*args, **(kwargs or {}), out_val=output)
        return output


def multiply_adds(call: Callable[[], object]) -> float:
    """Multiply-adds of all convolutions and matrix products during a call, backward passes among them.

    The passes that only try whether a network can be asked do not count.
    """
    with _Counted() as counted:
        call()
    return counted.operations / 2


def edges(images: Tensor) -> Tensor:
    """A map that asks no network: differences between neighbouring pixels, (B, C, H, W) -> (B, H, W)."""
    return ((images - images.roll(1, -1)).abs() + (images - images.roll(1, -2)).abs()).sum(1)


def randomised(
    network: nn.Module, images: Tensor, targets: Tensor, methods: Sequence[str], *, seed: int
) -> Tensor:
    """Likeness to the maps of shuffled networks: (B, 2, layers from the top, methods and edges, 2).

    Axis 1: all layers down to this one shuffled, or this one alone; the last axis: rank correlation, SSIM.
    """
    rules: list[Callable[[nn.Module, Tensor, Tensor], Tensor]] = [
        lambda other, some, classes, name=name: map_of(name, other, some, classes, Options()).maps
        for name in methods
    ]
    rules.append(lambda other, some, classes: edges(some))
    likeness = torch.empty(
        len(images), 2, len(layers_from_the_top(network)), len(rules), 2, dtype=torch.float64
    )
    for i, cascading in enumerate((True, False)):
        for j, rule in enumerate(rules):
            generator = torch.Generator().manual_seed(seed)
            alike = randomisation_check(
                network, images, targets, rule, cascading=cascading, generator=generator
            )
            for k, similarity in enumerate(alike):
                likeness[:, i, k, j] = torch.stack([similarity.rank, similarity.structure], 1)
    return likeness


def agreement(kinds: Sequence[Tensor]) -> Tensor:
    """Likeness of every two kinds of maps (B, H, W): (B, kinds, kinds, 2), rank correlation and SSIM."""
    pairs = [
        [torch.stack([rank_correlation(a, b), structural_similarity(a, b)], 1) for b in kinds] for a in kinds
    ]
    return torch.stack([torch.stack(row, 1) for row in pairs], 1)
