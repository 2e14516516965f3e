"""One yardstick for every network and every baseline: the images, their landmarks, and the cells of the
layer.

Each filter is judged on the images of its own category, by location instability and against the best fixed spot
cell on the same images. Networks and baselines that answer to one `Judge` under one `Resampling` are compared
in pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from interp_cnn.evaluation.filters.location_instability import (
    instability_per_part,
    location_instability,
    mean_over_parts,
)
from interp_cnn.evaluation.filters.observations import Observations
from interp_cnn.evaluation.filters.part_windows import best_presence, consistency, part_presence
from interp_cnn.evaluation.filters.tracking import constant_spreads, gain_over, offset_spreads, smallest


@dataclass(frozen=True)
class Judgement:
    """Per resampling and filter; NaN where a filter has no category, or its category no landmarks.

    Attributes:
        instability: (R, D), mean over landmarks.
        best_constant: (R, D), of the cell that is best for the mean over landmarks.
        part_instability: (P, R, D), for every landmark alone.
        part_constant: (P, R, D), of the cell that is best for this landmark.
        offset_spread: (P, R, D), spread of landmark - position.
        landmark_spread: (P, R, D), spread of the landmark on the same images.
        presence: (P, R, D), share of the category's images that show the part with it in the window around the
            position (`part_windows`).
    """

    instability: Tensor
    best_constant: Tensor
    part_instability: Tensor
    part_constant: Tensor
    offset_spread: Tensor
    landmark_spread: Tensor
    presence: Tensor

    @property
    def gain(self) -> Tensor:
        """(R, D) tracking gain."""
        return gain_over(self.instability, self.best_constant)

    @property
    def part_gain(self) -> Tensor:
        """(P, R, D) tracking gain for every landmark alone."""
        return gain_over(self.part_instability, self.part_constant)

    @property
    def offset_gain(self) -> Tensor:
        """(P, R, D) offset gain for every landmark alone: 0 for every constant."""
        return gain_over(self.offset_spread, self.landmark_spread)

    def rows(self) -> dict[str, Tensor]:
        """Measure to its value (R, D) for every filter, that for the filter's best landmark where there are several."""
        return {
            "location_instability": self.instability,
            "best_constant": self.best_constant,
            "tracking_gain": self.gain,
            "part_gain": best_part(self.part_gain)[0],
            "offset_gain": best_part(self.offset_gain)[0],
            "consistency": consistency(self.presence),
            "part_presence": best_presence(self.presence),
        }


