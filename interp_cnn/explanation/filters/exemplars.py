"""Exemplars: the images on which a filter fires most, and what it sees there.

For each filter of a layer the images with the highest peak, the peak's cell and its receptive-field box:
natural exemplars, from which people predict a unit's activations better than from synthetic pictures
(Borowski et al., "Exemplary natural images explain CNN activations better than state-of-the-art feature
visualization", ICLR 2021). Beside them the mean activation map and how often the peak falls into each cell,
over all images.

One pass over the images; kept at any time are the `count` best per filter (scores, cells, maps and the
distinct images as uint8), never an activation per image. Among equal scores the earlier image comes first,
so the result depends neither on the batch size nor on the order of sorting. An image on which a filter does
not fire (peak <= 0) is no exemplar of it: such places carry the image number -1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_cnn.explanation.network.feature_maps import feature_maps, peaks
from interp_cnn.explanation.network.layers import layer_name
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.explanation.receptive_field.field import ReceptiveField, receptive_field
from interp_cnn.storage.brief import Brief

SHOWN = 5  # filters, spread over the layer, in a notebook


@dataclass(frozen=True, eq=False, repr=False)
class Exemplars(Brief):
    """The strongest images of every filter of one layer; N exemplars per filter (fewer if there are fewer
    images).

    Attributes:
        layer: dotted module name.
        field: receptive field of the layer's cells.
        image_numbers: (D, N) int64, place of the image in the loader's order, strongest first; -1: no more
            images.
        labels: (D, N) int64, -1 where there is no image.
        scores: (D, N), the peak's value; 0 where there is no image.
        positions: (D, N, 2) int64, (row, column) of the peak's cell.
        maps: (D, N, h, w), the filter's map on its exemplars; 0 where there is no image.
        mean_map: (D, h, w), over all images.
        peak_counts: (D, h, w) int64, on how many images the filter's peak lies in a cell.
        mean_image: (C, H, W) in [0, 1], over all images.
        images: image number -> (C, H, W) uint8, for every image number above.
        names: image number -> the sample's name.
        images_seen: how many images there were.
    """

    layer: str
    field: ReceptiveField
    image_numbers: Tensor
    labels: Tensor
    scores: Tensor
    positions: Tensor
    maps: Tensor
    mean_map: Tensor
    peak_counts: Tensor
    mean_image: Tensor
    images: dict[int, Tensor]
    names: dict[int, str]
    images_seen: int

    def __len__(self) -> int:
        return len(self.scores)

    def _repr_html_(self) -> str:
        """The strongest images of a few filters, as a notebook shows them."""
        from interp_cnn.figures.notebook import photograph, sheet_html

        shown = torch.linspace(0, len(self) - 1, min(SHOWN, len(self))).long().tolist()
        pictures, captions = [], []
        for number in shown:
            for rank, image in enumerate(self.image_numbers[number].tolist()):
                picture = self.images[image] if image >= 0 else torch.full_like(self.mean_image, 0.5)
                pictures.append(photograph(picture))
                captions.append(f"filter {number}" if rank == 0 else f"{self.scores[number, rank]:.3g}")
        return sheet_html(pictures, captions, columns=self.scores.shape[1])

    @property
    def boxes(self) -> Tensor:
        """Receptive-field boxes (D, N, 4) of the peaks, (left, top, right, bottom) pixels, cut at the
        border.
        """
        return self.field.boxes(self.positions, clip=True)

    @property
    def silent(self) -> Tensor:
        """(D,) True for a filter that fires on no image."""
        return self.image_numbers[:, 0] < 0

    def patches(self, filter_number: int) -> Tensor:
        """What one filter saw: (n, C, height, width) uint8 of its n <= N exemplars, the receptive field cut
        out.

        All patches have the receptive field's size; what lies beyond the image is padded with grey.
        """
        numbers = self.image_numbers[filter_number]
        boxes = self.field.boxes(self.positions[filter_number]).round().long()
        chosen = [(int(number), box) for number, box in zip(numbers, boxes, strict=True) if number >= 0]
        if not chosen:
            return self.mean_image.new_zeros((0, self.mean_image.shape[0], 1, 1), dtype=torch.uint8)
        return torch.stack([_cut_out(self.images[number], box) for number, box in chosen])


@torch.no_grad()
def exemplars(
    network: nn.Module, loader: Iterable[Any], *, layer: str | nn.Module, count: int = 9
) -> Exemplars:
    """The `count` strongest images of every filter of `layer`.

    Args:
        network: any classifier; runs where its parameters lie and keeps its mode.
        loader: batches with `images` (B, C, H, W) in [0, 1], `labels` (B,) and `names`, always in the same
            order.
        layer: dotted module name, or the module.
        count: exemplars per filter.

    Raises:
        ValueError: unknown layer, no image, or a count below 1.

    Example:
        >>> from types import SimpleNamespace
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> batch = SimpleNamespace(images=torch.rand(6, 3, 8, 8), labels=torch.arange(6) % 5, names=list("abcdef"))
        >>> strongest = exemplars(network, [batch], layer=network[1], count=2)
        >>> strongest.image_numbers.shape, strongest.boxes.shape
        (torch.Size([4, 2]), torch.Size([4, 2, 4]))
    """
    layer = layer_name(network, layer)
    device = device_of(network)

    def look(batch: Any) -> Look:
        maps = feature_maps(network, batch.images.to(device), layer)  # (B, D, h, w)
        return Look(maps, *peaks(maps))

    return strongest_of(network, loader, look, layer=layer, count=count)


def strongest_of(
    network: nn.Module, loader: Iterable[Any], look: Callable[[Any], Look], *, layer: str, count: int
) -> Exemplars:
    """The images that score highest for every filter, by any score.

    Args:
        network: whose layer it is.
        loader: as of `exemplars`.
        look: a batch -> its maps (B, D, h, w), the cell (B, D, 2) that counts, and the scores (B, D).
        layer: dotted module name.
        count: exemplars per filter.
    """
    if count < 1:
        raise ValueError(f"count is {count}; expected at least 1 exemplar per filter")
    best: _Best | None = None
    map_sum = image_sum = torch.zeros((), dtype=torch.float64)
    peak_counts = torch.zeros((), dtype=torch.int64)
    images: dict[int, Tensor] = {}
    names: dict[int, str] = {}
    seen = 0
    for batch in loader:
        maps, positions, scores = (values.cpu() for values in look(batch))
        numbers = torch.arange(seen, seen + len(maps))
        new = _Best.of_batch(maps, positions, scores, numbers, batch.labels.cpu())
        best = (new if best is None else best.joined(new)).strongest(count)
        map_sum = map_sum + maps.double().sum(dim=0).cpu()
        peak_counts = peak_counts + _count_peaks(positions, scores, maps.shape[2:])
        image_sum = image_sum + batch.images.double().sum(dim=0).cpu()
        kept = set(best.numbers.unique().tolist())
        images = {number: image for number, image in images.items() if number in kept}
        for place, number in enumerate(numbers.tolist()):
            if number in kept:
                images[number], names[number] = _as_bytes(batch.images[place]), str(batch.names[place])
        seen += len(maps)
    if best is None:
        raise ValueError("loader gave no images; expected at least one batch")

    return Exemplars(
        layer=layer,
        field=receptive_field(
            network, layer, (image_sum.shape[1], image_sum.shape[2]), channels=len(image_sum)
        ),
        image_numbers=best.numbers,
        labels=best.labels,
        scores=best.scores,
        positions=best.positions,
        maps=best.maps,
        mean_map=(map_sum / seen).float(),
        peak_counts=peak_counts,
        mean_image=(image_sum / seen).float(),
        images=images,
        names={number: names[number] for number in images},
        images_seen=seen,
    )


class Look(NamedTuple):
    """Maps (B, D, h, w) of a batch, the cell (B, D, 2) that counts in each, and the scores (B, D)."""

    maps: Tensor
    positions: Tensor
    scores: Tensor


class _Best(NamedTuple):
    """Candidates of every filter, in order of their image numbers among equal scores."""

    scores: Tensor  # (D, n)
    numbers: Tensor  # (D, n)
    labels: Tensor  # (D, n)
    positions: Tensor  # (D, n, 2)
    maps: Tensor  # (D, n, h, w)

    @classmethod
    def of_batch(
        cls, maps: Tensor, positions: Tensor, scores: Tensor, numbers: Tensor, labels: Tensor
    ) -> _Best:
        scores = scores.T
        fires = scores > 0  # (D, B); also false for NaN
        return cls(
            torch.where(fires, scores, 0),
            torch.where(fires, numbers.expand_as(scores), -1),
            torch.where(fires, labels.expand_as(scores), -1),
            torch.where(fires[..., None], positions.transpose(0, 1), 0),
            torch.where(fires[..., None, None], maps.transpose(0, 1), 0),
        )

    def joined(self, others: _Best) -> _Best:
        return _Best(*(torch.cat(pair, dim=1) for pair in zip(self, others, strict=True)))

    def strongest(self, count: int) -> _Best:
        """The best `count` of each filter; a stable sort keeps the earlier image first, absent ones come
        last.
        """
        order = self.scores.sort(dim=1, descending=True, stable=True).indices[:, :count]
        rows = torch.arange(len(order))[:, None]
        return _Best(*(values[rows, order] for values in self))


def _count_peaks(positions: Tensor, scores: Tensor, grid: Iterable[int]) -> Tensor:
    """(D, h, w): on how many of the images each filter has its peak in a cell; silent maps have none."""
    height, width = grid
    cells = positions[..., 0] * width + positions[..., 1]  # (B, D)
    counts = torch.zeros(scores.shape[1], height * width, dtype=torch.int64)
    counts.scatter_add_(1, cells.T, (scores.T > 0).long())
    return counts.unflatten(1, (height, width))


def _as_bytes(image: Tensor) -> Tensor:
    return (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)


def _cut_out(image: Tensor, box: Tensor) -> Tensor:
    """The piece (C, height, width) of an image (C, H, W) inside a box, grey where the box leaves the
    image.
    """
    left, top, right, bottom = box.tolist()
    height, width = image.shape[1:]
    inside = image[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    margins = (max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0))
    return F.pad(inside, margins, value=128)
