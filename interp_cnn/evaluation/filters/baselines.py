"""What location instability and tracking gain are worth: answers that need no network.

- random cell: a cell drawn afresh for every image.
- centre: the image centre, always. Beats every published interpretable CNN at location instability.
- best fixed spot: the one cell with the smallest instability on the images at hand; tracking gain 0 by
    construction.
- oracle: the true place of one landmark; judged, like a filter, by all of them.
- oracle, other part: the same, judged by the other landmarks only: what tracking one part says about another.
- oracle, jitter: the true place with Gaussian noise.
- mean place: where landmarks lie on average, on other images, for the regression of landmarks.

Every baseline is a set of imaginary filters, judged per category on as many images as a filter (drawn at
random). Networks give more baselines: their positions with the images shuffled (`shuffled_images`), and
untrained or mask-only networks, which are measured like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from interp_cnn.evaluation.filters.judge import Judge, Judgement
from interp_cnn.evaluation.filters.landmark_regression import (
    LandmarkErrors,
    images_to_learn_from,
    landmark_errors,
)
from interp_cnn.evaluation.filters.location_instability import CHUNK
from interp_cnn.evaluation.filters.part_windows import (
    PATCH,
    part_purity,
    parts_inside,
    presence_of_spots,
)
from interp_cnn.evaluation.filters.replicates import error_figure
from interp_cnn.evaluation.statistics import Estimate, Resampling, Sampled, resampling

# Imaginary filters per category: averages out which images and cells chance picks.
ANSWERS = 8
RANDOM_FILTERS = 64  # imaginary ones, for measures of all categories together
JITTER = 0.05

# Images at a time for which the answers of all categories are drawn.
IMAGES = 256

Row = dict[str, Estimate]


def baselines(judge: Judge, draws: Resampling, generator: torch.Generator) -> dict[str, Row]:
    """Baseline name to measure ("location_instability", "tracking_gain") to estimate.

    Args:
        judge: images and yardstick.
        draws: resampling of the same images.
        generator: for random cells, jitter, and the images that an imaginary filter likes best.
    """
    categories = judge.categories()
    if not categories:
        return {}
    shape = (len(categories), ANSWERS)
    scores = _own(judge, lambda n: torch.rand(n, *shape, generator=generator))
    chosen = _own(judge, lambda n: torch.randint(len(judge.cells), (n, *shape), generator=generator))
    wandering = _judged(judge, categories, judge.cells[chosen], scores, draws.rows)
    fixed = _judged(judge, categories, judge.centre.expand(len(scores), ANSWERS, 2), scores, draws.rows)
    best = replace(
        fixed,
        instability=fixed.best_constant,
        part_instability=fixed.part_constant,
        presence=_presence_of_spots(judge, categories, draws.rows),
    )
    rows = {
        "random_cell": judged_row(wandering, judge, draws),
        "centre": judged_row(fixed, judge, draws),
        "best_constant": judged_row(best, judge, draws),
    }
    rows |= _oracles(judge, draws, generator)
    more = (_regressed(judge, draws, generator), _purities(judge, draws, generator))
    for name, row in (pair for each in more for pair in each.items()):
        rows[name] = rows.get(name, {}) | row
    return rows


def shuffled_images(labels: Tensor, generator: torch.Generator) -> Tensor:
    """(N,) int64: for each image one of the same category (`labels` (N,)), each once: positions that are dealt so
    know no image.
    """
    dealt = torch.arange(len(labels))
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        dealt[members] = members[torch.randperm(len(members), generator=generator)]
    return dealt


def annotation_baselines(
    landmarks: Tensor,
    labels: Tensor,
    *,
    image_size: tuple[int, int],
    grid: tuple[int, int] = (14, 14),
    top_images: int = 100,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, Row]:
    """The baselines from annotations alone, without any network.

    Args:
        landmarks: (N, P, 2) pixels, NaN where unknown.
        labels: (N,) int64 categories.
        image_size: (H, W).
        grid: cells of the layer that is imagined, evenly spread over the image.
        top_images: images per imaginary filter.
        resamples: of the images, for the intervals.
        seed: of resampling and random answers.
    """
    spaced = [(torch.arange(n) + 0.5) * size / n - 0.5 for n, size in zip(grid, image_size, strict=True)]
    judge = Judge(landmarks, labels, torch.cartesian_prod(*spaced).reshape(-1, 2), image_size, top_images)
    draws = resampling(len(labels), resamples=resamples, seed=seed, strata=labels)
    return baselines(judge, draws, torch.Generator().manual_seed(seed))


def _oracles(judge: Judge, draws: Resampling, generator: torch.Generator) -> dict[str, Row]:
    """An oracle answers only where its landmark is known; the other images take no part."""
    parts, categories = judge.landmarks.shape[1], judge.categories()
    shape = (len(categories), 1)
    scores = _own(judge, lambda n: torch.rand(n, *shape, generator=generator))
    noise = _own(judge, lambda n: torch.randn(n, *shape, 2, generator=generator)) * JITTER * judge.diagonal
    exact, jittered, other = [], [], []
    for part in range(parts):
        known = judge.landmarks[:, part].isfinite().all(dim=1)
        seen = replace(judge, landmarks=judge.landmarks.where(known[:, None, None], torch.nan))
        answer = judge.landmarks[:, part : part + 1].nan_to_num()  # (N, 1, 2)
        exact.append((seen, answer))
        jittered.append((seen, answer + noise))
        if parts > 1:
            rest = seen.landmarks.clone()
            rest[:, part] = torch.nan
            other.append((replace(seen, landmarks=rest), answer))

    def row(pairs: list[tuple[Judge, Tensor]]) -> Row:
        judgements = [
            _judged(part_judge, categories, answer, scores, draws.rows) for part_judge, answer in pairs
        ]
        return judged_row(_joined(judgements), judge, draws)

    rows = {"oracle": row(exact)}
    if other:
        rows["oracle_other_part"] = row(other)
    return rows | {"oracle_jitter": row(jittered)}


def _purities(judge: Judge, draws: Resampling, generator: torch.Generator) -> dict[str, Row]:
    """Part purity of imaginary filters that like images at random, of any category."""
    count = len(judge.labels)
    kinds = torch.arange(judge.landmarks.shape[1]) if judge.kinds is None else judge.kinds
    scores = torch.rand(count, RANDOM_FILTERS, generator=generator)
    chosen = torch.randint(len(judge.cells), (count, RANDOM_FILTERS), generator=generator)
    first = (
        judge.landmarks.isfinite().all(dim=2).to(torch.int8).argmax(dim=1)
    )  # (N,) a part that the image has
    oracle = (
        judge.landmarks[torch.arange(count), first].nan_to_num().unsqueeze(1).expand(-1, RANDOM_FILTERS, 2)
    )
    answers = {
        "random_cell": judge.cells[chosen],
        "centre": judge.centre.expand(count, RANDOM_FILTERS, 2),
        "best_constant": _most_often_at_a_part(judge, kinds).expand(count, RANDOM_FILTERS, 2),
        "oracle": oracle,
    }
    purities = {}
    for name, places in answers.items():
        rows = part_purity(places, scores, judge.landmarks, kinds, draws.rows, judge.image_size)
        purities[name] = {"part_purity": Sampled.from_rows(rows.nanmean(dim=1), draws).estimate()}
    return purities


def _most_often_at_a_part(judge: Judge, kinds: Tensor) -> Tensor:
    """(2,) pixels: the fixed spot that has one and the same part in its patch on most annotated images."""
    known = judge.landmarks.isfinite().all(dim=2).any(dim=1)
    landmarks, best, best_spot = judge.landmarks[known], -1.0, judge.centre
    for some in judge.constants.split(max(1, CHUNK // max(1, landmarks.shape[0] * landmarks.shape[1]))):
        inside = parts_inside(some.expand(len(landmarks), -1, 2), landmarks, judge.image_size, window=PATCH)
        shares = torch.stack(
            [inside[..., kinds == kind].any(dim=2).double().mean(dim=0) for kind in kinds.unique()]
        )
        if float(shares.max()) > best:
            best, best_spot = float(shares.max()), some[shares.amax(dim=0).argmax()]
    return best_spot


def _regressed(judge: Judge, draws: Resampling, generator: torch.Generator) -> dict[str, Row]:
    """Errors of landmarks predicted without a network: from random cells, by their mean place, from themselves."""
    chosen = images_to_learn_from(judge.landmarks, judge.labels, draws.seed)
    landmarks, labels = judge.landmarks[chosen], judge.labels[chosen]
    known = landmarks.isfinite().all(dim=2)
    cells = judge.cells[torch.randint(len(judge.cells), (len(chosen), RANDOM_FILTERS), generator=generator)]

    def errors(places: Tensor, fires: Tensor) -> LandmarkErrors:
        return landmark_errors(places, fires, landmarks, labels, diagonal=judge.diagonal, seed=draws.seed)

    def row(every: Tensor, few: Tensor) -> Row:
        errors = {"landmark_error": every, "landmark_error_few": few}
        return {name: error_figure(values, chosen, draws).estimate() for name, values in errors.items()}

    wandering = errors(cells, torch.ones(cells.shape[:2], dtype=torch.bool))
    true = errors(landmarks.nan_to_num(), known)
    return {
        "random_cell": row(wandering.every, wandering.few),
        "mean_place": row(wandering.constant, wandering.constant),
        "oracle": row(true.every, true.few),
    }


def _own(judge: Judge, draw: Callable[[int], Tensor]) -> Tensor:
    """(N, ...) what `draw` gives for each image and its own category, out of (n, categories, ...) for n images."""
    categories = judge.categories()
    column = torch.zeros(int(judge.labels.max()) + 1, dtype=torch.int64)
    column[categories] = torch.arange(len(categories))
    return torch.cat(
        [
            draw(len(labels))[torch.arange(len(labels)), column[labels]]
            for labels in judge.labels.split(IMAGES)
        ]
    )


def _judged(
    judge: Judge, categories: list[int], positions: Tensor, scores: Tensor, weights: Tensor
) -> Judgement:
    """Imaginary filters of every category, which answer its images alone: positions (N, a, 2), scores (N, a)."""
    judgements = []
    for category in categories:
        of_category = judge.labels == category
        alone = replace(judge, landmarks=judge.landmarks[of_category], labels=judge.labels[of_category])
        owners = torch.full(scores.shape[1:], category)
        judgements.append(
            alone.measure(positions[of_category], scores[of_category], owners, weights[:, of_category])
        )
    return _joined(judgements)


def judged_row(judgement: Judgement, judge: Judge, draws: Resampling) -> Row:
    """Means over filters of a `judgement` under the rows of `draws`, with intervals."""
    n = int(judge.landmarks.isfinite().all(dim=2).any(dim=1).sum())
    return {
        measure: Sampled.from_rows(rows.nanmean(dim=1), draws, n).estimate()
        for measure, rows in judgement.rows().items()
        if measure != "best_constant"
    }


def _presence_of_spots(judge: Judge, categories: list[int], weights: Tensor) -> Tensor:
    """(P, R, D) for imaginary filters of every category, of which each answers the spot that is best for a part."""
    columns = []
    for category in categories:
        images = judge.labels == category
        presence = presence_of_spots(
            judge.constants, judge.landmarks[images], weights[:, images], judge.image_size
        )
        columns.append(presence.unsqueeze(2).expand(-1, -1, ANSWERS))
    return torch.cat(columns, dim=2)


def _joined(judgements: list[Judgement]) -> Judgement:
    """One judgement over all filters of several."""
    columns = {
        name: torch.cat([getattr(judgement, name) for judgement in judgements], dim=-1)
        for name in vars(judgements[0])
    }
    return Judgement(**columns)
