"""What a network or an image cannot be asked, as a type: a refusal, in one sentence with the place.

A method refuses by raising `Refusal`; whoever asks several methods keeps it in the place of the map and goes on with
the others. What a network itself raises while it runs, or while its slope is taken, becomes a refusal too: the code
of the network is its author's, and the sentence names the layer and line. An error of our own stays an error.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor, nn

_OURS = Path(__file__).resolve().parent.parent  # the rooms of methods
_TORCH = Path(torch.__file__).resolve().parent

_gathered: ContextVar[list[tuple[Tensor, str]] | None] = ContextVar("refusals", default=None)


class Refusal(ValueError):
    """A question that has no answer, said in one sentence: for this network, this image, or these options."""


@contextmanager
def refusing(network: nn.Module) -> Iterator[None]:
    """What the network raises inside the block is raised as a `Refusal` with its place.

    Errors of ours, and a memory that is full, go through as they are.
    """
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        reason = None if is_full_memory(error) else _reason(network, error)
        if reason is None:
            raise
        raise Refusal(reason) from error


def refuse_where(condition: Tensor, sentence: str) -> None:
    """A ValueError with the sentence if a boolean value (any shape) is true; later, inside `gathered_refusals`."""
    waiting = _gathered.get()
    if waiting is not None:
        waiting.append((condition.any(), sentence))
    elif condition.any():
        raise ValueError(sentence)


@contextmanager
def gathered_refusals() -> Iterator[list[tuple[Tensor, str]]]:
    """What `refuse_where` was given inside, to be looked at together: each look waits for a GPU."""
    waiting: list[tuple[Tensor, str]] = []
    token = _gathered.set(waiting)
    try:
        yield waiting
    finally:
        _gathered.reset(token)


def is_full_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def _reason(network: nn.Module, error: Exception) -> str | None:
    """The sentence for an error of the network's own; None for one of ours."""
    names = {id(module): name for name, module in network.named_modules()}
    layer, line, backward, last = None, "", False, None
    for frame, number in traceback.walk_tb(error.__traceback__):
        file = Path(frame.f_code.co_filename)
        layer = names.get(id(frame.f_locals.get("self")), layer)
        backward = backward or frame.f_code.co_name == "_engine_run_backward"
        if layer is not None and _TORCH not in file.parents and _OURS not in file.parents:
            line = f"{file.name}, line {number}"
        last = file
    ours = last is not None and _OURS in last.parents and not isinstance(error, RuntimeError)
    if ours or not (backward or layer is not None):
        return None
    lines = [text.strip() for text in str(error).splitlines() if text.strip()]
    what = f"{type(error).__name__}: {lines[0] if lines else 'without a message'}"
    if backward:
        return f"network cannot be differentiated ({what.partition(' Hint:')[0]})"
    place = ", ".join(filter(None, [f"layer {layer!r}" if layer else "its forward", line]))
    return f"network fails in {place} ({what})"
