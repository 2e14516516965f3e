"""Occlusion maps: hide a window, run the network again, record how far each class's logit falls.

    drop_k(w) = f_k(x) - f_k(x with window w replaced)

Every class and every window position comes out of one call. M. Zeiler and R. Fergus, "Visualizing and
understanding convolutional networks" (ECCV 2014), section 4.2; size, number and replacement of the occluder
as in T. Eriksson, "Occlusion method to obtain saliency maps for CNN" (Lund 2020).

The engine "auto" recomputes only what a window changes (`incremental`): the same numbers as one forward pass per
window, an order of magnitude faster. A long run that is to be priced, watched and resumed is an `OcclusionJob`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.logits import check_images, check_question, target_logits
from interp_cnn.explanation.network.precision import chosen_precision
from interp_cnn.explanation.occlusion.costs import Progress
from interp_cnn.explanation.occlusion.fills import Fill
from interp_cnn.explanation.occlusion.job import OcclusionJob
from interp_cnn.explanation.occlusion.windows import (
    STRIDE,
    WINDOW,
    Window,
    map_of_drops,
    window_grid,
    window_in_pixels,
)


@chosen_precision()
def occlusion_drops(
    network: nn.Module,
    images: Tensor,
    *,
    window: Window | float = WINDOW,
    stride: int | float | tuple[int, int] = STRIDE,
    fill: float | Tensor | Fill | Callable = 0.0,
    engine: str = "auto",
    overhang: str = "none",
    precision: str = "float32",
    progress: Callable[[Progress], None] | None = None,
) -> Tensor:
    """Drop of every class's logit for every window.

    Args:
        network: classifier, images (B, C, H, W) -> logits (B, K); used in evaluation mode.
        images: (B, C, H, W), or one image (C, H, W).
        window: side of a square window in pixels, or as a share of the image's shorter side (below 1, stretched so
            that the last window ends with the image); (height, width), or a 2-d boolean shape.
        stride: pixels between neighbouring windows, one number or (rows, columns), or a share likewise.
        fill: what replaces the hidden pixels: a number, a tensor that broadcasts to the images ((C, 1, 1) is one
            value per channel), a `fills.Fill`, or a function of (images, hidden).
        engine: "auto", "incremental", "one_batch" or "dense", see `job`.
        overhang: "none" (windows fully inside the image), "end" or "both", see `windows`.
        precision: of the windows' passes: "float32" (the images' own type), "tf32" (float32 whose products are
            rounded to 10 bits of mantissa on a GPU) or "bfloat16" (differences only, not the dense engine). The last
            two keep ranks, not digits (`evaluation.statistics.rank_correlation`).
        progress: called after every batch.

    Returns:
        (B, K, rows, columns): f_k(x) - f_k(x with the window replaced).

    Raises:
        ValueError: images that are not (B, C, H, W), logits that are not (B, K), an unknown engine or a
            bad window.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> occlusion_drops(network, torch.rand(3, 8, 8), window=4, stride=2).shape
        torch.Size([1, 5, 3, 3])
    """
    images = check_images(images)
    window, stride = window_in_pixels(window, stride, (images.shape[2], images.shape[3]))
    job = OcclusionJob(
        network,
        images,
        window=window,
        stride=stride,
        fill=fill,
        overhang=overhang,
        engine=engine,
        precision=precision,
    )
    for step in job.run():
        if progress is not None:
            progress(step)
    return job.drops


@chosen_precision()
def occlusion_map(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | int,
    *,
    window: Window | float = WINDOW,
    stride: int | float | tuple[int, int] = STRIDE,
    fill: float | Tensor | Fill | Callable = 0.0,
    unit: str = "mean_drop",
    overhang: str = "none",
    engine: str = "auto",
) -> Tensor:
    """Occlusion map of one class per image.

    Args:
        network: as in `occlusion_drops`.
        images: (B, C, H, W), or one image (C, H, W).
        targets: (B,) classes, or one for all images.
        window: as in `occlusion_drops`.
        stride: as in `occlusion_drops`.
        fill: as in `occlusion_drops`.
        unit: "mean_drop" (Captum's), "contribution" (drop / window area) or "additive", see `windows`.
        overhang: as in `occlusion_drops`.
        engine: as in `occlusion_drops`.

    Returns:
        (B, H, W), positive where hiding the pixel lowers the target's logit.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> occlusion_map(network, torch.rand(3, 8, 8), 3).shape
        torch.Size([1, 8, 8])
    """
    images, classes = check_question(images, targets)
    size = images.shape[2], images.shape[3]
    window, stride = window_in_pixels(window, stride, size)
    job = OcclusionJob(
        network, images, window=window, stride=stride, fill=fill, overhang=overhang, engine=engine
    )
    target_logits(job.logits, classes)  # refuses what is no class before the long run
    for _ in job.run():
        pass
    return target_map(job.drops, classes, size, window=window, stride=stride, unit=unit, overhang=overhang)


@chosen_precision()
def multi_scale_maps(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    windows: Sequence[Window],
    strides: Sequence[int | tuple[int, int]],
    fill: float | Tensor | Fill | Callable = 0.0,
    unit: str = "contribution",
    overhang: str = "none",
) -> Tensor:
    """Occlusion maps for several window sizes, kept apart: (S, B, H, W); their mean over S is the averaged map.

    The unit "contribution" is the one in which sizes can be compared and averaged.
    """
    if len(windows) != len(strides) or not windows:
        raise ValueError(f"windows and strides must be equally many, got {len(windows)} and {len(strides)}")
    maps = [
        occlusion_map(
            network, images, targets, window=window, stride=stride, fill=fill, unit=unit, overhang=overhang
        )
        for window, stride in zip(windows, strides, strict=True)
    ]
    return torch.stack(maps)


def target_map(
    drops: Tensor,
    targets: Tensor,
    image_size: Sequence[int],
    *,
    window: Window,
    stride: int | tuple[int, int],
    unit: str = "mean_drop",
    overhang: str = "none",
) -> Tensor:
    """The map (B, H, W) of one class per image from drops (B, K, rows, columns) that were computed before."""
    grid = window_grid((image_size[0], image_size[1]), window, stride, overhang)
    if drops.shape[2:] != (len(grid.row_starts), len(grid.column_starts)):
        raise ValueError(f"drops must be those of these windows, got {tuple(drops.shape)}")
    target_drops = drops[torch.arange(len(drops), device=drops.device), targets.to(drops.device)]
    return map_of_drops(grid, target_drops, unit)


def becomes_class(logits: Tensor, drops: Tensor) -> Tensor:
    """Which class the image becomes when a window is hidden: (B, K), (B, K, rows, columns) -> (B, rows, columns)."""
    return (logits[:, :, None, None] - drops).argmax(1)
