"""More about a filter than where it looks: what it says about the label, and whether it says anything of its
own.

- category selectivity: (highest category mean - mean of the others) / (their sum) (Morcos, Barrett,
    Rabinowitz, Botvinick,
  "On the Importance of Single Directions for Generalization", ICLR 2018).
- mutual information with the label: MI of the score, in bins of equal count, with "is it category c", in
    nats; the
  network's figure is mean_k max_c (Liang et al., "Training Interpretable Convolutional Neural Networks by
  Differentiating Class-specific Filters", ECCV 2020). Binned samples overestimate it, by about (bins - 1) /
  2N: read it beside its null, the same with the labels shuffled.
- concentration: the share of a map's mass within a template's width of its peak.
- dead: the filter is silent on every image.
- redundancy: the highest |correlation| of its scores with another filter's; and for a network the effective
    number of
  filters, exp of the entropy of the correlation matrix' spectrum (Roy, Vetterli, "The Effective Rank",
  EUSIPCO 2007).
- coverage: how many different parts have a filter, and how many filters each part has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from interp_cnn.explanation.network.feature_maps import peaks

BINS = 10


def category_means(scores: Tensor, labels: Tensor, categories: int) -> Tensor:
    """(K, D) float64 mean of `scores` (N, D) per category; NaN for a category without images."""
    sums = torch.zeros(categories, scores.shape[1], dtype=torch.float64)
    sums.index_add_(0, labels, scores.double())
    return sums / torch.bincount(labels, minlength=categories).double().unsqueeze(1)


def category_selectivity(means: Tensor) -> Tensor:
    """(D,) in [0, 1] from category `means` (K, D) >= 0: 0 for equal means, 1 for one category alone; NaN if
    all vanish.
    """
    means = means[means.isfinite().all(dim=1)]
    if len(means) < 2:
        return torch.full(means.shape[1:], torch.nan, dtype=means.dtype)
    highest = means.amax(dim=0)
    others = (means.sum(dim=0) - highest) / (len(means) - 1)
    return (highest - others) / (highest + others)


def label_information(scores: Tensor, labels: Tensor, categories: int, *, bins: int = BINS) -> Tensor:
    """(D, K) mutual information, in nats, of each filter's binned score with "is it category k".

    Args:
        scores: (N, D).
        labels: (N,) int64.
        categories: K.
        bins: of about equal count; equal scores share a bin, so that a silent filter has no information.
    """
    if bins < 2:
        raise ValueError(f"bins is {bins}; expected at least 2")
    images, filters = scores.shape
    binned = _equal_count_bins(scores, bins)  # (N, D)
    joint = torch.zeros(filters * bins * categories, dtype=torch.float64)
    places = (torch.arange(filters) * bins + binned) * categories + labels.unsqueeze(1)
    joint.index_add_(0, places.flatten(), torch.ones(places.numel(), dtype=torch.float64))
    inside = joint.reshape(filters, bins, categories) / images  # p(bin, k)
    either = inside.sum(dim=2, keepdim=True)  # p(bin)
    share = inside.sum(dim=1, keepdim=True)  # p(k)
    outside = (either - inside).clamp(min=0)  # p(bin, not k)
    return (
        (_pointwise(inside, either * share) + _pointwise(outside, either * (1 - share)))
        .sum(dim=1)
        .clamp(min=0)
    )


def concentration(maps: Tensor, *, width: float) -> tuple[Tensor, Tensor]:
    """Share of each map's positive mass within `width` cells of its peak.

    Args:
        maps: (B, D, h, w).
        width: in cells; a template with beta = 4 is positive up to a quarter of the grid.

    Returns:
        (B, D) shares, NaN for a silent map, and (B, D) bool, which maps are not silent.
    """
    height, columns = maps.shape[2:]
    positions, _ = peaks(maps)
    rows = torch.arange(height, device=maps.device) - positions[..., :1]  # (B, D, h)
    across = torch.arange(columns, device=maps.device) - positions[..., 1:]  # (B, D, w)
    near = rows.square().unsqueeze(3) + across.square().unsqueeze(2) <= width**2
    mass = maps.clamp(min=0).double()
    total = mass.sum(dim=(2, 3))
    alive = total > 0
    return ((mass * near).sum(dim=(2, 3)) / total).where(alive, torch.nan), alive


def score_correlations(chunks: Iterable[Tensor]) -> Tensor:
    """(D, D) Pearson correlations of scores that come as chunks (n, D) of the images; NaN for a filter whose
    score never changes.
    """
    images = 0
    origin = sums = products = torch.zeros((), dtype=torch.float64)
    for scores in chunks:
        if images == 0:
            origin = scores.double().mean(dim=0)  # near the mean, so that the sums keep their digits
        shifted = scores.double() - origin
        images += len(shifted)
        sums, products = sums + shifted.sum(dim=0), products + shifted.T @ shifted
    covariances = products - torch.outer(sums, sums) / images
    deviations = covariances.diagonal().clamp(min=0).sqrt()
    deviations = deviations.where(deviations > 1e-12, torch.nan)
    return (covariances / torch.outer(deviations, deviations)).clamp(-1, 1)


def redundancy(correlations: Tensor) -> Tensor:
    """(D,) highest |correlation| with another filter, from (D, D); NaN without one."""
    others = correlations.abs().clone().fill_diagonal_(torch.nan).nan_to_num(nan=-1.0)
    highest = others.amax(dim=1)
    return highest.where(highest >= 0, torch.nan)


def effective_filters(correlations: Tensor) -> float:
    """Effective number of different filters, between 1 and D, from (D, D); filters without variation do not
    count.
    """
    known = correlations.diagonal().isfinite()
    if not known.any():
        return 0.0
    spectrum = torch.linalg.eigvalsh(correlations[known][:, known]).clamp(min=0)
    shares = spectrum / spectrum.sum()
    return float((-(shares * shares.clamp(min=1e-300).log()).sum()).exp())


def part_coverage(part: Tensor, tracks: Tensor, parts: Sequence[str]) -> dict[str, int]:
    """Part name to number of filters that track it: "n filters cover m parts".

    Args:
        part: (D,) int64, each filter's best part, -1 for none.
        tracks: (D,) bool, whether it really tracks it (say, an interval of its gain above 0).
        parts: P names.
    """
    counts = torch.bincount(part[tracks & (part >= 0)], minlength=len(parts))
    return dict(zip(parts, counts.tolist(), strict=True))


def _equal_count_bins(scores: Tensor, bins: int) -> Tensor:
    """(N, D) bin by the number of images with a lower score: equal scores are together."""
    ordered = scores.T.contiguous().sort(dim=1).values
    lower = torch.searchsorted(ordered, scores.T.contiguous())  # (D, N)
    return (lower * bins // len(scores)).T


def _pointwise(joint: Tensor, product: Tensor) -> Tensor:
    """P log(p / q), 0 where p is 0."""
    return torch.special.xlogy(joint, joint) - torch.special.xlogy(joint, product.clamp(min=1e-300))
