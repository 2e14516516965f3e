"""Which operation a call in the network's graph is.

Each rule looks at one `Call` (the module, function or method with its constant arguments) and returns the
operation with its delta rule, or None if the call is something else. A call that no rule recognises has no delta
rule; the engine runs it densely. A rule must be sure: what it returns is used for exact numbers.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from interp_cnn.explanation.network.operations import ELEMENTWISE, JUMPS
from interp_cnn.explanation.network.part_mask import PartMask
from interp_cnn.explanation.occlusion.incremental import joining, operations
from interp_cnn.explanation.occlusion.incremental.calls import Call
from interp_cnn.explanation.occlusion.incremental.layer_rules import (
    batch_norm,
    channel_norm,
    convolution,
    linear,
    shuffle,
    transposed_convolution,
)
from interp_cnn.explanation.occlusion.incremental.layouts import letters_of
from interp_cnn.explanation.occlusion.incremental.pool_rules import (
    adaptive_average,
    adaptive_maximum,
    interpolation,
    mean,
    pool,
)
from interp_cnn.explanation.occlusion.incremental.rearranging import rearranging

POINTWISE_MODULES = (
    *(nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.ELU),
    *(nn.SELU, nn.CELU, nn.Softplus, nn.Mish, nn.Softsign, nn.LogSigmoid, nn.Hardtanh, nn.Tanhshrink),
    nn.Softshrink,
)
POINTWISE_NAMES = (
    ELEMENTWISE - {"relu", "prelu", "pow", "neg"} - JUMPS
)  # which have rules of their own, or none
IDENTITY_MODULES = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
IDENTITY_NAMES = frozenset(
    "contiguous clone detach dropout dropout2d alpha_dropout stochastic_depth to float double type type_as".split()  # noqa: SIM905
)


def operation_of(call: Call, careful: bool = False) -> operations.Operation | None:
    """The operation of a call, or None if no rule knows it.

    Args:
        call: the call.
        careful: compute it and compare with what the network gave; a module that does something else than its
            type says (a hook, say) is then not recognised.
    """
    values = (*call.sources, call.output)
    if not all(value.is_floating_point() and value.dtype == call.output.dtype for value in values):
        return None
    if call.output.shape[:1] != call.sources[0].shape[:1]:
        return None
    for rule in RULES:
        operation = rule(call)
        if operation is not None:
            same = not careful or torch.allclose(
                operation.forward(*call.sources), call.output, rtol=1e-3, atol=1e-4
            )
            return operation if same else None
    return None


def _passing(call: Call) -> operations.Operation | None:
    same = call.alone and torch.equal(call.output, call.sources[0])
    if same and (isinstance(call.module, IDENTITY_MODULES) or call.name in IDENTITY_NAMES):
        return operations.Passing(lambda value: value)
    order = call.permutation(call.node)
    if call.alone and order in ((0, 2, 3, 1), (0, 3, 1, 2)):
        return operations.Passing(lambda value: value.permute(order))
    return None


def _relu(call: Call) -> operations.Operation | None:
    if call.alone and (type(call.module) is nn.ReLU or call.name == "relu"):
        return operations.Relu()
    return None


def _pointwise(call: Call) -> operations.Operation | None:
    if not call.alone or call.output.shape != call.sources[0].shape:
        return None
    if call.module is not None and type(call.module) in POINTWISE_MODULES:
        module = copy.copy(call.module)
        module.__dict__["inplace"] = False
        return operations.Pointwise(module)
    others = (*call.arguments[1:], *call.keywords.values())
    numbers = not any(isinstance(other, Tensor) and other.numel() > 1 for other in others)
    return operations.Pointwise(call.again) if call.name in POINTWISE_NAMES and numbers else None


def _leaky_per_channel(call: Call) -> operations.Operation | None:
    """PReLU: one slope for all channels, or one for each."""
    if not call.alone or call.forms[0] not in ("map", "vector"):
        return None
    if type(call.module) is nn.PReLU:
        slope = call.module.weight.detach()
    elif call.name == "prelu":
        slope = call.arguments[1] if len(call.arguments) > 1 else call.keywords["weight"]
    else:
        return None

    def function(value: Tensor) -> Tensor:  # channels last
        return torch.where(value > 0, value, slope.to(value) * value)

    return operations.Pointwise(function, lambda value: F.prelu(value, slope.to(value)))


def _power(call: Call) -> operations.Operation | None:
    """Powers, and a value divided into a number or joined with itself."""
    if len(call.sources) != 1 or call.keywords or call.name not in ("pow", "div", "mul", "add"):
        return None
    numbers = [argument for argument in call.arguments if isinstance(argument, (int, float))]
    twice = len(call.node.args) == 2 and call.node.args[0] is call.node.args[1]
    return operations.Pointwise(call.again) if len(numbers) == 1 or twice else None


def _constant_arithmetic(call: Call) -> operations.Operation | None:
    """Value op constant, or constant op value, the constant being one number per channel at most."""
    if call.name not in ("add", "sub", "mul", "div", "neg") or len(call.sources) != 1 or call.keywords:
        return None
    if call.name == "neg":
        return operations.Affine(torch.tensor(-1.0), torch.tensor(0.0), operator.neg)
    if len(call.arguments) != 2:
        return None
    left, right = call.arguments
    value_first = isinstance(left, fx.Node)
    constant = right if value_first else left
    if isinstance(constant, fx.Node) or call.output.shape != call.sources[0].shape:
        return None
    if isinstance(constant, Tensor) and call.forms[0] not in ("map", "vector", "last"):
        return None
    function = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv}[
        call.name
    ]
    if value_first:

        def forward(value: Tensor) -> Tensor:
            return function(value, constant)
    else:

        def forward(value: Tensor) -> Tensor:
            return function(constant, value)

    if (call.name in ("add", "sub") and value_first) or call.name == "add":
        return operations.Passing(forward)
    per_channel = _per_channel(constant, call.sources[0], call.forms[0])
    if per_channel is None or (call.name == "div" and not value_first):
        return None
    zero = torch.zeros_like(per_channel)
    if call.name == "sub":
        return operations.Affine(zero - 1, per_channel, forward)
    return operations.Affine(per_channel if call.name == "mul" else 1 / per_channel, zero, forward)


def _per_channel(constant: Any, value: Tensor, form: str) -> Tensor | None:
    """(C,) or () tensor if the constant varies over channels only."""
    if isinstance(constant, (int, float)):
        return torch.tensor(float(constant), dtype=torch.float64)
    if not isinstance(constant, Tensor):
        return None
    constant = constant.detach()
    axis = 1 if form in ("map", "vector") else 3
    shape = (1,) * (value.ndim - constant.ndim) + tuple(constant.shape)
    if len(shape) != value.ndim or any(side != 1 for place, side in enumerate(shape) if place != axis):
        return None
    return constant.reshape(-1) if constant.numel() > 1 else constant.reshape(())


def _joining(call: Call) -> operations.Operation | None:
    """Addition, subtraction and product of two changing values, concatenation of channels."""
    if call.name == "cat":
        parts = call.arguments[0] if call.arguments else call.keywords.get("tensors")
        axis = call.arguments[1] if len(call.arguments) > 1 else call.keywords.get("dim", 0)
        if not isinstance(parts, (tuple, list)) or not all(isinstance(part, fx.Node) for part in parts):
            return None
        if len(set(call.forms)) != 1 or any(part in call.constants for part in parts):
            return None
        letters, axis = letters_of(call.forms[0]), axis % call.output.ndim
        along_channels = letters[axis] == "c" and letters.count("c") == 1
        inputs = list(dict.fromkeys(parts))
        order = tuple(inputs.index(part) for part in parts)
        return joining.Concatenate(axis, order) if along_channels else None
    if call.name in ("maximum", "minimum") and len(call.sources) == 2 and not call.keywords:
        same = call.sources[0].shape == call.sources[1].shape and len(set(call.forms)) == 1
        return joining.Joined(getattr(torch, call.name)) if same else None
    if (
        call.name not in ("add", "sub", "mul", "div")
        or len(call.sources) != 2
        or call.keywords
        or len(call.arguments) != 2
    ):
        return None
    if not all(isinstance(argument, fx.Node) for argument in call.arguments) or len(set(call.forms)) != 1:
        return None
    first, second = call.sources
    if call.name == "mul":
        one_cell = [tuple(value.shape[2:]) == (1, 1) for value in call.sources]
        channels = first.shape[1] == second.shape[1]
        spread = (any(one_cell) and channels) or (
            first.shape[2:] == second.shape[2:] and 1 in (first.shape[1], second.shape[1])
        )
        fits = first.shape == second.shape or (call.forms[0] == "map" and spread)
        return joining.Multiply() if fits else None
    if first.shape != second.shape:
        return None
    if call.name == "div":
        return joining.Joined(operator.truediv)
    return joining.Add(1.0 if call.name == "add" else -1.0)


def _flattening(call: Call) -> operations.Operation | None:
    """(N, C, H, W) -> (N, C H W), by whichever call: told by the numbers."""
    named = isinstance(call.module, nn.Flatten) or call.name in ("flatten", "view", "reshape", "squeeze")
    if not named or len(call.sources) != 1 or call.output.ndim != 2:
        return None
    (value,) = call.sources
    if call.forms[0] == "vector" and torch.equal(call.output, value):
        return operations.Passing(lambda value: value)
    if call.forms[0] != "map":
        return None
    if call.output.shape != (len(value), value[0].numel()) or not torch.equal(call.output, value.flatten(1)):
        return None
    return operations.Flatten()


def _template_mask(call: Call) -> operations.Operation | None:
    if isinstance(call.module, PartMask) and call.alone and call.output.shape == call.sources[0].shape:
        return operations.PeakMask(call.module)
    return None


RULES: tuple[Callable[[Call], operations.Operation | None], ...] = (
    *(_template_mask, _relu, _passing, _pointwise, _leaky_per_channel, convolution, transposed_convolution),
    *(batch_norm, _constant_arithmetic, _power, pool, adaptive_average, adaptive_maximum, mean, shuffle),
    *(_joining, _flattening, rearranging, interpolation, linear, channel_norm),
)
