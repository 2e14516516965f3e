"""What the rules write down while a program is made: frames, clean maps, index tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from interp_cnn.explanation.occlusion.incremental.evaluation import GraphStep
from interp_cnn.explanation.occlusion.one_batch.frames import Frame
from interp_cnn.explanation.occlusion.one_batch.tables import (
    Batch,
    CleanMap,
    IndexTables,
    Key,
    fetched,
    placed,
)

HALF = (torch.bfloat16, torch.float16)
Run = Callable[
    [Batch, list[Tensor], list[bool]], Tensor
]  # (batch, deltas, which may be overwritten) -> delta


class Rule(Protocol):
    """Frame and computation of one step's delta."""

    def __call__(self, layout: Layout, step: GraphStep) -> tuple[Frame, Run]: ...


@dataclass
class Layout:
    """A program in the making.

    Attributes:
        dtype: number type of the deltas.
        frames: of the steps so far.
        unclean: steps whose deltas are not zero where their frames overhang the map.
        values: steps of which whole clean values are needed.
    """

    dtype: torch.dtype
    frames: dict[str, Frame] = field(default_factory=dict)
    unclean: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    maps: dict[Key, CleanMap] = field(default_factory=dict)
    tables: IndexTables = field(default_factory=IndexTables)

    @property
    def exact(self) -> torch.dtype:
        """Number type of a sum of value and delta that is not to lose the delta."""
        return torch.float32 if self.dtype in HALF else self.dtype

    def fetch(
        self,
        key: Key,
        make: Callable[[Tensor], Tensor],
        frame: Frame,
        *,
        margin_value: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> Callable[[Batch], Tensor]:
        """See `tables.fetched`; `make` derives the map from the clean value of the step that the key names."""
        if key not in self.maps:
            self.maps[key] = CleanMap(
                (frame[0].length, frame[1].length),
                lambda values: make(values[key[0]]),
                margin_value,
                dtype or self.dtype,
            )
        return fetched(self.tables, key, self.maps[key], frame)

    def fetch_clean(self, name: str, frame: Frame) -> Callable[[Batch], Tensor]:
        """Clean values of a step under frames, zero outside its map."""
        return self.fetch((name, ""), lambda value: value, frame, dtype=self.exact)

    def place(self, source: Frame, target: Frame) -> Callable[[Batch, Tensor], Tensor]:
        """See `tables.placed`."""
        return placed(self.tables, source, target)

    def input(self, name: str) -> Callable[[Batch, Tensor], Tensor]:
        """A function that makes a step's delta zero where its frames overhang the map."""
        if name not in self.unclean:
            return lambda batch, delta: delta
        return self.trim(name, self.frames[name])

    def trim(self, name: str, frame: Frame) -> Callable[[Batch, Tensor], Tensor]:
        """A function that makes deltas of these frames zero outside the map."""
        if not any(axis.overhangs for axis in frame):
            return lambda batch, delta: delta
        outside = self.fetch(
            (name, "outside"),
            lambda value: torch.zeros_like(value[..., :1], dtype=torch.bool),
            frame,
            margin_value=1.0,
            dtype=torch.bool,
        )
        return lambda batch, delta: delta.masked_fill(outside(batch), 0)

    def inputs(self, step: GraphStep) -> list[Frame]:
        """The frames of what a step reads."""
        return [self.frames[name] for name in step.inputs]
