"""Which cells each window changes at each step, and which windows can be computed together.

Along one axis a window changes an interval of cells at every step; the intervals follow from kernels, strides and
paddings, cut at the map's border. Windows whose starts agree modulo the strides move in lockstep: they form a
group in which all frames have one size and their origins an equal step. A group is cut further into runs, so that
the smaller frames at the border are not padded to the size of the inner ones, where that saves more arithmetic
than smaller batches cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from interp_cnn.explanation.occlusion.incremental.frames import SAME, AxisReach, Picked, Span, whole
from interp_cnn.explanation.occlusion.incremental.graph import Graph
from interp_cnn.explanation.occlusion.windows import WindowGrid

SETTLED = 0.9  # a frame of at least this share of the map becomes the whole map


@dataclass
class WindowRun:
    """Windows along one axis that share their frames' geometry, equally spaced in the grid."""

    windows: tuple[int, ...]
    spans: dict[str, Span] = field(default_factory=dict)  # frame in which a step is computed
    sources: dict[str, tuple[Span, ...]] = field(default_factory=dict)  # frames it wants its inputs in


@dataclass(frozen=True)
class AxisWindows:
    """The windows of a grid along one axis: (start, stop) of each, and their numbers in the grid."""

    axis: int
    stride: int
    intervals: tuple[tuple[int, int], ...]
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, grid: WindowGrid, axis: int) -> AxisWindows:
        intervals = (grid.rows, grid.columns)[axis]
        return cls(axis, grid.stride[axis], intervals, tuple(range(len(intervals))))

    def only(self, numbers: list[int]) -> AxisWindows:
        """Some of the windows."""
        return replace(self, intervals=tuple(self.intervals[n] for n in numbers), numbers=tuple(numbers))


def _exact(graph: Graph, names: list[str], windows: AxisWindows) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Changed cells [low, high) of every window at every step, cut at the map's border; low = high if none."""
    axis = windows.axis
    low = np.array([first for first, _ in windows.intervals])
    high = np.array([last for _, last in windows.intervals])
    exact = {names[0]: (low, high)}
    for name in names[1:]:
        step = graph.steps[name]
        length = step.size[axis]
        axes, (first_input, *others) = step.rule.reach, step.inputs
        spread = others and any(
            graph.steps[source].size[axis] < length == max(graph.steps[s].size[axis] for s in step.inputs)
            for source in step.inputs
        )
        if axes is None or spread:
            exact[name] = np.zeros_like(low), np.full_like(high, length)
            continue
        reach = axes[axis]
        low, high = exact[first_input]
        for source in others:
            other_low, other_high = exact[source]
            empty, other_empty = low >= high, other_low >= other_high
            low, high = (
                np.where(empty, other_low, np.where(other_empty, low, np.minimum(low, other_low))),
                np.where(empty, other_high, np.where(other_empty, high, np.maximum(high, other_high))),
            )
        changed = low < high
        first, last = (np.clip(end, 0, length) for end in reach.outputs(low, high))
        changed &= first < last
        exact[name] = np.where(changed, first, 0), np.where(changed, last, 0)
    return exact


def run_of(graph: Graph, names: list[str], windows: AxisWindows, pixels: int) -> WindowRun:
    """Frames of windows whose starts are equally spaced by `pixels` (0 for a single window)."""
    axis = windows.axis
    exact = _exact(graph, names, windows)
    run = WindowRun(windows.numbers)
    steps = np.arange(len(windows.intervals))

    def union(name: str, step: int) -> tuple[int, int] | None:
        low, high = exact[name]
        changed = low < high
        if not changed.any():
            return None
        return int((low - steps * step)[changed].min()), int((high - steps * step)[changed].max())

    image = names[0]
    hidden = union(image, pixels)
    assert hidden is not None  # no window lies outside the image
    low, high = hidden
    run.spans[image] = Span(low, pixels, high - low, graph.steps[image].size[axis])
    for name in names[1:]:
        step = graph.steps[name]
        length = step.size[axis]
        sources = [run.spans[source] for source in step.inputs]
        # a frame that is nearly the whole map is taken as the whole map by who reads it
        sources = [whole(span) if span.size >= SETTLED * span.length else span for span in sources]
        axes = step.rule.reach
        reach = None if axes is None else axes[axis]
        stuck = reach is not None and any(reach.moved(span.step) is None for span in sources)
        mixed = len({(span.step, span.length) for span in sources}) > 1
        if step.rule.needs_whole or stuck or mixed:
            sources = [whole(span) for span in sources]
        run.sources[name] = tuple(sources)
        if reach is None or any(span.whole for span in sources):
            run.spans[name] = Span(0, 0, length, length)
        else:
            moved = reach.moved(sources[0].step)
            assert moved is not None  # else its input were whole
            run.spans[name] = _frame(tuple(sources), reach, length, moved, union(name, moved))
    return run


