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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.data.parts import PartBatch, changed_tensors


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
        self,
        batch: PartBatch,
        generators: Sequence[torch.Generator],
        mirrored_parts: tuple[int, ...] | None = None,
    ) -> tuple[PartBatch, Changes]:
        """Draws a flip, shift, zoom and colours for every image of a batch.

        Args:
            batch: what is changed.
            generators: one for each image; four numbers are drawn from it, and six more for colours.
            mirrored_parts: for each part, the part that it becomes in a mirror image; None: itself.

        Returns:
            the batch with its landmarks moved, and what is still to be done to its images and masks.
        """
        height, width = batch.images.shape[-2:]
        draws = [torch.rand(4, generator=each, dtype=torch.float64).tolist() for each in generators]
        mirror, rows, columns = None, None, None
        landmarks = batch.landmarks
        if self.flip:
            mirror = torch.tensor(
                [place for place, (side, *_) in enumerate(draws) if side < 0.5], dtype=torch.int64
            )
            turned = mirrored(landmarks[mirror], width, mirrored_parts)
            landmarks = landmarks.index_copy(0, mirror, turned)
        if self.shift > 0 or self.scale > 0:
            shift = torch.tensor(
                [
                    [(2 * down - 1) * self.shift * height, (2 * right - 1) * self.shift * width]
                    for _, down, right, _ in draws
                ],
                dtype=torch.float64,
            )
            # by the standard library: the same zoom for one image and for many
            zooms = [math.exp((2 * zoom - 1) * math.log1p(self.scale)) for *_, zoom in draws]
            zoom = torch.tensor(zooms, dtype=torch.float64)
            landmarks = moved(landmarks, (height, width), shift=shift, zoom=zoom)
            rows, columns = _source(height, shift[:, 0], zoom), _source(width, shift[:, 1], zoom)
        fade, gains = None, None
        if self.colour > 0:
            colours = torch.stack([torch.rand(6, generator=each) for each in generators])  # (B, 6)
            fade = torch.where(colours[:, 0] < self.colour, colours[:, 1], 0.0)
            factors = ((2 * colours[:, 2:6] - 1) * math.log1p(self.colour)).exp()
            gains = factors[:, :3] ** 0.5 * factors[:, 3:]  # each channel's and the whole image's
        order = None if mirrored_parts is None else torch.tensor(mirrored_parts)
        changes = Changes.of(mirror, order, rows=rows, columns=columns, fade=fade, gains=gains)
        return dataclasses.replace(batch, landmarks=landmarks), changes


