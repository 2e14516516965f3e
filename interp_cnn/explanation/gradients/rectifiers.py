"""Changed gradients at rectifiers: what sets guided back-propagation and the deconvnet apart.

With y = relu(x) and g the gradient arriving at y, the gradient handed to x is

    gradient                   g * [x > 0]
    deconvnet                  max(g, 0)              Zeiler, Fergus, ECCV 2014 (arXiv 1311.2901)
    guided back-propagation    max(g, 0) * [x > 0]    Springenberg et al., ICLR 2015 (arXiv 1412.6806)

The usual hook on `nn.ReLU` misses `F.relu`, `x.relu_()` and modules used twice, and then quietly returns the
plain gradient. Here the functions themselves are watched while the network runs (`TorchFunctionMode`),
wherever they are called from. Smooth rectifiers (GELU, SiLU, Hardswish, ELU, ...) are treated alike, with
their own slope in place of [x > 0].
"""

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

RECTIFIERS = frozenset(
    {"relu", "relu6", "leaky_relu", "rrelu", "prelu", "threshold", "elu", "selu", "celu", "softplus"}
    | {"gelu", "silu", "hardswish", "mish"}
)


def is_rectifier(function, args: tuple, kwargs: dict) -> bool:
    """Whether this call is a rectifier: one of `RECTIFIERS`, or a clamp that cuts off at zero."""
    name = getattr(function, "__name__", "").rstrip("_")
    if name in RECTIFIERS:
        return True
    if name in ("clamp", "clip", "clamp_min", "hardtanh"):
        low = args[1] if len(args) > 1 else kwargs.get("min", kwargs.get("min_val"))
        return isinstance(low, int | float) and low == 0
    return False


class GuidedRectifiers(TorchFunctionMode):
    """While active, every rectifier passes only positive gradients; `met` counts the rectifiers that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.met = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not is_rectifier(function, args, kwargs):
            return function(*args, **kwargs)
        self.met += 1
        return self.rectify(function, args, kwargs)

    def rectify(self, function, args: tuple, kwargs: dict) -> Tensor:
        output = function(*args, **kwargs)
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient.clamp(min=0))
        return output


class DeconvnetRectifiers(GuidedRectifiers):
    """While active, every rectifier passes only positive gradients and no slope of its own."""

    def rectify(self, function, args: tuple, kwargs: dict) -> Tensor:
        given = args[0] if args else kwargs.pop("input")
        with torch.no_grad():
            value = function(given.clone(), *args[1:], **kwargs)
        output = _PositiveGradient.apply(given, value)
        in_place = function.__name__.endswith("_") or kwargs.get("inplace", False)
        return given.copy_(output) if in_place else output


class _PositiveGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, given: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.clamp(min=0), None
