"""Flips, shifts and zooms that carry landmarks and masks along.

One affine map per image: out = what lies at (position - centre - shift) / zoom + centre. The image is sampled
bilinearly and mirrored at its border where the view leaves it; masks are sampled at the nearest pixel and are
False outside; landmarks move by the same map and become NaN when they leave the image. A mirror image swaps the
parts that are named left and right.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.data.parts import PartSample


@dataclass(frozen=True)
class Augmentation:
    """What training does to an image; the draws come from the generator it is called with.

    Attributes:
        flip: mirror every second image, left to right.
        shift: largest shift as a share of the image's height and width, to either side.
        scale: largest zoom in or out: a factor in [1 / (1 + scale), 1 + scale], log-uniform.
        colour: how far colours are to be distrusted, 0 to 1: with this probability the image loses a random share of
            its saturation, and each channel's and the whole brightness changes by up to this factor, log-uniform.
            A network that cannot tell animals by their colour has to look at their parts.
    """

    flip: bool = False
    shift: float = 0.0
    scale: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.shift < 1:
            raise ValueError(f"augmentation.shift={self.shift}: expected a share of the image in [0, 1)")
        if not 0 <= self.scale < 10:
            raise ValueError(f"augmentation.scale={self.scale}: expected 0 <= scale < 10, say 0.2 for +-20 %")
        if not 0 <= self.colour <= 1:
            raise ValueError(f"augmentation.colour={self.colour}: expected a number from 0 to 1")

    @classmethod
    def of(cls, given: Augmentation | Mapping[str, Any] | None) -> Augmentation | None:
        """The augmentation itself, or built from its arguments; None stays None.

        Raises:
            ValueError: for an argument that does not exist.
        """
        if given is None or isinstance(given, Augmentation):
            return given
        known = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.5) or known
                raise ValueError(f"augmentation.{name}: no such augmentation; nearest: {', '.join(near)}")
        return cls(**given)

    def __call__(
        self, sample: PartSample, generator: torch.Generator, mirrored_parts: tuple[int, ...] | None = None
    ) -> PartSample:
        """A randomly flipped, shifted and zoomed version of a sample.

        Args:
            sample: what is changed.
            generator: four numbers are drawn from it, and six more for colours.
            mirrored_parts: for each part, the part that it becomes in a mirror image; None: itself.
        """
        side, down, right, zoom = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        if self.flip and side < 0.5:
            sample = mirrored(sample, mirrored_parts)
        if self.shift > 0 or self.scale > 0:
            height, width = sample.image.shape[-2:]
            sample = moved(
                sample,
                shift=((2 * down - 1) * self.shift * height, (2 * right - 1) * self.shift * width),
                zoom=math.exp((2 * zoom - 1) * math.log1p(self.scale)),
            )
        if self.colour > 0:
            draws = torch.rand(6, generator=generator)
            sample = dataclasses.replace(sample, image=recoloured(sample.image, draws, strength=self.colour))
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
