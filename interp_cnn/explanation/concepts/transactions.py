"""Transactions: which channels of a layer are strong at each position of its map.

A transaction is one cell of the grid on one image; its items are the `top` channels with the largest positive
activation there, each channel divided by its 99.5 % quantile first, or else loud channels would win everywhere
(after Li, Liu, Shen, van den Hengel, "Mid-level Deep Pattern Mining", CVPR 2015). There is no threshold: where
everything is active, a threshold makes millions of sets. With `neighbours`, the strongest channels of the eight
cells around are items too, "channel@row,column", so that sets describe arrangements of parts.

An item is the number channel + D * place, where place 0 is the cell itself and 1..8 its neighbours in
row-major order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.feature_maps import feature_maps
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.storage.brief import Brief

OFFSETS = ((0, 0), (-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
QUANTILE = 0.995
SAMPLED_POSITIONS = 1 << 16  # of which the quantile is taken


@dataclass(frozen=True, eq=False, repr=False)
class Transactions(Brief):
    """The items at every position of N images.

    Attributes:
        items: (N, h, w, k) int32, -1 for "no item".
        labels: (N,) int64.
        channels: D.
        scale: (D,), what each channel was divided by.
    """

    items: Tensor
    labels: Tensor
    channels: int
    scale: Tensor

    def __len__(self) -> int:
        return len(self.items)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        return self.items.shape[1], self.items.shape[2]

    def of(self, images: Tensor) -> Transactions:
        """Those of some images, given by their numbers or as a mask."""
        return Transactions(self.items[images], self.labels[images], self.channels, self.scale)


def position_transactions(
    network: nn.Module, loader: Iterable[Any], *, layer: str, top: int = 20, neighbours: int = 0
) -> Transactions:
    """Transactions of a layer over all images of a loader; two passes, no activations are kept.

    Args:
        network: any classifier; runs where its parameters lie and keeps its mode.
        loader: batches with `images` (B, C, H, W) and `labels` (B,), the same in every pass.
        layer: dotted module name.
        top: items per position at most.
        neighbours: further items per neighbouring cell at most; 0: none.

    Raises:
        ValueError: unknown layer, or a loader without images.
    """
    device = device_of(network)
    batches = (feature_maps(network, batch.images.to(device), layer) for batch in loader)
    scale = channel_scale(batches)
    items, labels = [], []
    for batch in loader:
        maps = feature_maps(network, batch.images.to(device), layer)
        items.append(channel_items(maps, scale, top=top, neighbours=neighbours).cpu())
        labels.append(batch.labels.cpu())
    return Transactions(torch.cat(items), torch.cat(labels), len(scale), scale.cpu())


def channel_scale(batches: Iterable[Tensor]) -> Tensor:
    """99.5 % quantile (D,) of every channel over the positions of all maps (B, D, h, w).

    Of many positions every second, fourth, ... is taken. A channel that fires at fewer positions than that has
    its maximum instead, and one that never fires 1.
    """
    sampled: Tensor | None = None
    stride, seen = 1, 0
    largest = torch.zeros(())
    for maps in batches:
        values = maps.movedim(1, 3).flatten(0, 2)  # (positions, D)
        largest = torch.maximum(largest.to(values), values.amax(dim=0))
        new = values[-seen % stride :: stride]
        sampled = new if sampled is None else torch.cat((sampled, new))
        seen += len(values)
        while len(sampled) > 2 * SAMPLED_POSITIONS:
            sampled, stride = sampled[::2], 2 * stride
    if sampled is None:
        raise ValueError("there are no images; expected at least one batch")
    rank = max(1, round((1 - QUANTILE) * len(sampled)))
    scale = sampled.topk(rank, dim=0).values[-1]  # (D,)
    scale = torch.where(scale > 0, scale, largest)
    return torch.where(scale > 0, scale, 1.0)


def channel_items(maps: Tensor, scale: Tensor, *, top: int = 20, neighbours: int = 0) -> Tensor:
    """Items (B, h, w, k) int32 of maps (B, D, h, w): strongest first, -1 where fewer channels are positive.

    k is `top` (at most D), and `neighbours` more for each of the eight cells around.
    """
    if top < 1 or neighbours < 0:
        raise ValueError(f"top is {top} and neighbours {neighbours}; expected at least 1 and 0")
    channels = maps.shape[1]
    scaled = (maps / scale[:, None, None]).movedim(1, 3)  # (B, h, w, D)
    values, strongest = scaled.topk(min(top, channels), dim=3)
    strongest = torch.where(values > 0, strongest, -1).int()
    items = [strongest]
    for place, offset in enumerate(OFFSETS):
        if place and neighbours:
            there = _at_offset(strongest[..., :neighbours], offset)
            items.append(torch.where(there >= 0, there + channels * place, -1))
    return torch.cat(items, dim=3)


def item_name(item: int, channels: int) -> str:
    """What people read: `12`, or `12@-1,0` for channel 12 in the cell above."""
    place, channel = divmod(item, channels)
    return f"{channel}@{OFFSETS[place][0]},{OFFSETS[place][1]}" if place else str(channel)


def _at_offset(items: Tensor, offset: tuple[int, int]) -> Tensor:
    """What lies at (row + offset, column + offset) of every cell; -1 beyond the border."""
    height, width = items.shape[1:3]
    padded = torch.nn.functional.pad(items, (0, 0, 1, 1, 1, 1), value=-1)
    row, column = offset[0] + 1, offset[1] + 1
    return padded[:, row : row + height, column : column + width]
