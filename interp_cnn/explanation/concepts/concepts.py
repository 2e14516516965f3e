"""Concepts: what a filter, a mined pattern, a node of a graph or an atom claims to stand for, as a map of its strength.

    strength at a cell  =  min over the concept's channels of  activation / scale  at the cell plus the channel's offset
                           times exp(-d^2 / 2 s^2) of a node, at a distance d from its place
    of an atom          =  its code there (`dictionaries`)

A mined pattern fires by the miner's own rule, where each of its channels is positive and among the `top` strongest of
its cell (`transactions`); a concept with a floor (a filter, an atom) where its strength reaches the floor. So one map
serves for all of them, and whatever measures a filter's map measures a pattern's. What a concept brings to the maps is
a share of every activation: all of its channels; of an atom  code * atom / activation, so that to take out an atom is
not to take out its channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_cnn.explanation.concepts.dictionaries import Dictionary
from interp_cnn.explanation.concepts.graph_nodes import cell_positions
from interp_cnn.explanation.concepts.patterns import Pattern
from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.explanation.network.feature_maps import feature_maps
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.storage.brief import Brief

FLOOR = 0.5  # a filter or an atom fires where it reaches this share of its exemplars' mean peak
NAMED_CHANNELS = 4  # of an atom


@dataclass(frozen=True, eq=False, repr=False)
class Concept(Brief):
    """A set of channels with places, or an atom of a dictionary.

    Attributes:
        name: "17" for a filter, "3 & 17" for a pattern, "atom 5 (17, 3)" for an atom.
        channels: of the layer; of an atom those that carry most of it.
        offsets: (row, column) of each channel's cell relative to the concept's.
        category: index of the class that it speaks for; -1: none.
        floor: strength from which on it fires; None: the miner's rule.
        occurrences: (n, 3) int64, image number, row, column, strongest first.
        place: (row, column, s), relative to the image, where a node of a graph is expected; None: anywhere.
        atom: number in the rule's dictionary; None: the channels themselves.
    """

    name: str
    channels: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    category: int
    occurrences: Tensor
    floor: float | None = None
    place: tuple[float, float, float] | None = None
    atom: int | None = None

    @property
    def number(self) -> int:
        """Of the atom, or of the first channel."""
        return self.channels[0] if self.atom is None else self.atom


@dataclass(frozen=True)
class FiringRule:
    """What the miner counted as there: `scale` (D,) divides each channel, the `top` strongest count, of neighbouring
    cells the `neighbours` strongest; `dictionary` holds the atoms of concepts that have one.
    """

    scale: Tensor
    top: int = 20
    neighbours: int = 0
    dictionary: Dictionary | None = None

    def strengths(self, maps: Tensor, concepts: Sequence[Concept]) -> Tensor:
        """(B, Q, h, w) strength of every concept, from feature maps (B, D, h, w); 0 where a channel lies outside."""
        scaled = self._scaled(maps)
        codes = self.codes(maps) if any(concept.atom is not None for concept in concepts) else scaled[:, :0]
        strengths = []
        for concept in concepts:
            if concept.atom is not None:
                strengths.append(codes[:, concept.atom])
                continue
            strength = torch.stack([_shifted(scaled[:, c], o) for c, o in _places(concept)], dim=1).amin(
                dim=1
            )
            if concept.place is not None:
                strength = strength * nearness(concept.place, *maps.shape[2:]).to(maps)
            strengths.append(strength)
        return torch.stack(strengths, dim=1)

    def fires(self, maps: Tensor, concepts: Sequence[Concept], strengths: Tensor | None = None) -> Tensor:
        """(B, Q, h, w) bool; `strengths` of the same, where they are known already."""
        if strengths is None and any(concept.floor is not None for concept in concepts):
            strengths = self.strengths(maps, concepts)
        scaled = self._scaled(maps)
        ranked = scaled.topk(min(max(self.top, self.neighbours, 1), scaled.shape[1]), dim=1).values
        here = (scaled > 0) & (scaled >= ranked[:, min(self.top, ranked.shape[1]) - 1, None])
        around = (scaled > 0) & (scaled >= ranked[:, min(max(self.neighbours, 1), ranked.shape[1]) - 1, None])
        fired = []
        for number, concept in enumerate(concepts):
            if concept.floor is not None:
                assert strengths is not None  # asked above
                fired.append(strengths[:, number] >= concept.floor)
                continue
            members = [
                _shifted((here if offset == (0, 0) else around)[:, channel], offset)
                for channel, offset in _places(concept)
            ]
            fired.append(torch.stack(members, dim=1).all(dim=1))
        return torch.stack(fired, dim=1)

    def shares(self, maps: Tensor, concepts: Sequence[Concept]) -> Tensor:
        """(B, D, h, w) in [0, 1]: which share of every activation of B maps belongs to a concept, one for each map."""
        scaled = self._scaled(maps)
        codes = self.codes(maps) if any(concept.atom is not None for concept in concepts) else scaled[:, :0]
        shares = torch.zeros_like(scaled)
        for place, concept in enumerate(concepts):
            if concept.atom is None or self.dictionary is None:
                shares[place, list(concept.channels)] = 1.0
                continue
            atom = self.dictionary.atoms[concept.atom].to(scaled)
            brought = codes[place, concept.atom] * atom[:, None, None]  # (D, h, w)
            shares[place] = (brought / scaled[place].clamp(min=1e-12)).clamp(max=1.0)
        return shares

    def codes(self, maps: Tensor) -> Tensor:
        """(B, A, h, w) of the dictionary's atoms, from feature maps (B, D, h, w)."""
        assert self.dictionary is not None  # where there are atoms there is a dictionary
        return self.dictionary.code_maps(self._scaled(maps))

    def _scaled(self, maps: Tensor) -> Tensor:
        return maps.relu() / self.scale.to(maps)[:, None, None]


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


def atom_concepts(exemplars: Exemplars, dictionary: Dictionary) -> list[Concept]:
    """Atoms that fire anywhere as concepts, from exemplars of their code maps: as of `filter_concepts`."""
    concepts = []
    for concept in filter_concepts(exemplars, torch.ones(len(dictionary))):
        (atom,) = concept.channels
        channels = dictionary.main_channels(atom)
        named = ", ".join(map(str, channels[:NAMED_CHANNELS]))
        more = ", ..." if len(channels) > NAMED_CHANNELS else ""
        name, here = f"atom {atom} ({named}{more})", ((0, 0),) * len(channels)
        concepts.append(replace(concept, name=name, channels=channels, offsets=here, atom=atom))
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
        strengths = rule.strengths(maps, concepts)
        yield batch, strengths.cpu(), rule.fires(maps, concepts, strengths).cpu()


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
