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
from torch import Tensor

from interp_cnn.explanation.network.part_mask import PartMask
from interp_cnn.explanation.occlusion.incremental.convolution import FrameConvolution
from interp_cnn.explanation.occlusion.incremental.frames import (
    SAME,
    AxisReach,
    Chunk,
    CleanMaps,
    Reach,
    Spans,
    trim,
    whole,
)

Axes = tuple[Reach, Reach]


@dataclass(frozen=True)
class CallSite:
    """Where an operation works: its frames, its inputs' frames, the windows and the clean maps."""

    name: str
    inputs: tuple[str, ...]
    sources: tuple[Spans, ...]
    spans: Spans
    chunk: Chunk
    clean: CleanMaps
    reusable: bool  # nobody else holds the memory of the first delta: it may be overwritten
    undecided: list[Tensor] | None = None  # rules add (I, A, B): windows whose result hangs on rounding

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

    forward: Callable[..., Tensor]  # its plain meaning
    reach: tuple[AxisReach, AxisReach] | None = (SAME, SAME)
    needs_whole = False
    passes = 3
    form: str | None = None  # the axes of the output, where they are not those of the input, see `layouts`

    def delta(self, site: CallSite, *deltas: Tensor) -> Tensor:
        raise NotImplementedError


class Passing(Operation):
    """Identity on values: dropout in evaluation, permutations of axes, adding a constant."""

    passes = 0

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.forward = forward

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        return delta


class Relu(Operation):
    passes = 2

    def forward(self, value: Tensor) -> Tensor:
        return F.relu(value)

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        below = site.before(derived="below", make=lambda z: z.clamp(max=0))
        above = site.before(derived="above", make=lambda z: -z.clamp(min=0))
        delta = delta.add_(below) if site.reusable else delta + below
        return torch.maximum(delta, above, out=delta)


class Pointwise(Operation):
    """Any function of one cell: of a number, or of the cell's channels (layer norm on channels-last maps)."""

    passes = 4

    def __init__(
        self, function: Callable[[Tensor], Tensor], forward: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Keep the function on (..., C), and as the network writes it where that differs."""
        self.function, self.forward = function, forward or function

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
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

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        scale = self.scale.to(delta)
        return delta.mul_(scale) if site.reusable else delta * scale


class Convolution(Operation):
    reach: Axes

    def __init__(self, weight: Tensor, bias: Tensor | None, axes: Axes, groups: int = 1) -> None:
        self.weight, self.bias, self.reach, self.groups = weight, bias, axes, groups
        self.largest_tile = 4  # larger tiles are faster and round more, see `tiles`
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

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        lead = delta.shape[:3]
        out = self.frames(delta.dtype)(delta.flatten(0, 2), self.pads(site.sources[0], site.spans))
        return trim(out.unflatten(0, lead), site.spans, site.chunk)


class Chain(Operation):
    """Two operations in one call, such as a convolution that pads by reflection; the graph makes two steps of it."""

    def __init__(self, first: Operation, second: Operation, between: tuple[int, ...]) -> None:
        self.first, self.second = first, second
        self.between = between  # shape of the value

    def forward(self, value: Tensor) -> Tensor:
        return self.second.forward(self.first.forward(value))


class Flatten(Operation):
    reach = None
    needs_whole = True
    passes = 1

    def forward(self, value: Tensor) -> Tensor:
        return value.flatten(1)

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        return delta.permute(0, 1, 2, 5, 3, 4).flatten(3)[:, :, :, None, None]


class Linear(Operation):
    passes = 1

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def forward(self, value: Tensor) -> Tensor:
        # in the weight's own type: a copy of VGG's largest matrix in double precision would take 800 MB
        return F.linear(value.to(self.weight), self.weight, self.bias).to(value)

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        return F.linear(delta, self.weight.to(delta))


class WholeMap(Operation):
    """Any function of whole maps (N, C, H, W), such as the largest value of each."""

    reach = None
    needs_whole = True
    passes = 8

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.forward = forward

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        before = site.before(spans=(whole(site.sources[0][0]), whole(site.sources[0][1])))
        changed = self.changed(delta, before).flatten(0, 2)
        return self._last(changed).unflatten(0, delta.shape[:3]) - site.after(self._last)

    def changed(self, delta: Tensor, before: Tensor) -> Tensor:
        """The changed maps (I, A, B, h, w, C)."""
        return delta + before

    def _last(self, value: Tensor) -> Tensor:
        return self.forward(value.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def undecided_masks(mask: PartMask, maps: Tensor, moved: Tensor | None = None) -> Tensor:
    """Images (N,) one of whose masks could lie elsewhere by rounding; maps (N, C, h, w)."""
    return mask.undecided(maps, moved, 64 * torch.finfo(maps.dtype).eps).any(1)


class PeakMask(WholeMap):
    """The template mask, whose peak may move; of equal values the first is the peak.

    Where pixels or activations are constant (a black background, a clamp) the network computes equal values, and so the
    first of them is the peak; `clean + delta` rounds, and would make a later one the largest. A changed value that is
    the largest one up to rounding is therefore taken as equal to it, and the window is told to the site: only a plain
    pass knows what the network's own rounding makes of it.
    """

    def __init__(self, mask: PartMask) -> None:
        super().__init__(mask)
        self.mask = mask

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        if site.undecided is not None:
            before = site.before(spans=(whole(site.sources[0][0]), whole(site.sources[0][1])))
            maps, moved = (v.flatten(0, 2).permute(0, 3, 1, 2) for v in (delta + before, delta != 0))
            site.undecided.append(undecided_masks(self.mask, maps, moved).unflatten(0, delta.shape[:3]))
        return super().delta(site, delta)

    def changed(self, delta: Tensor, before: Tensor) -> Tensor:
        changed, moved = delta + before, delta != 0
        rounding = min(256 * torch.finfo(delta.dtype).eps, 0.004)
        still = changed.masked_fill(moved, -torch.inf).amax((3, 4), keepdim=True)
        for largest in (still, None):  # first of what does not change, then of all
            top = changed.amax((3, 4), keepdim=True) if largest is None else largest
            near = moved & top.isfinite() & ((changed - top).abs() <= rounding * top.abs())
            changed = torch.where(near, top, changed)
        return changed
