"""Delta rules of calls whose output has more cells than their input, or the other way round, without mixing them.

Transposed convolutions, and channels that become cells (pixel shuffle) and back.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.occlusion.incremental.frames import Reach, Span, Spans, Spread, place, trim
from interp_cnn.explanation.occlusion.incremental.operations import Axes, CallSite, Operation
from interp_cnn.explanation.occlusion.incremental.pooling import inputs_of


class TransposedConvolution(Operation):
    """A convolution whose cells spread: linear, so that the frame's own contributions are all that changes."""

    passes = 4
    reach: tuple[Spread, Spread]

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        axes: tuple[Spread, Spread],
        groups: int,
        output_padding: tuple[int, int],
    ) -> None:
        self.weight, self.bias, self.reach, self.groups = weight, bias, axes, groups
        self.output_padding = output_padding

    def forward(self, value: Tensor) -> Tensor:
        stride, padding, dilation = (
            tuple(getattr(axis, name) for axis in self.reach) for name in ("rate", "padding", "dilation")
        )
        bias = None if self.bias is None else self.bias.to(value)
        weight, more = self.weight.to(value), self.output_padding
        return F.conv_transpose2d(value, weight, bias, stride, padding, more, self.groups, dilation)

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        frames = delta.flatten(0, 2).permute(0, 3, 1, 2)
        stride, dilation = (
            tuple(getattr(axis, name) for axis in self.reach) for name in ("rate", "dilation")
        )
        out = F.conv_transpose2d(
            frames, self.weight.to(frames), None, stride, 0, 0, groups=self.groups, dilation=dilation
        )
        reached = _spread(self.reach, site)
        out = out.permute(0, 2, 3, 1).unflatten(0, delta.shape[:3])
        return trim(place(out, reached, site.spans, site.chunk), site.spans, site.chunk)


class PixelShuffle(Operation):
    """(N, C r^2, h, w) -> (N, C, h r, w r): every cell's channels become a block of cells."""

    passes = 2
    reach: tuple[Spread, Spread]

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.reach = Spread(factor, factor), Spread(factor, factor)

    def forward(self, value: Tensor) -> Tensor:
        return F.pixel_shuffle(value, self.factor)

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        side = self.factor
        blocks = delta.unflatten(5, (-1, side, side)).permute(0, 1, 2, 3, 6, 4, 7, 5)
        out = blocks.flatten(3, 4).flatten(4, 5)
        return trim(place(out, _spread(self.reach, site), site.spans, site.chunk), site.spans, site.chunk)


class PixelUnshuffle(Operation):
    """(N, C, h r, w r) -> (N, C r^2, h, w): every block of cells becomes one cell."""

    passes = 2
    reach: Axes

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.reach = Reach(factor, factor), Reach(factor, factor)

    def forward(self, value: Tensor) -> Tensor:
        return F.pixel_unshuffle(value, self.factor)

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        side = self.factor
        field = inputs_of(self.reach, site.sources[0], site.spans)
        delta = place(delta, site.sources[0], field, site.chunk)
        blocks = delta.unflatten(4, (-1, side)).unflatten(3, (-1, side))  # (I, A, B, h, r, w, r, C)
        return trim(blocks.permute(0, 1, 2, 3, 5, 7, 4, 6).flatten(5), site.spans, site.chunk)


def _spread(axes: tuple[Spread, Spread], site: CallSite) -> Spans:
    """The frames that the input frames reach in the output, not cut."""
    spans = []
    for axis, inner, outer in zip(axes, site.sources[0], site.spans, strict=True):
        first, last = axis.outputs(inner.start, inner.start + inner.size)
        spans.append(Span(first, inner.step * axis.rate, last - first, outer.length))
    return spans[0], spans[1]
