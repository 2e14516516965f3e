"""Nodes of an explanatory graph as concepts: a filter near the place where one of its parts is expected.

Of one layer and one category: the nodes that explain most of the filters' activation ("the top 10 % of patterns" are
what the publication's pictures are made from; here the first few), each with its mean place and its deformation. A node
fires where its filter, weighted by the Gaussian around that place, reaches half of the node's mean peak.

Zhang, Cao, Shi, Wu, Zhu, "Interpreting CNN Knowledge via an Explanatory Graph", AAAI 2018. Nodes of layers below, whose
places move with their parents, have no fixed place and are left to `explanatory_graph`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from interp_cnn.explanation.concepts.concepts import FLOOR, Concept, FiringRule
from interp_cnn.explanation.concepts.explanatory_graph import explanatory_graph


def node_concepts(
    maps: Tensor, category: int, *, rule: FiringRule, count: int, generator: torch.Generator, nodes: int = 40
) -> list[Concept]:
    """The strongest nodes of a layer on images of one category, at most one per filter, without occurrences.

    Args:
        maps: (N, D, h, w) of the category's images.
        category: its index.
        rule: gives activations their scale.
        count: nodes at most.
        generator: of the nodes' first places.
        nodes: per filter.
    """
    (layer,) = explanatory_graph({"layer": maps}, generator=generator, nodes=(nodes,))
    chosen: dict[int, Concept] = {}
    for channel, node in layer.strongest(1.0).tolist():
        if channel in chosen or not bool((maps[:, channel] > 0).any()):
            continue
        row, column = layer.means[channel, node].tolist()
        place = (row, column, float(layer.deformations[channel, node]))
        name = f"{channel} at {row:.2f}, {column:.2f}"
        nowhere = torch.zeros(0, 3, dtype=torch.int64)
        concept = Concept(name, (channel,), ((0, 0),), category, nowhere, place=place)
        peak = float(rule.strengths(maps, [concept]).amax(dim=(2, 3)).mean())
        chosen[channel] = replace(concept, floor=FLOOR * peak)
        if len(chosen) == count:
            break
    return list(chosen.values())


def node_replications(nodes: Sequence[Concept], others: Sequence[Concept]) -> list[float]:
    """For each node 1 if the others have one of the same filter and category within its deformation, else 0."""
    scores = []
    for node in nodes:
        rivals = [it for it in others if (it.channels, it.category) == (node.channels, node.category)]
        assert node.place is not None and all(it.place is not None for it in rivals)  # nodes have places
        away = [math.dist(node.place[:2], it.place[:2]) for it in rivals if it.place is not None]
        scores.append(float(any(distance <= node.place[2] for distance in away)))
    return scores
