"""Which axes a value has, and the order in which frames keep them.

A form names the axes after the images': c channels, h rows, w columns. "map" (N, C, H, W), "last" (N, H, W, C) and
"vector" (N, C) are the usual ones; others are spelled out, such as "nccbhw" of a channel shuffle's halfway point or
"nhw" of one colour. "other" is what has no such axes. Frames and clean maps are kept as (N, h, w, C), several channel
axes as one, in the order in which they are written.
"""

from __future__ import annotations

import math

from torch import Tensor

LETTERS = {"map": "nchw", "last": "nhwc", "vector": "nc"}
NAMES = {letters: name for name, letters in LETTERS.items()}


def letters_of(form: str) -> str:
    """The axes of a form, one letter each."""
    return LETTERS.get(form, form)


def form_of(letters: str) -> str:
    """The form with these axes."""
    return NAMES.get(letters, letters)


def cells_of(form: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(h, w, C) of a value of this form and shape; 1 for axes that it does not have."""
    sizes = {"h": 1, "w": 1, "c": 1}
    for letter, size in zip(letters_of(form)[1:], shape[1:], strict=True):
        sizes[letter] *= size
    return sizes["h"], sizes["w"], sizes["c"]


def channels_last(value: Tensor, form: str) -> Tensor:
    """(N, h, w, C) of a value of this form."""
    letters = letters_of(form)
    order = [
        0,
        *(place for letter in "hwc" for place, axis_letter in enumerate(letters) if axis_letter == letter),
    ]
    return value.permute(order).reshape(len(value), *cells_of(form, tuple(value.shape)))


def as_written(value: Tensor, form: str, shape: tuple[int, ...]) -> Tensor:
    """A value (N, h, w, C) in the axes of the form; `shape` gives the sizes of several channel axes."""
    letters = letters_of(form)
    if letters == "nchw":
        return value.permute(0, 3, 1, 2)
    order = [
        0,
        *(place for letter in "hwc" for place, axis_letter in enumerate(letters) if axis_letter == letter),
    ]
    sizes = [shape[place] for place in order[1:]]
    if math.prod(sizes) != value[0].numel():
        raise ValueError(f"value has shape {tuple(value.shape)}; expected that of {letters} {tuple(shape)}")
    inverse = [order.index(place) for place in range(len(order))]
    return value.reshape(len(value), *sizes).permute(inverse)
