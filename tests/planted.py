"""Images with one bright dot, the head, and a network whose filters are known: the measures' results follow
by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from interp_cnn.data.parts import PartBatch

SIZE = 24
CENTRE = (11, 11)
SETTINGS = {  # what `measure_network` is told about them
    "layer": "maps",
    "kind": "plain",
    "classes": ("nothing", "red", "orange"),
    "image_size": (SIZE, SIZE),
    "background": 0,
    "resamples": 20,
}


class PlantedNetwork(nn.Module):
    """Filter 0 fires at the dot, filter 1 always at the centre, filter 2 at noise, filter 3 never.

    Classes: 0 is the background (no dot, darker), 1 and 2 differ in the dot's colour.
    """

    def __init__(self, noise_seed: int = 0) -> None:
        super().__init__()
        self.read = nn.Conv2d(3, 4, 1, bias=True)
        self.maps = nn.ReLU()
        self.head = nn.Linear(3, 3)
        constant = torch.zeros(1, 4, SIZE, SIZE)
        constant[0, 1, CENTRE[0], CENTRE[1]] = 1.0
        self.register_buffer("constant", constant)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            self.read.weight[0, 0] = 1.0
            self.read.weight[2, 2] = 1.0
            self.read.bias[3] = -1.0
            self.head.weight[0, 0], self.head.weight[1, 0], self.head.weight[2, 1] = -1.0, 1.0, 1.5
            self.head.bias[0] = 0.5

    def forward(self, images: Tensor) -> Tensor:
        self.maps(self.read(images) + self.constant)
        return self.head(images.amax(dim=(2, 3)))


def planted_images(per_class: int = 40, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, 3, H, W), labels (N,), landmarks (N, 2, 2): the dot, and a tail somewhere."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(per_class)
    count = len(labels)
    images = torch.zeros(count, 3, SIZE, SIZE)
    images[:, 2] = torch.rand(count, SIZE, SIZE, generator=generator)
    heads = torch.randint(SIZE, (count, 2), generator=generator)
    landmarks = torch.stack((heads, torch.randint(SIZE, (count, 2), generator=generator)), dim=1).float()
    strength = 0.8 + 0.2 * torch.rand(count, generator=generator)
    for image, label in enumerate(labels.tolist()):
        row, column = heads[image].tolist()
        if label:
            images[image, 0, row, column] = strength[image]
        if label == 2:
            images[image, 1, row, column] = strength[image]
    landmarks[labels == 0] = torch.nan
    return images, labels, landmarks


def planted_batches(
    per_class: int = 40, seed: int = 0, *, size: int = 25, parts: int = 2, masks: bool = False
) -> list[PartBatch]:
    """The same as a loader would give them; with `masks`, a square of 5 pixels around each landmark."""
    images, labels, landmarks = planted_images(per_class, seed)
    landmarks = landmarks[:, :parts]
    part_masks = square_masks(landmarks, 2) if masks else None
    return [
        PartBatch(
            images[start : start + size],
            labels[start : start + size],
            landmarks[start : start + size],
            part_masks[start : start + size] if masks else None,
            None,
            None,
            [f"image {i}" for i in range(start, min(start + size, len(images)))],
        )
        for start in range(0, len(images), size)
    ]


def square_masks(landmarks: Tensor, radius: int) -> Tensor:
    """(N, P, H, W) bool: pixels within `radius` of a landmark along both axes."""
    axis = torch.arange(SIZE)
    rows = (axis - landmarks[..., :1]).abs() <= radius  # (N, P, H)
    columns = (axis - landmarks[..., 1:]).abs() <= radius
    return rows.unsqueeze(-1) & columns.unsqueeze(-2)
