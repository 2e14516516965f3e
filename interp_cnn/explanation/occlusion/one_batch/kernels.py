"""One pass over memory where torch needs four: the rectifier's delta, its clean values fetched on the way (Triton).

    out[n, y, x, c] = max(d, m) - max(m, 0),    m the negated clean value under the frame

A frame's row is contiguous in the delta and in the clean map alike, so a program instance reads two runs of numbers and
writes one. Triton comes with torch for CUDA. The first use in a process compares one small result with torch's;
where that fails, or where Triton cannot compile, torch computes and a line is logged.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

BLOCK = 1024  # numbers that one program instance handles


def usable(delta: Tensor) -> bool:
    """True if the kernel computes deltas of this device and type."""
    return delta.device.type == "cuda" and delta.dtype != torch.float64 and _works(delta.device, delta.dtype)


def rectified(delta: Tensor, negated: Tensor, lines: Tensor, overwrite: bool) -> Tensor:
    """The delta behind a rectifier.

    Args:
        delta: (I, W, fh, fw, C), contiguous.
        negated: (I, h, w, C), minus the clean map, with margins.
        lines: (I W fh,) int64: the cell of the clean map at which each row of each frame begins.
        overwrite: write the result into `delta`.
    """
    from interp_cnn.explanation.occlusion.one_batch.triton_kernels import rectify_rows

    out = delta if overwrite else torch.empty_like(delta)
    length = delta.shape[3] * delta.shape[4]
    block = min(BLOCK, 1 << (length - 1).bit_length())
    grid = len(lines), -(-length // block)
    rectify_rows[grid](delta, negated, lines, out, length, delta.shape[4], BLOCK=block)  # pyright: ignore[reportArgumentType] - Triton wraps it
    return out


@functools.cache
def _works(device: torch.device, dtype: torch.dtype) -> bool:
    if importlib.util.find_spec("triton") is None or os.environ.get("INTERP_CNN_TRITON") == "0":
        return False
    try:
        agrees = agrees_with_torch(device, dtype)
    except Exception as error:  # a compiler on somebody's machine: anything may be raised
        logger.info(
            "occlusion: torch's own kernels, because Triton fails (%s: %s)", type(error).__name__, error
        )
        return False
    if not agrees:
        logger.warning("occlusion: torch's own kernels, because Triton's result differs from torch's")
    return agrees


def agrees_with_torch(device: torch.device, dtype: torch.dtype) -> bool:
    """Compute a few small frames with the kernel and with torch."""
    delta = torch.linspace(-1, 1, 2 * 3 * 2 * 3 * 5, device=device).view(2, 3, 2, 3, 5).sin().to(dtype)
    negated = torch.linspace(-9, 9, 2 * 4 * 5 * 5, device=device).view(2, 4, 5, 5).cos().to(dtype)
    lines = torch.tensor([0, 5, 7, 12, 1, 6, 20, 25, 22, 27, 26, 31], device=device)
    computed = rectified(delta, negated, lines, overwrite=False)
    cells = lines[:, None] + torch.arange(3, device=device)
    below = negated.view(-1, 5)[cells].view(2, 3, 2, 3, 5)
    expected = torch.maximum(delta, below).sub_(below.clamp(min=0))
    rounding = torch.finfo(dtype).eps
    return torch.allclose(computed, expected, rtol=rounding, atol=rounding)
