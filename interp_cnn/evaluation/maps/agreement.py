"""How alike two relevance maps are by structure (SSIM); by rank, `statistics.rank_correlation` says it.

SSIM: Z. Wang et al., IEEE TIP 2004, with its Gaussian window of 11 x 11 pixels (sigma 1.5), on maps that are brought to
[-1, 1] by their largest value, since maps of different methods have different units.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA, RANGE = 11, 1.5, 2.0


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Mean SSIM of two maps (B, H, W), each scaled by its largest value: (B,)."""
    side = min(WINDOW, *(n - 1 + n % 2 for n in first.shape[1:]))
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    weights = torch.exp(-(axis**2) / (2 * SIGMA**2))
    kernel = torch.outer(weights, weights)[None, None] / weights.sum() ** 2

    def local_mean(values: Tensor) -> Tensor:
        return F.conv2d(values[:, None], kernel)[:, 0]

    a, b = (_scaled(maps) for maps in (first, second))
    mean_a, mean_b = local_mean(a), local_mean(b)
    spread_a, spread_b = local_mean(a * a) - mean_a**2, local_mean(b * b) - mean_b**2
    together = local_mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    numerator = (2 * mean_a * mean_b + c1) * (2 * together + c2)
    return (numerator / ((mean_a**2 + mean_b**2 + c1) * (spread_a + spread_b + c2))).mean((1, 2))


def _scaled(maps: Tensor) -> Tensor:
    largest = maps.double().abs().amax((1, 2), keepdim=True)
    return maps.double() / torch.where(largest > 0, largest, 1.0)
