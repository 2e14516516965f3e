"""Mutual information between feature maps and part templates.

For one filter, x ranges over the feature maps of the images and T over the h * w positive templates and the
negative one. With the score s_xT = sum_ij x_ij t_ij,

    p(x|T) = exp(s_xT) / Z_T      Z_T = sum_x exp(s_xT)      p(x) = sum_T p(T) p(x|T)
    MI(X; T) = sum_T p(T) sum_x p(x|T) log(p(x|T) / p(x))                                       paper Eq. (1)
             = H(T) - H({T-, T+} | X) - sum_x p(T+, x) H(T+ | X = x)                            paper Eq. (5)

The loss is -MI: a filter is to fire at one place (low spatial entropy) in images of some kind and nowhere in the
others (low inter-category entropy). All is computed in log space and is finite for any finite scores; the value
lies in [0, min(log(h w + 1), log B)]. The unit is the nat.

Source: Zhang, Wu, Zhu, Interpretable Convolutional Neural Networks, CVPR 2018, sections 3.1-3.2.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class MutualInformation(NamedTuple):
    """The value of Eq. (1), its three terms of Eq. (5) and the posterior that they come from."""

    value: Tensor  # (D,) nats
    template_entropy: Tensor  # () or (D,) H(T), fixed by the prior
    category_entropy: Tensor  # (D,) H({T-, T+} | X)
    spatial_entropy: Tensor  # (D,) sum_x p(T+, x) H(T+ | X = x)
    posterior: Tensor  # (B, D, h*w + 1) p(T | x)


def mutual_information(feature_maps: Tensor, templates: Tensor, *, prior: Tensor | None = None) -> Tensor:
    """Mutual information of every filter, differentiable through the batch's partition function.

    Args:
        feature_maps: (B, D, h, w).
        templates: (h * w + 1, h, w), the negative template last (`part_templates`).
        prior: p(T), shape (h * w + 1,) or (D, h * w + 1), summing to 1; uniform by default, which is the paper's
            alpha = n^2 / (1 + n^2).

    Returns:
        (D,) in nats, between 0 and min(log(h w + 1), log B).

    Raises:
        ValueError: shapes that do not fit each other, or a prior that is not a distribution.
    """
    return mutual_information_terms(feature_maps, templates, prior=prior).value


def mutual_information_terms(
    feature_maps: Tensor, templates: Tensor, *, prior: Tensor | None = None
) -> MutualInformation:
    """As `mutual_information`, with the entropy terms of Eq. (5) and the posterior p(T | x)."""
    scores = template_scores(feature_maps, templates)  # (B, D, T)
    log_prior = log_prior_of(prior, scores)
    log_likelihood = scores.log_softmax(0)  # log p(x|T)
    log_joint = log_prior + log_likelihood  # log p(T, x)
    log_evidence = log_joint.logsumexp(-1, keepdim=True)  # log p(x)
    information = log_likelihood - log_evidence
    value = (log_joint.exp() * information).sum((0, 2))
    log_posterior = log_joint - log_evidence
    posterior, category_entropy, spatial_entropy = entropies(log_posterior, log_evidence.squeeze(-1).exp())
    return MutualInformation(
        value=value,
        template_entropy=-(log_prior.exp() * log_prior.clamp(min=-1e30)).sum(-1),
        category_entropy=category_entropy,
        spatial_entropy=spatial_entropy,
        posterior=posterior,
    )


def entropies(log_posterior: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p(T | x) (B, D, T) and the category and spatial entropies (D,) of Eq. (5), from log p(T | x) (B, D, T) and
    p(x) (B, D), which sums to 1 over the images.
    """
    posterior = log_posterior.exp()
    negative = posterior[..., -1]
    positive = posterior[..., :-1].sum(-1)
    category = _entropy(negative) + _entropy(positive)  # (B, D)
    whole = -(posterior * log_posterior.clamp(min=-1e30)).sum(-1)  # H(T | X = x)
    return posterior, (evidence * category).sum(0), (evidence * (whole - category)).sum(0)


def template_scores(feature_maps: Tensor, templates: Tensor) -> Tensor:
    """Scores s_xT = sum_ij x_ij t_ij of all maps at all templates, (B, D, T)."""
    if feature_maps.dim() != 4:
        raise ValueError(f"feature_maps has shape {tuple(feature_maps.shape)}; expected (B, D, h, w)")
    batch, filters, height, width = feature_maps.shape
    if tuple(templates.shape) != (height * width + 1, height, width):
        raise ValueError(
            f"templates has shape {tuple(templates.shape)}; "
            f"maps of {height} x {width} cells need {(height * width + 1, height, width)}"
        )
    return (
        feature_maps.reshape(batch, filters, height * width) @ templates.flatten(1).to(feature_maps.dtype).T
    )


def log_prior_of(prior: Tensor | None, scores: Tensor) -> Tensor:
    """Logarithm of p(T) with the shape (T,) or (D, T); uniform when not given."""
    _, filters, templates = scores.shape
    if prior is None:
        return scores.new_full((templates,), -math.log(templates))
    if tuple(prior.shape) not in ((templates,), (filters, templates)):
        raise ValueError(
            f"prior has shape {tuple(prior.shape)}; expected {(templates,)} or {(filters, templates)}"
        )
    total = prior.sum(-1)
    if bool((prior < 0).any()) or not torch.allclose(total, torch.ones_like(total), atol=1e-4):
        raise ValueError("prior is not a distribution: its values must be at least 0 and sum to 1")
    return prior.to(scores.dtype).log()


def _entropy(probability: Tensor) -> Tensor:
    """The summand -p log p, 0 at p = 0."""
    return -torch.special.xlogy(probability, probability)
