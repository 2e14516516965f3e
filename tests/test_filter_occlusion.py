"""What a filter needs of its strongest image, against hiding every window by hand."""

import pytest
import torch
from report_example import Batch, drawn_images
from torch import nn

from interp_cnn.explanation.filters.exemplars import exemplars
from interp_cnn.explanation.filters.occlusion import CELLS, FilterScores, filter_occlusion
from interp_cnn.explanation.methods.options import Options, occluder_of, window_of
from interp_cnn.explanation.network.feature_maps import feature_maps


@pytest.fixture
def network() -> nn.Module:
    """Three filters: one fires, one never does, one sees the third colour alone; an in-place ReLU follows."""
    torch.manual_seed(1)
    convolution = nn.Conv2d(3, 3, 3, padding=1)
    convolution.bias.data[1] = -100
    convolution.weight.data[2] = 0
    convolution.weight.data[2, 2, 1, 1] = 1
    return nn.Sequential(
        convolution, nn.ReLU(), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)
    )


def maps_of(network, found, options):
    window, stride = window_of(options, tuple(found.mean_image.shape[1:]))
    return filter_occlusion(
        network, found, window=window, stride=stride, fill=lambda images: occluder_of(images, options)
    )


@pytest.mark.parametrize("layer", ["1", "0"])
def test_a_filter_needs_what_lowers_its_peak_when_it_is_hidden(network, layer):
    images = drawn_images(5, 12)
    batches = [Batch(images, torch.zeros(5, dtype=torch.long), [str(n) for n in range(5)])]
    found = exemplars(network, batches, layer=layer, count=2)
    maps = maps_of(network, found, Options(window=4, stride=2, fill=0.0))
    assert maps.shape == (3, 12, 12) and maps[1].isnan().all()
    for number in (0, 2):
        image = found.images[int(found.image_numbers[number, 0])].float() / 255
        peak = feature_maps(network, image[None], layer)[0, number].max()
        total, covers = torch.zeros(12, 12), torch.zeros(12, 12)
        for row in range(0, 9, 2):
            for column in range(0, 9, 2):
                hidden = image.clone()
                hidden[:, row : row + 4, column : column + 4] = 0
                drop = peak - feature_maps(network, hidden[None], layer)[0, number].max()
                total[row : row + 4, column : column + 4] += drop
                covers[row : row + 4, column : column + 4] += 1
        torch.testing.assert_close(maps[number], total / covers, atol=1e-5, rtol=1e-4)


def test_large_images_give_maps_of_few_cells(network):
    images = drawn_images(2, 160)
    found = exemplars(
        network, [Batch(images, torch.zeros(2, dtype=torch.long), ["a", "b"])], layer="1", count=1
    )
    maps = maps_of(network, found, Options(window=0.4, stride=0.4))
    assert maps.shape == (3, CELLS, CELLS)


def test_the_scores_of_a_layer_are_the_maxima_of_its_maps(network):
    images = drawn_images(3, 12)
    expected = feature_maps(network, images, "1").amax((2, 3))
    assert torch.equal(FilterScores(network, "1")(images), expected)
