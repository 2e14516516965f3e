"""What a step costs: multiply-adds, and nanoseconds of one core by a simple model.

The model knows products, elementwise passes and calls (`unit_costs`). Only the ratios
matter: they decide what runs incrementally and how windows are batched, never what comes out.
"""

from __future__ import annotations

import math

from interp_cnn.explanation.occlusion.incremental.evaluation import GraphStep
from interp_cnn.explanation.occlusion.incremental.frames import Span, Spans
from interp_cnn.explanation.occlusion.incremental.graph import Graph
from interp_cnn.explanation.occlusion.incremental.groups import WindowRun
from interp_cnn.explanation.occlusion.incremental.operations import Convolution, Linear
from interp_cnn.explanation.occlusion.incremental.unit_costs import CALL, CELL, PRODUCT

TYPICAL_WINDOWS = 32  # windows per batch that the model assumes


def dense_products(step: GraphStep) -> int:
    """Multiply-adds of a step on whole maps."""
    if isinstance(step.operation, Convolution):
        return step.operation.weight.numel() * math.prod(step.shape[2:])
    if isinstance(step.operation, Linear):
        return step.operation.weight.numel() * math.prod(step.size)
    return 0


def frame_products(step: GraphStep, rows: WindowRun, columns: WindowRun) -> int:
    """Multiply-adds of one window's frame."""
    spans = (rows.spans[step.name], columns.spans[step.name])
    if isinstance(step.operation, Convolution):
        source = rows.sources[step.name][0], columns.sources[step.name][0]
        frames = step.operation.frames(step.operation.weight.dtype)
        return frames.products((source[0].size, source[1].size), step.operation.pads(source, spans))
    if isinstance(step.operation, Linear):
        return step.operation.weight.numel() * spans[0].size * spans[1].size
    return 0


def frame_costs(graph: Graph, names: list[str], probe: tuple[WindowRun, WindowRun]) -> dict[str, float]:
    """Nanoseconds per window of each moving step."""
    costs = {}
    for name in names[1:]:
        step = graph.steps[name]
        spans = (probe[0].spans[name], probe[1].spans[name])
        source = probe[0].sources[name][0], probe[1].sources[name][0]
        costs[name] = _cost(step, source, spans)
    return costs


def whole_cost(step: GraphStep) -> float:
    rows, columns = step.size
    spans = source = Span(0, 0, rows, rows), Span(0, 0, columns, columns)
    if isinstance(step.operation, Convolution):
        rows, columns = (
            (length - 1) * axis.stride - 2 * axis.padding + axis.dilation * (axis.kernel - 1) + 1
            for length, axis in zip(step.size, step.operation.reach, strict=True)
        )
        source = Span(0, 0, rows, rows), Span(0, 0, columns, columns)
    return _cost(step, source, spans)


def _cost(step: GraphStep, source: Spans, spans: Spans) -> float:
    operation, number = step.rule, TYPICAL_WINDOWS
    cells = spans[0].size * spans[1].size * step.channels
    cost = operation.passes * cells * CELL + CALL * (operation.passes + 2) / number
    if isinstance(operation, Convolution):
        frames = operation.frames(operation.weight.dtype)
        size = source[0].size, source[1].size
        cost += frames.cheapest(number, size, operation.pads(source, spans))[0] / number
    elif isinstance(operation, Linear):
        cost += operation.weight.numel() * spans[0].size * spans[1].size * PRODUCT
    return cost


def dense_cost(step: GraphStep) -> float:
    """Nanoseconds per window of a step on whole maps, as the network does it."""
    cells = math.prod(step.shape[1:]) if step.shape else 0
    slow = isinstance(step.operation, Convolution) and step.operation.groups > 1
    return dense_products(step) * PRODUCT * (4 if slow else 1) + 2 * cells * CELL + CALL / TYPICAL_WINDOWS


def call_cost(step: GraphStep) -> float:
    """What one batch costs however small it is: calls, and the weights that have to be read."""
    if isinstance(step.operation, Convolution):
        return 30 * CALL + 4 * step.operation.weight.numel() * CELL
    return 6 * CALL
