"""Rules for layers with a geometry or with weights: convolution, normalisation, pooling, linear.

Each looks at one `Call` and returns the operation, or None if the call is something else (or something the
operation does not cover, such as padding by reflection).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_cnn.explanation.occlusion.incremental import operations, pooling
from interp_cnn.explanation.occlusion.incremental.calls import Call
from interp_cnn.explanation.occlusion.incremental.frames import Reach


def convolution(call: Call) -> operations.Operation | None:
    module = call.module
    if call.forms[0] != "map" or not call.alone:
        return None
    if isinstance(module, nn.Conv2d) and type(module).forward is nn.Conv2d.forward:
        if module.padding_mode != "zeros":
            return None
        padding = module.padding
        if isinstance(padding, str):
            padding = _named_padding(padding, module.kernel_size, module.stride, module.dilation)
        if padding is None:
            return None
        axes = _axes(module.kernel_size, module.stride, padding, module.dilation)
        return operations.Convolution(module.weight.detach(), _detached(module.bias), axes, module.groups)
    if call.name == "conv2d":
        names = ("weight", "bias", "stride", "padding", "dilation", "groups")
        given = dict(zip(names, call.arguments[1:], strict=False)) | call.keywords
        weight, padding = given["weight"], given.get("padding", 0)
        stride, dilation = _two(given.get("stride", 1)), _two(given.get("dilation", 1))
        if isinstance(padding, str):
            padding = _named_padding(padding, tuple(weight.shape[2:]), stride, dilation)
        if padding is None:
            return None
        axes = _axes(tuple(weight.shape[2:]), stride, _two(padding), dilation)
        return operations.Convolution(
            weight.detach(), _detached(given.get("bias")), axes, given.get("groups", 1)
        )
    return None


def _named_padding(name: str, kernel: tuple, stride: tuple, dilation: tuple) -> tuple[int, int] | None:
    totals = [step * (side - 1) for side, step in zip(kernel, dilation, strict=True)]
    if name == "valid":
        return 0, 0
    if name == "same" and all(total % 2 == 0 for total in totals):
        return totals[0] // 2, totals[1] // 2
    return None


def _axes(kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> operations.Axes:
    columns = zip(_two(kernel), _two(stride), _two(padding), _two(dilation), strict=True)
    rows, cols = (Reach(*values) for values in columns)
    return rows, cols


def _two(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _detached(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach()


def batch_norm(call: Call) -> operations.Operation | None:
    module = call.module
    if (
        not isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d))
        or module.running_mean is None
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


def pool(call: Call) -> operations.Operation | None:
    if not call.alone or call.forms[0] != "map" or call.output.ndim != 4:
        return None
    module, given = call.module, {}
    names = ("kernel_size", "stride", "padding")
    if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
        options = (*names, "dilation", "ceil_mode", "count_include_pad", "divisor_override", "return_indices")
        given = {name: getattr(module, name) for name in options if hasattr(module, name)}
        largest = isinstance(module, nn.MaxPool2d)
    elif call.node.target in (F.max_pool2d, torch.max_pool2d):
        given = dict(zip((*names, "dilation", "ceil_mode"), call.arguments[1:], strict=False)) | call.keywords
        largest = True
    elif call.name == "avg_pool2d":
        rest = (*names, "ceil_mode", "count_include_pad", "divisor_override")
        given = dict(zip(rest, call.arguments[1:], strict=False)) | call.keywords
        largest = False
    else:
        return None
    if given.get("return_indices") or "kernel_size" not in given:
        return None
    stride = given.get("stride") or given["kernel_size"]
    axes = _axes(given["kernel_size"], stride, given.get("padding", 0), given.get("dilation", 1))
    if largest:
        return pooling.MaxPool(axes, bool(given.get("ceil_mode", False)))
    options = {"ceil_mode": bool(given.get("ceil_mode", False))}
    options["count_include_pad"] = bool(given.get("count_include_pad", True))
    options["divisor_override"] = given.get("divisor_override")
    return _average_pool(
        call.sources[0], given["kernel_size"], stride, given.get("padding", 0), axes, options
    )


def _average_pool(
    value: Tensor, kernel: Any, stride: Any, padding: Any, axes: operations.Axes, options: dict
) -> operations.Operation:
    def forward(value: Tensor) -> Tensor:
        return F.avg_pool2d(value, kernel, stride, padding, **options)

    ones = torch.ones_like(value[:1, :1])
    counted = F.avg_pool2d(ones, kernel, stride, padding, options["ceil_mode"], divisor_override=1)
    share = forward(ones) / counted.clamp(min=1)  # one over the divisor
    return pooling.AveragePool(axes, forward, share.permute(0, 2, 3, 1))


def adaptive_average(call: Call) -> operations.Operation | None:
    if not call.alone or call.forms[0] != "map":
        return None
    (height, width) = call.sources[0].shape[2:]
    if isinstance(call.module, nn.AdaptiveAvgPool2d):
        forward = call.module
    elif call.name == "adaptive_avg_pool2d":
        size = call.arguments[1] if len(call.arguments) > 1 else call.keywords["output_size"]

        def forward(value: Tensor) -> Tensor:
            return F.adaptive_avg_pool2d(value, size)
    elif call.name == "mean":
        axes = (
            call.arguments[1]
            if len(call.arguments) > 1
            else call.keywords.get("dim", call.keywords.get("axis"))
        )
        if not isinstance(axes, (tuple, list)) or sorted(axis % 4 for axis in axes) != [2, 3]:
            return None
        kept = call.arguments[2] if len(call.arguments) > 2 else call.keywords.get("keepdim", False)

        def forward(value: Tensor) -> Tensor:
            return value.mean((2, 3), keepdim=kept)

        return pooling.GlobalAverage(height * width, forward)
    else:
        return None
    rows, columns = call.output.shape[2:]
    if (rows, columns) == (height, width):
        return operations.Passing(forward)
    if (rows, columns) == (1, 1):
        return pooling.GlobalAverage(height * width, forward)
    if height % rows == 0 and width % columns == 0:
        kernel = (height // rows, width // columns)
        options = {"ceil_mode": False, "count_include_pad": True, "divisor_override": None}
        return _average_pool(call.sources[0], kernel, kernel, 0, _axes(kernel, kernel, 0), options)
    matrices = [_adaptive_matrix(length, parts) for length, parts in ((height, rows), (width, columns))]
    return pooling.Resample(matrices[0], matrices[1], forward)


def _adaptive_matrix(length: int, parts: int) -> Tensor:
    matrix = torch.zeros(parts, length, dtype=torch.float64)
    for part in range(parts):
        first, last = part * length // parts, -(-(part + 1) * length // parts)
        matrix[part, first:last] = 1 / (last - first)
    return matrix


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
        parameters = (None if p is None else p.detach().to(value) for p in (weight, bias))
        return F.layer_norm(value, (channels,), *parameters, eps)

    return operations.Pointwise(normalise)
