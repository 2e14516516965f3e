"""The graph that gives the network's own logits, and its values for clean images.

Writing a small network down, and preparing its weights, costs as much as a few of its passes. So the graph of the
network that was asked about last is kept, for as long as that network lives and stays what it was: the same modules,
settings and hooks, every weight and buffer equal to the copies that were made, images of the same shape and type. A
kept graph is held against the network's logits as a new one is.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.precision import precision, rounding
from interp_cnn.explanation.network.tried import state_of
from interp_cnn.explanation.occlusion.incremental.graph import Graph, graph_of
from interp_cnn.explanation.occlusion.incremental.tracing import Untraceable

MOST_BYTES = 2**24  # of weights: more takes longer to compare, and large passes gain less


@dataclass
class _Kept:
    """A graph, and what the network was when it was written down."""

    network: weakref.ref
    state: list
    weights: list[Tensor]
    graph: Graph


_last: list[_Kept] = []  # one at most: a graph's prepared weights are memory


def faithful_graph(
    network: nn.Module, example: Tensor, logits: Tensor | None
) -> tuple[Graph, dict[str, Tensor]]:
    """The network's graph, once it is known to give the network's logits, and every value of one image.

    Args:
        network: in evaluation mode.
        example: (1, C, H, W).
        logits: what the network gives for it, if known.

    Raises:
        Untraceable: with the reason.
    """
    expected = network(example.clone()) if logits is None else logits[:1]
    state = state_of(network, example)
    if (graph := _kept(network, state)) is not None:
        values = clean_values(graph, example)
        if _gives(values[graph.output], expected):
            return graph, values
    _last.clear()
    for careful in (False, True):
        graph = graph_of(network, example, careful)
        values = clean_values(graph, example)
        if _gives(values[graph.output], expected):
            _keep(network, state, graph)
            return graph, values
    raise Untraceable("its traced graph gives other logits than the network itself")


def clean_values(graph: Graph, images: Tensor) -> dict[str, Tensor]:
    """Every value on the way; in double precision where its rounding would be most of the error.

    In true float32 at least, whatever was chosen for the windows' passes: one pass stands against all of theirs.
    """
    exact = images.double() if graph.deep and images.device.type != "mps" else images
    with precision("float32"):
        return graph.dense({graph.image: exact}, [graph.output], keep=True)


def _gives(logits: Tensor, expected: Tensor) -> bool:
    """Whether a graph's logits are the network's, which alone carry the rounding of the chosen precision."""
    logits = logits.to(expected)
    if logits.shape != expected.shape:
        return False
    allowed = max(1e-3, 32 * rounding(expected.dtype)) * expected.abs().max().clamp(min=1e-6)
    return bool(((logits - expected).abs() <= allowed).all())


def _weights(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _kept(network: nn.Module, state: list | None) -> Graph | None:
    """The graph that was kept of this network, if it still is what it was."""
    if not _last or state is None or _last[0].network() is not network or _last[0].state != state:
        return None
    weights = _weights(network)
    same = len(weights) == len(_last[0].weights) and all(map(torch.equal, weights, _last[0].weights))
    return _last[0].graph if same else None


def _keep(network: nn.Module, state: list | None, graph: Graph) -> None:
    weights = _weights(network)
    if state is None or sum(weight.numel() * weight.element_size() for weight in weights) > MOST_BYTES:
        return
    copies = [weight.detach().clone() for weight in weights]
    _last[:] = [_Kept(weakref.ref(network, lambda _: _last.clear()), state, copies, graph)]
