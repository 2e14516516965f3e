"""Rules of steps that look at one cell at a time, and of those that join several values.

They read clean values under the frames, and need no room around them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_cnn.explanation.occlusion.incremental.evaluation import GraphStep
from interp_cnn.explanation.occlusion.incremental.joining import Add, Concatenate
from interp_cnn.explanation.occlusion.incremental.operations import Affine, Linear, Pointwise
from interp_cnn.explanation.occlusion.one_batch import kernels
from interp_cnn.explanation.occlusion.one_batch.frames import Frame, is_whole, same, settled, union, whole
from interp_cnn.explanation.occlusion.one_batch.layout import Layout, Run
from interp_cnn.explanation.occlusion.one_batch.tables import Batch, constant_pads

FAR = 1e30  # minus a clean value so small that no delta switches the rectifier on: outside the map


def passing(layout: Layout, step: GraphStep) -> tuple[Frame, Run]:
    _stays_unclean(layout, step)
    return layout.frames[step.inputs[0]], lambda batch, deltas, owned: deltas[0]


def relu(layout: Layout, step: GraphStep) -> tuple[Frame, Run]:
    """The change is max(d, -z) - max(-z, 0): nothing is lost to rounding, and outside the map it is 0."""
    (frame,) = layout.inputs(step)
    negated = layout.fetch((step.inputs[0], "negated"), lambda value: -value, frame, margin_value=FAR)
    moving = not is_whole(frame)

    def run(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
        (delta,) = deltas
        if moving and kernels.usable(delta):
            lines = batch.index[negated.table]
            return kernels.rectified(delta, batch.maps[negated.key], lines, owned[0])
        below = negated(batch)
        changed = torch.maximum(delta, below, out=delta if owned[0] else None)
        return changed.sub_(below.clamp_(min=0) if moving else below.clamp(min=0))

    return frame, run


def pointwise(layout: Layout, step: GraphStep) -> tuple[Frame, Run]:
    """f(z + d) - f(z), both in one number type, so that an unchanged cell gets exactly 0."""
    (frame,), (name,) = layout.inputs(step), step.inputs
    assert isinstance(step.operation, Pointwise)
    function, exact = step.operation.function, layout.exact
    # outside the map the value 1 stands for z: every function of the rules is finite there
    before = layout.fetch((name, "one"), lambda value: value, frame, margin_value=1.0, dtype=exact)
    after = layout.fetch(
        (name, f"after {step.name}"), lambda value: function(value.to(exact)), frame, dtype=exact
    )
    trim = layout.trim(name, frame)

    def run(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
        changed = function(deltas[0] + before(batch)) - after(batch)
        return trim(batch, changed).to(layout.dtype)

    return frame, run


def affine(layout: Layout, step: GraphStep) -> tuple[Frame, Run]:
    _stays_unclean(layout, step)
    assert isinstance(step.operation, Affine)
    scale = step.operation.scale

    def prepared(like: Tensor) -> Tensor:
        nonlocal scale
        if scale.device != like.device or scale.dtype != like.dtype:
            scale = scale.to(like)
        return scale

    def run(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
        (delta,) = deltas
        return delta.mul_(prepared(delta)) if owned[0] else delta * prepared(delta)

    return layout.frames[step.inputs[0]], run


def linear(layout: Layout, step: GraphStep) -> tuple[Frame, Run]:
    _stays_unclean(layout, step)
    assert isinstance(step.operation, Linear)
    weight = step.operation.weight.to(layout.dtype)

    def run(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
        return torch.nn.functional.linear(deltas[0], weight)

    return layout.frames[step.inputs[0]], run


def add(layout: Layout, step: GraphStep) -> tuple[Frame, Run]:
    _stays_unclean(layout, step)
    first, second = layout.inputs(step)
    assert isinstance(step.operation, Add)
    frame, sign = settled(union([first, second])), step.operation.sign
    if same(first, second) and same(first, frame):

        def run(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
            return torch.add(*deltas, alpha=sign, out=deltas[0] if owned[0] else None)

        return frame, run
    pads = constant_pads(second, first)
    if same(first, frame) and pads is not None:  # the second lies inside the first
        (top, _), (left, _) = pads
        down, across = slice(top, top + second[0].size), slice(left, left + second[1].size)

        def run_inside(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
            total = deltas[0] if owned[0] else deltas[0].clone()
            total[:, :, down, across].add_(deltas[1], alpha=sign)
            return total

        return frame, run_inside
    places = [layout.place(source, frame) for source in (first, second)]

    def run_placed(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
        total, other = (put(batch, delta) for put, delta in zip(places, deltas, strict=True))
        return torch.add(total, other, alpha=sign)

    return frame, run_placed


def multiply(layout: Layout, step: GraphStep) -> tuple[Frame, Run] | None:
    """(a + da)(b + db) - a b = da (b + db) + a db; None if one is a single cell that scales a map."""
    sources = layout.inputs(step)
    if len({(source[0].length, source[1].length) for source in sources}) > 1:
        return None
    _stays_unclean(layout, step)
    frame = settled(union(sources))
    places = [layout.place(source, frame) for source in sources]
    cleans = [layout.fetch_clean(name, frame) for name in step.inputs]

    def run(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
        first, second = (put(batch, delta) for put, delta in zip(places, deltas, strict=True))
        a, b = (clean(batch) for clean in cleans)
        return (first * (second + b) + a * second).to(layout.dtype)

    return frame, run


def concatenate(layout: Layout, step: GraphStep) -> tuple[Frame, Run]:
    _stays_unclean(layout, step)
    sources = layout.inputs(step)
    frame = settled(union(sources))
    places = [layout.place(source, frame) for source in sources]
    assert isinstance(step.operation, Concatenate)
    order = step.operation.order

    def run(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
        placed = [put(batch, delta) for put, delta in zip(places, deltas, strict=True)]
        return torch.cat([placed[number] for number in order], -1)

    return frame, run


def flatten(layout: Layout, step: GraphStep) -> tuple[Frame, Run]:
    (source,) = layout.inputs(step)
    put = layout.place(source, whole(source))

    def run(batch: Batch, deltas: list[Tensor], owned: list[bool]) -> Tensor:
        return put(batch, deltas[0]).permute(0, 1, 4, 2, 3).flatten(2)[:, :, None, None]

    return whole(source, (1, 1)), run


def _stays_unclean(layout: Layout, step: GraphStep) -> None:
    """What lies outside the map in an input still lies there in the output."""
    if not layout.unclean.isdisjoint(step.inputs):
        layout.unclean.add(step.name)
