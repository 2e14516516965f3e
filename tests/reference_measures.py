"""The measures once more, as plain float64 loops written from their definitions: slow, literal, the oracle of
the tests.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from interp_cnn.explanation.activations import feature_maps


def pixels_that_reach(network: nn.Module, layer: str, image_size: tuple[int, int]):
    """First and last image row (column) that each row (column) of cells depends on.

    A NaN in the image reaches exactly the cells whose window contains it: it survives convolutions, poolings,
    ReLU and zero weights, which gradients of a trained network do not.
    """
    height, width = image_size
    channels = next(iter(network.parameters())).shape[1]
    clean = torch.zeros(1, channels, height, width)
    ends = []
    for axis, pixels in enumerate(image_size):
        seen: list[list[int]] = []
        for pixel in range(pixels):
            image = clean.clone()
            image.select(2 + axis, pixel).fill_(float("nan"))
            touched = feature_maps(network, image, layer).isnan()[0].any(dim=0).any(dim=1 - axis)  # (cells,)
            seen = seen or [[] for _ in touched]
            for cell in touched.nonzero().flatten().tolist():
                seen[cell].append(pixel)
        ends.append([(min(pixels_of_cell), max(pixels_of_cell)) for pixels_of_cell in seen])
    return ends


def standard_deviation(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def distance(one: Tensor, two: Tensor) -> float:
    return math.hypot(float(one[0]) - float(two[0]), float(one[1]) - float(two[1]))


def strongest(scores: Tensor, candidates: list[int], top_images: int) -> list[int]:
    """The candidates with the highest scores, the earlier one first among equals; a repeated candidate counts
    again.
    """
    return sorted(candidates, key=lambda image: -float(scores[image]))[:top_images]


def spread_between_images(images: list[int], values: list[float]) -> float:
    """Square root of half the mean squared difference over pairs of draws of different images."""
    squares = [
        (values[a] - values[b]) ** 2 / 2
        for a in range(len(images))
        for b in range(len(images))
        if images[a] != images[b]
    ]
    return math.sqrt(sum(squares) / len(squares))


def location_instability(
    positions: Tensor,
    scores: Tensor,
    landmarks: Tensor,
    diagonal: float,
    top_images: int,
    drawn: list[int] | None = None,
) -> list[float]:
    """Zhang, Wu, Zhu 2018, section 4.2. `drawn` lists the images of a resampling, with repetitions."""
    images, filters = scores.shape
    drawn = sorted(range(images) if drawn is None else drawn)
    result = []
    for f in range(filters):
        deviations = []
        for k in range(landmarks.shape[1]):
            having = [i for i in drawn if not torch.isnan(landmarks[i, k]).any()]
            judged = strongest(scores[:, f], having, top_images)
            distances = [distance(positions[i, f], landmarks[i, k]) / diagonal for i in judged]
            if len(set(judged)) == len(judged) >= 2:
                deviations.append(standard_deviation(distances))
            elif len(set(judged)) >= 2:
                deviations.append(spread_between_images(judged, distances))
        result.append(sum(deviations) / len(deviations) if deviations else math.nan)
    return result


def best_constant(
    scores: Tensor,
    landmarks: Tensor,
    cells: Tensor,
    diagonal: float,
    top_images: int,
    drawn: list[int] | None = None,
) -> list[float]:
    """Instability of the best constant answer on the images on which each filter is judged."""
    answers = [
        location_instability(cell.expand(*scores.shape, 2), scores, landmarks, diagonal, top_images)
        for cell in cells
    ]
    return [min(answer[f] for answer in answers) for f in range(scores.shape[1])]
