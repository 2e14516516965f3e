"""Calls that only move numbers: padding, slices, views, permutations, channel shuffles, nearest neighbours.

There are many ways to write them and one way to find out what they do: they are called with the numbers of the cells
instead of values. If every cell (r, c, k) of the output is then the input's cell (rows[r], columns[c], channels[k]), or
a constant, three lists say everything, and a delta is moved as the values are. Calls that mix the axes in another way
(tokens of a transformer) have no such lists, and no rule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_cnn.explanation.occlusion.incremental.calls import Call
from interp_cnn.explanation.occlusion.incremental.frames import Picked, Span
from interp_cnn.explanation.occlusion.incremental.layouts import (
    as_written,
    cells_of,
    channels_last,
    form_of,
    letters_of,
)
from interp_cnn.explanation.occlusion.incremental.operations import CallSite, Operation

MODULES = (
    *(nn.Flatten, nn.Unflatten, nn.ChannelShuffle, nn.Upsample, nn.ConstantPad2d, nn.ReflectionPad2d),
    *(nn.ReplicationPad2d, nn.CircularPad2d),
)
NAMES = frozenset(
    """
    view reshape view_as reshape_as flatten unflatten squeeze unsqueeze permute transpose swapaxes swapdims movedim
    moveaxis getitem narrow select index_select roll flip pad contiguous expand expand_as channel_shuffle
    native_channel_shuffle interpolate upsample repeat_interleave """.split()  # noqa: SIM905 - words
)
SIZED = frozenset("view reshape expand expand_as view_as reshape_as unflatten".split())  # noqa: SIM905 - told sizes
PARTS = frozenset({"chunk", "split", "tensor_split", "unbind", "split_with_sizes"})


class Rearranged(Operation):
    """Cell (r, c, k) of the output is the cell (rows[r], columns[c], channels[k]) of the input; -1: a constant."""

    reach: tuple[Picked, Picked]

    def __init__(
        self,
        axes: tuple[Picked, Picked],
        channels: tuple[int, ...] | None,
        forms: tuple[str, str],
        shape: tuple[int, ...],
        constant: float,
        native: Callable[[Tensor], Tensor] | None,
    ) -> None:
        """Keep the three lists.

        Args:
            axes: rows and columns of the input, one for each of the output.
            channels: likewise; None: as they are.
            forms: of input and output.
            shape: of the output.
            constant: the value where a list says -1.
            native: what the network calls, if that can be used for any number of images.
        """
        self.reach, self.channels, self.forms, self.shape = axes, channels, forms, shape
        self.form, self.constant, self.native = forms[1], constant, native
        self.passes = 0 if channels is None and all(axis.straight for axis in axes) else 1

    def forward(self, value: Tensor) -> Tensor:
        if self.native is not None:
            return self.native(value)
        moved = channels_last(value, self.forms[0])
        for dimension, axis in enumerate(self.reach, 1):
            moved = _picked(moved, dimension, axis.cells, self.constant)
        if self.channels is not None:
            moved = _picked(moved, 3, self.channels, self.constant)
        return as_written(moved, self.forms[1], self.shape)

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        windows = site.chunk.rows, site.chunk.columns
        for number, axis in enumerate(self.reach):
            wanted = _wanted(axis, site.sources[0][number], site.spans[number], windows[number])
            if len(wanted) == 1:
                delta = _picked(delta, 3 + number, wanted[0], 0.0)
            else:
                apart = zip(delta.split(1, 1 + number), wanted, strict=True)
                delta = torch.cat(
                    [_picked(piece, 3 + number, cells, 0.0) for piece, cells in apart], 1 + number
                )
        return delta if self.channels is None else _picked(delta, 5, self.channels, 0.0)


@functools.lru_cache(maxsize=4096)
def _wanted(axis: Picked, inner: Span, outer: Span, windows: range) -> tuple[tuple[int, ...], ...]:
    """Which cell of a window's input frame each cell of its output frame takes, -1 for none; once if all agree."""
    every = []
    for window in windows:
        first, start = outer.origin(window), inner.origin(window)
        cells = []
        for place in range(first, first + outer.size):
            cell = axis.cells[place] if 0 <= place < len(axis.cells) else -1
            inside = cell >= 0 and start <= cell < start + inner.size
            cells.append(cell - start if inside else -1)
        every.append(tuple(cells))
    return (every[0],) if len(set(every)) == 1 else tuple(every)


def _picked(value: Tensor, dimension: int, cells: tuple[int, ...], constant: float) -> Tensor:
    """The cells of one dimension that a list names; a constant where it says -1."""
    if cells == tuple(range(value.shape[dimension])):
        return value
    inside = [place for place, cell in enumerate(cells) if cell >= 0]
    shape = [*value.shape]
    shape[dimension] = len(cells)
    if not inside:
        return value.new_full(shape, constant)
    first, last = inside[0], inside[-1] + 1
    start = cells[first]
    if cells[first:last] == tuple(range(start, start + last - first)):
        part = value.narrow(dimension, start, last - first)
    else:
        chosen = torch.tensor(cells[first:last], device=value.device)
        part = value.index_select(dimension, chosen.clamp(min=0))
        if -1 in cells[first:last]:
            part.index_fill_(dimension, torch.where(chosen < 0)[0], constant)
    if last - first == len(cells):
        return part
    picked = value.new_full(shape, constant)
    picked.narrow(dimension, first, last - first).copy_(part)
    return picked


