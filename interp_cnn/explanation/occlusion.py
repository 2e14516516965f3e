"""Occlusion maps: hide a window, run the network again, record how far each class's logit falls.

    drop_k(w) = f_k(x) - f_k(x with window w replaced)

Every class and every window position comes out of one call. M. Zeiler and R. Fergus, "Visualizing and
understanding convolutional networks" (ECCV 2014), section 4.2; size, number and replacement of the occluder
as in T. Eriksson, "Occlusion method to obtain saliency maps for CNN" (Lund 2020).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from interp_cnn.explanation.windows import Window, WindowGrid, map_of_drops, window_grid

ENGINES = ("auto", "dense")


def occlusion_drops(
    network: nn.Module,
    images: Tensor,
    *,
    window: Window,
    stride: int | tuple[int, int],
    fill: float | Tensor = 0.0,
    overhang: str = "none",
    engine: str = "auto",
) -> Tensor:
    """Drop of every class's logit for every window.

    Args:
        network: classifier, images (B, C, H, W) -> logits (B, K); used in evaluation mode.
        images: (B, C, H, W).
        window: side of a square window, (height, width), or a 2-d boolean shape.
        stride: pixels between neighbouring windows, one number or (rows, columns).
        fill: what replaces the hidden pixels: a number, or a tensor that broadcasts to the images
            (so (C, 1, 1) is one value per channel).
        overhang: "none" (windows fully inside the image), "end" or "both", see `windows`.
        engine: "auto" or "dense".

    Returns:
        (B, K, rows, columns): f_k(x) - f_k(x with the window replaced).

    Raises:
        ValueError: images that are not (B, C, H, W), logits that are not (B, K), an unknown engine or a
            bad window.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be (B, C, H, W), got {tuple(images.shape)}")
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    grid = window_grid(tuple(images.shape[-2:]), window, stride, overhang)
    replacement = torch.as_tensor(fill, dtype=images.dtype, device=images.device).expand_as(images)
    with evaluating(network):
        return _dense_drops(network, images, replacement, grid)


def occlusion_map(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    window: Window,
    stride: int | tuple[int, int],
    fill: float | Tensor = 0.0,
    unit: str = "mean_drop",
) -> Tensor:
    """Occlusion map of one class per image.

    Args:
        network: as in `occlusion_drops`.
        images: (B, C, H, W).
        targets: (B,) class indices.
        window: as in `occlusion_drops`.
        stride: as in `occlusion_drops`.
        fill: as in `occlusion_drops`.
        unit: "mean_drop" (Captum's), "contribution" (drop / window area) or "additive", see `windows`.

    Returns:
        (B, H, W), positive where hiding the pixel lowers the target's logit.
    """
    if targets.shape != images.shape[:1]:
        raise ValueError(
            f"targets must be ({images.shape[0]},), one class per image, got {tuple(targets.shape)}"
        )
    drops = occlusion_drops(network, images, window=window, stride=stride, fill=fill)
    grid = window_grid(tuple(images.shape[-2:]), window, stride)
    return map_of_drops(
        grid, drops[torch.arange(len(images), device=drops.device), targets.to(drops.device)], unit
    )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode comes back afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """(B, K) logits, or one sentence about what came instead."""
    logits = network(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        kind = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"network must return logits (B, K), got {kind}")
    return logits


def _dense_drops(
    network: nn.Module, images: Tensor, replacement: Tensor, grid: WindowGrid, batch: int = 32
) -> Tensor:
    """One whole forward pass per window, in batches: the brute force."""
    rows, columns = grid.rows, grid.columns
    clean = logits_of(network, images)
    drops = clean.new_empty(*clean.shape, len(rows), len(columns))
    windows = [(row, column) for row in range(len(rows)) for column in range(len(columns))]
    for index, image in enumerate(images):
        for first in range(0, len(windows), batch):
            chunk = windows[first : first + batch]
            occluded = image.expand(len(chunk), *image.shape).clone()
            for copy, (row, column) in zip(occluded, chunk, strict=True):
                box = (slice(None), slice(*rows[row]), slice(*columns[column]))
                if grid.shape is None:
                    copy[box] = replacement[index][box]
                else:
                    hidden = grid.hidden(row, column).to(copy.device)
                    copy[box] = torch.where(hidden, replacement[index][box], copy[box])
            dropped = clean[index] - logits_of(network, occluded)  # (windows, K)
            drops[index].view(clean.shape[1], -1)[:, first : first + len(chunk)] = dropped.T
    return drops
