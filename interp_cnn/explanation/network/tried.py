"""Which networks were found to answer image by image, so that not every map tries them anew.

A network is remembered for as long as it lives and stays what it was: the same modules with the same settings and
hooks, the same tensors, never written into since (torch counts the writes), images of the same shape and type, the same
precision. Writes through `tensor.data` are not counted: they are seen by the first element, on a processor; reading it
from another device would wait for that. A function of its own is its code and what it closes over. What is settled in
globals is not seen.
"""

import ctypes
from collections.abc import Mapping
from types import CellType, FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.precision import precision_now
from interp_cnn.explanation.network.watch import Watch

_DEPTH = 4  # of settings inside settings
_EQUAL_AS_THEY_ARE = (int, float, str, bool, type(None), torch.dtype, torch.device)
_found: WeakKeyDictionary[nn.Module, dict[bool, Any]] = WeakKeyDictionary()


def state_of(network: nn.Module, image: Tensor) -> list | None:
    """All that an answer hangs on besides the pixels of images like (1, C, H, W); None where it cannot be seen."""
    with torch._C.DisableTorchFunction():  # nobody watches what is only read
        return _state(network, image)


def _state(network: nn.Module, image: Tensor) -> list | None:
    state: list = [image.shape, image.dtype, image.device, precision_now()]
    for module in network.modules():
        if isinstance(module, torch.jit.ScriptModule):
            return None
        state.append(id(module))
        for name, value in vars(module).items():
            if type(value) in _EQUAL_AS_THEY_ARE:
                if name != "training":  # it is asked in evaluation mode
                    state.append(value)
            elif name.endswith("_hooks") and isinstance(
                value, dict
            ):  # numbered anew each time, and some of ours only watch
                foreign_hooks = [hook for hook in value.values() if not isinstance(_owner(hook), Watch)]
                state.append(_plain(foreign_hooks, 0) if foreign_hooks else None)
            elif not isinstance(value, dict) or value:
                state.append((name, _plain(value, 0)))
    return None if any(parameter.is_inference() for parameter in network.parameters()) else state


def is_known(network: nn.Module, state: list | None, *, together: bool) -> bool:
    """Whether the network was tried in this state; together: beside another image, too."""
    known = _found.get(network, {})
    return state is not None and any(known.get(kind) == state for kind in {together, True})


def remember(network: nn.Module, state: list | None, *, together: bool) -> None:
    """The network was tried in this state and answers as it should."""
    if state is not None:
        _found.setdefault(network, {})[together] = state


def _owner(function: Any) -> Any:
    return getattr(function, "__self__", None)


def _plain(value: Any, depth: int) -> Any:
    """A value that is equal as long as nothing in it changes."""
    if type(value) in _EQUAL_AS_THEY_ARE:
        return value
    if isinstance(value, Tensor):
        writes = None if value.is_inference() else value._version
        return id(value), value.data_ptr(), writes, value.shape, _first_element(value)
    if depth == _DEPTH or isinstance(value, nn.Module | type):
        return id(value)
    if isinstance(value, MethodType):
        return id(value.__func__), _plain(value.__self__, depth + 1)
    if isinstance(value, FunctionType):
        return id(value), [_closed_over(cell, depth + 1) for cell in value.__closure__ or ()]
    if isinstance(value, Mapping):
        return [(key, _plain(item, depth + 1)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, set | frozenset):
        return {_plain(item, _DEPTH) for item in value}
    return id(value), _plain(getattr(value, "__dict__", None), depth + 1)


def _closed_over(cell: CellType, depth: int) -> Any:
    try:
        return _plain(cell.cell_contents, depth)
    except ValueError:  # a name that is not bound yet
        return None


def _first_element(tensor: Tensor) -> bytes:
    """Its bytes, without a pass or a copy: a thousand tensors a millisecond."""
    if tensor.device.type != "cpu" or tensor.numel() == 0 or not tensor.data_ptr():
        return b""
    return ctypes.string_at(tensor.data_ptr(), tensor.element_size())
