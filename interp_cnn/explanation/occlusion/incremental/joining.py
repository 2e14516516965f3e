"""Delta rules of calls that read two changing values or more: sums, products, concatenations.

The inputs' frames may differ; they are aligned to the frame of the output, zero where an input does not change.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from interp_cnn.explanation.occlusion.incremental.frames import place, trim
from interp_cnn.explanation.occlusion.incremental.operations import CallSite, Operation


class Joined(Operation):
    """Any function of two values cell by cell, of one size."""

    passes = 6

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.function(first, second)

    def delta(self, site: CallSite, *deltas: Tensor) -> Tensor:
        placed = (place(d, s, site.spans, site.chunk) for d, s in zip(deltas, site.sources, strict=True))
        first, second = (delta + site.before(number) for number, delta in enumerate(placed))
        before = site.clean.view(
            site.name,
            site.spans,
            site.chunk,
            derived="own",
            make=lambda _: self.function(*(site.clean.of(name) for name in site.inputs)),
        )
        return trim(self.function(first, second).sub_(before), site.spans, site.chunk)


class Add(Operation):
    """a + sign * b, both changing."""

    passes = 1

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + self.sign * second if self.sign != 1 else first + second

    def delta(self, site: CallSite, first: Tensor, second: Tensor) -> Tensor:
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
    """a * b, both changing, of one size; or b is one cell that scales the whole map (squeeze and excitation), or one
    channel that scales all of them (spatial attention).
    """

    passes = 5

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first * second

    def delta(self, site: CallSite, *deltas: Tensor) -> Tensor:
        one_cell = [
            all(a.length == 1 < b.length for a, b in zip(source, site.spans, strict=True))
            for source in site.sources
        ]
        targets = [
            source if single else site.spans for source, single in zip(site.sources, one_cell, strict=True)
        ]
        first, second = (
            place(*given, site.chunk) for given in zip(deltas, site.sources, targets, strict=True)
        )
        # (a + da)(b + db) - a b, without the difference of two products
        return first * (second + site.before(1, targets[1])) + site.before(0, targets[0]) * second


class Concatenate(Operation):
    """Side by side along the channels, axis `axis` of the network's values."""

    passes = 1

    def __init__(self, axis: int, order: tuple[int, ...]) -> None:
        self.axis = axis
        self.order = order  # numbers of the inputs, one of which may be there twice

    def forward(self, *values: Tensor) -> Tensor:
        return torch.cat([values[number] for number in self.order], self.axis)

    def delta(self, site: CallSite, *deltas: Tensor) -> Tensor:
        placed = [place(d, s, site.spans, site.chunk) for d, s in zip(deltas, site.sources, strict=True)]
        return torch.cat([placed[number] for number in self.order], -1)
