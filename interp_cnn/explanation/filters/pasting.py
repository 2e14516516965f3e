"""The real patch that excites a filter most: patches of images, pasted on images on which it is silent.

Every patch of a pool is pasted at the same few places of some silent images; the one that raises the filter's peak
most, averaged over places and images, is chosen. The best of many looks better than it is on the images that it was
chosen on, so what it does is measured on other silent images, beside random patches of the same size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.feature_maps import feature_maps, feature_maps_and_logits
from interp_cnn.explanation.network.placement import beside, device_of

PLACES = ((0.25, 0.25), (0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (0.75, 0.75))  # shares of what is free


@dataclass(frozen=True, eq=False)
class Pasting:
    """What patches did to a filter and to K logits; everything but `strengths` on images that chose nothing.

    Attributes:
        strengths: (N,) mean peak with each patch of the pool, on the images that choose.
        before: mean peak on the images as they are.
        after: with the best patch.
        control: with random patches.
        logits: (3, K) mean logits before, with the best patch and with random ones.
        decided: (3, K) share of the images, or of the edited ones, that are taken for each class.
    """

    strengths: Tensor
    before: float
    after: float
    control: float
    logits: Tensor
    decided: Tensor

    @property
    def best(self) -> int:
        """Which patch of the pool was chosen; the first among equals."""
        return int(self.strengths.argmax())


def paste_corners(size: tuple[int, int], side: int) -> list[tuple[int, int]]:
    """Where patches of a side are pasted on images (H, W): (top, left) of five places, around the middle.

    Raises:
        ValueError: a patch larger than the image.

    Example:
        >>> paste_corners((10, 10), 2)
        [(2, 2), (2, 6), (4, 4), (6, 2), (6, 6)]
    """
    if not 1 <= side <= min(size):
        raise ValueError(f"side is {side}; expected 1 to {min(size)} pixels")
    free = size[0] - side, size[1] - side
    return [(round(down * free[0]), round(right * free[1])) for down, right in PLACES]


def pasted(images: Tensor, patch: Tensor, corners: list[tuple[int, int]]) -> Tensor:
    """A patch (C, side, side) on images (S, C, H, W) at each of P places: (S, P, C, H, W)."""
    copies = images[:, None].repeat(1, len(corners), 1, 1, 1)
    for place, (top, left) in enumerate(corners):
        copies[:, place, :, top : top + patch.shape[1], left : left + patch.shape[2]] = patch
    return copies


@torch.no_grad()
def best_paste(
    network: nn.Module,
    images: Tensor,
    patches: Tensor,
    controls: Tensor,
    filter_number: int,
    *,
    layer: str,
    batch_size: int = 64,
) -> Pasting:
    """The patch of a pool that raises a filter's peak most on images on which it is silent.

    Args:
        network: any classifier; runs where its parameters lie and keeps its mode.
        images: (S, C, H, W) in [0, 1]; the first, third, ... choose, the others measure.
        patches: (N, C, side, side), the pool.
        controls: (R, C, side, side), random patches.
        filter_number: of the layer.
        layer: dotted module name.
        batch_size: edited images at a time.

    Raises:
        ValueError: fewer than two images, or patches and controls of another size.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten())
        >>> pool = torch.tensor([0.2, 0.9, 0.5])[:, None, None, None].expand(3, 1, 2, 2)
        >>> _ = nn.init.ones_(network[0].weight), nn.init.zeros_(network[0].bias)
        >>> found = best_paste(network, torch.zeros(2, 1, 6, 6), pool, pool[:1], 0, layer="1")
        >>> found.best, round(found.after, 3), round(found.control, 3)
        (1, 0.9, 0.2)
    """
    if len(images) < 2:
        raise ValueError(
            f"images has {len(images)}; expected at least 2, to choose on one and measure on the other"
        )
    if not len(patches) or not len(controls) or patches.shape[1:] != controls.shape[1:]:
        given = f"patches {tuple(patches.shape)} and controls {tuple(controls.shape)}"
        raise ValueError(f"{given}; expected at least one of each, of one size")
    corners = paste_corners((images.shape[2], images.shape[3]), patches.shape[3])
    images, patches, controls = (beside(network, values) for values in (images, patches, controls))
    choosing, measuring = images[::2], images[1::2]

    def answers(edited: Tensor) -> tuple[Tensor, Tensor]:
        parts = [feature_maps_and_logits(network, part, layer) for part in edited.split(batch_size)]
        peaks = torch.cat([maps[:, filter_number].amax((1, 2)) for maps, _ in parts])
        return peaks.cpu(), torch.cat([logits for _, logits in parts]).cpu()

    def with_patches(of: Tensor, some: Tensor) -> tuple[Tensor, Tensor]:
        found = [answers(pasted(of, patch, corners).flatten(0, 1)) for patch in some]
        return torch.stack([peaks for peaks, _ in found]), torch.cat([logits for _, logits in found])

    strengths = with_patches(choosing, patches)[0].mean(1)  # (N,)
    best = int(strengths.argmax())
    peaks, logits = zip(
        answers(measuring),
        with_patches(measuring, patches[best : best + 1]),
        with_patches(measuring, controls),
        strict=True,
    )
    decided = [torch.nn.functional.one_hot(some.argmax(1), some.shape[1]).double().mean(0) for some in logits]
    before, after, control = (float(some.mean()) for some in peaks)
    means = torch.stack([some.mean(0) for some in logits])
    return Pasting(strengths, before, after, control, means, torch.stack(decided))


@torch.no_grad()
def peaks_of_images(network: nn.Module, loader: Iterable[Any], layer: str) -> Tensor:
    """(N, D) every filter's peak on every image of a loader (batches with `images`); on the CPU."""
    device = device_of(network)
    found = [feature_maps(network, batch.images.to(device), layer).amax((2, 3)).cpu() for batch in loader]
    return torch.cat(found)


def quietest(peaks: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The images (n,), n <= count, on which a filter with peaks (N,) fires least; among equals any."""
    order = torch.randperm(len(peaks), generator=generator)
    return order[peaks[order].argsort(stable=True)[:count]]


def random_patches(images: list[Tensor], side: int, count: int, generator: torch.Generator) -> Tensor:
    """Patches (count, C, side, side) from anywhere in any of some images (C, H, W)."""
    drawn = []
    for _ in range(count):
        image = images[int(torch.randint(len(images), (), generator=generator))]
        top, left = (
            int(torch.randint(length - side + 1, (), generator=generator)) for length in image.shape[1:]
        )
        drawn.append(image[:, top : top + side, left : left + side])
    return torch.stack(drawn)