@dataclass(frozen=True, eq=False)
class Changes:
    """What augmentation does to the images and masks of a batch, on whatever device they and it are.

    Attributes:
        mirror: (M,) int64, places of the images to be mirrored; None: none.
        order: (P,) the part that each part becomes in a mirror image; None: itself.
        rows: (B, H) float32, the source row of every row, from -1 to 1; None: images stay in place.
        columns: (B, W) the same for columns.
        near_rows: (B, H) int64, the nearest source row, -1 outside the image.
        near_columns: (B, W) the same for columns.
        fade: (B,) share of the saturation that an image loses; None: none.
        gains: (B, 3) factors of the channels' brightness.
    """

    mirror: Tensor | None
    order: Tensor | None
    rows: Tensor | None
    columns: Tensor | None
    near_rows: Tensor | None
    near_columns: Tensor | None
    fade: Tensor | None
    gains: Tensor | None

    @classmethod
    def of(
        cls,
        mirror: Tensor | None,
        order: Tensor | None,
        *,
        rows: Tensor | None = None,
        columns: Tensor | None = None,
        fade: Tensor | None = None,
        gains: Tensor | None = None,
    ) -> Changes:
        """From source rows and columns (B, H) and (B, W) float64 in pixels: rounded here, as not every device knows
        float64.
        """
        return cls(
            mirror=mirror,
            order=order,
            rows=None if rows is None else _scaled(rows),
            columns=None if columns is None else _scaled(columns),
            near_rows=None if rows is None else _nearest(rows),
            near_columns=None if columns is None else _nearest(columns),
            fade=fade,
            gains=gains,
        )

    def __call__(self, batch: PartBatch) -> PartBatch:
        """The batch with its images and masks changed."""
        images = batch.images
        if self.mirror is not None:
            images = images.index_copy(0, self.mirror, images[self.mirror].flip(-1))
        if self.rows is not None and self.columns is not None:
            shape = (len(images), *images.shape[-2:])
            grid = torch.stack(
                (self.columns[:, None, :].expand(shape), self.rows[:, :, None].expand(shape)), dim=-1
            )
            images = F.grid_sample(
                images, grid, mode="bilinear", padding_mode="reflection", align_corners=True
            ).clamp(0, 1)
        if self.fade is not None and self.gains is not None:
            images = torch.lerp(images, images.mean(1, keepdim=True), self.fade[:, None, None, None])
            images = (images * self.gains[:, : images.shape[1], None, None]).clamp(0, 1)
        return dataclasses.replace(
            batch,
            images=images,
            part_masks=self._masks(batch.part_masks, self.order),
            object_masks=self._masks(batch.object_masks),
            distractor_masks=self._masks(batch.distractor_masks),
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Changes:
        """The same with every tensor on `device`."""
        return changed_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Changes:
        """The same in page-locked memory."""
        return changed_tensors(self, Tensor.pin_memory)

    def _masks(self, masks: Tensor | None, order: Tensor | None = None) -> Tensor | None:
        """Masks (B, ..., H, W), mirrored (parts by `order`), and moved: False where the view leaves the image."""
        if masks is None:
            return None
        ones = (1,) * (masks.dim() - 3)
        if self.mirror is not None:
            turned = masks[self.mirror].flip(-1)
            masks = masks.index_copy(0, self.mirror, turned if order is None else turned[:, order])
        if self.near_rows is not None and self.near_columns is not None:
            rows = self.near_rows.view(len(masks), *ones, -1, 1)
            columns = self.near_columns.view(len(masks), *ones, 1, -1)
            inside = (rows >= 0) & (columns >= 0)
            masks = masks.gather(-2, rows.clamp(min=0).expand_as(masks))
            masks = masks.gather(-1, columns.clamp(min=0).expand_as(masks)) & inside
        return masks


def _scaled(source: Tensor) -> Tensor:
    """Source rows or columns (B, n) from pixels to -1 ... 1, float32."""
    return (source * 2 / max(source.shape[1] - 1, 1) - 1).float()


def _nearest(source: Tensor) -> Tensor:
    """The pixels nearest to source rows or columns (B, n), int64, -1 outside the image."""
    nearest = source.round().long()
    return torch.where((nearest >= 0) & (nearest < source.shape[1]), nearest, -1)


def mirrored(landmarks: Tensor, width: int, mirrored_parts: tuple[int, ...] | None = None) -> Tensor:
    """Landmarks (B, P, 2) in images of `width`, mirrored left to right; parts change places by `mirrored_parts`."""
    turned = landmarks * torch.tensor([1.0, -1.0]) + torch.tensor([0.0, width - 1.0])
    return turned if mirrored_parts is None else turned[:, list(mirrored_parts)]


def moved(landmarks: Tensor, size: tuple[int, int], *, shift: Tensor, zoom: Tensor) -> Tensor:
    """Landmarks (B, P, 2), shifted by `shift` (B, 2) pixels and enlarged by `zoom` (B,) about the centre of images of
    `size`; NaN outside them.
    """
    height, width = size
    centre = torch.tensor([(height - 1) / 2, (width - 1) / 2])
    landmarks = (landmarks - centre) * zoom.float()[:, None, None] + centre + shift.float()[:, None]
    low, high = torch.tensor(-0.5), torch.tensor([height - 0.5, width - 0.5])
    left = ((landmarks < low) | (landmarks >= high)).any(dim=-1, keepdim=True)
    return landmarks.masked_fill(left, torch.nan)


def _source(length: int, shift: Tensor, zoom: Tensor) -> Tensor:
    """(B, length) float64: the source of every row or column."""
    centre = (length - 1) / 2
    return (torch.arange(length, dtype=torch.float64) - centre - shift[:, None]) / zoom[:, None] + centre
