"""The graph that gives the network's own logits, and its values for clean images."""

from __future__ import annotations

from torch import Tensor, nn

from interp_cnn.explanation.network.precision import precision, rounding
from interp_cnn.explanation.occlusion.incremental.graph import Graph, graph_of
from interp_cnn.explanation.occlusion.incremental.tracing import Untraceable


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
    for careful in (False, True):
        graph = graph_of(network, example, careful)
        values = clean_values(graph, example)
        found = values[graph.output].to(expected)
        if found.shape != expected.shape:
            continue
        # the network's own logits carry the rounding of the chosen precision, the graph's do not
        allowed = max(1e-3, 32 * rounding(expected.dtype)) * expected.abs().max().clamp(min=1e-6)
        if bool(((found - expected).abs() <= allowed).all()):
            return graph, values
    raise Untraceable("its traced graph gives other logits than the network itself")


def clean_values(graph: Graph, images: Tensor) -> dict[str, Tensor]:
    """Every value on the way; in double precision where its rounding would be most of the error.

    In true float32 at least, whatever was chosen for the windows' passes: one pass stands against all of theirs.
    """
    exact = images.double() if graph.deep and images.device.type != "mps" else images
    with precision("float32"):
        return graph.dense({graph.image: exact}, [graph.output], keep=True)
