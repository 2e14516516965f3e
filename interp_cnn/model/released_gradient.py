"""The update of the released code (zqs1022/interpretableCNN), as a gradient of the mutual information.

Per filter, weights exp(s)(s - log E exp(s) + 1) normalised to mean 1, times the template of the peak on images of the
filter's category and times -1 on the others.
"""

import math

import torch
from torch import Tensor


def released_gradient(
    maps: Tensor, templates: Tensor, positions: Tensor, block: slice, own: Tensor, gain: Tensor
) -> Tensor:
    """The released code's update as the gradient of MI, up to its constant 1e-5 / epoch.

    Args:
        maps: (B, c, h*w) of a block of filters.
        templates: (T, h*w), or (c, T, h*w) one set for each filter.
        positions: (B, D) flat cell of each map's part, of all filters.
        block: which of them the maps are.
        own: (B, c) bool: the image is of the filter's category.
        gain: (c,) nats per unit of score.

    Returns:
        (B, c, h*w).
    """
    gain, own = gain.to(maps.dtype), own.to(maps.dtype)
    template = _templates_at(templates, positions[:, block])  # (B, c, h*w)
    score = (maps * template).sum(-1) * gain
    # The code pairs every map with the template of another filter and image (both axes reversed) to estimate Z.
    foreign_template = _templates_at(templates, positions.flip(0, 1)[:, block])
    foreign = _local_log_mean_exp((maps * foreign_template).sum(-1) * gain)
    negative_score = -maps.sum(-1) * gain
    negative_partition = _local_log_mean_exp(negative_score)
    strength = _normalised_strength(score, foreign, own)
    negative_strength = _normalised_strength(negative_score, negative_partition, 1 - own)
    density = own.mean(0).clamp(0.02, 0.98)
    gradient = template * (strength * own * (0.5 / density))[..., None]
    gradient -= (negative_strength * (1 - own) * (0.5 / (1 - density)))[..., None]
    return gradient


def _normalised_strength(score: Tensor, log_partition: Tensor, members: Tensor) -> Tensor:
    """exp(s)(s - log Z + 1) divided by its mean over the member images, (B, c)."""
    strength = (score - score.amax(0)).exp() * (score - log_partition + 1)
    mean = (strength * members).sum(0) / members.sum(0).clamp(min=1)
    safe = torch.where(mean.abs() < 1e-12, torch.full_like(mean, 1e-12), mean)
    return strength / safe


def _templates_at(templates: Tensor, positions: Tensor) -> Tensor:
    if templates.dim() == 2:
        return templates[positions]
    return templates[torch.arange(len(templates), device=positions.device), positions]


def _local_log_mean_exp(scores: Tensor) -> Tensor:
    return scores.logsumexp(0) - math.log(scores.shape[0])
