"""Several occluders at once, and what all windows of an image cost on larger canvases."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_cnn.evaluation.maps.completeness import removals
from interp_cnn.explanation.network.logits import checked_evaluation
from interp_cnn.explanation.network.placement import beside
from interp_cnn.explanation.occlusion.fills import Fill
from interp_cnn.explanation.occlusion.job import OcclusionJob
from interp_cnn.explanation.occlusion.windows import WindowGrid
from interp_cnn.studies.shared import answers


def dealt(windows: int, together: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Windows shuffled and dealt into groups of `together`, each window in one group."""
    return torch.randperm(windows, generator=generator).split(together)


def map_of_groups(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    grid: WindowGrid,
    groups: Sequence[Tensor],
    fill: Fill,
) -> Tensor:
    """Contribution maps (B, H, W) from groups of windows that are hidden at the same time.

    A pixel's value is the mean, over the groups that hide it, of the group's drop divided by its hidden area.
    """
    masks = torch.stack(
        [
            grid.mask(row, column)
            for row in range(len(grid.row_starts))
            for column in range(len(grid.column_starts))
        ]
    )
    unions = torch.stack([masks[group].any(0) for group in groups])
    drops = removals(network, images, targets, unions, fill=fill).drops  # (B, groups)
    covered = unions.double().flatten(1)
    maps = (drops / unions.sum((1, 2))) @ covered / covered.sum(0).clamp(min=1)
    return maps.view(len(images), *grid.image_size)


def cost_wall(network: nn.Module, image: Tensor, sides: Sequence[int]) -> list[dict[str, float]]:
    """The cost of all windows (a sixth of the side, stride 1) of one image (1, C, H, W), plain and by the engine.

    Plain seconds are the windows times one timed pass in batches of 32; the engine's are those of a whole run.
    """
    rows, image = [], beside(network, image)
    for side in sides:
        images = F.interpolate(image, size=(side, side), mode="bilinear")
        window = max(3, round(side / 6))
        job = OcclusionJob(network, images, window=window, stride=1, engine="incremental")
        cost = job.cost()
        assert cost.multiply_adds is not None and cost.forward_equivalents is not None  # known of its plan
        start = time.perf_counter()
        for _ in job.run():
            pass
        engine = time.perf_counter() - start
        some = images.expand(32, -1, -1, -1).contiguous()
        with checked_evaluation(network, some):  # tries the network, so that nothing but the passes is timed
            answers(network, some)
            start = time.perf_counter()
            for _ in range(3):
                answers(network, some)
            pass_seconds = (time.perf_counter() - start) / 96
        pass_multiply_adds = cost.multiply_adds / cost.forward_equivalents
        rows.append(
            {
                "side": side,
                "window": window,
                "forward_passes": cost.forward_passes,
                "plain_multiply_adds": pass_multiply_adds * cost.forward_passes,
                "engine_multiply_adds": cost.multiply_adds,
                "plain_seconds": pass_seconds * cost.forward_passes,
                "engine_seconds": engine,
            }
        )
    return rows
