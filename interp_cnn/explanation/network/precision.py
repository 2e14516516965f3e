"""In which precision explanations and measures compute: true float32, unless something else was chosen.

On a GPU float32 is not what it says: cuDNN rounds the inputs of convolutions to TF32's 10 bits of mantissa by
default, matrix products follow where somebody allowed it, and inside autocast they have 7 bits. A training bears
that. A relevance map, which is made of differences, does not: LRP is then off by a sixth of its largest value.

    float32     TF32 and autocast off, for images and weights of any floating type: what is asked is computed
    tf32        convolutions and matrix products of float32 in TF32; about 3 times as fast on a large network
    bfloat16    autocast to bfloat16; faster still, 7 bits of mantissa

`evaluation_mode` enters `chosen_precision`, so whatever runs a network here computes in it; the functions that go on
with its values carry it themselves. Whoever wants another says so around the call: `with precision("tf32"): ...`.
LRP, DeepLIFT, single pixels and pairs of windows are made of differences of nearly equal values, of which rounded
products leave noise: they are always computed in float32. What is found is put back as it was, also after an error.
Weights in float64 are computed in float64 by `float32` and
`tf32`, which concern single precision alone.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import cache

import torch

PRECISIONS = ("float32", "tf32", "bfloat16")
SINGLE = 2.0**-24  # relative rounding of a float32
_CHOSEN: ContextVar[str] = ContextVar("precision", default="float32")
_AUTOCAST_DEVICES = ("cpu", "cuda", "mps")
_EXACT = ("ieee", "none")  # values of the newer switches without TF32
_ROUNDING = {"float32": SINGLE, "tf32": 2.0**-11, "bfloat16": 2.0**-8}  # relative, of one value


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Everything of `explanation` and `evaluation` inside computes in the precision `name`.

    Args:
        name: "float32", "tf32" or "bfloat16", see above.

    Raises:
        ValueError: another name.

    Example:
        >>> import torch
        >>> with precision("tf32"):
        ...     print(precision_now())
        tf32
        >>> precision_now()
        'float32'
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}; expected one of {', '.join(PRECISIONS)}")
    token = _CHOSEN.set(name)
    try:
        with chosen_precision():
            yield
    finally:
        _CHOSEN.reset(token)


@contextmanager
def chosen_precision() -> Iterator[None]:
    """The precision that was chosen around this call, true float32 where nobody chose; a decorator too.

    Do not leave it by a `yield`: what runs between two steps of a generator is somebody else's.
    """
    name = _CHOSEN.get()
    with ExitStack() as undo:
        _set_autocast(name, undo)
        _set_tf32(name == "tf32", undo)
        yield


def precision_now() -> str:
    """The name of the chosen precision."""
    return _CHOSEN.get()


def rounding(dtype: torch.dtype) -> float:
    """The relative rounding of one product's inputs of this type in the chosen precision.

    Two computations of the same value differ by a multiple of it: what compares them takes its tolerance from here.
    """
    type_rounding = torch.finfo(dtype).eps / 2
    return max(type_rounding, _ROUNDING[precision_now()]) if dtype != torch.float64 else type_rounding


def _set_autocast(name: str, undo: ExitStack) -> None:
    for device in _AUTOCAST_DEVICES:
        wanted = name == "bfloat16" and (device == "cpu" or _is_there(device))
        if wanted or torch.is_autocast_enabled(device):
            undo.enter_context(torch.autocast(device, dtype=torch.bfloat16, enabled=wanted))


def _is_there(device: str) -> bool:
    return {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}[device]()


def _set_tf32(allowed: bool, undo: ExitStack) -> None:
    """Sets torch's older switches first, where they can be read, then the newer ones that still say otherwise.

    Since torch 2.9 each operation has a switch of its own. The older ones still work through them, but once the two
    say different things, to read an older one raises an error, in anybody's code: so they are kept in step.
    """
    newer = _newer_switches()
    if newer and not allowed and all(read() in _EXACT for read, *_ in newer):
        return  # as it is inside another such scope
    switches = [*_older_switches(), *newer]
    before = [_quietly(read) for read, *_ in switches]
    undo.callback(_restore, switches, before)
    for read, write, exact, rounded in switches:
        value = _quietly(read)
        if value is not None and (allowed or value not in _EXACT):
            _write(write, rounded if allowed else exact)


def _restore(switches: list, before: list) -> None:
    """The older switches first: they move the newer ones."""
    for (read, write, *_), value in zip(switches, before, strict=True):
        if value is not None and _quietly(read) != value:
            _write(write, value)


def _older_switches() -> list[tuple[Callable, Callable, object, object]]:
    """(read, write, value of true float32, value of TF32) of each switch that every torch has."""
    cudnn = torch.backends.cudnn
    return [
        (lambda: cudnn.allow_tf32, lambda value: setattr(cudnn, "allow_tf32", value), False, True),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest", "high"),
    ]


@cache
def _newer_switches() -> list[tuple[Callable, Callable, object, object]]:
    """The same of torch from 2.9 on, by operation."""
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    if not hasattr(cudnn, "conv"):
        return []
    on_cuda = [cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul]
    on_cpu = [mkldnn.conv, mkldnn.rnn, mkldnn.matmul]
    return [
        (
            lambda place=place: place.fp32_precision,
            lambda value, place=place: setattr(place, "fp32_precision", value),
            "ieee",
            "tf32",
        )
        for place in (*on_cuda, *on_cpu)
    ]


def _quietly(read: Callable) -> object:
    """The value, or None where torch refuses to read a switch because the newer ones say something else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the older switches deprecated
        try:
            return read()
        except RuntimeError:
            return None


def _write(write: Callable, value: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(value)
