"""Delta rules of pooling.

Max-pooling whose windows tile the map: with g = z - max of its window (<= 0), the change of a maximum is
`max(g + delta)`; nothing is lost to rounding. Overlapping windows: the maximum of z + delta, minus the clean one.
Averages are linear. Implicit padding and cells outside the map never win a maximum: they are -inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.occlusion.incremental.frames import Spans, place, trim
from interp_cnn.explanation.occlusion.incremental.operations import Axes, CallSite, Operation


class MaxPool(Operation):
    passes = 6
    reach: Axes

    def __init__(self, axes: Axes, ceil_mode: bool = False) -> None:
        self.reach, self.ceil_mode = axes, ceil_mode
        self.tiling = all(a.kernel == a.stride and a.padding == 0 and a.dilation == 1 for a in axes)

    def forward(self, value: Tensor) -> Tensor:
        arguments = [
            tuple(getattr(axis, name) for axis in self.reach)
            for name in ("kernel", "stride", "padding", "dilation")
        ]
        return F.max_pool2d(value, *arguments, ceil_mode=self.ceil_mode)

    def _gap(self, value: Tensor) -> Tensor:
        """Z minus the maximum of its window, -inf where no window looks."""
        pooled = self.forward(value.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        for dimension, axis in zip((1, 2), self.reach, strict=True):
            pooled = pooled.repeat_interleave(axis.kernel, dimension)
        gap = torch.full_like(value, -math.inf)
        height, width = min(pooled.shape[1], value.shape[1]), min(pooled.shape[2], value.shape[2])
        gap[:, :height, :width] = value[:, :height, :width] - pooled[:, :height, :width]
        return gap

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        field = inputs_of(self.reach, site.sources[0], site.spans)
        if self.tiling:
            clean = site.before(spans=field, derived="gap", make=self._gap, margin_value=-math.inf)
        else:
            clean = site.before(spans=field, derived="walled", make=lambda z: z, margin_value=-math.inf)
        changed = _added(clean, delta, site.sources[0], field, site.reusable)
        out = _slide(changed, self.reach, site.spans, torch.maximum)
        if not self.tiling:
            out.sub_(site.after())
        return trim(out, site.spans, site.chunk)


class AveragePool(Operation):
    passes = 4
    reach: Axes

    def __init__(self, axes: Axes, forward: Callable[[Tensor], Tensor], share: Tensor) -> None:
        self.reach, self.forward = axes, forward
        self.share = share  # (1, h, w, 1): one over the divisor of each output

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        field = inputs_of(self.reach, site.sources[0], site.spans)
        summed = _slide(place(delta, site.sources[0], field, site.chunk), self.reach, site.spans, torch.add)
        share = self.share.expand(len(site.clean.values[site.name]), -1, -1, -1)
        return summed * site.clean.view(
            site.name, site.spans, site.chunk, derived="share", make=lambda _: share
        )


class Mean(Operation):
    """The mean, or the sum, over some axes: rows, columns, channels."""

    passes = 1

    def __init__(self, over: str, cells: int, form: str, forward: Callable[[Tensor], Tensor]) -> None:
        """Keep what it needs.

        Args:
            over: of the letters h, w and c.
            cells: the sum is divided by so many.
            form: of the output.
            forward: as the network calls it.
        """
        self.over, self.cells, self.form, self.forward = over, cells, form, forward
        if "h" in over or "w" in over:
            self.reach = None
            self.needs_whole = not ("h" in over and "w" in over)

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        for letter, axis in (("h", 3), ("w", 4), ("c", 5)):
            if letter in self.over:
                delta = delta.sum(axis, keepdim=True)  # one axis after the other: several times faster
        return delta / self.cells


class Resample(Operation):
    """A linear map of rows and one of columns: interpolation, adaptive average pooling whose sides do not divide."""

    reach = None
    needs_whole = True

    def __init__(self, rows: Tensor, columns: Tensor, forward: Callable[[Tensor], Tensor]) -> None:
        self.rows, self.columns, self.forward = rows, columns, forward  # (h', h), (w', w)

    def delta(self, site: CallSite, delta: Tensor) -> Tensor:
        rows, columns = self.rows.to(delta), self.columns.to(delta)
        return torch.einsum("yh,xw,iabhwc->iabyxc", rows, columns, delta)


def inputs_of(axes: Axes, source: Spans, spans: Spans) -> Spans:
    """The cells that the output frames read."""
    fields = []
    for axis, inner, outer in zip(axes, source, spans, strict=True):
        low, high = axis.inputs(outer.start, outer.start + outer.size)
        fields.append(type(inner)(low, outer.step * axis.stride, high - low, inner.length))
    return fields[0], fields[1]


def _added(clean: Tensor, delta: Tensor, source: Spans, field: Spans, reusable: bool) -> Tensor:
    """Clean + delta on `field`, of which `source` (moving alike) is a part or more."""
    if source == field:
        return delta.add_(clean) if reusable else delta + clean
    changed = clean.clone(memory_format=torch.contiguous_format)
    into, of = [], []
    for inner, outer in zip(source, field, strict=True):
        offset = inner.start - outer.start
        first, last = max(offset, 0), max(min(offset + inner.size, outer.size), max(offset, 0))
        into.append(slice(first, last))
        of.append(slice(first - offset, last - offset))
    changed[:, :, :, into[0], into[1]] += delta[:, :, :, of[0], of[1]]
    return changed


def _slide(value: Tensor, axes: Axes, spans: Spans, combine: Callable) -> Tensor:
    """Combine the cells of every window, rows first: (I, A, B, h, w, C) -> (I, A, B, h', w', C)."""
    for dimension, axis, span in zip((3, 4), axes, spans, strict=True):
        parts = []
        for tap in range(axis.kernel):
            first = tap * axis.dilation
            cells = slice(first, first + (span.size - 1) * axis.stride + 1, axis.stride)
            parts.append(value[(slice(None),) * dimension + (cells,)])
        value = parts[0] if len(parts) == 1 else combine(parts[0], parts[1])
        for part in parts[2:]:
            combine(value, part, out=value)
    return value
