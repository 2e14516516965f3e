"""Values that say in one line what they are: numbers and names as they stand, tensors and tables by their shape.

A dataclass of tensors prints pages by itself; in a notebook the line that was to be read is then gone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

LETTERS = 48  # of a text, or of a list, that stands as it is


class Brief:
    """A dataclass (with `repr=False`) whose `repr` is short.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch
        >>> @dataclass(repr=False)
        ... class Peaks(Brief):
        ...     layer: str
        ...     scores: Tensor
        >>> Peaks("conv5", torch.rand(128, 9))
        Peaks(layer='conv5', scores=(128, 9) float32)
    """

    def __repr__(self) -> str:
        shown = (f"{it.name}={brief(getattr(self, it.name))}" for it in fields(self) if it.repr)  # pyright: ignore[reportArgumentType]
        return f"{type(self).__name__}({', '.join(shown)})"


def brief(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Tensor):
        if value.dim() == 0:
            return brief(value.item())
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, nn.Module):
        return f"{type(value).__name__} of {sum(it.numel() for it in value.parameters()):,} parameters"
    if hasattr(value, "columns") and hasattr(value, "shape"):  # a table
        return f"table of {value.shape[0]} x {value.shape[1]}"
    if hasattr(value, "dtype") and hasattr(value, "shape") and value.shape:
        return f"{tuple(value.shape)} {value.dtype}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    if isinstance(value, Sequence) and not isinstance(value, str | tuple):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    text = repr(value)
    if len(text) > LETTERS and not isinstance(value, Brief):
        return f"{text[:LETTERS]}..." if isinstance(value, str) else f"a {type(value).__name__}"
    return text
