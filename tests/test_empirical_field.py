"""The empirical receptive field of filters whose weights say where they look."""

import math

import pytest
import torch
from planted import PlantedNetwork, planted_batches
from torch import nn

from interp_cnn.explanation.filters.empirical_field import empirical_field
from interp_cnn.explanation.filters.exemplars import exemplars
from interp_cnn.explanation.network.feature_maps import feature_maps


class Batch:
    def __init__(self, images):
        self.images, self.labels = images, torch.zeros(len(images), dtype=torch.long)
        self.names = list(map(str, range(len(images))))


@pytest.fixture
def network():
    """7 x 7 filters of which one reads its middle row, one the pixel two above the middle, one nothing."""
    convolution = nn.Conv2d(1, 3, 7, padding=3, bias=False)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.weight[0, 0, 3] = 1.0
        convolution.weight[1, 0, 1, 3] = 1.0
    return nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def images():
    return torch.rand(12, 1, 21, 27, generator=torch.Generator().manual_seed(0))


def test_it_is_the_part_of_the_field_that_has_weight(network, images):
    found = exemplars(network, [Batch(images)], layer="1", count=4)
    field = empirical_field(network, found, window=1, stride=1, fill=0.0)
    row, column = field.drops.shape[1] // 2, field.drops.shape[2] // 2
    assert field.inside[1].nonzero().tolist() == [[row - 2, column]]
    assert field.drops[1, row - 2, column] == pytest.approx(1)
    assert set(field.inside[0].nonzero()[:, 0].tolist()) == {row}
    assert field.size[1].tolist() == [1, 1] and field.size[2].tolist() == [0, 0]
    assert field.size[0, 0] == 1 and 4 <= field.size[0, 1] <= 7
    outside = field.drops[0].nan_to_num()
    outside[row, column - 3 : column + 4] = 0
    assert outside.abs().max() < 1e-6
    assert field.drops[0, row].nansum() == pytest.approx(1, abs=1e-5)  # a sum loses what its pixels are, each


def test_drops_equal_a_loop_over_windows(network, images):
    found = exemplars(network, [Batch(images)], layer="1", count=1)
    field = empirical_field(network, found, window=(3, 5), stride=(2, 4), batch_size=5)
    number, (row, column) = int(found.image_numbers[0, 0]), found.positions[0, 0].tolist()
    image = found.images[number].float() / 255
    whole = feature_maps(network, image[None], "1")[0, 0, row, column]
    hit = torch.zeros(field.drops.shape[1:], dtype=torch.bool)
    middle = [side // 2 for side in field.drops.shape[1:]]
    for top in range(-2, 21, 2):
        for left in range(-4, 27, 4):
            hidden = image.clone()
            hidden[:, max(0, top) : max(0, top + 3), max(0, left) : max(0, left + 5)] = (
                found.mean_image.mean()
            )
            drop = 1 - feature_maps(network, hidden[None], "1")[0, 0, row, column] / whole
            place = [
                middle[0] + math.floor((top + 1 - row) / 2 + 0.5),
                middle[1] + math.floor((left + 2 - column) / 4 + 0.5),
            ]
            if all(0 <= at < side for at, side in zip(place, hit.shape, strict=True)):
                hit[tuple(place)] = True
                torch.testing.assert_close(field.drops[0][tuple(place)], drop, atol=1e-5, rtol=1e-4)
    assert torch.equal(hit, field.drops[0].isfinite())


def test_it_is_the_same_in_any_batches_and_for_colour_images():
    network = PlantedNetwork()
    one, two = (exemplars(network, planted_batches(20, size=size), layer="maps", count=3) for size in (7, 60))
    first = empirical_field(network, one, window=3, stride=3, batch_size=9)
    second = empirical_field(network, two, window=3, stride=3)
    torch.testing.assert_close(first.drops, second.drops, equal_nan=True)
    assert first.size[0].tolist() == [3, 3]  # filter 0 reads one pixel
