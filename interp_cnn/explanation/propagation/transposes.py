"""How a step of the tape is walked backwards: its transpose, and what a batch norm multiplies by."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.propagation.tape import Step, Value


def of_one_output(received: Sequence[Tensor | None]) -> Tensor:
    """What came back to the output of a step that has one."""
    assert received[0] is not None  # a step that nothing came back to is passed over
    return received[0]


def vector_jacobian(
    step: Step, value: Value, gradients: Sequence[Tensor | None], at: dict[Value, Tensor] | None = None
) -> Tensor:
    """The step's transpose at one input (by autograd).

    Args:
        step: the step.
        value: the input.
        gradients: a gradient for each output, or None.
        at: other tensors for the inputs than those recorded.
    """
    with torch.enable_grad():
        leaf = (at or {}).get(value, value.tensor).detach().requires_grad_()
        outputs = step.run((at or {}) | {value: leaf})
        outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
        pairs = zip(outputs, gradients, strict=True)
        pairs = [
            (output, gradient) for output, gradient in pairs if gradient is not None and output.requires_grad
        ]
        if not pairs:  # the value gave its shape only
            return torch.zeros_like(leaf)
        return torch.autograd.grad(
            [output for output, _ in pairs], leaf, [gradient for _, gradient in pairs]
        )[0]


def unbroadcast(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Sum over what broadcasting repeated."""
    if tensor.shape == shape:
        return tensor
    tensor = tensor.sum(tuple(range(tensor.dim() - len(shape)))) if tensor.dim() > len(shape) else tensor
    repeated = tuple(
        i for i, (have, want) in enumerate(zip(tensor.shape, shape, strict=True)) if have != want
    )
    return tensor.sum(repeated, keepdim=True) if repeated else tensor


def rows(tensor: Tensor, step: Step) -> Tensor:
    """A number for each channel (channels,) shaped to go with the outputs (B, channels, ...) of a step."""
    return tensor.reshape(-1, *([1] * (step.output.tensor.dim() - 2)))


def batch_norm_scale(step: Step) -> Tensor:
    """The slope of an evaluated batch norm, one number a channel."""
    if step.function is not F.batch_norm:
        raise ValueError(
            f"{step.where} is not called as torch.nn.functional.batch_norm: its arguments are unknown"
        )
    weight = step.argument(3, "weight")
    scale = (step.argument(2, "running_var") + step.argument(7, "eps", 1e-5)).rsqrt()
    return scale if weight is None else scale * weight
