"""Changed gradients at rectifiers: what sets guided back-propagation and the deconvnet apart.

With y = relu(x) and g the gradient arriving at y, the gradient handed to x is

    gradient                   g * [x > 0]
    deconvnet                  max(g, 0)              Zeiler, Fergus, ECCV 2014 (arXiv 1311.2901)
    guided back-propagation    max(g, 0) * [x > 0]    Springenberg et al., ICLR 2015 (arXiv 1412.6806)

The usual hook on `nn.ReLU` misses `F.relu`, `x.relu_()` and modules used twice, and then quietly returns the
plain gradient. Here the functions themselves are watched while the network runs (`TorchFunctionMode`),
wherever they are called from. Smooth rectifiers (GELU, SiLU, Hardswish, ELU, ...) are treated alike, with
their own slope in place of [x > 0].

What runs where no Python is called (scripted modules and functions, compiled code, functions with a gradient of
their own) cannot be watched. The graph of the pass tells: `check_seen` finds rectifiers that ran unseen, and what
might hide some, and refuses.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from interp_cnn.explanation.network.operations import RECTIFIERS
from interp_cnn.explanation.network.refusals import Refusal

_OPAQUE = ("DifferentiableGraphBackward", "CompiledFunction", "torch::jit")
_NODES = frozenset(name.replace("_", "") for name in RECTIFIERS)


def is_rectifier(function, args: tuple, kwargs: dict) -> bool:
    """Whether this call is a rectifier: one of `RECTIFIERS`, or a clamp that cuts off at zero."""
    name = (
        getattr(function, "__name__", "").partition(".")[0].rstrip("_")
    )  # relu.default in exported networks
    if name in RECTIFIERS:
        return True
    if name in ("clamp", "clip", "clamp_min", "hardtanh"):
        low = args[1] if len(args) > 1 else kwargs.get("min", kwargs.get("min_val"))
        return isinstance(low, int | float) and low == 0
    return False


class GuidedRectifiers(TorchFunctionMode):
    """While active, every rectifier passes only positive gradients; `met` counts the rectifiers that ran.

    Args:
        method: its name, for refusals.
    """

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method
        self.met = 0
        self._seen: list[Node] = []  # kept, so that no other node takes the place of one

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not is_rectifier(function, args, kwargs):
            return function(*args, **kwargs)
        self.met += 1
        return self.rectify(function, args, kwargs)

    def rectify(self, function, args: tuple, kwargs: dict) -> Tensor:
        if not (args[0] if args else kwargs["input"])._is_view():
            return self._watched(function(*args, **kwargs))
        # in place, a gradient that comes to the memory by another of its names would miss a hook on this one
        given, output, in_place = _of_a_copy(function, args, kwargs)
        output = self._watched(output)
        return given.copy_(output) if in_place else output

    def _watched(self, output: Tensor) -> Tensor:
        if output.grad_fn is not None:
            self._seen.append(output.grad_fn)
            output.register_hook(_positive)
        return output

    def check_seen(self, score: Tensor) -> None:
        """Refuse a pass in which rectifiers ran, or may have run, that were not watched.

        Args:
            score: what is differentiated.

        Raises:
            Refusal: there were some, or none at all.
        """
        seen = {id(node) for node in self._seen}
        for node in _graph(score):
            if id(node) in seen:
                continue
            name = node.name()
            if _rectifies(node):
                raise Refusal(
                    f"{self.method} changes the gradient of rectifiers, and one of the network's cannot be reached "
                    f"({name}): it runs in scripted or compiled code"
                )
            if name.startswith(_OPAQUE) or _hides_rectifiers(node):
                raise Refusal(
                    f"{self.method} changes the gradient of rectifiers, and the network runs code in which none can "
                    f"be seen ({name})"
                )
        if self.met == 0:
            raise Refusal(
                f"{self.method} changes the gradient of rectifiers (ReLU and its kin), the network runs none"
            )


class DeconvnetRectifiers(GuidedRectifiers):
    """While active, every rectifier passes only positive gradients and no slope of its own."""

    def rectify(self, function, args: tuple, kwargs: dict) -> Tensor:
        with torch.no_grad():
            given, value, in_place = _of_a_copy(function, args, kwargs)
        output = _PositiveGradient.apply(given, value)
        return given.copy_(output) if in_place else output


def _of_a_copy(function, args: tuple, kwargs: dict) -> tuple[Tensor, Tensor, bool]:
    """What a function is given, what it makes of a copy of it, and whether it wrote into the copy."""
    (given, *others), kwargs = (args, kwargs) if args else ((kwargs["input"],), dict(kwargs))
    kwargs.pop("input", None)
    copied = given.clone()
    before = copied._version
    output = function(copied, *others, **kwargs)
    return given, output, copied._version != before


def _graph(score: Tensor) -> Iterator[Node]:
    """Every node of the graph that leads to a score."""
    waiting = [] if score.grad_fn is None else [score.grad_fn]
    known = {*waiting}
    while waiting:
        node = waiting.pop()
        yield node
        for before, _ in node.next_functions:
            if before is not None and before not in known:
                known.add(before)
                waiting.append(before)


def _rectifies(node: Node) -> bool:
    """Whether a node is the gradient of a rectifier."""
    name = node.name().removesuffix("0").removesuffix("1").removesuffix("Backward").lower()
    if name.replace("with", "").removesuffix("noise") in _NODES:
        return True
    low = getattr(node, "_saved_min", getattr(node, "_saved_min_val", None))
    return name in ("clamp", "clampmin", "hardtanh") and isinstance(low, int | float) and low == 0


def _hides_rectifiers(node: Node) -> bool:
    """Whether a node is the gradient of a function with its own, which does not say `rectifies = False`."""
    custom = isinstance(node, torch.autograd.function.BackwardCFunction)
    return custom and getattr(getattr(node, "_forward_cls", None), "rectifies", True)


def _positive(gradient: Tensor | None) -> Tensor | None:
    """What is positive of a gradient; None where what lies behind has none (quantised layers)."""
    return None if gradient is None else gradient.clamp(min=0)


class _PositiveGradient(torch.autograd.Function):
    rectifies = False  # but for the one that it stands for

    @staticmethod
    def forward(ctx, given: Tensor, value: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)  # no gradient is none, and not zero
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient: Tensor | None) -> tuple[Tensor | None, None]:
        return _positive(gradient), None
