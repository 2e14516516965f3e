"""What kind of operation a step is, and how a linear one is walked backwards.

    elementwise   y_i depends on x_i alone: activations, clamps, powers             (one input, same shape)
    moves         every y_i is a copy of one x_j: views, slices, concatenation, padding
    winners       every y_i is a copy of one x_j, the largest in its window: max-pooling, amax
    sums          linear without weights to learn: average pooling, means, interpolation, einsum with a constant
    weighted      convolutions and linear layers: the steps that relevance rules are chosen for
    normalisers   divide by statistics of the same image: layer, group, instance, response normalisation

`weighted_layers` has the convolutions and linear layers themselves.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.gradients.rectifiers import RECTIFIERS
from interp_cnn.explanation.propagation.tape import Step, Value

ELEMENTWISE = RECTIFIERS | {
    *("sigmoid", "tanh", "hardsigmoid", "hardtanh", "logsigmoid", "softsign", "tanhshrink", "hardshrink"),
    *("softshrink", "erf", "expit", "clamp", "clamp_min", "clamp_max", "abs", "exp", "expm1", "log", "log1p"),
    *("sqrt", "rsqrt", "square", "reciprocal", "pow", "neg", "sin", "cos", "atan", "positive"),
}
MOVES = {
    *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "permute", "transpose"),
    *("swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT", "squeeze", "unsqueeze", "expand"),
    *(
        "expand_as",
        "broadcast_to",
        "repeat",
        "tile",
        "repeat_interleave",
        "contiguous",
        "clone",
        "to",
        "type",
    ),
    *("type_as", "float", "double", "half", "bfloat16", "cpu", "cuda", "getitem", "narrow", "select"),
    *(
        "index_select",
        "gather",
        "chunk",
        "split",
        "tensor_split",
        "unbind",
        "cat",
        "stack",
        "hstack",
        "vstack",
    ),
    *(
        "dstack",
        "flip",
        "roll",
        "rot90",
        "pad",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "where",
        "masked_fill",
    ),
    *("unfold", "atleast_2d", "diagonal"),
}
WINNERS = {
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "amax",
    "max",
}
AVERAGES = {
    *("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean", "sum"),
    *("interpolate", "upsample"),
}
SUMS = AVERAGES | {"fold", "matmul", "mm", "bmm", "einsum", "tensordot", "mv"}
BINARY = {"add", "sub", "rsub", "mul", "div", "rdiv", "maximum", "minimum", "fmax", "fmin"}
WEIGHTED = {
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "linear",
}
NORMALISERS = {"layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm", "normalize"}
GATES = {"sigmoid", "hardsigmoid", "tanh", "hardtanh", "softmax", "softsign", "clamp"}


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
        pairs = [(output, one) for output, one in pairs if one is not None and output.requires_grad]
        if not pairs:  # the value gave its shape only
            return torch.zeros_like(leaf)
        return torch.autograd.grad([output for output, _ in pairs], leaf, [one for _, one in pairs])[0]


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