def rearranging(call: Call) -> Operation | None:
    """The three lists of a call, found by calling it with the numbers of the cells."""
    known = isinstance(call.module, MODULES) or call.name in NAMES
    if not known or len(call.sources) != 1:
        return None
    (source,), (form,) = call.sources, call.forms
    h, w, c = cells_of(form, tuple(source.shape))
    total = h * w * c
    numbers = torch.arange(total, dtype=torch.float64, device=source.device).view(1, h, w, c)
    numbers = as_written(numbers, form, tuple(source.shape)).expand(source.shape).contiguous()
    try:
        out, other = call.again(numbers)[:1], call.again(numbers + total)[:1]
    except (RuntimeError, TypeError):  # it may work for other types of numbers only
        return None
    if out.shape[1:] != call.output.shape[1:] or out.ndim < 2:
        return None
    moved = other - out == total
    if not bool(moved.any()) or not torch.equal(out[moved], out[moved].round()):
        return None
    constants = out[~moved]
    if constants.numel() and bool((constants != constants[0]).any()):
        return None
    cells = torch.where(moved, out, -1).long()
    letters = _letters(cells, (h, w, c), letters_of(form))
    if letters is None:
        return None
    shape = tuple(call.output.shape)
    ordered = channels_last(cells, form_of(letters))[0]  # (h', w', C')
    lists = [
        torch.where(ordered >= 0, place, -1).amax([axis for axis in range(3) if axis != number])
        for number, place in enumerate((ordered // (w * c), ordered // c % w, ordered % c))
    ]
    rows, columns, channels = lists[0][:, None, None], lists[1][:, None], lists[2]
    expected = (rows * w + columns) * c + channels
    expected = torch.where((rows < 0) | (columns < 0) | (channels < 0), -1, expected)
    if not torch.equal(expected, ordered):
        return None
    axes = tuple(Picked.of(each.tolist()) for each in lists[:2])
    same = lists[2].tolist() == list(range(c))
    sized = call.name in SIZED or any(isinstance(node.meta["value"], int) for node in call.constants)
    return Rearranged(
        (axes[0], axes[1]),
        None if same else tuple(lists[2].tolist()),
        (form, form_of(letters)),
        shape,
        float(constants[0]) if constants.numel() else 0.0,
        None if sized else call.again,
    )


def padded(value: Tensor, sides: tuple[int, ...], mode: str) -> Rearranged:
    """Maps (N, C, H, W) padded by (left, right, top, bottom) cells in one of torch's modes; "constant": zeros."""
    left, right, top, bottom = sides
    axes = []
    for length, before, after in ((value.shape[2], top, bottom), (value.shape[3], left, right)):
        numbers = torch.arange(1.0, length + 1).view(1, 1, 1, length)
        cells = F.pad(numbers, (before, after, 0, 0), mode=mode).flatten().long() - 1
        axes.append(Picked.of(cells.tolist()))
    shape = (*value.shape[:2], value.shape[2] + top + bottom, value.shape[3] + left + right)
    return Rearranged(
        (axes[0], axes[1]), None, ("map", "map"), shape, 0.0, lambda value: F.pad(value, sides, mode=mode)
    )


def _letters(cells: Tensor, sizes: tuple[int, int, int], before: str) -> str | None:
    """Which of rows, columns and channels each axis of the output runs along; None if one runs along two of them."""
    _, w, c = sizes
    usual = before if cells.ndim == len(before) else {2: "nc", 3: "nhw", 4: "nchw"}.get(cells.ndim, "")
    usual = usual.ljust(cells.ndim, "c")
    places = {"h": cells // (w * c), "w": cells // c % w, "c": cells % c}
    letters: list[str | None] = ["n"]
    for axis in range(1, cells.ndim):
        length = cells.shape[axis]
        first, second = cells.narrow(axis, 0, length - 1), cells.narrow(axis, 1, length - 1)
        both = (first >= 0) & (second >= 0)
        along = [
            letter
            for letter, place in places.items()
            if bool(((place.narrow(axis, 0, length - 1) != place.narrow(axis, 1, length - 1)) & both).any())
        ]
        if len(along) > 1:
            return None
        letters.append(along[0] if along else None)
    for axis, letter in enumerate(letters):  # axes of one cell, or of copies
        if letter is None:
            free = usual[axis] == "c" or usual[axis] not in letters
            letters[axis] = usual[axis] if free else "c"
    joined = "".join(letter or "c" for letter in letters)
    return joined if joined.count("h") <= 1 and joined.count("w") <= 1 else None
