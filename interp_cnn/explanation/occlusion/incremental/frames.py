"""Frames: the small part of a map that a hidden window can change.

Along one axis, window number a of a run changes only the cells of a `Span`:

    start + a * step <= cell < start + a * step + size        (step 0: the frame does not move)

Rows and columns are independent. The deltas of one chunk (images x window rows x window columns) at one node of
the graph are a tensor (I, A, B, fh, fw, C), channels last; the window (a, b) has its frame at
`(rows.origin(a), columns.origin(b))` of the map. A frame may overhang the map; its delta is zero out there.
The clean values under all frames of a chunk are a strided view of the (zero-margined) clean map: nothing is copied.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """Frames of a run of windows along one axis, in cells of a map of `length` cells."""

    start: int
    step: int
    size: int
    length: int

    def origin(self, index: int) -> int:
        """First cell of the frame of window `index`; may be negative."""
        return self.start + index * self.step

    def overhang(self, index: int) -> tuple[int, int]:
        """How many cells of the frame lie before and after the map."""
        origin = self.origin(index)
        return max(-origin, 0), max(origin + self.size - self.length, 0)

    @property
    def whole(self) -> bool:
        """True if every window's frame is the whole map."""
        return self.start == 0 and self.step == 0 and self.size == self.length


Spans = tuple[Span, Span]


class AxisReach:
    """Which outputs along one axis read which cells. An output frame moves by `rate / stride` of the input's step."""

    stride: int = 1
    rate: int = 1

    def outputs(self, low, high):
        """First output that reads any cell of [low, high), and the first after the last; numbers or arrays.

        Not cut at the map's border; first >= last where no output reads them.
        """
        raise NotImplementedError

    def moved(self, step: int) -> int | None:
        """Output cells that a frame moves by when the input's moves by `step`; None where that is no whole number."""
        return None if step * self.rate % self.stride else step * self.rate // self.stride


