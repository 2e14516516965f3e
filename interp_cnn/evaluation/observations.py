"""What one pass over the images leaves behind: a few numbers per image and filter, never a feature map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp_cnn.data.parts import PartBatch
from interp_cnn.explanation.activations import peaks, template_fits
from interp_cnn.explanation.receptive_field import ReceptiveField


@dataclass(frozen=True)
class Observations:
    """A network's answers on N images, on the CPU: 8 bytes per image and filter.

    Attributes:
        cells: (N, D) int32, the position's cell in row-major order.
        scores: (N, D) float32, the peak's value.
        landmarks: (N, P, 2) pixels, NaN where unknown.
        labels: (N,) int64.
        predictions: (N,) int64.
        names: the images, in order.
        field: receptive field of the layer.
    """

    cells: Tensor
    scores: Tensor
    landmarks: Tensor
    labels: Tensor
    predictions: Tensor
    names: Sequence[str]
    field: ReceptiveField

    @property
    def positions(self) -> Tensor:
        """(N, D, 2) float32 pixels: receptive-field centres of the peaks."""
        return self.field.cell_centres()[self.cells.long()]

    @property
    def correct(self) -> Tensor:
        """(N,) float64: 1 where the prediction is right."""
        return (self.labels == self.predictions).double()


class ObservationRecorder:
    """Collects `Observations` batch by batch; `readout` is "peak" or "template", see `measure_network`."""

    def __init__(self, field: ReceptiveField, readout: str = "peak") -> None:
        if readout not in ("peak", "template"):
            raise ValueError(f"readout is {readout!r}; expected peak or template")
        self.readout = readout
        self.field = field
        self.parts: list[tuple[Tensor, ...]] = []
        self.names: list[str] = []

    def update(self, maps: Tensor, logits: Tensor, batch: PartBatch) -> None:
        """Add a batch: its feature maps (B, D, h, w) and logits (B, K)."""
        if tuple(maps.shape[2:]) != self.field.grid:
            raise ValueError(
                f"feature maps have the grid {tuple(maps.shape[2:])}; expected {self.field.grid}"
            )
        positions, scores = peaks(maps)
        if self.readout == "template":
            positions = template_fits(maps)
        cells = positions[..., 0] * maps.shape[3] + positions[..., 1]  # (B, D)
        record = (cells.int(), scores.float(), batch.landmarks, batch.labels, logits.argmax(dim=1))
        self.parts.append(tuple(tensor.cpu() for tensor in record))
        self.names.extend(batch.names)

    def result(self) -> Observations:
        if not self.parts:
            raise ValueError("the loader gave no batch; expected at least one image")
        return Observations(
            *(torch.cat(column) for column in zip(*self.parts, strict=True)), self.names, self.field
        )