def _frame(
    sources: tuple[Span, ...], reach: AxisReach, length: int, moved: int, changed: tuple[int, int] | None
) -> Span:
    low = min(span.start for span in sources)
    high = max(span.start + span.size for span in sources)
    first, last = reach.outputs(low, high)
    if isinstance(
        reach, Picked
    ):  # other windows of the run may be copied to other places: what changes counts
        first, last = changed or (0, 1)
    elif changed is not None and max(first, changed[0]) < min(last, changed[1]):
        first, last = max(first, changed[0]), min(last, changed[1])
    return Span(first, moved, max(last - first, 1), length)


def runs_of(
    graph: Graph,
    names: list[str],
    windows: AxisWindows,
    probe: WindowRun,
    costs: dict[str, float],
    price: float,
) -> list[WindowRun]:
    """Group the windows of one axis.

    Args:
        graph: the network.
        names: the steps whose frames move, the image first.
        windows: the windows of the axis.
        probe: the frames of a window in the middle.
        costs: nanoseconds per window and step.
        price: nanoseconds that one more batch costs.
    """
    factor, modulus = {names[0]: Fraction(1)}, 1  # pixels to a cell
    for name in names[1:]:
        step = graph.steps[name]
        axes = step.rule.reach
        reach = SAME if axes is None else axes[windows.axis]
        factor[name] = max(factor[source] for source in step.inputs) * Fraction(reach.stride, reach.rate)
        if reach.stride > 1 and not any(span.whole for span in probe.sources[name]):
            modulus = math.lcm(modulus, factor[name].numerator)
    pixels = math.lcm(windows.stride, modulus)
    every = pixels // windows.stride
    steps = {name: 0 if probe.spans[name].whole else int(pixels / factor[name]) for name in names}
    runs = []
    for first in range(min(every, len(windows.intervals))):
        group = list(range(first, len(windows.intervals), every))
        for part in _parts(graph, windows.only(group), steps, probe, costs, price):
            runs.append(run_of(graph, names, windows.only(group[part]), pixels))
    return runs


def _parts(
    graph: Graph,
    group: AxisWindows,
    steps: dict[str, int],
    probe: WindowRun,
    costs: dict[str, float],
    price: float,
) -> list[slice]:
    """Cut a group into runs: dynamic programming over the cells computed and a price per run."""
    names = list(steps)
    exact = _exact(graph, names, group)
    count = len(group.intervals)
    moved = np.arange(count)[:, None] * np.array([steps[name] for name in names])
    low = np.stack([exact[name][0] for name in names], 1) - moved
    high = np.stack([exact[name][1] for name in names], 1) - moved
    lengths = np.array([graph.steps[name].size[group.axis] for name in names])
    sizes = np.array([probe.spans[name].size for name in names])
    weight = np.array([0.0] + [costs[name] for name in names[1:]]) / sizes  # per row of cells of one window
    price = price / max(1.0, count / 2)  # a batch holds the windows of both axes
    same = np.concatenate([[False], ((low[1:] == low[:-1]) & (high[1:] == high[:-1])).all(1)])
    starts = np.flatnonzero(~same)  # windows with equal frames stay together
    best, cut = [0.0] + [math.inf] * len(starts), [0] * (len(starts) + 1)
    ends = [*starts[1:], count]
    for i in range(len(starts)):
        lowest, highest = low[starts[i]].copy(), high[starts[i]].copy()
        for j in range(i, len(starts)):
            lowest, highest = np.minimum(lowest, low[starts[j]]), np.maximum(highest, high[starts[j]])
            cells = np.minimum(highest - lowest, lengths)
            cost = best[i] + price + float((cells * weight).sum()) * (ends[j] - starts[i])
            if cost < best[j + 1]:
                best[j + 1], cut[j + 1] = cost, i
    parts, end = [], len(starts)
    while end > 0:
        parts.append(slice(int(starts[cut[end]]), int(ends[end - 1])))
        end = cut[end]
    return parts[::-1]