@dataclass(frozen=True)
class Judge:
    """The images and the yardstick.

    Attributes:
        landmarks: (N, P, 2) pixels, NaN where unknown.
        labels: (N,) int64.
        cells: (M, 2) pixels, the answers that a filter of this layer can give.
        image_size: (H, W).
        top_images: each filter is judged on so many of its strongest images.
        kinds: (P,) int64, parts of one number count as one for purity (`part_windows.sides_merged`); None: each alone.
    """

    landmarks: Tensor
    labels: Tensor
    cells: Tensor
    image_size: tuple[int, int]
    top_images: int = 100
    kinds: Tensor | None = None

    @property
    def diagonal(self) -> float:
        """Of the image, in pixels."""
        return math.hypot(*self.image_size)

    @property
    def centre(self) -> Tensor:
        """(2,) pixels: the middle of the cells."""
        return (self.cells.amin(dim=0) + self.cells.amax(dim=0)) / 2

    @property
    def constants(self) -> Tensor:
        """(M + 1, 2) pixels: every cell, and the middle, which an even grid has no cell for."""
        return torch.cat((self.cells, self.centre.unsqueeze(0)))

    def categories(self) -> list[int]:
        """Categories that have at least two images with one and the same landmark."""
        known = self.landmarks.isfinite().all(dim=2)  # (N, P)
        labels = self.labels.unique().tolist()
        return [label for label in labels if bool((known[self.labels == label].sum(dim=0) >= 2).any())]

    def measure(
        self, positions: Tensor, scores: Tensor, categories: Tensor, weights: Tensor | None = None
    ) -> Judgement:
        """Judge filters that answered `positions` (N, D, 2) with `scores` (N, D).

        Args:
            positions: (N, D, 2) pixels.
            scores: (N, D).
            categories: (D,) int64; -1 for a filter without one.
            weights: (R, N) resamplings of the images, None for every image once. The best fixed spot is
                chosen once, on all images: chosen anew in each resampling it would fit that resampling, and
                the interval would lie beside the estimate.
        """
        parts, replicates = self.landmarks.shape[1], 1 if weights is None else len(weights)
        instability = torch.full((parts, replicates, len(categories)), torch.nan, dtype=torch.float64)
        constant = torch.full((replicates, len(categories)), torch.nan, dtype=torch.float64)
        part_constant, offset, landmark, presence = (instability.clone() for _ in range(4))
        options = {"diagonal": self.diagonal, "top_images": self.top_images}
        for category in categories[categories >= 0].unique().tolist():
            images, filters = self.labels == category, categories == category
            places, strengths, landmarks = (
                positions[images][:, filters],
                scores[images][:, filters],
                self.landmarks[images],
            )
            drawn = None if weights is None else weights[:, images]
            answers = places, strengths, landmarks, drawn
            instability[:, :, filters] = instability_per_part(*answers, **options)
            offset[:, :, filters], landmark[:, :, filters] = offset_spreads(*answers, **options)
            constant[:, filters], part_constant[:, :, filters] = self._best_constants(*answers[1:])
            presence[:, :, filters] = part_presence(places, strengths > 0, landmarks, drawn, self.image_size)
        return Judgement(
            mean_over_parts(instability), constant, instability, part_constant, offset, landmark, presence
        )

    def measure_network(
        self,
        observed: Observations,
        categories: Tensor,
        weights: Tensor | None = None,
        *,
        dealt: Tensor | None = None,
    ) -> Judgement:
        """`measure` for all filters of a network, a few at a time.

        Args:
            observed: answers on the judge's images.
            categories: (D,) int64; -1 for a filter without one.
            weights: (R, N) resamplings of the images, None for every image once.
            dealt: (N,) int64, the image whose positions each image is given instead of its own
                (`baselines.shuffled_images`); None for its own.
        """

        def judged(block):
            positions = block.positions if dealt is None else block.positions[dealt]
            return vars(self.measure(positions, block.scores, categories[block.filters], weights)).values()

        return Judgement(*observed.by_filter(judged, categories))

    def instability(
        self, positions: Tensor, scores: Tensor, categories: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """(R, D) location instability alone, with the arguments of `measure`."""
        replicates = 1 if weights is None else len(weights)
        rows = torch.full((replicates, len(categories)), torch.nan, dtype=torch.float64)
        for category in categories[categories >= 0].unique().tolist():
            images, filters = self.labels == category, categories == category
            answers = (positions[images][:, filters], scores[images][:, filters], self.landmarks[images])
            drawn = None if weights is None else weights[:, images]
            rows[:, filters] = mean_over_parts(
                instability_per_part(*answers, drawn, diagonal=self.diagonal, top_images=self.top_images)
            )
        return rows

    def _best_constants(
        self, scores: Tensor, landmarks: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(R, D) for the mean over landmarks, and (P, R, D) for every landmark alone."""
        constants, options = self.constants, {"diagonal": self.diagonal, "top_images": self.top_images}
        spreads = constant_spreads(scores, landmarks, constants, **options)  # (P, D, M)
        best, cell = smallest(mean_over_parts(spreads))
        part_best, part_cell = smallest(spreads)
        if weights is None:
            return best.unsqueeze(0), part_best.unsqueeze(1)
        images, filters = scores.shape

        def spread_of(cells: Tensor, places: Tensor) -> Tensor:
            answers = constants[cells].expand(images, filters, 2)
            return instability_per_part(answers, scores, places, weights, **options)

        alone = [spread_of(cells, landmarks[:, [part]])[0] for part, cells in enumerate(part_cell)]
        nothing = torch.zeros(0, len(weights), filters, dtype=torch.float64)
        return mean_over_parts(spread_of(cell, landmarks)), torch.stack(alone) if alone else nothing

    def steadiest_category(self, positions: Tensor, scores: Tensor) -> Tensor:
        """(D,) the category with the smallest instability: the paper's rule, biased low for every network; -1
        for none.
        """
        instabilities = torch.full(
            (int(self.labels.max()) + 1, scores.shape[1]), torch.inf, dtype=torch.float64
        )
        for category in self.categories():
            images = self.labels == category
            answers = (positions[images], scores[images], self.landmarks[images])
            instabilities[category] = location_instability(
                *answers, diagonal=self.diagonal, top_images=self.top_images
            ).nan_to_num(nan=torch.inf)
        best = instabilities.min(dim=0)
        return best.indices.where(best.values.isfinite(), -1)


def best_part(gains: Tensor) -> tuple[Tensor, Tensor]:
    """The gain (R, D) for the landmark that each filter tracks best, and which one that is, (D,) int64, -1
    for none.

    The landmark is chosen on the first row of `gains` (P, R, D), all images, and kept.
    """
    if len(gains) == 0:
        return gains.sum(dim=0) * torch.nan, torch.full(gains.shape[2:], -1)
    first = gains[:, 0].nan_to_num(nan=-torch.inf)
    part = first.argmax(dim=0)  # (D,)
    rows = gains.gather(0, part.expand(1, *gains.shape[1:])).squeeze(0)
    return rows, part.where(first.amax(dim=0).isfinite(), -1)
