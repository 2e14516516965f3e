"""Part-tracking gain: how much steadier a filter is than the best fixed spot, on the very same images.

    gain_f = 1 - instability(f) / min_c instability(c, the images on which f is judged)

where c runs over the cells of the layer and "instability of c" is that of a filter that always answers cell
c. It is 0 for a filter that is no better than a constant, 1 for one that keeps its distance to every landmark
exactly, and negative for one that wanders. No constant can have a positive gain, which location instability
alone does not promise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_cnn.evaluation.location_instability import (
    CHUNK,
    check_observations,
    instability_replicates,
    landmark_distances,
    mean_over_parts,
    selections,
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
    """Part-tracking gain (D,) of each filter, float64.

    The arguments are those of `location_instability`, and `cells` (M, 2), in pixels, are the constant answers
    to compare with: `ReceptiveField.cell_centres()`. NaN for a filter without an instability, and where a
    constant is perfect and the filter is not.
    """
    options = {"diagonal": diagonal, "top_images": top_images}
    own = instability_replicates(positions, scores, landmarks, None, **options)
    constant, _ = best_constant_replicates(positions, scores, landmarks, cells, None, **options)
    return gain_over(own, constant).squeeze(0)


def gain_over(instability: Tensor, baseline: Tensor) -> Tensor:
    """1 - instability / baseline; 0 where both vanish, NaN where only the baseline does."""
    gain = 1 - instability / baseline
    both = (instability == 0) & (baseline == 0)
    return torch.where(both, 0.0, gain).where(both | (baseline > 0), torch.nan)


def best_constant_replicates(
    positions: Tensor,
    scores: Tensor,
    landmarks: Tensor,
    cells: Tensor,
    weights: Tensor | None,
    *,
    diagonal: float,
    top_images: int = 100,
) -> tuple[Tensor, Tensor]:
    """Instability of the best constant cell on each filter's own images, under resamplings of the images.

    The arguments are those of `instability_replicates`, with `cells` (M, 2) in pixels. Returns (R, D)
    float64, the instability of the best cell, and (R, D) int64, which one it is.
    """
    check_observations(positions, scores, landmarks, diagonal, top_images)
    if cells.ndim != 2 or cells.shape[1] != 2 or len(cells) == 0:
        raise ValueError(f"cells has shape {tuple(cells.shape)}; expected (M, 2) with at least one cell")
    images = len(scores)
    drawn = torch.ones(1, images, dtype=torch.float64, device=scores.device) if weights is None else weights
    spreads = []
    for part in range(landmarks.shape[1]):
        known = landmarks[:, part].isfinite().all(dim=1)
        order = scores[known].argsort(dim=0, descending=True, stable=True)
        distances = landmark_distances(cells, landmarks[known, part], diagonal)  # (n, M)
        # The rest cancels squares: centred, the difference of sums keeps its digits.
        distances = distances - distances.mean(dim=0)
        spreads.append(_constants_spread(distances, order, drawn[:, known], top_images))
    best = mean_over_parts(torch.stack(spreads)).nan_to_num(nan=torch.inf).min(dim=2)  # over (R, D, M)
    return best.values.where(best.values.isfinite(), torch.nan), best.indices


def _constants_spread(distances: Tensor, order: Tensor, weights: Tensor, top_images: int) -> Tensor:
    """(R, D, M) standard deviation of every cell's `distances` (n, M) on every filter's strongest images."""
    images, cells = distances.shape
    moments = torch.cat((distances, distances.square()), dim=1)  # (n, 2 M)
    rows = []
    for counts, chosen in selections(order, weights, top_images):
        for part in counts.split(max(1, CHUNK // max(1, order.shape[1] * images))):
            dense = torch.zeros(
                len(part), images, order.shape[1], dtype=torch.float64, device=distances.device
            )
            dense.scatter_(1, chosen.expand_as(part), part)
            sums = dense.transpose(1, 2) @ moments  # (r, D, 2 M)
            total = dense.sum(dim=1).unsqueeze(2)  # (r, D, 1)
            squares = sums[..., cells:] - sums[..., :cells].square() / total
            variance = squares.clamp(min=0) / (total - 1)
            rows.append(variance.sqrt().where(total >= 2, torch.nan))
    return torch.cat(rows)
