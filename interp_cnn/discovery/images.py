"""The images that concepts are mined and judged on: validation images, evenly chosen, in batches or one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.parts import PartSample, collate

BATCH = 64


def spread_images(data: PartDataModule, most: int) -> Subset[PartSample]:
    """At most so many validation images, evenly chosen."""
    images = data.val_set
    if images is None:
        raise ValueError("data has no validation images; expected a data module after setup()")
    count = min(most, len(images))
    return Subset(images, torch.linspace(0, len(images) - 1, count).round().long().tolist())


def pixels_of(images: Subset[PartSample]) -> Callable[[int], Tensor]:
    """Image number -> (C, H, W); the last few hundred are remembered."""
    return lru_cache(maxsize=256)(lambda number: images[number].image)


def loader_of(images: Subset, chosen: Tensor | None = None) -> DataLoader:
    """Batches of the images in their order, or of some of them."""
    part = images if chosen is None else Subset(images, chosen.tolist())
    return DataLoader(part, batch_size=BATCH, collate_fn=collate)
