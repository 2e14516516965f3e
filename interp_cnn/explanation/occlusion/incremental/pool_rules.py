"""Rules for pooling in all its forms, for means, sums and largest values over axes, and for interpolation.

Each looks at one `Call` and returns the operation, or None if the call is something else.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_cnn.explanation.occlusion.incremental import operations, pooling
from interp_cnn.explanation.occlusion.incremental.calls import Call
from interp_cnn.explanation.occlusion.incremental.layer_rules import axes_of
from interp_cnn.explanation.occlusion.incremental.layouts import form_of, letters_of


def pool(call: Call) -> operations.Operation | None:
    if not call.alone or call.forms[0] != "map" or call.output.ndim != 4:
        return None
    module, given = call.module, {}
    names = ("kernel_size", "stride", "padding")
    if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
        known = (*names, "dilation", "ceil_mode", "count_include_pad", "divisor_override", "return_indices")
        given = {name: getattr(module, name) for name in known if hasattr(module, name)}
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
    axes = axes_of(given["kernel_size"], stride, given.get("padding", 0), given.get("dilation", 1))
    if largest:
        return pooling.MaxPool(axes, bool(given.get("ceil_mode", False)))
    options: dict[str, Any] = {"ceil_mode": bool(given.get("ceil_mode", False))}
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
    if not isinstance(call.module, nn.AdaptiveAvgPool2d) and call.name != "adaptive_avg_pool2d":
        return None
    (height, width), (rows, columns) = call.sources[0].shape[2:], call.output.shape[2:]
    if (rows, columns) == (height, width):
        return operations.Passing(call.again)
    if (rows, columns) == (1, 1):
        return pooling.Mean("hw", height * width, "map", call.again)
    if height % rows == 0 and width % columns == 0:
        kernel = (height // rows, width // columns)
        options = {"ceil_mode": False, "count_include_pad": True, "divisor_override": None}
        return _average_pool(call.sources[0], kernel, kernel, 0, axes_of(kernel, kernel, 0), options)
    return _resampling(call)


def adaptive_maximum(call: Call) -> operations.Operation | None:
    """Adaptive max-pooling, and the largest value of every map."""
    if not call.alone or call.forms[0] != "map":
        return None
    (height, width) = call.sources[0].shape[2:]
    if call.name in ("amax", "amin"):
        if _axes_of_reduction(call) != [2, 3] or call.output.ndim != 4:
            return None
        return operations.WholeMap(call.again)
    named = isinstance(call.module, nn.AdaptiveMaxPool2d) or "adaptive_max_pool2d" in call.name
    if not named or getattr(call.module, "return_indices", False):
        return None
    rows, columns = call.output.shape[2:]
    if height % rows == 0 and width % columns == 0 and (rows, columns) != (1, 1):
        kernel = (height // rows, width // columns)
        return pooling.MaxPool(axes_of(kernel, kernel, 0))
    return operations.WholeMap(call.again)


def mean(call: Call) -> operations.Operation | None:
    """Mean or sum over some axes, kept or not."""
    if not call.alone or call.name not in ("mean", "sum") or call.keywords.get("dtype") is not None:
        return None
    letters, axes = letters_of(call.forms[0]), _axes_of_reduction(call)
    over = "".join(letters[axis] for axis in axes)
    if not over or "n" in over or ("c" in over and over.count("c") < letters.count("c")):
        return None
    kept = call.output.ndim == call.sources[0].ndim
    rest = letters if kept else "".join(letter for axis, letter in enumerate(letters) if axis not in axes)
    if len(rest) < 2:
        return None
    cells = math.prod(call.sources[0].shape[axis] for axis in axes) if call.name == "mean" else 1
    return pooling.Mean(over, cells, form_of(rest), call.again)


def _axes_of_reduction(call: Call) -> list[int]:
    """The axes over which a call reduces, in order; none where it says them in another way."""
    names = ("dim", "axis")
    given = call.arguments[1] if len(call.arguments) > 1 else None
    given = next((call.keywords[name] for name in names if name in call.keywords), given)
    given = (given,) if isinstance(given, int) and not isinstance(given, bool) else given
    if not isinstance(given, (tuple, list)) or not all(isinstance(axis, int) for axis in given):
        return []
    return sorted(axis % call.sources[0].ndim for axis in given)


def interpolation(call: Call) -> operations.Operation | None:
    """Linear, bicubic and area interpolation: a matrix for the rows and one for the columns."""
    named = isinstance(call.module, nn.Upsample) or call.name in ("interpolate", "upsample")
    return _resampling(call) if named and call.alone and call.forms[0] == "map" else None


def _resampling(call: Call) -> operations.Operation | None:
    """Read off what the call does to every row and every column of ones."""
    source = call.sources[0]
    height, width = source.shape[2:]
    try:
        rows = call.again(_ones(height, source).view(height, 1, height, 1).expand(-1, -1, -1, width))
        columns = call.again(_ones(width, source).view(width, 1, 1, width).expand(-1, -1, height, -1))
    except RuntimeError:  # not for numbers of this type
        return None
    return pooling.Resample(rows[:, 0, :, 0].T, columns[:, 0, 0].T, call.again)


def _ones(length: int, like: Tensor) -> Tensor:
    return torch.eye(length, dtype=torch.float64, device=like.device)
