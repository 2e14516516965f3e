"""How LRP hands relevance through a step that copies its values: to where each copy came from, and nothing is lost.

Some copies come from no value of the image: the cells of a constant padding, a constant joined to the feature maps,
the values that a mask fills in. Rules that share evenly, and contributions that cancel out, leave relevance there. Like
a bias, a constant is a part of the network and not of the image, so its relevance goes to the values around it:

    constant padding          to the nearest cell that is real (the transpose of a padding that replicates)
    F.unfold with padding     likewise
    cat, stack                evenly to the real values that it was joined to, at the same place
    where, masked_fill        to the value that was not taken, at the same place
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.propagation.tape import Step, Value
from interp_cnn.explanation.propagation.transposes import of_one_output, unbroadcast, vector_jacobian

_JOINED_ALONG = {"hstack": 1, "vstack": 0, "dstack": 2}


def moved_back(step: Step, received: Sequence[Tensor | None]) -> list[tuple[Value, Tensor]]:
    """The relevance of a copying step's outputs, handed to its inputs."""
    values = step.inputs
    if step.kind == "pad" and _mode(step) == "constant":
        widths = step.argument(1, "pad")
        return [(values[0], _transposed(lambda x: replicated(x, widths), values[0], of_one_output(received)))]
    if step.kind == "unfold" and step.function is F.unfold:
        return [(values[0], _transposed(lambda x: _unfolded(step, x), values[0], of_one_output(received)))]
    if step.kind in ("where", "masked_fill") and len(values) == 1:
        return [(values[0], unbroadcast(of_one_output(received), values[0].tensor.shape))]
    if step.kind in ("cat", "stack", *_JOINED_ALONG):
        received = [_without_constants(step, of_one_output(received))]
    return [(value, vector_jacobian(step, value, received)) for value in values]


def replicated(x: Tensor, widths: Sequence[int]) -> Tensor:
    """Padded (cut where negative) with the nearest cell along any axes; `F.pad` replicates some of the last only.

    Args:
        x: any shape.
        widths: as `F.pad` takes them: before and after on the last axis, then on the one before it, ...
    """
    for axis, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True), start=1):
        if before or after:
            size = x.shape[-axis]
            cells = torch.arange(-before, size + after, device=x.device).clamp(0, size - 1)
            x = x.index_select(-axis, cells)
    return x


def _mode(step: Step) -> str:
    mode = step.argument(2, "mode", "constant")
    return mode if isinstance(mode, str) else "constant"  # `torch.constant_pad_nd` has its value there


def _unfolded(step: Step, x: Tensor) -> Tensor:
    padding = step.argument(3, "padding", 0)
    rows, columns = (padding, padding) if isinstance(padding, int) else padding
    x = replicated(x, (columns, columns, rows, rows))
    return F.unfold(
        x, step.argument(1, "kernel_size"), step.argument(2, "dilation", 1), 0, step.argument(4, "stride", 1)
    )


def _transposed(function: Callable[[Tensor], Tensor], value: Value, relevance: Tensor) -> Tensor:
    with torch.enable_grad():
        x = torch.zeros_like(value.tensor).requires_grad_()
        return torch.autograd.grad(function(x), x, relevance)[0]


def _without_constants(step: Step, relevance: Tensor) -> Tensor:
    """The relevance of joined tensors with the share of the constants handed to the others, along the joined axis."""
    given = step.argument(0, "tensors")
    if all(isinstance(member, Value) and not member.frozen for member in given):
        return relevance
    fill = [torch.ones_like if member in step.inputs else torch.zeros_like for member in given]
    pieces = [
        of(member.tensor if isinstance(member, Value) else member)
        for of, member in zip(fill, given, strict=True)
    ]
    options = {"dim": step.argument(1, "dim", 0)} if step.kind in ("cat", "stack") else {}
    real = step.function(pieces, **options).to(relevance)
    axis = options.get("dim", _JOINED_ALONG.get(step.kind))
    lost = (relevance * (1 - real)).sum(axis, keepdim=True)
    return (relevance + lost / real.sum(axis, keepdim=True)) * real
