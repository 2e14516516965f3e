"""The two passes over the images that all measures of a network share.

The first leaves `Observations` of the images, of a random view of each and of a noisy copy of each, and
counts activations for the thresholds. The second, made only where parts have masks, compares regions with
masks.

Feature maps, thresholds and overlaps are summed up as they come. Positions are not: judging draws images anew and
ranks each filter's, which needs every peak. They go to the disk (`answer_file`), 8 bytes per image, filter and copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.filters.dissection import NetworkDissection
from interp_cnn.evaluation.filters.fixed_regions import FixedRegions
from interp_cnn.evaluation.filters.noise import noisy
from interp_cnn.evaluation.filters.observations import (
    ObservationRecorder,
    Observations,
    Readout,
    cells_and_scores,
)
from interp_cnn.evaluation.filters.part_interpretability import GROUPS, PartInterpretability
from interp_cnn.evaluation.filters.peak_on_part import PeakOnPart
from interp_cnn.evaluation.filters.region_settings import TAILS, RegionSettings
from interp_cnn.evaluation.filters.regions import RegionRule
from interp_cnn.evaluation.filters.selectivity import concentration
from interp_cnn.evaluation.filters.threshold import StreamingThreshold
from interp_cnn.evaluation.filters.translation import ShiftedView, random_views
from interp_cnn.explanation.network.feature_maps import feature_maps_and_logits
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.explanation.network.precision import chosen_precision
from interp_cnn.explanation.receptive_field.field import ReceptiveField, receptive_field

# One width for all networks: a quarter of the grid, up to which the publication's template (beta = 4) is positive.
TEMPLATE_WIDTH = 0.25


@dataclass(frozen=True)
class PassResult:
    """What the first pass leaves.

    Attributes:
        images: answers on the images.
        viewed: answers on a random crop and shift of each, with landmarks moved along; None if not asked for.
        offset, scale: (N, 2) and (N, 1) of the views.
        disturbed: answers on noisy copies; None if not asked for.
        near, active: (G, D) summed concentration of the maps that are not silent, and their number.
        thresholds: (D,) T_f where the network lies, None where parts have no masks.
        thresholds_of: tail to (D,) T_f, for `region_settings`; empty unless they are asked for.
        mean_image: (C, H, W) in [0, 1].
    """

    images: Observations
    viewed: Observations | None
    offset: Tensor
    scale: Tensor
    disturbed: Observations | None
    near: Tensor
    active: Tensor
    thresholds: Tensor | None
    thresholds_of: dict[float, Tensor]
    mean_image: Tensor

    def views(self, images: slice) -> ShiftedView:
        """The geometry of some images' views, without pixels."""
        height, width = self.images.field.image_size
        offset, scale = self.offset[images], self.scale[images]
        return ShiftedView(torch.empty(len(offset), 0, height, width), offset, scale)


@dataclass(frozen=True)
class MaskResult:
    """What the second pass leaves; `settings` is None unless they are asked for."""

    interpretability: PartInterpretability
    dissection: NetworkDissection
    peaks: PeakOnPart
    fixed: FixedRegions
    settings: RegionSettings | None


class Reader:
    """Feature maps and logits of one layer, batch by batch."""

    def __init__(
        self,
        network: nn.Module,
        loader: Iterable[PartBatch],
        layer: str,
        image_size: tuple[int, int],
        readout: Readout | None = None,
    ) -> None:
        height, width = image_size
        self.network, self.loader, self.layer, self.image_size = network, loader, layer, (height, width)
        self.device = device_of(network)
        self.readout = readout
        self._field: ReceptiveField | None = None

    def batches(self) -> Iterator[tuple[PartBatch, Tensor]]:
        """Batches, and their images where the network lies."""
        for batch in self.loader:
            if tuple(batch.images.shape[2:]) != self.image_size:
                size = tuple(batch.images.shape[2:])
                raise ValueError(f"images are {size}; expected image_size {self.image_size}")
            yield batch, batch.images.to(self.device, non_blocking=True)

    def answers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return feature_maps_and_logits(self.network, images, self.layer)

    def field(self, channels: int) -> ReceptiveField:
        if self._field is None:
            self._field = receptive_field(self.network, self.layer, self.image_size, channels)
        return self._field


