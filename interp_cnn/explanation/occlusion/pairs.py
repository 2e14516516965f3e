"""Two windows hidden at once: what they do together that they do not do apart.

    interaction(u, v) = drop(u and v) - drop(u) - drop(v)

Positive: either of the two is enough, and only without both the class is lost (one stands in for the other).
Negative: each needs the other, so that the second costs less once the first is gone. Zero: they add up. Windows that
overlap share pixels, so that a linear network has interactions where they do, and only there.

With window u hidden, an ordinary occlusion of the changed image gives `drop(u and v) - drop(u)` for every v: pairs
cost one occlusion map per first window, and the incremental engine serves them too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.precision import precision
from interp_cnn.explanation.occlusion.fills import Fill, as_fill
from interp_cnn.explanation.occlusion.job import OcclusionJob
from interp_cnn.explanation.occlusion.occluders import Occluders
from interp_cnn.explanation.occlusion.windows import Window, window_grid


@precision("float32")
def pair_interactions(
    network: nn.Module,
    images: Tensor,
    first: Sequence[tuple[int, int]],
    *,
    window: Window,
    stride: int | tuple[int, int],
    fill: float | Tensor | Fill | Callable = 0.0,
    overhang: str = "none",
) -> Tensor:
    """Interaction of some windows with all windows of the grid, for every class.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W).
        first: (row, column) in the grid of windows, those whose partners are asked for.
        window: as in `occlusion.occlusion_drops`.
        stride: as in `occlusion.occlusion_drops`.
        fill: as in `occlusion.occlusion_drops`, one that does not look at the hidden pixels and is drawn once.
        overhang: as in `occlusion.occlusion_drops`.

    Returns:
        (B, K, F, rows, columns): interaction of window `first[f]` with each window.

    Raises:
        ValueError: a window outside the grid, a fill that depends on what else is hidden.
    """
    fill = as_fill(fill)
    if fill.reach is not None or fill.samples > 1:
        raise ValueError(f"fill of pairs must not depend on the hidden pixels or on chance, got {fill.name}")
    grid = window_grid((images.shape[2], images.shape[3]), window, stride, overhang)
    shape = len(grid.row_starts), len(grid.column_starts)
    for row, column in first:
        if not (0 <= row < shape[0] and 0 <= column < shape[1]):
            raise ValueError(f"first must name windows of the grid of {shape}, got {(row, column)}")
    occluders = Occluders(images, grid, fill)
    options = {"window": window, "stride": stride, "fill": occluders.replacement, "overhang": overhang}
    alone = _drops(network, images, options)  # (B, K, rows, columns)
    hidden = torch.cat([occluders.occluded(index, list(first)) for index in range(len(images))])  # (B F, ...)
    options["fill"] = occluders.replacement.repeat_interleave(len(first), 0)
    after = _drops(network, hidden, options).unflatten(0, (len(images), len(first))).transpose(1, 2)
    return after - alone[:, :, None]


def _drops(network: nn.Module, images: Tensor, options: dict) -> Tensor:
    job = OcclusionJob(network, images, **options)
    for _ in job.run():
        pass
    return job.drops
