"""The delta rule of every operation the incremental engine understands.

With clean input z, clean output y = op(z) and a changed input z + delta, each rule returns
`op(z + delta) - op(z)` on a small frame. Linear operations act on delta alone; the others read the clean values
under the frame (see `incremental_frames`). One rule deserves a word: relu needs two passes and loses nothing to
rounding, `relu(z + d) - relu(z) = max(d + min(z, 0), -max(z, 0))`.

Every operation has `forward` (its plain meaning on (N, C, H, W), for the dense part), `reach` (per axis, None if
a change spreads to the whole output), `needs_whole` (the frames must be the whole map), `passes` (elementwise
passes over the output, for the cost model) and `delta(site, *deltas)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_cnn.explanation.occlusion.incremental.convolution import FrameConvolution
from interp_cnn.explanation.occlusion.incremental.frames import (
    SAME,
    Chunk,
    CleanMaps,
    Reach,
    Spans,
    place,
    trim,
    whole,
)

Axes = tuple[Reach, Reach]


@dataclass(frozen=True)
class Site:
    """Where an operation works: its frames, its inputs' frames, the windows and the clean maps."""

    name: str
    inputs: tuple[str, ...]
    sources: tuple[Spans, ...]
    spans: Spans
    chunk: Chunk
    clean: CleanMaps
    reusable: bool  # nobody else reads the first delta: it may be overwritten

    def before(self, number: int = 0, spans: Spans | None = None, **derived) -> Tensor:
        """Clean values of an input under the frames."""
        return self.clean.view(self.inputs[number], spans or self.spans, self.chunk, **derived)

    def after(self, function: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Clean values of the output under the frames.

        Given the function, they are recomputed in the frames' own number type, so that where nothing changed
        `function(z + 0) - function(z)` is exactly zero.
        """
        if function is None:
            return self.clean.view(self.name, self.spans, self.chunk)
        return self.clean.view(
            self.name,
            self.spans,
            self.chunk,
            make=lambda _: function(self.clean.of(self.inputs[0])),
            derived="own",
        )


class Operation:
    """What all operations share; the defaults are those of a pointwise one."""

    reach: Axes | None = (SAME, SAME)
    needs_whole = False
    passes = 3

    def forward(self, *values: Tensor) -> Tensor:
        raise NotImplementedError

    def delta(self, site: Site, *deltas: Tensor) -> Tensor:
        raise NotImplementedError


class Passing(Operation):
    """Identity on values: dropout in evaluation, permutations of axes, adding a constant."""

    passes = 0

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.forward = forward

    def delta(self, site: Site, delta: Tensor) -> Tensor:
        return delta


class Relu(Operation):
    passes = 2

    def forward(self, value: Tensor) -> Tensor:
        return F.relu(value)

    def delta(self, site: Site, delta: Tensor) -> Tensor:
        below = site.before(derived="below", make=lambda z: z.clamp(max=0))
        above = site.before(derived="above", make=lambda z: -z.clamp(min=0))
        delta = delta.add_(below) if site.reusable else delta + below
        return torch.maximum(delta, above, out=delta)


class Pointwise(Operation):
    """Any function of one cell: of a number, or of the cell's channels (layer norm on channels-last maps)."""

    passes = 4

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def forward(self, value: Tensor) -> Tensor:
        return self.function(value)

    def delta(self, site: Site, delta: Tensor) -> Tensor:
        changed = delta.add_(site.before()) if site.reusable else delta + site.before()
        # the function need not send 0 to 0, so cells outside the map are reset
        return trim(self.function(changed).sub_(site.after(self.function)), site.spans, site.chunk)


class Affine(Operation):
    """scale * x + shift per channel: batch norm, layer scale, normalisation of the pixels."""

    passes = 1

    def __init__(
        self, scale: Tensor, shift: Tensor, forward: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.scale, self.shift = scale, shift  # (C,) or ()
        self._forward = forward

    def forward(self, value: Tensor) -> Tensor:
        if self._forward is not None:
            return self._forward(value)
        per_channel = (1, -1) + (1,) * (value.ndim - 2)
        return value * self.scale.view(per_channel) + self.shift.view(per_channel)

    def delta(self, site: Site, delta: Tensor) -> Tensor:
        scale = self.scale.to(delta)
        return delta.mul_(scale) if site.reusable else delta * scale


class Convolution(Operation):
    def __init__(self, weight: Tensor, bias: Tensor | None, axes: Axes, groups: int = 1) -> None:
        self.weight, self.bias, self.reach, self.groups = weight, bias, axes, groups
        self.largest_tile = 4  # larger tiles are faster and round more, see `incremental_convolution`
        self._frames: dict[torch.dtype, FrameConvolution] = {}

    def forward(self, value: Tensor) -> Tensor:
        stride, padding, dilation = (
            tuple(getattr(axis, name) for axis in self.reach) for name in ("stride", "padding", "dilation")
        )
        bias = None if self.bias is None else self.bias.to(value)
        return F.conv2d(value, self.weight.to(value), bias, stride, padding, dilation, self.groups)

    def then_affine(self, scale: Tensor, shift: Tensor) -> Convolution:
        """This convolution followed by scale * y + shift, as one."""
        weight, scale, shift = self.weight.double(), scale.double(), shift.double()
        bias = shift if self.bias is None else self.bias.double() * scale + shift
        weight = weight * scale.expand(len(weight))[:, None, None, None]
        return Convolution(weight, bias.expand(len(self.weight)), self.reach, self.groups)

    def frames(self, dtype: torch.dtype) -> FrameConvolution:
        """The convolution of frames of this type."""
        if dtype not in self._frames:
            weight = self.weight.to(dtype).contiguous(memory_format=torch.channels_last)
            self._frames[dtype] = FrameConvolution(weight, self.reach, self.groups, self.largest_tile)
        return self._frames[dtype]

    def pads(self, source: Spans, spans: Spans) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros around the input frame that make the output frame come out."""
        pads = []
        for axis, inner, outer in zip(self.reach, source, spans, strict=True):
            first, last = axis.inputs(outer.start, outer.start + outer.size)
            pads.append((inner.start - first, last - inner.start - inner.size))
        return pads[0], pads[1]

    def delta(self, site: Site, delta: Tensor) -> Tensor:
        lead = delta.shape[:3]
        out = self.frames(delta.dtype)(delta.flatten(0, 2), self.pads(site.sources[0], site.spans))
        return trim(out.unflatten(0, lead), site.spans, site.chunk)


class Add(Operation):
    """a + sign * b, both changing."""

    passes = 1

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + self.sign * second if self.sign != 1 else first + second

    def delta(self, site: Site, first: Tensor, second: Tensor) -> Tensor:
        if site.sources[0] == site.spans and site.reusable:
            total = first
        else:
            total = place(first, site.sources[0], site.spans, site.chunk)
            total = total.clone() if total is first else total
        if site.sources[1] == site.spans:
            return total.add_(second, alpha=self.sign)
        inside = tuple(
            slice(inner.start - outer.start, inner.start - outer.start + inner.size)
            for inner, outer in zip(site.sources[1], site.spans, strict=True)
        )
        if all(inner.step == outer.step for inner, outer in zip(site.sources[1], site.spans, strict=True)):
            total[:, :, :, inside[0], inside[1]].add_(second, alpha=self.sign)
            return total
        return total.add_(place(second, site.sources[1], site.spans, site.chunk), alpha=self.sign)


class Multiply(Operation):
    """a * b, both changing, of one size; or b is one cell that scales the whole map (squeeze and excitation)."""

    passes = 5

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first * second

    def delta(self, site: Site, *deltas: Tensor) -> Tensor:
        one_cell = [
            all(a.length == 1 < b.length for a, b in zip(source, site.spans, strict=True))
            for source in site.sources
        ]
        targets = [source if one else site.spans for source, one in zip(site.sources, one_cell, strict=True)]
        first, second = (
            place(*given, site.chunk) for given in zip(deltas, site.sources, targets, strict=True)
        )
        # (a + da)(b + db) - a b, without the difference of two products
        return first * (second + site.before(1, targets[1])) + site.before(0, targets[0]) * second


class Concatenate(Operation):
    passes = 1

    def forward(self, *values: Tensor) -> Tensor:
        return torch.cat(values, 1)

    def delta(self, site: Site, *deltas: Tensor) -> Tensor:
        placed = [place(d, s, site.spans, site.chunk) for d, s in zip(deltas, site.sources, strict=True)]
        return torch.cat(placed, -1)


class Flatten(Operation):
    reach = None
    needs_whole = True
    passes = 1

    def forward(self, value: Tensor) -> Tensor:
        return value.flatten(1)

    def delta(self, site: Site, delta: Tensor) -> Tensor:
        return delta.permute(0, 1, 2, 5, 3, 4).flatten(3)[:, :, :, None, None]


class Linear(Operation):
    passes = 1

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def forward(self, value: Tensor) -> Tensor:
        # in the weight's own type: a copy of VGG's largest matrix in double precision would take 800 MB
        return F.linear(value.to(self.weight), self.weight, self.bias).to(value)

    def delta(self, site: Site, delta: Tensor) -> Tensor:
        return F.linear(delta, self.weight.to(delta))


class WholeMap(Operation):
    """A module on whole maps: the template mask, whose peak may move."""

    reach = None
    needs_whole = True
    passes = 8

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def forward(self, value: Tensor) -> Tensor:
        return self.module(value)

    def delta(self, site: Site, delta: Tensor) -> Tensor:
        before = tuple(whole(span) for span in site.sources[0])
        changed = (delta + site.before(spans=before)).flatten(0, 2)
        return self._masked(changed).unflatten(0, delta.shape[:3]) - site.after(self._masked)

    def _masked(self, value: Tensor) -> Tensor:
        return self.module(value.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