@chosen_precision()
def first_pass(reader: Reader, *, probes: bool, seed: int, rule: RegionRule | None = None) -> PassResult:
    """Observe all images, and with `probes` a random view and a noisy copy of each, the same for every
    network. Thresholds are those of `rule`; exact ones take one more pass.
    """
    rule = rule or RegionRule()
    shifts, noise = (torch.Generator().manual_seed(seed + stream) for stream in (0, 1))
    recorders: list[ObservationRecorder] = []
    threshold: StreamingThreshold | None = None
    near, active = torch.zeros(2, 0)
    total = torch.zeros((), dtype=torch.float64)
    geometry, seen = [], 0
    finite = torch.ones((), dtype=torch.bool)
    for batch, images in reader.batches():
        maps, logits = reader.answers(images)
        finite = logits.isfinite().all() & finite.to(logits.device)
        if not recorders:
            field = reader.field(images.shape[1])
            recorders = [ObservationRecorder(field, reader.readout) for _ in range(3)]
            near, active = torch.zeros(2, GROUPS, maps.shape[1], dtype=torch.float64, device=maps.device)
        recorders[0].update(maps, logits, batch)
        group = (seen + torch.arange(len(images), device=maps.device)) % GROUPS
        shares, alive = concentration(maps, width=TEMPLATE_WIDTH * max(maps.shape[2:]))
        near.index_add_(0, group, shares.nan_to_num())
        active.index_add_(0, group, alive.double())
        seen += len(images)
        total = total + images.double().sum(dim=0)
        if batch.part_masks is not None:
            threshold = threshold or StreamingThreshold(maps.shape[1], tail=rule.tail)
            threshold.update(maps)
        if probes:
            view = random_views(images, shifts)
            moved = view.points(batch.landmarks.to(images.device)).cpu()
            recorders[1].update(*reader.answers(view.images), replace(batch, landmarks=moved))
            recorders[2].update(*reader.answers(noisy(images, noise)), batch)
            geometry.append((view.offset.cpu(), view.scale.cpu()))
    if not recorders:
        raise ValueError("the loader gave no batch; expected at least one image")
    if not bool(finite):
        raise ValueError("network returned logits that are NaN or infinite")
    offset, scale = (
        (torch.cat(column) for column in zip(*geometry, strict=True)) if probes else torch.zeros(2, 0, 1)
    )
    observed = recorders[0].result()
    viewed, disturbed = (recorder.result() for recorder in recorders[1:]) if probes else (None, None)
    thresholds, thresholds_of = None, {}
    if threshold is not None:
        if rule.threshold == "exact":
            for _, images in reader.batches():
                threshold.refine(reader.answers(images)[0])
        thresholds = threshold.thresholds()
        thresholds_of = {tail: threshold.thresholds(tail) for tail in TAILS} if rule.settings else {}
    shares = (near[:seen].cpu(), active[:seen].cpu())
    mean_image = (total / seen).float().cpu()
    return PassResult(
        observed, viewed, offset, scale, disturbed, *shares, thresholds, thresholds_of, mean_image
    )


@chosen_precision()
def mask_pass(
    reader: Reader, seen: PassResult, categories: Tensor, *, rule: RegionRule, seed: int
) -> MaskResult:
    """Second pass: regions and positions against part masks."""
    field, parts = seen.images.field, seen.images.landmarks.shape[1]
    assert seen.thresholds is not None  # the first pass has seen part masks
    regions = rule.regions(field)
    interpretability = PartInterpretability(seen.thresholds, categories, parts, region=regions)
    fixed = FixedRegions(categories, parts, regions)
    generator = torch.Generator().manual_seed(seed)
    dissection = NetworkDissection(seen.thresholds, parts, field, generator=generator)
    peaks_on = PeakOnPart(categories, parts, field.cell_centres(), field.image_size)
    settings = RegionSettings(seen.thresholds_of, categories, parts, field) if seen.thresholds_of else None
    for batch, images in reader.batches():
        maps, _ = reader.answers(images)
        if batch.part_masks is None:
            raise ValueError("part_masks is None in the second pass; expected those of the first")
        interpretability.update(maps, batch.labels, batch.part_masks)
        fixed.update(batch.labels, batch.part_masks)
        dissection.update(maps, batch.part_masks)
        cells, scores = cells_and_scores(maps, reader.readout)
        peaks_on.update(cells.cpu(), scores.cpu() > 0, batch.labels, batch.part_masks)
        if settings is not None:
            settings.update(maps, batch.labels, batch.part_masks)
    if interpretability.seen != len(seen.images.labels):
        raise ValueError(
            f"the loader gave {interpretability.seen} images in the second pass, {len(seen.images.labels)} in the "
            "first; expected one that can be read twice, without shuffling"
        )
    return MaskResult(interpretability, dissection, peaks_on, fixed, settings)
