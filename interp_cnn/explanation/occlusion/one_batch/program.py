"""The network as a list of instructions on the deltas of all windows, made once per network, image size and grid.

Every step that has a delta rule gets an instruction: its own of `RULES`, or the incremental engine's on whole maps.
Deltas go as far as rules go; what comes after is computed on whole values, as the network does it. So nothing that
the incremental engine understands is missing here, and nothing is taken for what it is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp_cnn.explanation.occlusion.incremental import joining, operations, pooling
from interp_cnn.explanation.occlusion.incremental.evaluation import GraphStep
from interp_cnn.explanation.occlusion.incremental.graph import Graph
from interp_cnn.explanation.occlusion.incremental.layouts import as_written
from interp_cnn.explanation.occlusion.one_batch import pointwise, sliding
from interp_cnn.explanation.occlusion.one_batch.frames import Axis, Frame, settled, whole
from interp_cnn.explanation.occlusion.one_batch.layout import Layout, Run
from interp_cnn.explanation.occlusion.one_batch.tables import Batch
from interp_cnn.explanation.occlusion.windows import WindowGrid

RULES: dict[type, Callable[[Layout, GraphStep], tuple[Frame, Run] | None]] = {
    operations.Passing: pointwise.passing,
    operations.Relu: pointwise.relu,
    operations.Pointwise: pointwise.pointwise,
    operations.Affine: pointwise.affine,
    operations.Linear: pointwise.linear,
    joining.Add: pointwise.add,
    joining.Multiply: pointwise.multiply,
    joining.Concatenate: pointwise.concatenate,
    operations.Flatten: pointwise.flatten,
    operations.Convolution: sliding.convolution,
    pooling.MaxPool: sliding.max_pool,
    pooling.AveragePool: sliding.average_pool,
    pooling.Mean: sliding.global_average,
    pooling.Resample: sliding.resample,
}
FORMS = ("map", "last", "vector")
FRESH = {operations.Relu, operations.Pointwise, operations.Affine, operations.Linear, joining.Add}
FRESH |= {joining.Concatenate, operations.Convolution, pooling.MaxPool, pooling.AveragePool}


@dataclass
class Instruction:
    """One step's delta from those of its inputs."""

    name: str
    inputs: tuple[str, ...]
    run: Run
    owned: list[bool]  # inputs whose memory nobody reads again
    last: tuple[str, ...]  # inputs that nobody reads again


@dataclass
class Program:
    """All that is decided before the first window is computed."""

    graph: Graph
    grid: WindowGrid
    layout: Layout
    enter: Callable[[Batch, Tensor], Tensor]
    instructions: list[Instruction]
    frontier: list[str]  # steps whose values the plain rest reads; empty if deltas go to the end
    leave: dict[str, Callable[[Batch, Tensor], Tensor]]  # of the frontier: to whole maps
    numbers_per_window: int  # the most that live at once

    def run(self, batch: Batch, change: Tensor) -> Tensor:
        """Logits' changes.

        Args:
            batch: the windows.
            change: (I, W, height, width, C), replacement minus image in the uncut windows, 0 outside shape and image.

        Returns:
            (I, W, K): clean minus occluded logits, or occluded logits if there is a frontier.
        """
        image = self.graph.image
        deltas = {image: self.enter(batch, change.to(self.layout.dtype))}
        for instruction in self.instructions:
            inputs = [deltas[name] for name in instruction.inputs]
            for name in instruction.last:
                del deltas[name]
            deltas[instruction.name] = instruction.run(batch, inputs, instruction.owned)
            del inputs
        if not self.frontier:
            return -deltas[self.graph.output][:, :, 0, 0]
        known = {}
        for name in self.frontier:
            value = self.leave[name](batch, deltas.pop(name)) + batch.values[name][:, None]
            known[name] = as_written(
                value.flatten(0, 1), self.graph.steps[name].form, self.graph.steps[name].shape
            )
        logits = self.graph.dense(known, [self.graph.output])[self.graph.output]
        return logits.unflatten(0, (batch.images, batch.windows))


