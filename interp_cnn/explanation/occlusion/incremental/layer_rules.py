"""Rules for layers with weights, and what they share: convolution, transposed convolution, normalisation, linear.

Each looks at one `Call` and returns the operation, or None if the call is something else (or something the
operation does not cover).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_cnn.explanation.occlusion.incremental import operations, spreading
from interp_cnn.explanation.occlusion.incremental.calls import Call
from interp_cnn.explanation.occlusion.incremental.frames import Reach, Spread
from interp_cnn.explanation.occlusion.incremental.rearranging import padded


def convolution(call: Call) -> operations.Operation | None:
    module = call.module
    if call.forms[0] != "map" or not call.alone:
        return None
    if isinstance(module, nn.Conv2d) and type(module).forward is nn.Conv2d.forward:
        sides = tuple(module._reversed_padding_repeated_twice)  # left, right, top, bottom
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        options = {"stride": module.stride, "dilation": module.dilation, "groups": module.groups}
        weight, bias = module.weight.detach(), _detached(module.bias)
        return _padded_convolution(call.sources[0], sides, mode, weight, bias, **options)
    if call.name == "conv2d":
        names = ("weight", "bias", "stride", "padding", "dilation", "groups")
        given = dict(zip(names, call.arguments[1:], strict=False)) | call.keywords
        weight, padding = given["weight"].detach(), given.get("padding", 0)
        stride, dilation = two(given.get("stride", 1)), two(given.get("dilation", 1))
        if isinstance(padding, str):
            totals = [step * (side - 1) for side, step in zip(weight.shape[2:], dilation, strict=True)]
            totals = [0, 0] if padding == "valid" else totals
            (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
        else:
            top, left = bottom, right = two(padding)
        sides, bias, groups = (left, right, top, bottom), _detached(given.get("bias")), given.get("groups", 1)
        options = {"stride": stride, "dilation": dilation, "groups": groups}
        return _padded_convolution(call.sources[0], sides, "constant", weight, bias, **options)
    return None


def _padded_convolution(
    source: Tensor,
    sides: tuple[int, ...],
    mode: str,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> operations.Operation:
    """A convolution that pads with as many zeros on both sides, or one behind a step that pads."""
    left, right, top, bottom = sides
    kernel = tuple(weight.shape[2:])
    if (mode == "constant" and left == right and top == bottom) or not any(sides):
        return operations.Convolution(weight, bias, axes_of(kernel, stride, (top, left), dilation), groups)
    padding = padded(source, sides, mode)
    convolution = operations.Convolution(weight, bias, axes_of(kernel, stride, (0, 0), dilation), groups)
    return operations.Chain(padding, convolution, padding.shape)


def axes_of(kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> operations.Axes:
    columns = zip(two(kernel), two(stride), two(padding), two(dilation), strict=True)
    rows, cols = (Reach(*values) for values in columns)
    return rows, cols


def two(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _detached(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach()


def transposed_convolution(call: Call) -> operations.Operation | None:
    module = call.module
    if call.forms[0] != "map" or not call.alone:
        return None
    if isinstance(module, nn.ConvTranspose2d) and type(module).forward is nn.ConvTranspose2d.forward:
        weight, bias, groups = module.weight, module.bias, module.groups
        options = {name: getattr(module, name) for name in ("stride", "padding", "dilation")}
    elif call.name == "conv_transpose2d":
        names = ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
        given = dict(zip(names, call.arguments[1:], strict=False)) | call.keywords
        weight, bias, groups = given["weight"], given.get("bias"), given.get("groups", 1)
        options = {"stride": given.get("stride", 1), "padding": given.get("padding", 0)}
        options["dilation"] = given.get("dilation", 1)
    else:
        return None
    columns = (two(options[name]) for name in ("stride", "padding", "dilation"))
    rows, cols = (Spread(*each) for each in zip(weight.shape[2:], *columns, strict=True))
    usual = [
        axis.outputs(0, length)[1] - axis.padding
        for axis, length in zip((rows, cols), call.sources[0].shape[2:], strict=True)
    ]
    more = tuple(length - least for length, least in zip(call.output.shape[2:], usual, strict=True))
    return spreading.TransposedConvolution(
        weight.detach(), _detached(bias), (rows, cols), groups, (more[0], more[1])
    )


def shuffle(call: Call) -> operations.Operation | None:
    """Channels to cells and back."""
    if not call.alone or call.forms[0] != "map":
        return None
    if isinstance(call.module, nn.PixelShuffle) or call.name == "pixel_shuffle":
        return spreading.PixelShuffle(call.output.shape[2] // call.sources[0].shape[2])
    if isinstance(call.module, nn.PixelUnshuffle) or call.name == "pixel_unshuffle":
        return spreading.PixelUnshuffle(call.sources[0].shape[2] // call.output.shape[2])
    return None


def batch_norm(call: Call) -> operations.Operation | None:
    module = call.module
    if (
        not isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d))
        or module.running_mean is None
        or module.running_var is None
        or module.training
    ):
        return None
    if type(module).forward is not nn.BatchNorm2d.forward or call.forms[0] not in ("map", "vector"):
        return None
    scale = torch.rsqrt(module.running_var.double() + module.eps)
    if module.weight is not None:
        scale = scale * module.weight.detach().double()
    shift = -module.running_mean.double() * scale
    if module.bias is not None:
        shift = shift + module.bias.detach().double()
    dtype = module.running_mean.dtype
    return operations.Affine(scale.to(dtype), shift.to(dtype))


def linear(call: Call) -> operations.Operation | None:
    if not call.alone or call.forms[0] not in ("vector", "last"):
        return None
    if isinstance(call.module, nn.Linear) and type(call.module).forward is nn.Linear.forward:
        return operations.Linear(call.module.weight.detach(), _detached(call.module.bias))
    if call.name == "linear":
        given = dict(zip(("weight", "bias"), call.arguments[1:], strict=False)) | call.keywords
        return operations.Linear(given["weight"].detach(), _detached(given.get("bias")))
    return None


def channel_norm(call: Call) -> operations.Operation | None:
    """Layer norm over the channels of a channels-last map, or over a vector."""
    if not call.alone or call.forms[0] not in ("last", "vector"):
        return None
    channels = call.sources[0].shape[-1]
    if type(call.module) is nn.LayerNorm and tuple(call.module.normalized_shape) == (channels,):
        weight, bias, eps = call.module.weight, call.module.bias, call.module.eps
    elif call.name == "layer_norm":
        names = ("normalized_shape", "weight", "bias", "eps")
        given = dict(zip(names, call.arguments[1:], strict=False)) | call.keywords
        if tuple(given["normalized_shape"]) != (channels,):
            return None
        weight, bias, eps = given.get("weight"), given.get("bias"), given.get("eps", 1e-5)
    else:
        return None

    def normalise(value: Tensor) -> Tensor:
        own_weight, own_bias = (None if p is None else p.detach().to(value) for p in (weight, bias))
        return F.layer_norm(value, (channels,), own_weight, own_bias, eps)

    return operations.Pointwise(normalise)
