"""Rules of convolutions and pooling, and the way out for every other step.

A sliding step reads the cells under its output frames and around them. Where all windows have the same room around
their frames it is the convolution's padding or a constant one; else the deltas are placed there by index.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.occlusion.incremental.evaluation import GraphStep
from interp_cnn.explanation.occlusion.incremental.frames import Chunk, CleanMaps, Span
from interp_cnn.explanation.occlusion.incremental.operations import Axes, CallSite, Convolution
from interp_cnn.explanation.occlusion.incremental.pooling import AveragePool, MaxPool, Mean, Resample
from interp_cnn.explanation.occlusion.one_batch.frames import (
    Frame,
    is_whole,
    region,
    settled,
    slid,
    whole,
)
from interp_cnn.explanation.occlusion.one_batch.layout import Layout, Run
from interp_cnn.explanation.occlusion.one_batch.tables import Batch, constant_pads


def convolution(layout: Layout, step: GraphStep) -> tuple[Frame, Run]:
    operation, (name,) = step.operation, step.inputs
    assert isinstance(operation, Convolution)
    source, reach = layout.frames[name], operation.reach
    kernel, stride, padding, dilation = (
        tuple(getattr(axis, part) for axis in reach) for part in ("kernel", "stride", "padding", "dilation")
    )
    weight = operation.weight.to(layout.dtype)
    if (kernel, stride, padding) == ((1, 1), (1, 1), (0, 0)) and operation.groups == 1:
        if name in layout.unclean:
            layout.unclean.add(step.name)
        matrix = weight[:, :, 0, 0].contiguous()
        return source, lambda batch, deltas, owned: F.linear(deltas[0], matrix)
    frame = _slid(source, step)
    clean, put, padding = layout.input(name), *_room(layout, source, frame, step)
    weight = weight.contiguous(memory_format=torch.channels_last)
    if any(axis.overhangs for axis in frame):
        layout.unclean.add(step.name)

    def run(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
        delta = put(batch, clean(batch, deltas[0]))
        out = F.conv2d(_planes(delta), weight, None, stride, padding, dilation, operation.groups)
        return _cells(out, batch)

    return frame, run


def max_pool(layout: Layout, step: GraphStep) -> tuple[Frame, Run]:
    """Tiles: the maximum of (z - clean maximum) + d. Overlapping windows: maximum of z + d, minus the clean one."""
    operation, (name,) = step.operation, step.inputs
    assert isinstance(operation, MaxPool)
    source, reach = layout.frames[name], operation.reach
    kernel, stride, padding, dilation = (
        tuple(getattr(axis, part) for axis in reach) for part in ("kernel", "stride", "padding", "dilation")
    )
    frame = _slid(source, step, cut=True)
    ceil_mode = operation.ceil_mode
    if is_whole(frame):
        target = whole(source)
    else:
        target, padding, ceil_mode = _regions(source, frame, step), (0, 0), False
    put = layout.place(source, target)  # what overhangs the map meets -inf there
    if operation.tiling:
        before = layout.fetch((name, "gap"), operation._gap, target, margin_value=float("-inf"))
        after = None
    else:
        before = layout.fetch(
            (name, "walled"),
            lambda value: value,
            target,
            margin_value=float("-inf"),
            dtype=layout.exact,
        )
        after = layout.fetch_clean(step.name, frame)

    def run(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
        changed = put(batch, deltas[0]) + before(batch)
        pooled = F.max_pool2d(_planes(changed), kernel, stride, padding, dilation, ceil_mode)
        out = _cells(pooled, batch)
        return out if after is None else out.sub_(after(batch)).to(layout.dtype)

    return frame, run


def average_pool(layout: Layout, step: GraphStep) -> tuple[Frame, Run]:
    operation, (name,) = step.operation, step.inputs
    assert isinstance(operation, AveragePool)
    source, reach = layout.frames[name], operation.reach
    kernel, stride = (tuple(getattr(axis, part) for axis in reach) for part in ("kernel", "stride"))
    frame = _slid(source, step, cut=True)
    clean, put = layout.input(name), layout.place(source, _regions(source, frame, step))
    share = layout.fetch(
        (step.name, "share"), lambda value: operation.share.to(value).expand(len(value), -1, -1, -1), frame
    )

    def run(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
        delta = put(batch, clean(batch, deltas[0]))
        summed = F.avg_pool2d(_planes(delta), kernel, stride, divisor_override=1)
        return _cells(summed, batch).mul_(share(batch))

    return frame, run


def global_average(layout: Layout, step: GraphStep) -> tuple[Frame, Run] | None:
    """Mean or sum over rows and columns; None over other axes."""
    assert isinstance(step.operation, Mean)
    if step.operation.over != "hw":
        return None
    (name,) = step.inputs
    clean, cells = layout.input(name), step.operation.cells

    def run(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
        return clean(batch, deltas[0]).sum((2, 3), keepdim=True).div_(cells)

    return whole(layout.frames[name], (1, 1)), run


def resample(layout: Layout, step: GraphStep) -> tuple[Frame, Run]:
    (source,), operation = layout.inputs(step), step.operation
    assert isinstance(operation, Resample)
    put, matrices = layout.place(source, whole(source)), [operation.rows, operation.columns]

    def run(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
        delta = put(batch, deltas[0])
        matrices[:] = [matrix.to(delta) for matrix in matrices]  # copies once, in the first run
        return torch.einsum("yh,xw,iahwc->iayxc", *matrices, delta)

    return whole(source, step.size), run


def on_whole_maps(layout: Layout, step: GraphStep) -> tuple[Frame, Run]:
    """The incremental engine's own rule of any operation, on deltas that are made whole maps."""
    places = [layout.place(source, whole(source)) for source in layout.inputs(step)]
    spans = tuple(_spans(whole(source)) for source in layout.inputs(step))
    frame = whole(layout.frames[step.inputs[0]], step.size)
    names = {*step.inputs, step.name}
    layout.values |= names
    exact = layout.exact

    def run(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
        known = {name: batch.values[name].to(exact) for name in names}
        chunk = Chunk(range(batch.images), range(batch.windows), range(1))
        site = CallSite(
            step.name, step.inputs, spans, _spans(frame), chunk, CleanMaps(known, exact), reusable=False
        )
        given = [put(batch, d)[:, :, None].to(exact) for put, d in zip(places, deltas, strict=True)]
        return step.rule.delta(site, *given)[:, :, 0].to(layout.dtype)

    return frame, run


def _axes(step: GraphStep) -> Axes:
    """Rows and columns of a step whose windows slide."""
    assert isinstance(step.operation, Convolution | MaxPool | AveragePool)
    return step.operation.reach


def _slid(source: Frame, step: GraphStep, *, cut: bool = False) -> Frame:
    rows, columns = (
        slid(axis, reach, length, cut=cut)
        for axis, reach, length in zip(source, _axes(step), step.size, strict=True)
    )
    return settled((rows, columns))


def _regions(source: Frame, frame: Frame, step: GraphStep) -> Frame:
    """The cells of the input that the output frames read."""
    rows, columns = (
        region(axis, reach, before.length)
        for before, axis, reach in zip(source, frame, _axes(step), strict=True)
    )
    return rows, columns


def _room(
    layout: Layout, source: Frame, frame: Frame, step: GraphStep
) -> tuple[Callable[[Batch, Tensor], Tensor], tuple[int, int]]:
    """How the input is brought into the cells that the output frames read: by a function, and a padding."""
    target = _regions(source, frame, step)
    pads = constant_pads(source, target)
    if pads is not None and min(before for before, _ in pads) >= 0:
        (top, _), (left, _) = pads
        padding = top, left
        sizes = [
            (axis.size + 2 * before - reach.dilation * (reach.kernel - 1) - 1) // reach.stride + 1
            for axis, before, reach in zip(source, padding, _axes(step), strict=True)
        ]
        if sizes == [axis.size for axis in frame]:
            return (lambda batch, delta: delta), padding
    return layout.place(source, target), (0, 0)


def _spans(frame: Frame) -> tuple[Span, Span]:
    rows, columns = (Span(0, 0, axis.length, axis.length) for axis in frame)
    return rows, columns


def _planes(delta: Tensor) -> Tensor:
    """(I, W, h, w, C) -> (N, C, h, w), channels last in memory."""
    return delta.flatten(0, 1).permute(0, 3, 1, 2)


def _cells(value: Tensor, batch: Batch) -> Tensor:
    """(N, C, h, w) -> (I, W, h, w, C)."""
    return value.permute(0, 2, 3, 1).contiguous().unflatten(0, (batch.images, batch.windows))
