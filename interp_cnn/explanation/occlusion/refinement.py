"""Occlusion from coarse to fine: large windows first, small ones only where the drop matters.

A coarse window of level l is the rectangle around a block of 2^l x 2^l fine windows. If hiding it changes the
target's logit by little, its fine windows are not computed: each gets the coarse drop times the share of its area.
Else the block is split in four.

What is left out is stated, not assumed: some of the estimated windows, drawn at random, are computed after all. For
the largest error e among n draws,

    P(share of the estimated windows whose error exceeds e > s) <= (1 - s)^n

whatever the network, so that with n = 59 at most 5 % of them err by more than e, with 95 % confidence. No bound on
every single window can be had without computing it: two effects inside a block may cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.logits import check_count, check_positive
from interp_cnn.explanation.network.precision import chosen_precision
from interp_cnn.explanation.network.randomness import drawn_seed, image_generators
from interp_cnn.explanation.occlusion.fills import Fill
from interp_cnn.explanation.occlusion.job import OcclusionJob
from interp_cnn.explanation.occlusion.windows import pair, window_grid

CONFIDENCE = 0.95


@dataclass(frozen=True)
class RefinedDrops:
    """Drops of one class on the fine grid, exact or estimated, with the error of the estimates.

    Attributes:
        drops: (B, rows, columns) of the targets' logits.
        exact: (B, rows, columns), true where the drop was computed.
        error: (B,) largest error among the audited estimates; 0 where nothing was estimated.
        share: (B,) with `confidence`, at most this share of the estimated windows errs by more than `error`.
        confidence: of that statement.
        computed: (B,) windows that an image needed, on all levels and for the audit; an engine may compute more for
            images that stand beside it.
    """

    drops: Tensor
    exact: Tensor
    error: Tensor
    share: Tensor
    confidence: float
    computed: Tensor


@chosen_precision()
def refined_drops(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    window: int | tuple[int, int],
    stride: int | tuple[int, int],
    fill: float | Tensor | Fill | Callable = 0.0,
    levels: int = 2,
    matters: float = 0.2,
    audit: int = 59,
    generator: torch.Generator | None = None,
) -> RefinedDrops:
    """Drops of the targets' logits, computed only where they matter.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W).
        targets: (B,) classes.
        window: of the finest level: side or (height, width) in pixels.
        stride: of the finest level.
        fill: as in `occlusion.occlusion_drops`; what does not look at the hidden pixels, so that a part hides alike.
        levels: blocks of the coarsest level are 2^levels fine windows wide.
        matters: a block is split if its drop is at least this share of the largest drop of its level.
        audit: estimated windows that are computed after all, per image.
        generator: draws them.

    Raises:
        ValueError: a coarse window larger than the image, a share that is not positive, a bad window.
    """
    check_count(levels=levels, audit=audit)
    check_positive(matters=matters)
    size, step = pair(window, "window"), pair(stride, "stride")
    fine = window_grid((images.shape[2], images.shape[3]), size, step)
    shape = len(fine.row_starts), len(fine.column_starts)
    index = torch.arange(len(images))
    drops = torch.zeros(len(images), *shape, dtype=images.dtype)
    exact = torch.zeros(len(images), *shape, dtype=torch.bool)
    computed = torch.zeros(len(images), dtype=torch.int64)

    def values(job: OcclusionJob, needed: Tensor) -> Tensor:
        for _ in job.run():
            pass
        computed.add_((job.known & needed).sum((1, 2)).cpu())
        return job.drops[index, targets.to(job.drops.device)].cpu()

    wanted = None
    for level in range(levels, -1, -1):
        side = 2**level
        block = tuple(length + (side - 1) * by for length, by in zip(size, step, strict=True))
        if any(extent > length for extent, length in zip(block, images.shape[2:], strict=True)):
            raise ValueError(
                f"levels must leave coarse windows within the image, got {levels}: {block} pixels"
            )
        across = tuple(side * by for by in step)
        grid = window_grid((images.shape[2], images.shape[3]), block, across, "end")
        blocks = tuple(
            -(-count // side) for count in shape
        )  # without one that would lie behind the last window
        here = torch.zeros(len(images), len(grid.row_starts), len(grid.column_starts), dtype=torch.bool)
        here[:, : blocks[0], : blocks[1]] = True if wanted is None else wanted
        job = OcclusionJob(
            network, images, window=block, stride=across, fill=fill, overhang="end", wanted=here
        )
        level_drops = values(job, here)[:, : blocks[0], : blocks[1]]
        known = (job.known & here)[:, : blocks[0], : blocks[1]]  # an engine may have computed more
        spread = _fine(known, side, shape)
        areas = grid.gather(torch.ones(1, *images.shape[2:]))[:, : blocks[0], : blocks[1]]
        estimate = level_drops * (size[0] * size[1] / areas) if level else level_drops
        drops = torch.where(spread, _fine(estimate, side, shape), drops)
        if level:
            largest = (level_drops.abs() * known).amax((1, 2), keepdim=True)
            splits = _fine(known & (level_drops.abs() >= matters * largest), side, shape)
            half = side // 2
            wanted = splits[:, ::half, ::half]
        else:
            exact = known
    audited = _drawn(~exact, audit, image_generators(images, drawn_seed(generator)))
    if not bool(audited.any()):
        zero = torch.zeros(len(images))
        return RefinedDrops(drops, exact, zero.to(drops), zero, CONFIDENCE, computed)
    job = OcclusionJob(network, images, window=size, stride=step, fill=fill, wanted=audited)
    audited_drops, checked = values(job, audited), job.known & audited
    error = ((audited_drops - drops).abs() * audited).amax((1, 2))
    left = (~exact).sum((1, 2)) - audited.sum((1, 2))
    share = 1 - (1 - CONFIDENCE) ** (1 / audited.sum((1, 2)).clamp(min=1).double())
    share = torch.where(left > 0, share, 0.0)
    drops = torch.where(checked, audited_drops, drops)
    return RefinedDrops(drops, exact | checked, error, share, CONFIDENCE, computed)


def _fine(blocks: Tensor, side: int, shape: tuple[int, int]) -> Tensor:
    """Every block's value at each of its fine windows."""
    fine = blocks.repeat_interleave(side, 1).repeat_interleave(side, 2)
    return fine[:, : shape[0], : shape[1]]


def _drawn(choice: Tensor, count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Up to `count` true cells of every (rows, columns) mask, at random, each by its own generator."""
    drawn = torch.zeros_like(choice)
    for mask, chosen, generator in zip(choice.flatten(1), drawn.flatten(1), generators, strict=True):
        cells = mask.nonzero()[:, 0]
        chosen[cells[torch.randperm(len(cells), generator=generator)[:count]]] = True
    return drawn
