"""What a torch function is called: one name for all the spellings of an operation."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_NAMES = {
    "add": "__add__ __radd__ __iadd__",
    "sub": "__sub__ __isub__ subtract",
    "rsub": "__rsub__",
    "mul": "__mul__ __rmul__ __imul__ multiply",
    "div": "__truediv__ __itruediv__ __div__ __idiv__ divide true_divide",
    "rdiv": "__rdiv__ __rtruediv__",
    "pow": "__pow__ __ipow__",
    "rpow": "__rpow__",
    "neg": "__neg__ negative",
    "abs": "__abs__ absolute",
    "matmul": "__matmul__",
    "getitem": "__getitem__",
    "cat": "concat concatenate",
    "clamp": "clip",
    "pad": "constant_pad_nd",
    "max_pool1d": "max_pool1d_with_indices",
    "max_pool2d": "max_pool2d_with_indices",
}
KINDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}


def name_of(function: Callable) -> str:
    """`conv2d`, `__iadd__`, `relu_`; for an attribute such as `x.T` its name."""
    name = getattr(function, "__name__", str(function))
    return function.__self__.__name__ if name == "__get__" else name


def out_of_place(function: Callable, name: str) -> Callable:
    """The function that returns what this in-place one (called `name`) would write."""
    if name.startswith("__i"):
        return getattr(Tensor, "__" + name[3:])
    if not name.endswith("_"):
        return function  # its `inplace` option is switched off instead
    base = name.rstrip("_")
    return next(getattr(room, base) for room in (Tensor, F, torch) if hasattr(room, base))
