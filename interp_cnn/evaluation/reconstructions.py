"""How good a decoder's pictures are, when it is given whole maps of images that it was not trained on.

    NRE            |picture - image| / mean |image - other image|                  (Dosovitskiy and Brox, CVPR 2016)
    feature error  the same for the layer's maps, each channel over its scale
    PSNR           10 log10(1 / mean squared error), in dB
    SSIM           structural similarity, Gaussian window (Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004)
    agreement      how often the network sees the same class in the picture as in the image
    accuracy       of the network on the pictures, and on the images themselves
    grid           spread of the high-pass over the phases of the layer's stride, relative: a checkerboard

Pixel measures alone mislead: pictures with a good PSNR may not show the class. All but `grid` are means over images,
with bootstrap intervals.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from interp_cnn.evaluation.statistics import Estimate, Sampled, resampling, weighted_mean
from interp_cnn.explanation.network.feature_maps import evaluation_mode, feature_maps_and_logits
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.explanation.network.precision import chosen_precision


@chosen_precision()
@torch.no_grad()
def reconstruction_quality(
    network: nn.Module,
    decoder: nn.Module,
    loader: Iterable[Any],
    *,
    layer: str,
    scale: Tensor,
    resamples: int = 500,
    seed: int = 0,
) -> dict[str, Estimate]:
    """All measures of a decoder on the images of a loader.

    Args:
        network: any classifier; keeps its mode.
        decoder: the layer's maps (B, D, h, w) -> pictures (B, C, H, W) in [0, 1].
        loader: batches with `images` and `labels`, at least two images in each.
        layer: dotted module name.
        scale: (D,) what each channel is divided by before maps are compared.
        resamples: of the images.
        seed: of the resamplings.
    """
    device = device_of(network)
    rows: list[dict[str, Tensor]] = []
    drawn_grid, real_grid, labels = [], [], []
    for batch in loader:
        images = batch.images.to(device)
        maps, logits = feature_maps_and_logits(network, images, layer)
        with evaluation_mode(decoder):
            pictures = decoder(maps)
        seen, seen_logits = feature_maps_and_logits(network, pictures, layer)
        factor = scale.to(maps)[:, None, None]
        predicted, truth = logits.argmax(dim=1), batch.labels.to(device)
        similarity = structural_similarity_index_measure(pictures, images, data_range=1.0, reduction="none")
        assert isinstance(similarity, Tensor)  # a tuple only where contrast or the full image is asked for
        rows.append(
            {
                "pixel_distance": _norm(pictures - images),
                "pixel_spread": distance_to_others(images),
                "feature_distance": _norm((seen - maps) / factor),
                "feature_spread": distance_to_others(maps / factor),
                "psnr": psnr(pictures, images),
                "ssim": similarity.reshape(-1),
                "class_agreement": (seen_logits.argmax(dim=1) == predicted).double(),
                "accuracy_on_pictures": (seen_logits.argmax(dim=1) == truth).double(),
                "accuracy": (predicted == truth).double(),
            }
        )
        stride = max(1, round(images.shape[2] / maps.shape[2]))
        drawn_grid.append(phase_means(pictures, stride))
        real_grid.append(phase_means(images, stride))
        labels.append(batch.labels)
    values = {name: torch.cat([row[name] for row in rows]).double().cpu() for name in rows[0]}
    draws = resampling(
        len(values["psnr"]), resamples=resamples, seed=seed, strata=torch.cat(labels).long().cpu()
    )
    means = {name: weighted_mean(column, draws.rows) for name, column in values.items()}
    columns = {
        "nre": means["pixel_distance"] / means["pixel_spread"],
        "feature_error": means["feature_distance"] / means["feature_spread"],
        **{name: means[name] for name in list(values)[4:]},
    }
    quality = {name: Sampled.from_rows(column, draws).estimate() for name, column in columns.items()}
    for name, phases in (("grid", drawn_grid), ("grid_of_images", real_grid)):
        quality[name] = Estimate(grid_measure(torch.cat(phases)), n=draws.images)
    return quality


def psnr(pictures: Tensor, images: Tensor) -> Tensor:
    """(B,) dB."""
    error = (pictures - images).square().flatten(1).mean(dim=1)
    return -10 * error.clamp(min=1e-10).log10()


def distance_to_others(values: Tensor) -> Tensor:
    """(B,) mean Euclidean distance of each of `values` (B, ...) to the others; NaN for a single one."""
    flat = values.flatten(1)
    return torch.cdist(flat, flat).sum(dim=1) / (len(flat) - 1 or torch.nan)


def phase_means(pictures: Tensor, stride: int) -> Tensor:
    """(B, stride, stride) mean size of the high-pass (pixel minus mean of its 3 x 3) at each phase of a grid.

    The outermost cells are left out: there the padding shows.
    """
    high = (pictures - F.avg_pool2d(pictures, 3, stride=1, padding=1)).abs().mean(dim=1)  # (B, H, W)
    rows, columns = (side // stride for side in high.shape[1:])
    cells = high[:, : rows * stride, : columns * stride].reshape(len(high), rows, stride, columns, stride)
    return cells[:, 1:-1, :, 1:-1].mean(dim=(1, 3))


def grid_measure(phases: Tensor) -> float:
    """Standard deviation over the phases of the mean of `phase_means` (B, s, s), relative to their mean."""
    mean = phases.mean(dim=0)
    return float(mean.std(correction=0) / mean.mean().clamp(min=1e-12))


def _norm(differences: Tensor) -> Tensor:
    return differences.flatten(1).norm(dim=1)
