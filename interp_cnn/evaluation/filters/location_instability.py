"""Location instability: how steadily a filter's peak keeps its distance to the landmarks of an object.

For filter f, image I and landmark k,  d = ||landmark - position|| / diagonal,  where the position is the
receptive-field centre of the peak. Over the filter's `top_images` strongest images that have the landmark:
s_fk = std(d), with N - 1. The instability of f is the mean of s_fk over landmarks; that of a network the mean
over filters (Zhang, Wu, Zhu, "Interpretable Convolutional Neural Networks", CVPR 2018, section 4.2; released
code, `getStability`).

With several categories a filter is judged on the images of one of them. Which one differs: the paper takes
the category with the smallest instability (biased low for every network), the released code the one with the
highest mean score; here it is the filter's assigned category (all three: `measure_network`).

The measure alone is gameable: a filter that always answers "the image centre" beats published networks. Read
it beside `tracking`, which compares it with the best fixed spot on the same images.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Elements of the largest temporary: 16 MB in float64.
CHUNK = 2_000_000


def location_instability(
    positions: Tensor, scores: Tensor, landmarks: Tensor, *, diagonal: float, top_images: int = 100
) -> Tensor:
    """Location instability of each filter.

    Args:
        positions: (N, D, 2) inferred positions in pixels, (row, column).
        scores: (N, D) the maps' maxima; they decide which images are a filter's strongest. Of equal scores
            the earlier image counts first.
        landmarks: (N, P, 2) pixels, NaN where unknown.
        diagonal: of the input image, in pixels.
        top_images: number of strongest images per landmark; fewer where fewer have it.

    Returns:
        (D,) float64; NaN for a filter with fewer than two images for every landmark.

    Example:
        >>> landmarks = torch.tensor([[[2.0, 3.0]], [[5.0, 1.0]], [[4.0, 4.0]]])  # 3 images, 1 landmark
        >>> positions = landmarks + torch.tensor([1.0, 0.0])  # a filter that stays one pixel below it
        >>> location_instability(positions, torch.ones(3, 1), landmarks, diagonal=10.0).round(decimals=6)
        tensor([0.], dtype=torch.float64)
    """
    per_part = instability_per_part(
        positions, scores, landmarks, None, diagonal=diagonal, top_images=top_images
    )
    return mean_over_parts(per_part).squeeze(0)


def instability_per_part(
    positions: Tensor,
    scores: Tensor,
    landmarks: Tensor,
    weights: Tensor | None,
    *,
    diagonal: float,
    top_images: int = 100,
) -> Tensor:
    """The s_fk (P, R, D) whose mean over landmarks is the instability, under resamplings of the images.

    The arguments are those of `location_instability`, and `weights` (R, N) says how often each image occurs
    in each resampling; None stands for every image once (R = 1).
    """
    check_observations(positions, scores, landmarks, diagonal, top_images)
    replicates = 1 if weights is None else len(weights)
    spreads = positions.new_zeros(landmarks.shape[1], replicates, scores.shape[1], dtype=torch.float64)
    for part in range(landmarks.shape[1]):
        known = landmarks[:, part].isfinite().all(dim=1)
        known_positions, places = positions[known], landmarks[known, part]
        if weights is None:
            chosen = strongest_images(scores[known], top_images)  # (m, D)
            offset = (
                known_positions.gather(0, chosen.unsqueeze(2).expand(-1, -1, 2)).double()
                - places[chosen].double()
            )
            strongest = torch.hypot(offset[..., 0], offset[..., 1]) / diagonal
            spreads[part] = standard_deviation(strongest, torch.ones_like(strongest).unsqueeze(0))
            continue
        order = scores[known].argsort(dim=0, descending=True, stable=True)  # (n, D), strongest first
        distances = landmark_distances(known_positions, places, diagonal)  # (n, D)
        chunks = selections(order, weights[:, known], top_images)
        spreads[part] = torch.cat(
            [standard_deviation(distances.gather(0, chosen), counts) for counts, chosen in chunks]
        )
    return spreads


def strongest_category(
    scores: Tensor, labels: Tensor, categories: int, *, background: int | None = None
) -> Tensor:
    """(D,) int64: the category with the highest mean of `scores` (N, D), never `background`; -1 for a dead
    filter.
    """
    sums = torch.zeros(categories, scores.shape[1], dtype=torch.float64)
    sums.index_add_(0, labels.cpu(), scores.double().cpu())
    counts = torch.bincount(labels.cpu(), minlength=categories).double().unsqueeze(1)  # (K, 1)
    means = (sums / counts).nan_to_num(nan=-torch.inf)  # (K, D)
    if background is not None:
        means[background] = -torch.inf
    best = means.argmax(dim=0)
    alive = scores.amax(dim=0).cpu() > 0
    return best.where(alive, -1)


def check_observations(
    positions: Tensor, scores: Tensor, landmarks: Tensor, diagonal: float, top_images: int
) -> None:
    """One ValueError for shapes that do not belong together, or numbers that are not positive."""
    images, filters = scores.shape if scores.ndim == 2 else (-1, -1)
    if (
        tuple(positions.shape) != (images, filters, 2)
        or landmarks.ndim != 3
        or landmarks.shape[::2] != (images, 2)
    ):
        raise ValueError(
            f"positions {tuple(positions.shape)}, scores {tuple(scores.shape)}, landmarks {tuple(landmarks.shape)}; "
            "expected (N, D, 2), (N, D), (N, P, 2)"
        )
    if not diagonal > 0:
        raise ValueError(f"diagonal is {diagonal}; expected a positive number of pixels")
    if top_images < 2:
        raise ValueError(
            f"top_images is {top_images}; expected at least 2, a standard deviation needs two images"
        )


def landmark_distances(positions: Tensor, landmark: Tensor, diagonal: float) -> Tensor:
    """(N, M) float64 distances of `positions` (N, M, 2) or (M, 2) to `landmark` (N, 2), over the diagonal."""
    offset = positions.double() - landmark.double().unsqueeze(1)
    return torch.hypot(offset[..., 0], offset[..., 1]) / diagonal


def strongest_images(scores: Tensor, top_images: int) -> Tensor:
    """(m, D) indices of each filter's `top_images` strongest images of `scores` (n, D), in any order.

    Of equal scores the earlier image counts first: a full, stable sort, but only where a tie lies on the
    boundary.
    """
    images, filters = scores.shape
    if images <= top_images:
        return torch.arange(images, device=scores.device).unsqueeze(1).expand(-1, filters)
    columns = scores.T.contiguous()  # (D, n)
    values, chosen = columns.topk(top_images, dim=1, sorted=False)
    tied = (columns >= values.amin(dim=1, keepdim=True)).sum(dim=1) > top_images
    if bool(tied.any()):
        chosen[tied] = columns[tied].argsort(dim=1, descending=True, stable=True)[:, :top_images]
    return chosen.T


def selections(order: Tensor, weights: Tensor, top_images: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For chunks of the resamplings: how often each of a filter's images counts among its `top_images`
    strongest draws.

    Args:
        order: (n, D) image indices, strongest first.
        weights: (R, n) how often each image was drawn.
        top_images: draws to take; the last image may count in part.

    Yields:
        (r, m, D) float64 counts, and the (m, D) image indices that they belong to.
    """
    images, filters = order.shape
    # A resampling draws each image about once, so that the first 2 T + 50 nearly always hold T draws; if not, take all.
    kept = min(2 * top_images + 50, images)
    size = max(1, CHUNK // max(1, kept * filters))
    for part in weights.split(size):
        counts = _first_draws(part, order[:kept], top_images)
        if kept < images and bool((counts.sum(dim=1) < top_images).any()):
            for row in part:
                yield _first_draws(row.unsqueeze(0), order, top_images), order
        else:
            yield counts, order[:kept]


def mean_over_parts(per_part: Tensor) -> Tensor:
    """Mean over the first axis of the landmarks that have a value; NaN where none has."""
    return per_part.nanmean(dim=0)


def _first_draws(weights: Tensor, order: Tensor, top_images: int) -> Tensor:
    counts = weights[:, order].double()  # (r, m, D)
    before = counts.cumsum(dim=1) - counts
    return torch.minimum(counts, (top_images - before).clamp(min=0))


def standard_deviation(values: Tensor, counts: Tensor) -> Tensor:
    """(R, D) standard deviation of `values` (m, D), each counted `counts` (R, m, D) times; NaN below two
    images.

    For counts of 0 and 1 this is the usual one with N - 1. An image drawn twice has no spread with itself:
    the variance is half the mean squared difference over pairs of draws of *different* images, which
    bootstrap rows do not bias.
    """
    total = counts.sum(dim=1)
    mean = (counts * values).sum(dim=1) / total
    squares = (counts * (values - mean.unsqueeze(1)).square()).sum(dim=1)
    freedom = total - counts.square().sum(dim=1) / total
    return (squares / freedom).sqrt().where(freedom > 1e-9, torch.nan)
