"""Watching an evaluated network run, so that what makes a relevance map meaningless is said instead of computed.

    batch norm with the batch's own statistics    an image's map would depend on its neighbours
    dropout that is still on                      another map at every call
    sigmoid, softmax as the last operation        probabilities: their slope vanishes where the network is sure

The functions themselves are watched (`TorchFunctionMode`), wherever they are called from: modules that ignore
`eval()` and functional calls that forgot `training=self.training` are seen alike.
"""

import sys

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_PROBABILITIES = ("sigmoid", "hardsigmoid", "softmax", "log_softmax", "logsigmoid")
_POSITION = {"dropout": 2, "batch_norm": 5}  # of `training` among the arguments of torch's own functions
_COARSE = (torch.float16, torch.bfloat16)


class Watch(TorchFunctionMode):
    """While active, what the network does at random, or across a batch, raises a ValueError.

    Args:
        network: in evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.probabilities: tuple[str, Tensor | None] = ("", None)
        self.coarse = False  # whether something was computed in 16 bits

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "").rstrip("_")
        if name == "batch_norm" and _is_training("batch_norm", args, kwargs):
            raise ValueError(
                "network must not mix the images of a batch, but normalises by the batch itself "
                f"(no running statistics, or training=True): {name} in {self._place()}"
            )
        if "dropout" in name and _rate(args, kwargs) and _is_training("dropout", args, kwargs):
            raise ValueError(
                f"network drops values out at random in evaluation mode: {name} in {self._place()}"
            )
        output = function(*args, **kwargs)
        if isinstance(output, Tensor) and output.dtype in _COARSE:
            self.coarse = True
        if name in _PROBABILITIES:
            self.probabilities = name, output
        return output

    def refuse_probabilities(self, network: nn.Module, images: tuple, output: object) -> None:
        """A forward hook of the whole network: its answer must not come straight from a sigmoid or softmax."""
        name, last = self.probabilities
        if output is last and isinstance(output, Tensor):
            raise ValueError(
                f"network must return logits, but ends in {name}: explain the network without its final {name}"
            )

    def _place(self) -> str:
        """The innermost module that is running: the first one on the way up the call stack."""
        names = {id(module): name for name, module in self.network.named_modules()}
        frame = sys._getframe()
        while frame is not None and not names.get(id(frame.f_locals.get("self"))):
            frame = frame.f_back
        return "the network's forward" if frame is None else f"layer {names[id(frame.f_locals['self'])]!r}"


def computes_coarsely(network: nn.Module) -> bool:
    """Whether weights have 16 bits, or layers are quantised to 8."""
    if any("quantized" in type(module).__module__ for module in network.modules()):
        return True
    return any(parameter.dtype in _COARSE for parameter in network.parameters())


def _is_training(kind: str, args: tuple, kwargs: dict) -> bool:
    place = _POSITION[kind]
    default = args[place] if len(args) > place else kind == "dropout"
    return bool(kwargs.get("training", kwargs.get("train", default)))


def _rate(args: tuple, kwargs: dict) -> float:
    return kwargs.get("p", args[1] if len(args) > 1 else 0.5)
