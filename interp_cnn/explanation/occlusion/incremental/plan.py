"""What runs incrementally, what densely, and in which batches.

The steps fall into three parts, decided once per plan:
- `moving`: frames move with the window; computed run by run;
- `joint`: the changed cells cover (nearly) the whole map, or the step needs the whole map: still deltas, but
  windows of all runs go together, in larger batches;
- the rest of the graph, densely: what has no delta rule, and what is cheaper that way. A cost model (nanoseconds
  of one core) chooses how many of the first steps stay incremental.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from interp_cnn.explanation.occlusion.incremental.costs import (
    call_cost,
    dense_cost,
    dense_products,
    frame_costs,
    frame_products,
    whole_cost,
)
from interp_cnn.explanation.occlusion.incremental.frames import Chunk
from interp_cnn.explanation.occlusion.incremental.graph import Graph
from interp_cnn.explanation.occlusion.incremental.groups import (
    SETTLED,
    AxisWindows,
    WindowRun,
    run_of,
    runs_of,
)
from interp_cnn.explanation.occlusion.incremental.jumps import PASSES, jumping
from interp_cnn.explanation.occlusion.incremental.operations import Convolution
from interp_cnn.explanation.occlusion.incremental.unit_costs import CELL
from interp_cnn.explanation.occlusion.windows import WindowGrid

LARGEST_BATCH = 256
WORTH_EXACTNESS = 1.05


@dataclass
class Plan:
    """Everything that is decided before the first window is computed."""

    graph: Graph
    grid: WindowGrid
    moving: list[str]  # the image first
    joint: list[str]
    runs: tuple[list[WindowRun], list[WindowRun]]

    def __post_init__(self) -> None:
        incremental = {*self.moving, *self.joint}
        readers = self.graph.readers()
        output = self.graph.output
        # moving steps that the joint or the dense part reads, and incremental steps that the dense part reads
        self.handed = [
            n for n in self.moving if n == output or any(r not in set(self.moving) for r in readers[n])
        ]
        self.frontier = [
            n
            for n in (*self.moving, *self.joint)
            if n == output or any(r not in incremental for r in readers[n])
        ]
        self.dense = [step for name, step in self.graph.steps.items() if name not in incremental]
        self.jumps = jumping(self.graph)

    @property
    def ordered(self) -> list[str]:
        """All incremental steps, each after those that it reads."""
        incremental = {*self.moving, *self.joint}
        return [name for name in self.graph.steps if name in incremental]

    def products(self) -> int:
        """Multiply-adds of all windows together, direct convolutions assumed."""
        total = 0
        for rows in self.runs[0]:
            for columns in self.runs[1]:
                each = sum(frame_products(self.graph.steps[name], rows, columns) for name in self.moving[1:])
                total += each * len(rows.windows) * len(columns.windows)
        rest = [self.graph.steps[name] for name in self.joint] + self.dense
        return total + len(self.grid) * sum(dense_products(step) for step in rest)

    def passes(self) -> float:
        """The same in units of one forward pass."""
        return self.products() / max(sum(dense_products(step) for step in self.graph.steps.values()), 1)

    def moving_bytes(self, rows: WindowRun, columns: WindowRun, item: int) -> int:
        """Rough peak of one window's moving frames."""
        peak = 1
        for name in self.moving[1:]:
            step = self.graph.steps[name]
            cells = math.prod(s.size for s in (rows.spans[name], columns.spans[name])) * step.channels
            for number, source in enumerate(step.inputs):
                spans = rows.sources[name][number], columns.sources[name][number]
                cells += math.prod(s.size for s in spans) * self.graph.steps[source].channels
            peak = max(peak, cells * (6 if isinstance(step.operation, Convolution) else 3))
        handed = sum(math.prod(self.graph.steps[name].shape[1:]) for name in self.handed)
        return item * max(peak, 3 * handed)

    def joint_bytes(self, item: int) -> int:
        """Rough peak of one window's whole maps."""
        cells = [math.prod(self.graph.steps[name].shape[1:]) for name in (*self.joint, *self.handed)]
        cells += [math.prod(step.shape[1:]) for step in self.dense]
        return item * max([6 * size for size in cells], default=1)


