"""What one pass over the images leaves behind: a few numbers per image and filter, never a feature map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.filters.answer_file import AnswerFile
from interp_cnn.explanation.network.feature_maps import peaks
from interp_cnn.explanation.receptive_field.field import ReceptiveField

# Maps (B, D, h, w) to the cells (B, D), row-major, where they say that their part is.
Readout = Callable[[Tensor], Tensor]

# Answers that are in memory at a time: at 16 bytes 16 MB, and a few times that in float64 while they are judged.
BLOCK = 1 << 20


class Block(NamedTuple):
    """The answers of a few filters on all N images."""

    filters: Tensor  # (d,) their numbers
    positions: Tensor  # (N, d, 2) float32 pixels, (row, column): receptive-field centres of the peaks
    scores: Tensor  # (N, d) float32, the peaks' values


UNKNOWN = -2


@dataclass(frozen=True)
class Observations:
    """A network's answers on N images: on the disk 8 bytes per image and filter, in memory what is per image.

    Attributes:
        answers: cells and scores of D filters.
        landmarks: (N, P, 2) pixels, NaN where unknown.
        labels: (N,) int64.
        predictions: (N,) int64; `UNKNOWN` on images of a class that the network does not have.
        names: the images, in order.
        field: receptive field of the layer.
    """

    answers: AnswerFile
    landmarks: Tensor
    labels: Tensor
    predictions: Tensor
    names: Sequence[str]
    field: ReceptiveField

    @property
    def filters(self) -> int:
        """D."""
        return self.answers.filters

    @property
    def cells(self) -> Tensor:
        """(N, D) int32 all at once, the peaks' cells in row-major order; see `blocks` for many images."""
        return self.answers.block(torch.arange(self.filters))[0]

    @property
    def scores(self) -> Tensor:
        """(N, D) float32 all at once, the peaks' values."""
        return self.answers.block(torch.arange(self.filters))[1]

    @property
    def correct(self) -> Tensor:
        """(N,) float64: 1 where the prediction is right; NaN where the network has no such class."""
        return (self.labels == self.predictions).double().where(self.predictions != UNKNOWN, torch.nan)

    def with_classes_of(self, answers: Tensor) -> Observations:
        """The same images where the network numbers its classes otherwise.

        Args:
            answers: (K',) int64: the label that each of the network's classes stands for, -1 for none.
        """
        known = torch.isin(self.labels, answers)
        return replace(self, predictions=answers[self.predictions].where(known, UNKNOWN))

    def block(self, filters: Tensor) -> Block:
        """The answers of some `filters` (d,)."""
        cells, scores = self.answers.block(filters)
        return Block(filters, self.field.cell_centres()[cells.long()], scores)

    def blocks(self, categories: Tensor | None = None) -> Iterator[Block]:
        """All filters, as many at a time as `BLOCK` allows; with `categories` (D,) those of one together."""
        order = torch.arange(self.filters) if categories is None else categories.argsort(stable=True)
        for filters in order.split(max(1, BLOCK // len(self.labels))):
            yield self.block(filters)

    def by_filter(
        self, measure: Callable[[Block], Iterable[Tensor]], categories: Tensor | None = None
    ) -> list[Tensor]:
        """Tensors (..., D) in the filters' order, from those (..., d) that `measure` finds for each of `blocks`."""
        order, pieces = [], []
        for block in self.blocks(categories):
            order.append(block.filters)
            pieces.append(tuple(measure(block)))
        places = torch.cat(order).argsort()
        return [torch.cat(column, dim=-1)[..., places] for column in zip(*pieces, strict=True)]


def cells_and_scores(maps: Tensor, readout: Readout | None) -> tuple[Tensor, Tensor]:
    """Where maps (B, D, h, w) say that their parts are, row-major cells (B, D), and the values (B, D) of their peaks;
    without a `readout` a map's part is at its peak.
    """
    positions, scores = peaks(maps)
    return positions[..., 0] * maps.shape[3] + positions[..., 1] if readout is None else readout(maps), scores


class ObservationRecorder:
    """Collects `Observations` batch by batch."""

    def __init__(self, field: ReceptiveField, readout: Readout | None = None) -> None:
        self.readout = readout
        self.field = field
        self.answers: AnswerFile | None = None
        self.parts: list[tuple[Tensor, ...]] = []
        self.names: list[str] = []

    def update(self, maps: Tensor, logits: Tensor, batch: PartBatch) -> None:
        """Add a batch: its feature maps (B, D, h, w) and logits (B, K)."""
        if tuple(maps.shape[2:]) != self.field.grid:
            raise ValueError(
                f"feature maps have the grid {tuple(maps.shape[2:])}; expected {self.field.grid}"
            )
        self.answers = self.answers or AnswerFile(maps.shape[1])
        self.answers.append(*cells_and_scores(maps, self.readout))
        record = (batch.landmarks, batch.labels, logits.argmax(dim=1))
        self.parts.append(tuple(tensor.cpu() for tensor in record))
        self.names.extend(batch.names)

    def result(self) -> Observations:
        if self.answers is None:
            raise ValueError("the loader gave no batch; expected at least one image")
        landmarks, labels, predictions = (torch.cat(column) for column in zip(*self.parts, strict=True))
        return Observations(
            answers=self.answers,
            landmarks=landmarks,
            labels=labels,
            predictions=predictions,
            names=self.names,
            field=self.field,
        )
