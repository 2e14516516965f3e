"""Short texts that change with what they stand for: a network, or the code of some rooms.

Results kept on disk carry them, so that what other weights or other code made is made again.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn


def fingerprint(network: nn.Module) -> str:
    """A network's layers and weights as a short text; quantised weights, and states that are no tensors, count too."""
    content = hashlib.sha256(f"{type(network).__module__} {network!r}".encode())
    for name, value in network.state_dict().items():
        content.update(name.encode())
        _add(content, value)
    return content.hexdigest()


def _add(content: "hashlib._Hash", value: object) -> None:
    """Add a value of a state dict: tensors by their bytes, the rest by what stands in it."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        if tensor.is_quantized:
            content.update(repr((tensor.dtype, tensor.qscheme())).encode())
            tensor = tensor.dequantize()
        content.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key, inner in value.items():
            content.update(repr(key).encode())
            _add(content, inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _add(content, inner)
    else:
        content.update(repr(value).encode())


def code_of(*packages: str, without: Callable[[str], bool] = lambda stem: False) -> str:
    """The code of packages, all their sub-folders included, and the version of torch, as a short text.

    Args:
        packages: dotted names, such as "interp_cnn.explanation".
        without: says of a file's stem whether it is left out (code that words results but does not make them).

    Example:
        >>> code_of("interp_cnn.explanation") == code_of("interp_cnn.explanation", "interp_cnn.evaluation")
        False
    """
    content = hashlib.sha256(torch.__version__.encode())
    for package in packages:
        for place in _places(package):
            for file in sorted(place.rglob("*.py")):
                if not without(file.stem):
                    content.update(f"{package} {file.relative_to(place).as_posix()}".encode())
                    content.update(file.read_bytes())
    return content.hexdigest()


@cache
def _places(package: str) -> tuple[Path, ...]:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"package is {package!r}; expected the dotted name of a package")
    return tuple(Path(place) for place in spec.submodule_search_locations)
