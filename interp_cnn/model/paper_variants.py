"""What the publication and its released code do otherwise, in one place; the defaults are elsewhere and simpler.

Publication (Zhang, Wu, Zhu, Interpretable Convolutional Neural Networks, CVPR 2018)
    gradient="frozen_partition"   dMI/ds_xT = p(T) u_xT r_xT / B: Eq. (4) with its sign corrected, Z held still
    gradient="target_template"    the same for one template of each image, `at_one_template`
    assignment="sum"              a filter's category by the sums of its maps, `response_of`
    schedule="inverse_epoch"      the loss weighs 1 / epoch, `inverse_epoch`
Released code (zqs1022/interpretableCNN)
    gradient="released_code"      `released_gradient`
    beta_rule="spread"            templates as wide as the maps, `beta_of_spread`

u, r and s as in `layer_information`. They are here for those who repeat the publication; each has a test of what it
changes.
"""

import math

import torch
from torch import Tensor

from interp_cnn.model.distributed import mean_over_ranks
from interp_cnn.model.templates import distance_kernel, peak_positions, windows_at

LABEL_BASED = ("target_template", "released_code")  # need the images' labels
GRADIENTS = ("autograd", "frozen_partition", *LABEL_BASED)
ASSIGNMENTS = ("maximum", "sum")
SCHEDULES = ("warmup", "inverse_epoch")
BETA_RULES = ("fixed", "spread")


def inverse_epoch(ratio: float, epoch: float) -> float:
    """The weight after so many (fractional) epochs: ratio / epoch, counted from 1."""
    return ratio / (int(epoch) + 1.0)


def response_of(feature_maps: Tensor, rule: str) -> Tensor:
    """How strongly filters answer, from their maps (B, D, h, w): the paper's "sum" or the code's "maximum", (B, D)."""
    return feature_maps.amax((2, 3)) if rule == "maximum" else feature_maps.sum((2, 3))


def beta_of_spread(feature_maps: Tensor) -> Tensor:
    """The released code's steepness, for templates as wide as the maps (B, D, h, w) spread about their centres: (D,).

    The code works in coordinates from -1 to 1 and aims at 3 / (spread in cells), held in [1.5, 3]; that is twice as
    much in units of the larger side.
    """
    maps = feature_maps.float()
    height, width = maps.shape[2:]
    centres = peak_positions(maps, position="centroid")
    distances = distance_kernel(height, width, device=maps.device) * max(height, width)
    squared = windows_at(distances, centres, height, width).square()
    mass = maps.sum((2, 3))
    spread = ((squared * maps).sum((2, 3)) / mass.clamp(min=1e-9)).sqrt()  # (B, D) cells
    moment, weight = (mean_over_ranks(sums) for sums in ((spread * mass).sum(0), mass.sum(0)))  # (D,)
    mean_spread = moment / weight.clamp(min=1e-9)
    return 2 * (3 / mean_spread.clamp(min=1e-3)).clamp(1.5, 3.0)


def at_one_template(weights: Tensor, positions: Tensor, members: Tensor) -> Tensor:
    """The paper's approximation of Eq. (4): of the weights (B, c, T) of all templates one is kept for each map.

    Args:
        weights: gradient of the scores, the negative template last.
        positions: (B, c) flat cell of each map's part: the template on images of the filter's category.
        members: (B, c) bool: the image is of that category; the negative template on the others.
    """
    last = weights.shape[-1] - 1
    target = torch.where(members, positions, last)[..., None]
    return torch.zeros_like(weights).scatter_(-1, target, weights.gather(-1, target))


def released_gradient(
    maps: Tensor, templates: Tensor, positions: Tensor, block: slice, members: Tensor, gain: Tensor
) -> Tensor:
    """The released code's update as the gradient of MI, up to its constant 1e-5 / epoch.

    Per filter, weights exp(s)(s - log E exp(s) + 1) normalised to mean 1, times the template of the peak on images of
    the filter's category and times -1 on the others.

    Args:
        maps: (B, c, h*w) of a block of filters.
        templates: (T, h*w), or (c, T, h*w) one set for each filter.
        positions: (B, D) flat cell of each map's part, of all filters.
        block: which of them the maps are.
        members: (B, c) bool: the image is of the filter's category.
        gain: (c,) nats per unit of score.

    Returns:
        (B, c, h*w).
    """
    gain, members = gain.to(maps.dtype), members.to(maps.dtype)
    template = _templates_at(templates, positions[:, block])  # (B, c, h*w)
    score = (maps * template).sum(-1) * gain
    # The code pairs every map with the template of another filter and image (both axes reversed) to estimate Z.
    foreign_template = _templates_at(templates, positions.flip(0, 1)[:, block])
    foreign = _local_log_mean_exp((maps * foreign_template).sum(-1) * gain)
    negative_score = -maps.sum(-1) * gain
    negative_partition = _local_log_mean_exp(negative_score)
    strength = _normalised_strength(score, foreign, members)
    negative_strength = _normalised_strength(negative_score, negative_partition, 1 - members)
    density = members.mean(0).clamp(0.02, 0.98)
    gradient = template * (strength * members * (0.5 / density))[..., None]
    gradient -= (negative_strength * (1 - members) * (0.5 / (1 - density)))[..., None]
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
