"""What a filter needs of an image: how far its peak falls when a window is hidden.

A filter's score on an image is the maximum of its map; hiding a window gives another score. The drop is that of
`occlusion`, asked of the layer's D scores as if they were logits, so one run over an image's windows answers for all
filters that have this image as their strongest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.explanation.network.feature_maps import named_layer
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.explanation.occlusion.fills import Fill
from interp_cnn.explanation.occlusion.job import OcclusionJob
from interp_cnn.explanation.occlusion.windows import map_of_drops

CELLS = 64  # of a map along the longer side, at most
IMAGES = 16  # in one occlusion run


class FilterScores(nn.Module):
    """A network up to its filters' scores: images (B, C, H, W) -> (B, D), the maximum of each map of a layer."""

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        self.network = network
        self.layer = named_layer(network, layer)

    def forward(self, images: Tensor) -> Tensor:
        """(B, D)."""
        kept: list[Tensor] = []
        handle = self.layer.register_forward_hook(lambda module, given, maps: kept.append(maps.amax((2, 3))))
        try:
            self.network(images)
        finally:
            handle.remove()
        return kept[-1]


@torch.no_grad()
def filter_drops(
    network: nn.Module,
    images: Tensor,
    layer: str,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    fill: Fill,
) -> OcclusionJob:
    """How far every filter's peak falls on some images when a window is hidden.

    Args:
        network: any classifier.
        images: (B, C, H, W), where its parameters lie.
        layer: dotted module name.
        window: rows and columns of the occluder, pixels.
        stride: its step, likewise.
        fill: what hides.

    Returns:
        The job, done: `drops` (B, D, rows, columns) of the windows in its `grid`.
    """
    scores = FilterScores(network, layer)
    job = OcclusionJob(scores, images, window=window, stride=stride, fill=fill, overhang="end")
    for _ in job.run():
        pass
    return job


@torch.no_grad()
def filter_occlusion(
    network: nn.Module,
    exemplars: Exemplars,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    fill: Callable[[Tensor], Fill],
) -> Tensor:
    """Occlusion map of every filter on its strongest image.

    Args:
        network: any classifier; runs where its parameters lie.
        exemplars: exemplars of one of its layers.
        window: rows and columns of the occluder, pixels.
        stride: its step, likewise.
        fill: what hides the pixels of some images (B, C, H, W).

    Returns:
        (D, h, w), the fall of the filter's score averaged over the windows that cover a pixel, at most 64 cells along
        the longer side; NaN for a filter that never fires.
    """
    device = device_of(network)
    strongest = exemplars.image_numbers[:, 0]
    size = tuple(exemplars.mean_image.shape[1:])
    shrink = min(1.0, CELLS / max(size))
    shrunk = round(size[0] * shrink), round(size[1] * shrink)
    maps = torch.full((len(exemplars), *shrunk), torch.nan)
    for numbers in strongest[strongest >= 0].unique().split(IMAGES):
        images = torch.stack([exemplars.images[number].float() / 255 for number in numbers.tolist()]).to(
            device
        )
        job = filter_drops(network, images, exemplars.layer, window=window, stride=stride, fill=fill(images))
        for place, number in enumerate(numbers.tolist()):
            filters = (strongest == number).nonzero().flatten()
            drops = map_of_drops(job.grid, job.drops[place, filters])  # (n, H, W)
            small = functional.adaptive_avg_pool2d(drops[:, None], shrunk)[:, 0]  # (n, h, w)
            maps[filters] = small.float().cpu()
    return maps
