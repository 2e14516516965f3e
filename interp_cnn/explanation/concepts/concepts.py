"""Concepts: what a filter, a mined pattern or a node of a graph claims to stand for, as a map of its strength.

    strength at a cell  =  min over the concept's channels of  activation / scale  at the cell plus the channel's offset
                           times exp(-d^2 / 2 s^2) of a node, at a distance d from its place

A mined pattern fires by the miner's own rule, where each of its channels is positive and among the `top` strongest of
its cell (`transactions`); a concept with a floor (a filter) where its strength reaches the floor. So one map serves for
single filters and for sets of them, and whatever measures a filter's map measures a pattern's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_cnn.explanation.concepts.graph_nodes import cell_positions
from interp_cnn.explanation.concepts.patterns import Pattern
from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.explanation.network.feature_maps import feature_maps
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.storage.brief import Brief

FLOOR = 0.5  # a filter fires where it reaches this share of its exemplars' mean peak


@dataclass(frozen=True, eq=False, repr=False)
class Concept(Brief):
    """A set of channels with places.

    Attributes:
        name: "17" for a filter, "3 & 17" for a pattern.
        channels: of the layer.
        offsets: (row, column) of each channel's cell relative to the concept's.
        category: index of the class that it speaks for; -1: none.
        floor: strength from which on it fires; None: the miner's rule.
        occurrences: (n, 3) int64, image number, row, column, strongest first.
        place: (row, column, s), relative to the image, where a node of a graph is expected; None: anywhere.
    """

    name: str
    channels: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    category: int
    occurrences: Tensor
    floor: float | None = None
    place: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class FiringRule:
    """What the miner counted as there: `scale` (D,) divides each channel, the `top` strongest count, of neighbouring
    cells the `neighbours` strongest.
    """

    scale: Tensor
    top: int = 20
    neighbours: int = 0

    def strengths(self, maps: Tensor, concepts: Sequence[Concept]) -> Tensor:
        """(B, Q, h, w) strength of every concept, from feature maps (B, D, h, w); 0 where a channel lies outside."""
        scaled = maps.relu() / self.scale.to(maps)[:, None, None]
        strengths = []
        for concept in concepts:
            strength = torch.stack([_shifted(scaled[:, c], o) for c, o in _places(concept)], dim=1).amin(
                dim=1
            )
            if concept.place is not None:
                strength = strength * nearness(concept.place, *maps.shape[2:]).to(maps)
            strengths.append(strength)
        return torch.stack(strengths, dim=1)

    def fires(self, maps: Tensor, concepts: Sequence[Concept]) -> Tensor:
        """(B, Q, h, w) bool."""
        scaled = maps.relu() / self.scale.to(maps)[:, None, None]
        ranked = scaled.topk(min(max(self.top, self.neighbours, 1), scaled.shape[1]), dim=1).values
        here = (scaled > 0) & (scaled >= ranked[:, min(self.top, ranked.shape[1]) - 1, None])
        around = (scaled > 0) & (scaled >= ranked[:, min(max(self.neighbours, 1), ranked.shape[1]) - 1, None])
        fired = []
        for concept in concepts:
            if concept.floor is not None:
                fired.append(self.strengths(maps, [concept])[:, 0] >= concept.floor)
                continue
            members = [
                _shifted((here if offset == (0, 0) else around)[:, channel], offset)
                for channel, offset in _places(concept)
            ]
            fired.append(torch.stack(members, dim=1).all(dim=1))
        return torch.stack(fired, dim=1)


def pattern_concepts(patterns: Sequence[Pattern]) -> list[Concept]:
    """Mined patterns as concepts, with all their occurrences in order of images."""
    return [
        Concept(pattern.name, pattern.channels, pattern.offsets, pattern.category, pattern.occurrences)
        for pattern in patterns
    ]


def filter_concepts(exemplars: Exemplars, scale: Tensor) -> list[Concept]:
    """Filters that fire anywhere as concepts: occurrences are the peaks of their exemplars, the category is that of
    most exemplars (among equals the smallest), the floor half of the mean peak.
    """
    concepts = []
    for number in (~exemplars.silent).nonzero().flatten().tolist():
        there = exemplars.image_numbers[number] >= 0
        places = torch.cat(
            (exemplars.image_numbers[number, there, None], exemplars.positions[number, there]), dim=1
        )
        category = int(torch.bincount(exemplars.labels[number, there]).argmax())
        floor = FLOOR * float(exemplars.scores[number, there].mean() / scale[number])
        concepts.append(Concept(str(number), (number,), ((0, 0),), category, places, floor))
    return concepts


def nearness(place: tuple[float, float, float], height: int, width: int) -> Tensor:
    """(h, w) Gaussian around a place (row, column, s), relative to the map, 1 in its middle."""
    rows, columns = cell_positions(height, width)
    squared = (rows - place[0]).square()[:, None] + (columns - place[1]).square()
    return torch.exp(-squared / (2 * place[2] ** 2))


def unrelated(concepts: Sequence[Concept]) -> Tensor:
    """(Q, Q) bool: pairs that share no channel and speak for different categories; of concepts for which that leaves
    none, pairs that share no channel.
    """
    apart = torch.tensor(
        [[not {*concept.channels} & {*other.channels} for other in concepts] for concept in concepts]
    )
    categories = torch.tensor([concept.category for concept in concepts])
    strict = apart & (categories[:, None] != categories)
    return torch.where(strict.any(dim=1, keepdim=True), strict, apart)


@torch.no_grad()
def concept_maps(
    network: nn.Module, loader: Iterable[Any], concepts: Sequence[Concept], *, layer: str, rule: FiringRule
) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """For every batch of a loader: the batch, strengths (B, Q, h, w) and where the concepts fire, on the CPU."""
    device = device_of(network)
    for batch in loader:
        maps = feature_maps(network, batch.images.to(device), layer)
        yield batch, rule.strengths(maps, concepts).cpu(), rule.fires(maps, concepts).cpu()


def _places(concept: Concept) -> Iterator[tuple[int, tuple[int, int]]]:
    return zip(concept.channels, concept.offsets, strict=True)


def _shifted(maps: Tensor, offset: tuple[int, int]) -> Tensor:
    """What lies at cell + offset of maps (B, h, w); 0 or False beyond the border."""
    row, column = offset
    if not (row or column):
        return maps
    height, width = maps.shape[1:]
    reach = max(abs(row), abs(column))
    padded = F.pad(maps, (reach, reach, reach, reach))
    return padded[:, reach + row : reach + row + height, reach + column : reach + column + width]