def program_of(graph: Graph, grid: WindowGrid, dtype: torch.dtype) -> Program:
    """Lay out the frames of every step.

    Args:
        graph: the network.
        grid: the windows.
        dtype: number type of the deltas.
    """
    layout = Layout(dtype)
    rows, columns = (
        Axis(np.array(starts, dtype=np.int64), size, length)
        for starts, size, length in zip(
            (grid.row_starts, grid.column_starts), grid.size, grid.image_size, strict=True
        )
    )
    names = _with_known_axes(graph)
    image = names[0]
    layout.frames[image] = settled((rows, columns))
    enter = layout.place((rows, columns), layout.frames[image])
    readers = graph.readers()
    deltas_to_the_end = graph.output in names
    frontier = (
        []
        if deltas_to_the_end
        else [n for n in names if any(reader not in set(names) for reader in readers[n])]
    )
    kept = {*frontier, graph.output}
    instructions, roots = [], {image: {image}}
    position = {name: number for number, name in enumerate(names)}
    last_read = {
        name: max((position.get(reader, len(names)) for reader in readers[name]), default=-1)
        for name in names
    }
    for name in names[1:]:
        step = graph.steps[name]
        rule = RULES.get(type(step.operation), sliding.on_whole_maps)
        made = rule(layout, step) or sliding.on_whole_maps(layout, step)
        layout.frames[name], run = made
        fresh = type(step.operation) in FRESH
        roots[name] = {name} if fresh else {name}.union(*(roots[source] for source in step.inputs))
        last = tuple(
            n for n in dict.fromkeys(step.inputs) if last_read[n] == position[name] and n not in kept
        )
        instructions.append(Instruction(name, step.inputs, run, [], last))
    for instruction in instructions:
        instruction.owned = _owned(instruction, roots, last_read, position, kept | {image})
    leave = {n: layout.place(layout.frames[n], whole(layout.frames[n])) for n in frontier}
    layout.values.update(frontier)
    most = _most_numbers(graph, layout, instructions, frontier)
    return Program(graph, grid, layout, enter, instructions, frontier, leave, most)


def _with_known_axes(graph: Graph) -> list[str]:
    """Steps with a delta rule, as far as values have the axes of images, maps and vectors; the image first."""
    names: list[str] = []
    for name in graph.capable():
        step = graph.steps[name]
        if step.form in FORMS and all(source in names for source in step.inputs):
            names.append(name)
    return names


def _owned(
    instruction: Instruction,
    roots: dict[str, set[str]],
    last_read: dict[str, int],
    position: dict[str, int],
    never: set[str],
) -> list[bool]:
    """Which inputs may be overwritten: nobody reads their memory later, under this name or another."""
    here = position[instruction.name]
    owned = []
    for number, name in enumerate(instruction.inputs):
        aliases = [other for other, root in roots.items() if root & roots[name]]
        read_again = any(other in never or last_read[other] > here for other in aliases)
        others = [other for k, other in enumerate(instruction.inputs) if k != number]
        owned.append(not read_again and not any(other in aliases for other in others))
    return owned


def _most_numbers(graph: Graph, layout: Layout, instructions: list[Instruction], frontier: list[str]) -> int:
    """The most numbers of one window that live at once, roughly."""

    def cells(name: str) -> int:
        rows, columns = layout.frames[name]
        return rows.size * columns.size * graph.steps[name].channels

    alive, most = {graph.image: cells(graph.image)}, 1
    for instruction in instructions:
        out = cells(instruction.name)
        room = 3 * max(
            out, *(cells(name) for name in instruction.inputs)
        )  # room around frames, and results on the way
        most = max(most, sum(alive.values()) + out + room)
        alive[instruction.name] = out
        for name in instruction.last:
            del alive[name]
    rest = [step for name, step in graph.steps.items() if frontier and name not in layout.frames]
    return max([most, *(6 * math.prod(step.shape[1:]) for step in rest)])