def plan_of(graph: Graph, grid: WindowGrid, every_step: bool = False) -> Plan:
    """Decide what runs incrementally, and group the windows.

    Args:
        graph: the network.
        grid: the windows.
        every_step: run every step that has a delta rule incrementally, whatever it costs (for tests).
    """
    capable = graph.capable()
    windows = AxisWindows.of(grid, 0), AxisWindows.of(grid, 1)
    down, across = (run_of(graph, capable, axis.only([len(axis.intervals) // 2]), 0) for axis in windows)
    probe = down, across
    joint = _joint(graph, capable, probe)
    costs = frame_costs(graph, [name for name in capable if name not in joint], probe)
    costs |= {name: whole_cost(graph.steps[name]) for name in joint}
    count = len(capable) if every_step else _cheapest_prefix(graph, capable, costs)
    moving = [name for name in capable[:count] if name not in joint]
    price = sum(call_cost(graph.steps[name]) for name in moving[1:])
    rows, columns = (
        runs_of(graph, moving, axis, window, costs, price)
        for axis, window in zip(windows, probe, strict=True)
    )
    return Plan(graph, grid, moving, [name for name in capable[:count] if name in joint], (rows, columns))


def _joint(graph: Graph, names: list[str], probe: tuple[WindowRun, WindowRun]) -> set[str]:
    joint: set[str] = set()
    settled = {
        name
        for name in names
        if all(run.spans[name].size >= SETTLED * run.spans[name].length for run in probe)
    }
    for name in names[1:]:
        step = graph.steps[name]
        if step.rule.needs_whole or any(source in joint | settled for source in step.inputs):
            joint.add(name)
    return joint


def _cheapest_prefix(graph: Graph, names: list[str], costs: dict[str, float]) -> int:
    """How many of the capable steps to run incrementally."""
    total = sum(dense_cost(step) for step in graph.steps.values())
    readers = graph.readers()
    position = {name: number for number, name in enumerate(names)}
    last_reader = [max((position.get(r, len(names)) for r in readers[name]), default=-1) for name in names]
    repeated = PASSES if jumping(graph) else 1
    totals, spent = [], 0.0
    for count in range(1, len(names) + 1):
        if count > 1:
            spent += costs[names[count - 1]]
            total -= dense_cost(graph.steps[names[count - 1]])
        cut = [names[n] for n in range(count) if last_reader[n] >= count]
        handing_over = sum(4 * math.prod(graph.steps[name].shape[1:]) * CELL for name in cut)
        # without a delta step there are only plain passes, which nobody repeats
        totals.append(spent + total * (repeated if count > 1 else 1) + handing_over)
    # a drop that stays a difference to the end is more exact than a difference of two logits: worth a little
    return max(count for count, cost in enumerate(totals, 1) if cost <= WORTH_EXACTNESS * min(totals))


def chunks_of(
    plan: Plan, images: int, item: int, budget: int, wanted: np.ndarray | None = None
) -> list[tuple[WindowRun, WindowRun, Chunk]]:
    """Batches of windows whose frames fit into the budget (bytes); images outermost, always in the same order.

    Args:
        plan: the plan.
        images: number of images.
        item: bytes of a number.
        budget: bytes.
        wanted: (rows, columns), the windows to compute, with some that lie between them; None: all.
    """
    groups = [(rows, columns) for rows in plan.runs[0] for columns in plan.runs[1]]
    limits = [max(1, min(budget // plan.moving_bytes(*group, item), LARGEST_BATCH)) for group in groups]
    room = min(
        limit // (len(rows.windows) * len(columns.windows))
        for limit, (rows, columns) in zip(limits, groups, strict=True)
    )
    chunks = []
    for some in _split(range(images), max(1, room)):
        for limit, (rows, columns) in zip(limits, groups, strict=True):
            for down, right in _boxes(wanted, rows, columns):
                across = _split(right, limit)
                for a in _split(down, max(1, limit // len(across[0]))):
                    chunks.extend((rows, columns, Chunk(some, a, b)) for b in across)
    return chunks


def _boxes(wanted: np.ndarray | None, rows: WindowRun, columns: WindowRun) -> list[tuple[range, range]]:
    """Boxes of a group's windows that hold all that are wanted, and not many others."""
    everything = range(len(rows.windows)), range(len(columns.windows))
    if wanted is None:
        return [everything]
    wanted_here = wanted[np.ix_(rows.windows, columns.windows)]

    def boxes(down: range, right: range) -> list[tuple[range, range]]:
        inside = wanted_here[down.start : down.stop, right.start : right.stop]
        if not inside.any():
            return []
        a, b = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        down = range(down.start + a[0], down.start + a[-1] + 1)
        right = range(right.start + b[0], right.start + b[-1] + 1)
        if 2 * inside.sum() >= len(down) * len(right):
            return [(down, right)]
        if len(down) >= len(right):
            return [box for half in _split(down, -(-len(down) // 2)) for box in boxes(half, right)]
        return [box for half in _split(right, -(-len(right) // 2)) for box in boxes(down, half)]

    return boxes(*everything)


def joint_batch(plan: Plan, item: int, budget: int) -> int:
    """Windows that go through the joint and dense parts together."""
    return max(16, min(LARGEST_BATCH, budget // plan.joint_bytes(item)))


def _split(numbers: range, most: int) -> list[range]:
    """Ranges of nearly equal length, none longer than `most`."""
    parts = math.ceil(len(numbers) / most)
    edges = [numbers.start + len(numbers) * part // parts for part in range(parts + 1)]
    return [range(first, last) for first, last in itertools.pairwise(edges)]
