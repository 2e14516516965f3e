"""Empirical receptive field: the part of its receptive field that a filter really looks at.

A small occluder is slid over each of a filter's exemplars; the drop of the filter's activation at its peak says how
much the hidden pixels matter. Drops are moved so that the peaks' receptive-field centres coincide, and averaged over
the exemplars. What reaches half of the largest mean drop is the empirical field. Zhou, Khosla, Lapedriza, Oliva,
Torralba, "Object Detectors Emerge in Deep Scene CNNs", ICLR 2015, section 3.2; there with random occluders.

Every filter is asked on the same occluded image at once, images of any shape do, and the exemplars are the strongest
images, so the result is always the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.explanation.network.feature_maps import feature_maps
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.explanation.occlusion.windows import pair, window_grid
from interp_cnn.storage.brief import Brief

HALF = 0.5


@dataclass(frozen=True, eq=False, repr=False)
class EmpiricalField(Brief):
    """Mean drops of D filters around their peaks.

    Attributes:
        drops: (D, a, b), relative to the peak's activation; NaN where no exemplar has a window there.
        stride: (rows, columns) pixels between neighbouring values; the middle value lies at the peak's centre.
        window: (rows, columns) of the occluder, in pixels.
    """

    drops: Tensor
    stride: tuple[int, int]
    window: tuple[int, int]

    @property
    def inside(self) -> Tensor:
        """(D, a, b) bool: where the drop reaches half of the largest one; nowhere for a filter without drops."""
        largest = self.drops.nan_to_num(nan=-torch.inf).flatten(1).amax(dim=1)[:, None, None]
        return (self.drops >= HALF * largest) & (largest > 0)

    @property
    def size(self) -> Tensor:
        """(D, 2) height and width in pixels of the box around what is inside; 0 for a filter without drops."""
        extents = []
        for axis, stride in ((2, self.stride[0]), (1, self.stride[1])):
            hit = self.inside.any(dim=axis)  # (D, n)
            places = torch.arange(hit.shape[1]).expand_as(hit)
            last = places.where(hit, -1).amax(dim=1)
            first = places.where(hit, hit.shape[1]).amin(dim=1)
            extents.append((last - first + 1).clamp(min=0) * stride)
        return torch.stack(extents, dim=1)


@torch.no_grad()
def empirical_field(
    network: nn.Module,
    exemplars: Exemplars,
    *,
    window: int | tuple[int, int] = 5,
    stride: int | tuple[int, int] = 3,
    fill: float | None = None,
    batch_size: int = 128,
) -> EmpiricalField:
    """The empirical receptive field of every filter of a layer.

    Args:
        network: the classifier that the exemplars come from.
        exemplars: its exemplars.
        window: side of the occluder in pixels, or (height, width).
        stride: its step in pixels, or (rows, columns).
        fill: what hides; None: the mean colour of all images.
        batch_size: occluded images at a time.
    """
    device = device_of(network)
    size = exemplars.field.image_size
    grid = window_grid(size, window, stride, overhang="both")
    step = pair(stride, "stride")
    places = [(i, j) for i in range(len(grid.row_starts)) for j in range(len(grid.column_starts))]
    hidden = torch.stack([grid.mask(*place) for place in places])  # (G, H, W)
    starts = torch.tensor([(grid.row_starts[i], grid.column_starts[j]) for i, j in places])
    middles = starts + (torch.tensor(grid.size) - 1) / 2  # (G, 2) pixels
    reach = [-(-side // along) for side, along in zip(size, step, strict=True)]
    shape = (len(exemplars), 2 * reach[0] + 1, 2 * reach[1] + 1)
    sums, counts = torch.zeros(shape), torch.zeros(shape)
    colour = (
        exemplars.mean_image.mean(dim=(1, 2))
        if fill is None
        else torch.full((len(exemplars.mean_image),), fill)
    )
    for number, stored in exemplars.images.items():
        filters, ranks = (exemplars.image_numbers == number).nonzero(as_tuple=True)
        image = stored.float().to(device) / 255
        cells = exemplars.positions[filters, ranks].to(device)
        whole = _at(feature_maps(network, image[None], exemplars.layer), filters, cells)  # (1, n)
        drops = []
        for piece in hidden.to(device).split(batch_size):
            occluded = torch.where(piece[:, None], colour.to(device)[:, None, None], image)
            drops.append(whole - _at(feature_maps(network, occluded, exemplars.layer), filters, cells))
        drops = (torch.cat(drops) / whole.clamp(min=1e-9)).cpu()  # (G, n)
        centres = exemplars.field.centres(exemplars.positions[filters, ranks])  # (n, 2)
        offsets = (middles[:, None] - centres) / torch.tensor(step)  # (G, n, 2)
        bins = (offsets + 0.5).floor().long() + torch.tensor(reach)  # never two windows of an image in one
        seen = ((bins >= 0) & (bins < torch.tensor(shape[1:]))).all(dim=2)
        index = (filters.expand(len(bins), -1)[seen], bins[..., 0][seen], bins[..., 1][seen])
        sums.index_put_(index, drops[seen], accumulate=True)
        counts.index_put_(index, torch.ones_like(drops[seen]), accumulate=True)
    return EmpiricalField(sums / counts, step, grid.size)


def _at(maps: Tensor, filters: Tensor, cells: Tensor) -> Tensor:
    """(B, n) activations of n filters, each at its own cell, of maps (B, D, h, w)."""
    return maps[:, filters.to(maps.device), cells[:, 0], cells[:, 1]]
