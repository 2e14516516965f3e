"""How frames are moved: clean values fetched under them, deltas put from one frame into another.

Everything that depends on where the windows lie is an index tensor, computed before the run. The tensors of one
batch of windows lie in one buffer: another batch of the same size is another content of it, nothing else
(`IndexTables.of`). So a run reads no number on the host, and a CUDA graph of one batch serves all.

A clean map is kept with margins, channels last, (I, h, w, C). Cells that follow one another in a row of a frame do
so in the map, too: a frame is fetched as h pieces of w C numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.occlusion.one_batch.frames import Axis, Frame, is_whole, same

Key = tuple[str, str]  # a step's name, and what is derived from its clean value
Numbers = Callable[
    [int, np.ndarray, np.ndarray], np.ndarray
]  # (images, window rows, window columns) -> indices


@dataclass
class Batch:
    """The windows that are computed together: all of `images` x `windows`."""

    images: int
    windows: int
    maps: dict[Key, Tensor]  # (I, h + margins, w + margins, C)
    values: dict[str, Tensor]  # (I, h, w, C), clean
    index: list[Tensor]


@dataclass
class CleanMap:
    """A map derived from clean values, with margins of one value around it."""

    size: tuple[int, int]
    make: Callable[[dict[str, Tensor]], Tensor]  # clean values by name (I, h, w, C) -> (I, h, w, C)
    margin_value: float
    dtype: torch.dtype | None  # None: that of the made map
    margins: list[list[int]] = field(default_factory=lambda: [[0, 0], [0, 0]])

    def cover(self, frame: Frame) -> None:
        """Widen the margins so that these frames lie inside."""
        for margin, axis, length in zip(self.margins, frame, self.size, strict=True):
            margin[0] = max(margin[0], -int(axis.starts.min()))
            margin[1] = max(margin[1], int(axis.starts.max()) + axis.size - length)

    @property
    def padded_size(self) -> tuple[int, int]:
        """(rows, columns) with margins."""
        rows, columns = (n + sum(m) for n, m in zip(self.size, self.margins, strict=True))
        return rows, columns

    def of(self, values: dict[str, Tensor]) -> Tensor:
        """(I, h + margins, w + margins, C)."""
        made = self.make(values)
        made = made if self.dtype is None else made.to(self.dtype)
        (top, bottom), (left, right) = self.margins
        return F.pad(made, (0, 0, left, right, top, bottom), value=self.margin_value).contiguous()


class IndexTables:
    """The index tensors of all steps, for any batch of windows."""

    def __init__(self) -> None:
        self._numbers: list[Numbers] = []

    def add(self, numbers: Numbers) -> int:
        """Number of the table in `Batch.index`."""
        self._numbers.append(numbers)
        return len(self._numbers) - 1

    def of(self, images: int, rows: np.ndarray, columns: np.ndarray) -> tuple[Tensor, list[int]]:
        """All tables of these windows behind one another (int64), and the length of each."""
        parts = [numbers(images, rows, columns).reshape(-1) for numbers in self._numbers]
        joined = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
        return torch.from_numpy(joined), [len(part) for part in parts]


def fetched(tables: IndexTables, key: Key, clean: CleanMap, frame: Frame) -> Callable[[Batch], Tensor]:
    """A function that gives the clean map under the frames: (I, W, fh, fw, C), or (I, 1, h, w, C) if they are the map.

    What it gives for moving frames is fresh memory.
    """
    clean.cover(frame)
    if is_whole(frame):

        def view(batch: Batch) -> Tensor:
            (top, _), (left, _) = clean.margins
            return batch.maps[key][:, None, top : top + clean.size[0], left : left + clean.size[1]]

        return view
    rows, columns = frame

    def numbers(images: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        (top, _), (left, _) = clean.margins
        height, width = clean.padded_size
        cell = rows.starts[a][:, None] + top + np.arange(rows.size)  # (W, fh)
        cell = cell * width + (columns.starts[b] + left)[:, None]
        return np.arange(images)[:, None, None] * (height * width) + cell

    table = tables.add(numbers)

    def gather(batch: Batch) -> Tensor:
        lines = rows_of_frames(batch.maps[key], columns.size)
        gathered = lines.index_select(0, batch.index[table])
        return gathered.view(batch.images, batch.windows, rows.size, columns.size, -1)

    gather.key, gather.table = key, table  # for kernels that fetch by themselves
    return gather


def rows_of_frames(padded: Tensor, width: int) -> Tensor:
    """View (cells, width * C) of a map (I, h, w, C): from each cell on, `width` cells in a row."""
    channels = padded.shape[-1]
    cells = padded.numel() // channels - width + 1
    return padded.as_strided((cells, width * channels), (channels, 1))


def placed(tables: IndexTables, source: Frame, target: Frame) -> Callable[[Batch, Tensor], Tensor]:
    """A function that puts deltas (I, W, h, w, C) into other frames: zero where the source does not reach."""
    if same(source, target):
        return lambda batch, delta: delta
    pads = constant_pads(source, target)
    if pads is not None:
        (top, bottom), (left, right) = pads
        return lambda batch, delta: F.pad(delta, (0, 0, left, right, top, bottom))
    offsets = [inner.starts - outer.starts for inner, outer in zip(source, target, strict=True)]
    height, width = target[0].size, target[1].size

    def numbers(images: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        y = offsets[0][a][:, None] + np.arange(source[0].size)
        x = offsets[1][b][:, None] + np.arange(source[1].size)
        inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
        cell = y[:, :, None] * width + x[:, None, :]
        first = np.arange(images * len(a)).reshape(images, len(a), 1, 1) * (height * width)
        return np.where(inside, first + cell, images * len(a) * height * width)

    table = tables.add(numbers)

    def scatter(batch: Batch, delta: Tensor) -> Tensor:
        channels, cells = delta.shape[-1], batch.images * batch.windows * height * width
        out = delta.new_zeros(cells + 1, channels)  # the last cell takes what ends outside
        out.index_copy_(0, batch.index[table], delta.reshape(-1, channels))
        return out[:cells].view(batch.images, batch.windows, height, width, channels)

    return scatter


def constant_pads(source: Frame, target: Frame) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Cells (before, after) that the target has more along each axis; None if windows differ in that."""
    rows, columns = (_constant(inner, outer) for inner, outer in zip(source, target, strict=True))
    return None if rows is None or columns is None else (rows, columns)


def _constant(inner: Axis, outer: Axis) -> tuple[int, int] | None:
    offsets = inner.starts - outer.starts
    if (offsets != offsets[0]).any():
        return None
    before = int(offsets[0])
    return before, outer.size - before - inner.size
