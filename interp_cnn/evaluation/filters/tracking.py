"""Tracking gain: how much steadier a filter is than the best fixed spot, on the very same images.

    gain_f = 1 - instability(f) / min_c instability(c, the images on which f is judged)

where c runs over the cells of the layer and "instability of c" is that of a filter that always answers cell
c. It is 0 for a filter that is no better than a constant, 1 for one that keeps its distance to every landmark
exactly, and negative for one that wanders. No constant can have a positive gain, which location instability
alone does not promise.

Distances see one direction only: a constant far to the side of a landmark that varies up and down keeps its
distance, and a filter that finds the landmark but for a little noise in all directions seems no better. The
offset gain takes the whole offset, landmark - position, a vector:

    offset gain_fk = 1 - spread(landmark_k - position) / spread(landmark_k)

with spread = sqrt(variance of rows + variance of columns). Every constant has exactly 0, no search needed; a
filter at a fixed offset from the landmark has 1. A filter's figure is that of the landmark it follows best.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_cnn.evaluation.filters.location_instability import (
    CHUNK,
    check_observations,
    landmark_distances,
    location_instability,
    mean_over_parts,
    selections,
    standard_deviation,
    strongest_images,
)


def tracking_gain(
    positions: Tensor,
    scores: Tensor,
    landmarks: Tensor,
    cells: Tensor,
    *,
    diagonal: float,
    top_images: int = 100,
) -> Tensor:
    """Tracking gain (D,) of each filter, float64.

    The arguments are those of `location_instability`, and `cells` (M, 2), in pixels, are the constant answers
    to compare with: `ReceptiveField.cell_centres()`. NaN for a filter without an instability, and where a
    constant is perfect and the filter is not.
    """
    options = {"diagonal": diagonal, "top_images": top_images}
    instability = location_instability(positions, scores, landmarks, **options)
    constant, _ = best_constant(scores, landmarks, cells, **options)
    return gain_over(instability, constant)


def gain_over(instability: Tensor, baseline: Tensor) -> Tensor:
    """1 - instability / baseline; 0 where both vanish, NaN where only the baseline does."""
    gain = 1 - instability / baseline
    both = (instability == 0) & (baseline == 0)
    return torch.where(both, 0.0, gain).where(both | (baseline > 0), torch.nan)


def best_constant(
    scores: Tensor, landmarks: Tensor, cells: Tensor, *, diagonal: float, top_images: int = 100
) -> tuple[Tensor, Tensor]:
    """The best fixed spot on each filter's own images.

    The arguments are those of `tracking_gain`. Returns its instability, (D,) float64, and its number in
    `cells`, (D,) int64.
    """
    spreads = constant_spreads(scores, landmarks, cells, diagonal=diagonal, top_images=top_images)
    return smallest(mean_over_parts(spreads))


def constant_spreads(
    scores: Tensor, landmarks: Tensor, cells: Tensor, *, diagonal: float, top_images: int = 100
) -> Tensor:
    """(P, D, M) standard deviation s_fk of every constant answer: every cell is tried, in one product per
    landmark.
    """
    if cells.ndim != 2 or cells.shape[1] != 2 or len(cells) == 0:
        raise ValueError(f"cells has shape {tuple(cells.shape)}; expected (M, 2) with at least one cell")
    if scores.ndim != 2 or landmarks.ndim != 3 or len(scores) != len(landmarks):
        raise ValueError(
            f"scores {tuple(scores.shape)}, landmarks {tuple(landmarks.shape)}; expected (N, D), (N, P, 2)"
        )
    shape = (landmarks.shape[1], scores.shape[1], len(cells))
    spreads = torch.zeros(shape, dtype=torch.float64, device=scores.device)
    for part in range(landmarks.shape[1]):
        known = landmarks[:, part].isfinite().all(dim=1)
        order = strongest_images(scores[known], top_images)  # (m, D)
        columns = []
        for some in cells.split(max(1, CHUNK // max(1, int(known.sum())))):
            distances = landmark_distances(some, landmarks[known, part], diagonal)  # (n, m)
            # A difference of squares cancels: centred, it keeps its digits.
            columns.append(_constants_spread(distances - distances.mean(dim=0), order))
        spreads[part] = torch.cat(columns, dim=1)
    return spreads


def smallest(spreads: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest of `spreads` (..., M) along the last axis, and where; NaN where there is none."""
    best = spreads.nan_to_num(nan=torch.inf).min(dim=-1)
    return best.values.where(best.values.isfinite(), torch.nan), best.indices


def _constants_spread(distances: Tensor, order: Tensor) -> Tensor:
    """(D, M) standard deviation of every cell's `distances` (n, M) over every filter's images `order` (m,
    D).
    """
    count, filters = order.shape
    chosen = torch.zeros(filters, len(distances), dtype=torch.float64, device=distances.device)
    chosen.scatter_(1, order.T, 1.0)
    sums, squares = chosen @ distances, chosen @ distances.square()  # (D, M)
    if count < 2:
        return torch.full_like(sums, torch.nan)
    return ((squares - sums.square() / count).clamp(min=0) / (count - 1)).sqrt()


def offset_spreads(
    positions: Tensor,
    scores: Tensor,
    landmarks: Tensor,
    weights: Tensor | None,
    *,
    diagonal: float,
    top_images: int = 100,
) -> tuple[Tensor, Tensor]:
    """Spread of offsets and of landmarks, both (P, R, D), over each filter's strongest images.

    The arguments are those of `instability_per_part`.
    """
    check_observations(positions, scores, landmarks, diagonal, top_images)
    if weights is None:
        weights = torch.ones(1, len(scores), device=scores.device)
    shape = (2, landmarks.shape[1], len(weights), scores.shape[1])
    spreads = torch.zeros(shape, dtype=torch.float64, device=scores.device)
    for part in range(landmarks.shape[1]):
        known = landmarks[:, part].isfinite().all(dim=1)
        order = scores[known].argsort(dim=0, descending=True, stable=True)
        places = landmarks[known, part].double().unsqueeze(1) / diagonal  # (n, 1, 2)
        offsets = places - positions[known].double() / diagonal  # (n, D, 2)
        rows = []
        for counts, chosen in selections(order, weights[:, known], top_images):
            axes = [
                [standard_deviation(values[..., axis].gather(0, chosen), counts) for axis in (0, 1)]
                for values in (offsets, places.expand_as(offsets))
            ]
            rows.append(torch.stack([torch.hypot(*pair) for pair in axes]))
        spreads[:, part] = torch.cat(rows, dim=1)
    return spreads[0], spreads[1]
