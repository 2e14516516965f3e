"""Steps that jump: comparisons, signs, rounding, whatever picks by the largest.

They have no delta rule and run densely, on `clean + delta`. That sum carries rounding which the network's own value
does not: where a hidden window makes a value exactly 0, it gives 1e-18 or -1e-18, and `x < 0` answers otherwise. Only a
plain pass knows what the network answers there. Which windows those are is tried, whatever the steps look like: the
dense rest runs twice more, on values moved by a few units of their rounding, up and down, every cell by its own amount.
A window whose steps then answer otherwise hangs on rounding. The steps are asked, not only the logits: of two cells
that jump, one up and one down, a mean over cells knows nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.operations import JUMPS
from interp_cnn.explanation.occlusion.incremental.evaluation import GraphStep
from interp_cnn.explanation.occlusion.incremental.graph import Graph
from interp_cnn.explanation.occlusion.incremental.joining import Multiply
from interp_cnn.explanation.occlusion.incremental.operations import Affine, Convolution, Linear
from interp_cnn.explanation.occlusion.incremental.spreading import TransposedConvolution

UNITS = 8  # of rounding, by which values are moved
# numbers of as many bits, and a factor that spreads these
WHOLE = {torch.float32: (torch.int32, 0x2C1B3C6D), torch.float64: (torch.int64, 0x2545F4914F6CDD1D)}
PASSES = 3  # over the dense rest of a network that jumps
MODULES = (nn.Hardshrink, nn.Threshold)


def jumping(graph: Graph) -> list[str]:
    """Steps that run densely and may answer otherwise for a change as small as rounding."""
    return [
        n for n, step in graph.steps.items() if step.operation is None and step.inputs and _jumps(graph, step)
    ]


def _jumps(graph: Graph, step: GraphStep) -> bool:
    value, target = step.node.meta["value"], step.node.target
    if not isinstance(value, Tensor):
        return False  # what is read of several is a step of its own
    if not (value.is_floating_point() or value.is_complex()):
        return True  # comparisons, places of the largest, whole numbers
    if step.node.op == "call_module":
        return isinstance(graph.module.get_submodule(str(target)), MODULES)
    name = getattr(target, "__name__", str(target)).strip("_")
    return name in JUMPS or "quantize" in name or bool(step.node.kwargs.get("rounding_mode"))


def largest_on_the_way(graph: Graph, values: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """What the rounding of steps is a share of: a bound of the numbers that were added up to theirs.

    Small differences of large numbers carry the rounding of the large ones.

    Args:
        graph: the network.
        values: clean value of every step (B, ...).
        names: steps with a delta rule, each after those that it reads.

    Returns:
        (B,) for each of the names.
    """
    largest: dict[str, Tensor] = {}
    for name in names:
        step = graph.steps[name]
        magnitude = values[name].abs().flatten(1).amax(1).double()
        read = [largest[source] for source in step.inputs]
        if read:
            product = isinstance(step.operation, Multiply)
            carried = math.prod(read[1:], start=read[0]) if product else torch.stack(read).amax(0)
            magnitude = torch.maximum(magnitude, carried * _gain(step))
        largest[name] = magnitude
    return largest


def _gain(step: GraphStep) -> float:
    """How much larger independent rounding of the inputs comes out."""
    operation = step.operation
    if isinstance(operation, Affine):
        return float(operation.scale.abs().max())
    if isinstance(operation, Convolution | Linear):
        return float(operation.weight.double().flatten(1).norm(dim=1).max())
    if isinstance(operation, TransposedConvolution):
        return float(operation.weight.double().transpose(0, 1).flatten(1).norm(dim=1).max())
    return 1.0


def moved_by_rounding(changed: Tensor, delta: Tensor, largest: Tensor) -> Tensor:
    """By how much each changed value is moved, (I, N, ...): equal numbers alike, so that copies stay copies.

    Exact zeros (a rectifier's) stay.

    Args:
        changed: clean + delta.
        delta: in its own number type.
        largest: (I,), see `largest_on_the_way`.
    """
    axes = (1,) * (changed.ndim - 2)
    scale = torch.maximum(changed.abs().flatten(2).amax(2), largest.to(changed)[:, None]).unflatten(
        1, (-1, *axes)
    )
    whole, mix = WHOLE[changed.dtype]
    mixed = changed.view(whole).bitwise_right_shift(13).bitwise_xor_(changed.view(whole)).mul_(mix)
    # -0.5 ... 0.5, neighbours far apart
    share = mixed.to(changed.dtype).mul_(2.0 ** -(8 * changed.element_size()))
    share.add_(share.sign(), alpha=0.5)
    share *= scale * (UNITS * torch.finfo(delta.dtype).eps)
    return share.masked_fill_((delta == 0) | (changed == 0), 0)


def jumped(
    graph: Graph, known: dict[str, Tensor], moves: dict[str, Tensor], before: dict[str, Tensor]
) -> Tensor:
    """Which windows hang on rounding, (N,).

    Args:
        graph: the network.
        known: values that the dense rest reads, (N, ...).
        moves: how far each is moved.
        before: what the rest's jumping steps, and its logits, were for the known values.
    """
    first = next(iter(known.values()))
    still = torch.ones(len(first), dtype=torch.bool, device=first.device)
    for sign in (1, -1):
        moved = {name: value + sign * moves[name] for name, value in known.items()}
        there = graph.dense(moved, list(before))
        for name, value in before.items():
            other = there[name]
            # values of which batches are not the first axis speak for all windows
            still &= (
                _alike(value, other)
                if value.shape[:1] == first.shape[:1]
                else _alike(value[None], other[None])
            )
    return ~still


def _alike(tensor: Tensor, other: Tensor) -> Tensor:
    """Whether each of (N, ...) is the same, but for what a small move moves smoothly; NaN is like nothing."""
    if tensor.is_floating_point():
        same = (tensor - other).abs() <= math.sqrt(torch.finfo(tensor.dtype).eps) * tensor.abs().max()
    else:
        same = tensor == other
    return same.flatten(1).all(1)
