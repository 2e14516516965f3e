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
