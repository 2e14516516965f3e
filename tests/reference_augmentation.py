"""Augmentation of one image after the other, literally: the second implementation that batches must equal."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.data.augmentation import Augmentation
from interp_cnn.data.parts import PartSample


def augmented(
    settings: Augmentation,
    sample: PartSample,
    generator: torch.Generator,
    mirrored_parts: tuple[int, ...] | None = None,
) -> PartSample:
    """A randomly flipped, shifted and zoomed version of a sample."""
    side, down, right, zoom = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    if settings.flip and side < 0.5:
        sample = mirrored(sample, mirrored_parts)
    if settings.shift > 0 or settings.scale > 0:
        height, width = sample.image.shape[-2:]
        sample = moved(
            sample,
            shift=((2 * down - 1) * settings.shift * height, (2 * right - 1) * settings.shift * width),
            zoom=math.exp((2 * zoom - 1) * math.log1p(settings.scale)),
        )
    if settings.colour > 0:
        draws = torch.rand(6, generator=generator)
        sample = dataclasses.replace(sample, image=recoloured(sample.image, draws, strength=settings.colour))
    return sample


def recoloured(image: Tensor, draws: Tensor, *, strength: float) -> Tensor:
    """An image (C, H, W) with less saturation and other gains; `draws` (6,) in [0, 1) decide what is done."""
    if draws[0] < strength:
        image = torch.lerp(image, image.mean(0, keepdim=True), draws[1])
    gains = ((2 * draws[2:6] - 1) * math.log1p(strength)).exp()
    gains = gains[:3] ** 0.5 * gains[3]  # each channel's and the whole image's
    return (image * gains[: len(image), None, None]).clamp(0, 1)


def mirrored(sample: PartSample, mirrored_parts: tuple[int, ...] | None = None) -> PartSample:
    """The mirror image, left to right; parts change places by `mirrored_parts`."""
    width = sample.image.shape[-1]
    landmarks = sample.landmarks * torch.tensor([1.0, -1.0]) + torch.tensor([0.0, width - 1.0])
    part_masks = _each(sample.part_masks, lambda mask: mask.flip(-1))
    if mirrored_parts is not None:
        order = list(mirrored_parts)
        landmarks, part_masks = landmarks[order], _each(part_masks, lambda mask: mask[order])
    return dataclasses.replace(
        sample,
        image=sample.image.flip(-1),
        landmarks=landmarks,
        part_masks=part_masks,
        object_mask=_each(sample.object_mask, lambda mask: mask.flip(-1)),
        distractor_mask=_each(sample.distractor_mask, lambda mask: mask.flip(-1)),
    )


def moved(sample: PartSample, *, shift: tuple[float, float], zoom: float) -> PartSample:
    """The sample shifted by (rows, columns) pixels and enlarged by `zoom` about the image's centre."""
    height, width = sample.image.shape[-2:]
    rows = _source(height, shift[0], zoom)  # (H,) the source row of every row
    columns = _source(width, shift[1], zoom)

    def moved_mask(mask: Tensor) -> Tensor:
        near_rows, near_columns = rows.round().long(), columns.round().long()
        inside = _within(near_rows, height)[:, None] & _within(near_columns, width)
        picked = mask[..., near_rows.clamp(0, height - 1), :][..., near_columns.clamp(0, width - 1)]
        return picked & inside

    grid = torch.stack(
        torch.broadcast_tensors(
            (columns * 2 / max(width - 1, 1) - 1)[None, :], (rows * 2 / max(height - 1, 1) - 1)[:, None]
        ),
        dim=-1,
    )
    image = F.grid_sample(
        sample.image[None], grid[None].float(), mode="bilinear", padding_mode="reflection", align_corners=True
    )[0]
    centre = torch.tensor([(height - 1) / 2, (width - 1) / 2])
    landmarks = (sample.landmarks - centre) * zoom + centre + torch.tensor(shift, dtype=torch.float32)
    low, high = torch.tensor(-0.5), torch.tensor([height - 0.5, width - 0.5])
    left = ((landmarks < low) | (landmarks >= high)).any(dim=-1)
    landmarks = landmarks.masked_fill(left[:, None], torch.nan)
    return dataclasses.replace(
        sample,
        image=image.clamp(0, 1),
        landmarks=landmarks,
        part_masks=_each(sample.part_masks, moved_mask),
        object_mask=_each(sample.object_mask, moved_mask),
        distractor_mask=_each(sample.distractor_mask, moved_mask),
    )


def _source(length: int, shift: float, zoom: float) -> Tensor:
    centre = (length - 1) / 2
    return (torch.arange(length, dtype=torch.float64) - centre - shift) / zoom + centre


def _within(index: Tensor, length: int) -> Tensor:
    return (index >= 0) & (index < length)


def _each(mask: Tensor | None, change) -> Tensor | None:
    return None if mask is None else change(mask)
