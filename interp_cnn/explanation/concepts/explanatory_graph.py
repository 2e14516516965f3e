"""Explanatory graph: parts that a layer's filters keep at stable places relative to parts of the layer above.

Each filter is taken for a mixture of parts, its nodes (`graph_nodes`). In the top layer a node has a place in the
image. In a layer below, a node V has parents V' in the layer above, and is expected on image I where they say:

    m_V(I) = mu_V + mean over parents of [ position of V' on I - mu_V' ]        weighted by the parents' scores

Parents are the nodes above whose displacement from V varies least while both are active: largest mean of
w_V w_V' log N(p_V - p_V' | mean displacement, s_V^2) over images. They are chosen anew while nodes are learned.

After Zhang, Cao, Shi, Wu, Zhu, "Interpreting CNN Knowledge via an Explanatory Graph", AAAI 2018 (arXiv 1708.01785).
The defaults (40 nodes per filter in the top layer and 20 below, 15 parents, 20 iterations, tau 0.1) are meant to be
the paper's; only the 20 iterations were checked, against the released code. Its gradient step of size s^2 over the
nodes' mass is the step of expectation-maximisation taken here. Not taken over: flipped images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from interp_cnn.explanation.concepts.graph_nodes import node_positions, node_sums
from interp_cnn.explanation.concepts.transactions import channel_scale
from interp_cnn.explanation.network.precision import chosen_precision
from interp_cnn.storage.brief import Brief

BATCH = 64  # images per expectation step
PARENTS_EVERY = 5  # iterations between two choices of parents


@dataclass(frozen=True, eq=False, repr=False)
class GraphLayer(Brief):
    """Nodes of one layer: D filters, M nodes each, on N images.

    Attributes:
        layer: dotted module name.
        means: (D, M, 2), mean (row, column), relative to the image.
        deformations: (D, M), standard deviation of the position, in the same unit.
        positions: (N, D, M, 2), where each node is on each image.
        scores: (N, D, M), how strongly: scaled activation times how near it is to where it was expected, in
            [0, 1] but for the strongest 0.5 % of activations.
        parents: (D, M, P) flat numbers filter * nodes + node in the layer above; None in the top layer.
        log_likelihoods: of every iteration, per entity.
    """

    layer: str
    means: Tensor
    deformations: Tensor
    positions: Tensor
    scores: Tensor
    parents: Tensor | None
    log_likelihoods: tuple[float, ...]

    def strongest(self, share: float = 0.1) -> Tensor:
        """(n, 2) filter and node of the share of nodes that explain most, strongest first: largest mean of
        F(p) N(p | m, s^2), so a node that strays counts less. "The top 10 % of patterns" are what the
        publication's pictures are made from.
        """
        scores = self.scores.mean(dim=0) / self.deformations.square()
        count = max(1, round(share * scores.numel()))
        flat = scores.flatten().topk(count).indices
        return torch.stack((flat // scores.shape[1], flat % scores.shape[1]), dim=1)


@chosen_precision()
@torch.no_grad()
def explanatory_graph(
    maps: Mapping[str, Tensor],
    *,
    generator: torch.Generator,
    nodes: Sequence[int] = (40, 20),
    parents: int = 15,
    iterations: int = 20,
    tau: float = 0.1,
    deformation: tuple[float, float] = (0.02, 0.2),
) -> tuple[GraphLayer, ...]:
    """The graph of some layers on images of one category.

    Args:
        maps: layer name -> feature maps (N, D, h, w) of the same N images, top layer first.
        generator: of the nodes' first places.
        nodes: per filter, in the top layer and in all others.
        parents: per node.
        iterations: per layer.
        tau: density of "no node"; 1 is as likely as anywhere in the image.
        deformation: smallest and largest standard deviation of a node's position.

    Returns:
        The layers, top first.

    Raises:
        ValueError: no layer, different numbers of images, or a bound out of range.
    """
    images = {name: len(layer_maps) for name, layer_maps in maps.items()}
    if not images or len(set(images.values())) != 1 or 0 in images.values():
        raise ValueError(f"maps holds {images or 'no layer'}; expected layers with maps of the same images")
    if min(parents, iterations, *nodes) < 1 or not tau > 0 or not 0 < deformation[0] <= deformation[1]:
        raise ValueError(
            f"nodes {nodes}, parents {parents}, iterations {iterations}, tau {tau}, deformation {deformation}: "
            "expected positive numbers, the smaller deformation first"
        )
    graph: list[GraphLayer] = []
    for name, layer_maps in maps.items():
        entities = layer_maps.cpu().float().relu()
        entities = entities / channel_scale([entities])[:, None, None]
        above = graph[-1] if graph else None
        count = nodes[min(len(graph), len(nodes) - 1)]
        start = torch.rand(entities.shape[1], count, 2, generator=generator)
        options = {"parents": parents, "iterations": iterations, "tau": tau, "deformation": deformation}
        graph.append(_learned(name, entities, start, above, **options))
    return tuple(graph)


def _learned(
    name: str,
    entities: Tensor,
    means: Tensor,
    above: GraphLayer | None,
    *,
    parents: int,
    iterations: int,
    tau: float,
    deformation: tuple[float, float],
) -> GraphLayer:
    spread = torch.full(means.shape[:2], deformation[1])
    chosen: Tensor | None = None
    total = float(entities.sum())
    log_likelihoods = []
    for iteration in range(iterations):
        if above is not None and iteration and (iteration - 1) % PARENTS_EVERY == 0:
            expected = expected_positions(means, above, chosen, len(entities))
            positions, scores = node_positions(entities, expected, spread)
            chosen, displacement = chosen_parents(positions, scores, spread, above, parents)
            means = _placed(displacement, above, chosen)
        expected = expected_positions(means, above, chosen, len(entities))
        pieces = [
            node_sums(here, there, spread, tau=tau)
            for here, there in zip(entities.split(BATCH), expected.split(BATCH), strict=True)
        ]
        mass, displaced, squared, log_likelihood = (
            reduce(torch.add, values) for values in zip(*pieces, strict=True)
        )
        log_likelihoods.append(float(log_likelihood) / total if total else math.nan)
        known = mass > 1e-6 * max(total, 1e-12) / mass.numel()
        mass = mass.clamp(min=1e-12)
        means = torch.where(known.unsqueeze(2), means + displaced / mass.unsqueeze(2), means)
        spread = torch.where(known, (squared / (2 * mass)).sqrt().clamp(*deformation), spread)
    expected = expected_positions(means, above, chosen, len(entities))
    positions, scores = node_positions(entities, expected, spread)
    return GraphLayer(name, means, spread, positions, scores, chosen, tuple(log_likelihoods))


def expected_positions(
    means: Tensor, above: GraphLayer | None, parents: Tensor | None, images: int
) -> Tensor:
    """Where nodes are expected on every image (N, D, M, 2): at their mean, or where their parents say."""
    if above is None or parents is None:
        return means.expand(images, *means.shape)
    shifts = (above.positions - above.means).flatten(1, 2)[:, parents]  # (N, D, M, P, 2)
    weights = above.scores.flatten(1, 2)[:, parents].unsqueeze(4)  # (N, D, M, P, 1)
    weights = weights + 1e-6 * (weights.sum(dim=3, keepdim=True) > 0)
    shift = (shifts * weights).sum(dim=3) / weights.sum(dim=3).clamp(min=1e-12)
    return means + shift


def chosen_parents(
    positions: Tensor, scores: Tensor, spread: Tensor, above: GraphLayer, count: int
) -> tuple[Tensor, Tensor]:
    """The best parents (D, M, P) of every node, and the mean displacement (D, M, P, 2) from each.

    Args:
        positions: (N, D, M, 2) of the nodes on every image.
        scores: (N, D, M).
        spread: (D, M), their deformation.
        above: the layer that parents are taken from.
        count: P, at most the number of nodes above.
    """
    lower, weight = (
        positions.flatten(1, 2).double(),
        scores.flatten(1).clamp(max=1).double(),
    )  # (N, V, 2), (N, V)
    upper, upper_weight = (
        above.positions.flatten(1, 2).double(),
        above.scores.flatten(1).clamp(max=1).double(),
    )
    both = weight.T @ upper_weight  # (V, U), sum over images of w_V w_U
    mean, square = [], torch.zeros_like(both)
    for axis in range(2):
        first = (weight * lower[..., axis]).T @ upper_weight - weight.T @ (upper_weight * upper[..., axis])
        second = (weight * lower[..., axis].square()).T @ upper_weight
        second -= 2 * (weight * lower[..., axis]).T @ (upper_weight * upper[..., axis])
        second += weight.T @ (upper_weight * upper[..., axis].square())
        mean.append(first / both.clamp(min=1e-12))
        square += second - mean[-1] * first  # sum of w_V w_U (displacement - mean)^2
    variance = spread.flatten().double().square().unsqueeze(1)
    gain = -square.clamp(min=0) / (2 * variance) - both * torch.log(2 * torch.pi * variance)
    best = gain.topk(min(count, gain.shape[1]), dim=1).indices  # (V, P)
    displacement = torch.stack([values.gather(1, best) for values in mean], dim=2)  # (V, P, 2)
    shape = (*spread.shape, best.shape[1])
    return best.reshape(shape), displacement.reshape(*shape, 2).float()


def _placed(displacement: Tensor, above: GraphLayer, parents: Tensor) -> Tensor:
    """Means (D, M, 2) for which the parents' expectations hold on average."""
    return (above.means.flatten(0, 1)[parents] + displacement).mean(dim=2)
