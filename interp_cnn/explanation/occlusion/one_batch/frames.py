"""Frames of all windows at once: one size for all, an own offset for each.

Along one axis window a changes, at one step of the network, cells of `starts[a] <= cell < starts[a] + size` only.
Rows and columns are independent, so a frame is a pair of such axes. Where a step slides by one cell a frame grows
by the kernel and may overhang its map (the step's padding then places it, nothing is copied); where it slides
further the frames are cut to the map, because their offsets differ by then anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp_cnn.explanation.occlusion.incremental.frames import Reach

WHOLE_SHARE = (
    0.5625  # a frame of at least this share of its map (three quarters of each side) becomes the map
)


@dataclass(frozen=True, eq=False)
class Axis:
    """Frames of every window along one axis, in cells of a map of `length` cells."""

    starts: np.ndarray  # (A,) int64
    size: int
    length: int

    @property
    def whole(self) -> bool:
        """True if every window's frame is the whole map."""
        return self.size == self.length and not self.starts.any()

    @property
    def overhangs(self) -> bool:
        """True if some frame ends outside the map."""
        return bool((self.starts < 0).any() or (self.starts + self.size > self.length).any())

    def equals(self, other: Axis) -> bool:
        """True if both have the same frames."""
        return self.size == other.size and np.array_equal(self.starts, other.starts)

    def everywhere(self, length: int | None = None) -> Axis:
        """Frames that are the whole map (of another length, if given)."""
        length = self.length if length is None else length
        return Axis(np.zeros_like(self.starts), length, length)


Frame = tuple[Axis, Axis]


def is_whole(frame: Frame) -> bool:
    return frame[0].whole and frame[1].whole


def same(first: Frame, second: Frame) -> bool:
    return all(a.equals(b) for a, b in zip(first, second, strict=True))


def whole(frame: Frame, size: tuple[int, int] | None = None) -> Frame:
    """The frame that is the whole map (of another size, if given)."""
    lengths = size or (frame[0].length, frame[1].length)
    return frame[0].everywhere(lengths[0]), frame[1].everywhere(lengths[1])


def settled(frame: Frame) -> Frame:
    """The frame, or the whole map where it is most of it."""
    axes = [axis.everywhere() if axis.size >= axis.length else axis for axis in frame]
    cells, most = axes[0].size * axes[1].size, axes[0].length * axes[1].length
    return whole(frame) if cells >= WHOLE_SHARE * most else (axes[0], axes[1])


def slid(source: Axis, reach: Reach, length: int, *, cut: bool = False) -> Axis:
    """The frames of a sliding operation's output.

    Args:
        source: frames of the input.
        reach: the operation along this axis.
        length: of the output.
        cut: to the map, also where the operation slides by one cell.
    """
    if source.whole:
        return source.everywhere(length)
    grown = reach.dilation * (reach.kernel - 1)
    if reach.stride == 1 and not cut:
        return Axis(source.starts + reach.padding - grown, source.size + grown, length)
    low = source.starts.clip(0, source.length)
    high = (source.starts + source.size).clip(0, source.length)
    first = (-((grown - low - reach.padding) // reach.stride)).clip(0, length)
    last = ((high - 1 + reach.padding) // reach.stride + 1).clip(0, length)
    size = max(int((last - first).max()), 1)
    return Axis(np.minimum(first, length - size), size, length)


def region(out: Axis, reach: Reach, length: int) -> Axis:
    """The cells of the input (of `length` cells) that the output frames read, padding included."""
    size = (out.size - 1) * reach.stride + reach.dilation * (reach.kernel - 1) + 1
    return Axis(out.starts * reach.stride - reach.padding, size, length)


def union(frames: list[Frame]) -> Frame:
    """The smallest frames that hold all of the given ones, which lie in maps of one size."""
    joined = []
    for axes in zip(*frames, strict=True):
        low = np.min([axis.starts for axis in axes], axis=0)
        high = np.max([axis.starts + axis.size for axis in axes], axis=0)
        joined.append(Axis(low, int((high - low).max()), axes[0].length))
    return joined[0], joined[1]
