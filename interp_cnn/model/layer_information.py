"""The mutual information of a whole layer and its gradient, in little memory.

`mutual_information` keeps several (B, D, T) tensors for back-propagation. Here the layer is worked through in
blocks of filters; the forward pass keeps only what is (D, T), and the backward pass makes the scores again. With E
the mean over images, p(T) = 1 / (h w + 1), u_xT = exp(s_xT) / E exp(s_T), r_xT = log(u_xT / sum_T p(T) u_xT) and
R_T = E[u_T r_T],

    MI = sum_T p(T) R_T        dMI/ds_xT = p(T) u_xT (r_xT - R_T) / B

is the value and its exact gradient (`gradient="autograd"`). The gradients that the publication and its code use in
its place stand in `paper_variants`.

Source: Zhang, Wu, Zhu, Interpretable Convolutional Neural Networks, CVPR 2018, Eqs. (1), (4) and (5).
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional

from interp_cnn.model.distributed import world_size
from interp_cnn.model.mutual_information import entropies
from interp_cnn.model.paper_variants import (
    GRADIENTS,
    LABEL_BASED,
    at_one_template,
    released_gradient,
)
from interp_cnn.model.templates import template_distances, template_values

BLOCK_BYTES = 2 << 20  # of scores at once on a processor: what its caches hold
GPU_BLOCK_BYTES = 256 << 20  # on a GPU, where each further block costs a hundred launches of kernels


@dataclass(frozen=True)
class LayerInformation:
    """What `layer_information` needs besides the maps; one place for its many small inputs."""

    gain: Tensor  # (D,) nats per unit of score
    gradient: str = "autograd"
    norm: str = "l2"
    positions: Tensor | None = None  # (B, D) flat cell of each map's part, for the label-based gradients
    members: Tensor | None = None  # (B, D) bool: the image is of the filter's category
    across_ranks: bool = False  # images of all processes are one batch; all must call equally often
    images: float | None = None  # of all processes, where they were counted already

    @property
    def world_size(self) -> int:
        """Processes that share a batch."""
        return world_size() if self.across_ranks else 1


class InformationValues(NamedTuple):
    """Values of a layer; only the first is differentiable."""

    value: Tensor  # (D,) nats
    category_entropy: Tensor  # (D,)
    spatial_entropy: Tensor  # (D,)
    log_partition: Tensor  # (D, T) log E exp(s), for the backward pass


def layer_information(feature_maps: Tensor, beta: Tensor, settings: LayerInformation) -> InformationValues:
    """Mutual information of every filter of a layer.

    Args:
        feature_maps: (B, D, h, w), not negative.
        beta: () one steepness for all filters or (D,) one each; no gradient goes there.
        settings: everything else.

    Returns:
        The values; `value` carries the gradient named by `settings.gradient` to the maps.
    """
    if settings.gradient not in GRADIENTS:
        raise ValueError(f"gradient is {settings.gradient!r}; expected one of {', '.join(GRADIENTS)}")
    if settings.gradient in LABEL_BASED and (settings.members is None or settings.positions is None):
        raise ValueError(f"gradient {settings.gradient} needs the labels of the images and the positions")
    return InformationValues(*_LayerInformation.apply(feature_maps, beta, settings))


def information_and_gradient(
    feature_maps: Tensor, beta: Tensor, settings: LayerInformation
) -> tuple[InformationValues, Tensor]:
    """The values, and the gradient of minus their mean for the maps.

    The same numbers as `layer_information` and its backward pass, without autograd: what a recorded step computes.
    """
    values, reward, templates = _values(feature_maps, beta, settings)
    by_filter = values.value.new_full(values.value.shape, -1 / len(values.value))
    gradient = _gradient(
        feature_maps,
        beta,
        settings,
        values.log_partition,
        reward,
        shared=templates,
        grad_value=by_filter,
    )
    return values, gradient


class _LayerInformation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, feature_maps: Tensor, beta: Tensor, settings: LayerInformation):
        settings = replace(settings, images=_images_of_all_ranks(feature_maps, settings))  # counted once
        values, reward, _ = _values(feature_maps, beta, settings)
        ctx.settings = settings
        ctx.save_for_backward(feature_maps, beta, values.log_partition, reward)
        ctx.mark_non_differentiable(*values[1:])
        ctx.set_materialize_grads(False)  # no zeros for what has no gradient
        return tuple(values)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_value: Tensor | None, *unused):
        if grad_value is None:
            return None, None, None
        feature_maps, beta, log_partition, reward = ctx.saved_tensors
        with torch.autocast(feature_maps.device.type, enabled=False):
            templates = _shared_templates(feature_maps, beta, ctx.settings)
        gradient = _gradient(
            feature_maps,
            beta,
            ctx.settings,
            log_partition,
            reward,
            shared=templates,
            grad_value=grad_value,
        )
        return gradient, None, None


def _values(feature_maps: Tensor, beta: Tensor, settings: LayerInformation):
    """Values of a layer, (D, T) rewards, and the templates (T, h*w) where all filters share them, else None."""
    with torch.autocast(feature_maps.device.type, enabled=False):
        shared = _shared_templates(feature_maps, beta, settings)
        blocks = [
            _block_values(maps, templates, settings, block)
            for maps, templates, block in _blocks(feature_maps, beta, settings, shared)
        ]
    parts = blocks[0] if len(blocks) == 1 else [torch.cat(parts) for parts in zip(*blocks, strict=True)]
    return InformationValues(*parts[:-1]), parts[-1], shared


def _gradient(
    feature_maps: Tensor,
    beta: Tensor,
    settings: LayerInformation,
    log_partition: Tensor,
    reward: Tensor,
    *,
    shared: Tensor | None,
    grad_value: Tensor,
) -> Tensor:
    """Gradient (B, D, h, w) of the maps, from that of the values (D,)."""
    parts = []
    images_per_rank = _images_of_all_ranks(feature_maps, settings) / settings.world_size
    with torch.autocast(feature_maps.device.type, enabled=False):
        for maps, templates, block in _blocks(feature_maps, beta, settings, shared):
            scale = (grad_value[block] / images_per_rank)[:, None]
            if settings.gradient == "released_code":
                assert settings.positions is not None and settings.members is not None  # this gradient's own
                part = released_gradient(
                    maps,
                    templates,
                    settings.positions,
                    block,
                    settings.members[:, block],
                    settings.gain[block],
                )
                part = part * scale
            else:
                weights = _score_gradient(maps, templates, settings, block, log_partition, reward)
                weights *= scale * settings.gain[block][:, None]
                part = _to_maps(weights, templates)
            parts.append((block, part.unflatten(2, feature_maps.shape[2:])))
    if len(parts) == 1:
        return parts[0][1].to(feature_maps.dtype)
    gradient = torch.empty_like(feature_maps, memory_format=torch.contiguous_format)
    for block, part in parts:
        gradient[:, block] = part
    return gradient


def _shared_templates(feature_maps: Tensor, beta: Tensor, settings: LayerInformation) -> Tensor | None:
    if beta.dim():
        return None
    dtype = torch.promote_types(feature_maps.dtype, torch.float32)
    return _templates(beta, _distances(feature_maps, settings.norm, dtype))


def _blocks(feature_maps: Tensor, beta: Tensor, settings: LayerInformation, shared: Tensor | None):
    """Filters in blocks: maps (B, c, h*w) float, templates (T, h*w) or (c, T, h*w), slice.

    The same blocks on all ranks, also where one has fewer images: they wait for each other in every block.
    """
    _, filters, height, width = feature_maps.shape
    batch = max(1, math.ceil(_images_of_all_ranks(feature_maps, settings) / settings.world_size))
    cells = height * width
    dtype = torch.promote_types(feature_maps.dtype, torch.float32)
    bytes_per_filter = 4 * (batch * (cells + 1) + (0 if shared is not None else cells * cells))
    most = BLOCK_BYTES if feature_maps.device.type == "cpu" else GPU_BLOCK_BYTES
    size = max(1, min(filters, most // bytes_per_filter))
    for start in range(0, filters, size):
        block = slice(start, min(start + size, filters))
        maps = feature_maps[:, block].flatten(2).to(dtype)
        templates = shared
        if templates is None:
            distances = _distances(feature_maps, settings.norm, dtype)
            templates = _templates(beta[block, None, None], distances)
        yield maps, templates, block


def _templates(beta: Tensor, distances: Tensor) -> Tensor:
    """Templates (..., T, h*w) of a steepness () or (c, 1, 1), the negative one last."""
    positive = template_values(distances, beta.to(distances.dtype))
    return functional.pad(positive, (0, 0, 0, 1), value=-1.0)


def _distances(feature_maps: Tensor, norm: str, dtype: torch.dtype) -> Tensor:
    height, width = feature_maps.shape[2:]
    return template_distances(height, width, norm=norm, dtype=dtype, device=feature_maps.device).flatten(1)


def _scores(maps: Tensor, templates: Tensor, gain: Tensor) -> Tensor:
    """Scores in nats, (B, c, T)."""
    if templates.dim() == 2:
        return (maps @ templates.T).mul_(gain[:, None])
    return torch.einsum("bcx,ctx->bct", maps, templates).mul_(gain[:, None])


def _to_maps(weights: Tensor, templates: Tensor) -> Tensor:
    """Transpose of `_scores`: weights of templates (B, c, T) to gradients of maps (B, c, h*w)."""
    if templates.dim() == 2:
        return weights @ templates
    return torch.einsum("bct,ctx->bcx", weights, templates)


def _block_values(maps: Tensor, templates: Tensor, settings: LayerInformation, block: slice):
    log_likelihood = _scores(maps, templates, settings.gain[block].to(maps.dtype))
    log_prior = -math.log(log_likelihood.shape[-1])
    log_partition = log_mean_exp(log_likelihood, settings)  # (c, T)
    log_likelihood -= log_partition  # log u
    log_evidence = (log_likelihood + log_prior).logsumexp(-1, keepdim=True)
    information = log_likelihood - log_evidence  # r
    reward = _mean_over_images(log_likelihood.exp_().mul_(information), settings)  # (c, T), R
    value = (math.exp(log_prior) * reward).sum(-1)
    images = maps.shape[0]
    _, category_entropy, spatial_entropy = entropies(
        information.add_(log_prior), log_evidence.squeeze(-1).exp() / images
    )
    return value, category_entropy, spatial_entropy, log_partition, reward


def _score_gradient(maps, templates, settings, block, log_partition, reward) -> Tensor:
    """B dMI/ds, (B, c, T)."""
    log_likelihood = _scores(maps, templates, settings.gain[block].to(maps.dtype)).sub_(log_partition[block])
    log_prior = -math.log(log_likelihood.shape[-1])
    log_evidence = (log_likelihood + log_prior).logsumexp(-1, keepdim=True)
    information = log_likelihood - log_evidence
    if settings.gradient == "autograd":
        information -= reward[block]
    weights = (log_likelihood + log_prior).exp_().mul_(information)
    if settings.gradient == "target_template":
        assert settings.positions is not None and settings.members is not None  # this gradient's own
        weights = at_one_template(weights, settings.positions[:, block], settings.members[:, block])
    return weights


def _images_of_all_ranks(values: Tensor, settings: LayerInformation) -> float:
    if settings.world_size == 1:
        return float(values.shape[0])
    if settings.images is not None:
        return settings.images
    count = torch.tensor(float(values.shape[0]), device=values.device)
    distributed.all_reduce(count)
    return float(count)


def _mean_over_images(values: Tensor, settings: LayerInformation) -> Tensor:
    """Mean over the first axis and over all ranks."""
    total = values.sum(0)
    if settings.world_size > 1:
        distributed.all_reduce(total)
    return total / _images_of_all_ranks(values, settings)


def log_mean_exp(scores: Tensor, settings: LayerInformation) -> Tensor:
    """Log of the mean of exp over the first axis and over all ranks."""
    if settings.world_size == 1:
        peak = scores.amax(0)
    else:
        lowest = scores.new_full((1, *scores.shape[1:]), -torch.inf)
        peak = torch.cat([scores, lowest]).amax(0)  # also of no image, where a rank has none left
        distributed.all_reduce(peak, op=distributed.ReduceOp.MAX)
    return _mean_over_images((scores - peak).exp(), settings).log() + peak