@dataclass(frozen=True)
class Reach(AxisReach):
    """A sliding operation along one axis: output t reads the cells t * stride - padding + dilation * i, i < kernel."""

    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def outputs(self, low, high):
        first = -((self.dilation * (self.kernel - 1) - low - self.padding) // self.stride)
        return first, (high - 1 + self.padding) // self.stride + 1

    def inputs(self, low: int, high: int) -> tuple[int, int]:
        """Cells that the outputs [low, high) read."""
        first = low * self.stride - self.padding
        return first, (high - 1) * self.stride - self.padding + self.dilation * (self.kernel - 1) + 1


@dataclass(frozen=True)
class Spread(AxisReach):
    """A transposed one: cell i is read by the outputs i * rate - padding + dilation * j, j < kernel."""

    kernel: int = 1
    rate: int = 1
    padding: int = 0
    dilation: int = 1

    def outputs(self, low, high):
        last = (high - 1) * self.rate - self.padding + self.dilation * (self.kernel - 1) + 1
        return low * self.rate - self.padding, last


@dataclass(frozen=True)
class Picked(AxisReach):
    """Output t copies the cell `cells[t]`, or is a constant where that is -1: padding, slices, nearest neighbours."""

    cells: tuple[int, ...]
    stride: int = 1
    rate: int = 1

    @classmethod
    def of(cls, cells: list[int]) -> Picked:
        """With stride and rate read off the cells: 0 2 4: stride 2; 0 0 1 1: rate 2; backwards or uneven: neither."""
        inside = np.array([cell for cell in cells if cell >= 0])
        rises = np.diff(inside)
        usual = int(np.bincount(rises[rises > 0]).argmax()) if (rises > 0).any() else 1
        repeats = int(np.bincount(inside).max()) if usual == 1 and len(inside) else 1
        even = repeats == 1 or bool((np.diff(np.flatnonzero(np.diff(np.array(cells)))) == repeats).all())
        return cls(tuple(cells), usual, repeats if even else 1)

    @property
    def straight(self) -> bool:
        """True if every cell is its own copy."""
        return self.cells == tuple(range(len(self.cells)))

    def outputs(self, low, high):
        cells, low, high = np.array(self.cells), np.asarray(low)[..., None], np.asarray(high)[..., None]
        reads = (cells >= np.maximum(low, 0)) & (cells < high)
        any_reads, count = reads.any(-1), len(cells)
        first = np.where(any_reads, reads.argmax(-1), 0)
        last = np.where(any_reads, count - reads[..., ::-1].argmax(-1), 0)
        return (first, last) if first.ndim else (int(first), int(last))


SAME = Reach()


@dataclass(frozen=True)
class Chunk:
    """The windows computed together: images x rows a x columns b of one run of rows and one run of columns."""

    images: range
    rows: range
    columns: range

    @property
    def lead(self) -> tuple[int, int, int]:
        """(I, A, B)."""
        return len(self.images), len(self.rows), len(self.columns)


@dataclass
class CleanMaps:
    """Clean maps (I, h, w, C) and what is derived from them, with margins for overhanging frames."""

    values: dict[str, Tensor]
    dtype: torch.dtype
    margins: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    _padded: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def of(self, name: str) -> Tensor:
        """The clean map in the frames' number type."""
        return self.values[name].to(self.dtype)

    def view(
        self,
        name: str,
        spans: Spans,
        chunk: Chunk,
        derived: str = "",
        make: Callable[[Tensor], Tensor] | None = None,
        margin_value: float = 0.0,
    ) -> Tensor:
        """(I, A, B, fh, fw, C) view of the map `name` (or of `make(map)`, kept as `derived`) under the frames."""
        rows, columns = spans
        needed = _margin(rows, chunk.rows), _margin(columns, chunk.columns)
        key = (name, derived)
        known = self.margins.get(key, (0, 0))
        margin = max(needed[0], known[0]), max(needed[1], known[1])
        if key not in self._padded or margin != known:
            self.margins[key] = margin
            value = self.values[name] if make is None else make(self.values[name])
            value = value.to(self.dtype)
            if any(margin):
                value = F.pad(value, (0, 0, margin[1], margin[1], margin[0], margin[0]), value=margin_value)
            self._padded[key] = value.contiguous()
        padded = self._padded[key]
        image_stride, row_stride, column_stride, _ = padded.stride()
        first_row = rows.origin(chunk.rows.start) + margin[0]
        first_column = columns.origin(chunk.columns.start) + margin[1]
        offset = chunk.images.start * image_stride + first_row * row_stride + first_column * column_stride
        strides = (
            image_stride,
            rows.step * row_stride,
            columns.step * column_stride,
            row_stride,
            column_stride,
            1,
        )
        shape = (*chunk.lead, rows.size, columns.size, padded.shape[-1])
        return padded.as_strided(shape, strides, padded.storage_offset() + offset)


@functools.lru_cache(maxsize=4096)
def _margin(span: Span, indices: range) -> int:
    before = max(-span.origin(indices[0]), -span.origin(indices[-1]), 0)
    after = max(span.origin(indices[0]), span.origin(indices[-1])) + span.size - span.length
    return max(before, after, 0)


def place(delta: Tensor, source: Spans, target: Spans, chunk: Chunk) -> Tensor:
    """The same deltas in other frames: zero where the source frame does not reach, cut where the target ends."""
    if source == target:
        return delta
    moving = [inner.step != outer.step for inner, outer in zip(source, target, strict=True)]
    if all(moving):  # one axis after the other needs A + B copies instead of A * B
        delta = place(delta, source, (target[0], source[1]), chunk)
        source = target[0], source[1]
    placed = delta.new_zeros(*delta.shape[:3], target[0].size, target[1].size, delta.shape[-1])
    for windows_a, from_row, to_row in _overlaps(source[0], target[0], chunk.rows):
        for windows_b, from_column, to_column in _overlaps(source[1], target[1], chunk.columns):
            placed[:, windows_a, windows_b, to_row, to_column] = delta[
                :, windows_a, windows_b, from_row, from_column
            ]
    return placed


def _overlaps(source: Span, target: Span, indices: range) -> list[tuple[slice, slice, slice]]:
    """(windows, cells of the source frame, cells of the target frame) that lie over each other."""
    if source.step == target.step:
        every = [(slice(None), source.start - target.start)]
    else:
        every = [(slice(n, n + 1), source.origin(a) - target.origin(a)) for n, a in enumerate(indices)]
    overlaps = []
    for windows, offset in every:
        first, last = max(offset, 0), min(offset + source.size, target.size)
        if first < last:
            overlaps.append((windows, slice(first - offset, last - offset), slice(first, last)))
    return overlaps


def trim(delta: Tensor, spans: Spans, chunk: Chunk) -> Tensor:
    """Set the delta to zero, in place, where a frame overhangs its map: out there nothing ever changes."""
    rows, columns = spans
    for number, before, after in _overhangs(rows, chunk.rows):
        if before:
            delta[:, number, :, :before] = 0
        if after:
            delta[:, number, :, rows.size - after :] = 0
    for number, before, after in _overhangs(columns, chunk.columns):
        if before:
            delta[:, :, number, :, :before] = 0
        if after:
            delta[:, :, number, :, columns.size - after :] = 0
    return delta


@functools.lru_cache(maxsize=4096)
def _overhangs(span: Span, indices: range) -> tuple[tuple[int, int, int], ...]:
    """(place in the batch, cells before the map, cells after it) of the frames that overhang."""
    if span.whole:
        return ()
    overhangs = ((number, *span.overhang(index)) for number, index in enumerate(indices))
    return tuple(each for each in overhangs if each[1] or each[2])


def whole(span: Span) -> Span:
    """The frame that is the whole map."""
    return replace(span, start=0, step=0, size=span.length)
