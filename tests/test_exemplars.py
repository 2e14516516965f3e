"""Exemplars against a full sort over a dump of all activations, and by hand on a network with known peaks."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from interp_cnn.explanation.filters.exemplars import exemplars
from interp_cnn.explanation.network.feature_maps import feature_maps


@dataclass
class Batch:
    images: Tensor
    labels: Tensor
    names: list[str]


def batches(images: Tensor, size: int) -> list[Batch]:
    """What a loader gives: labels count modulo 3, names are numbers."""
    labels = torch.arange(len(images)) % 3
    names = [f"scan {number}" for number in range(len(images))]
    starts = range(0, len(images), size)
    return [Batch(images[s : s + size], labels[s : s + size], names[s : s + size]) for s in starts]


@pytest.fixture
def network() -> nn.Module:
    """Filters with whole-number weights: sums are exact whatever the batch size, and equal scores do
    occur.
    """
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 6, 3, stride=2, padding=1, bias=False)
    convolution.weight.data = torch.randint(-2, 3, convolution.weight.shape).float()
    return nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 3, (40, 1, 11, 9), generator=torch.Generator().manual_seed(1)) / 2


def test_exemplars_equal_a_full_sort_of_all_activations(network, images):
    found = exemplars(network, batches(images, 7), layer="1", count=5)
    maps = feature_maps(network, images, "1")
    for d in range(6):
        scores = [float(maps[b, d].max()) for b in range(len(images))]
        ranked = sorted(range(len(images)), key=lambda b, s=scores: (-s[b], b))[:5]
        assert found.image_numbers[d].tolist() == ranked
        for n, b in enumerate(ranked):
            row, column = found.positions[d, n].tolist()
            cell = int(maps[b, d].flatten().argmax())
            assert (row, column) == divmod(cell, maps.shape[3])
            assert found.scores[d, n] == maps[b, d, row, column] == maps[b, d].max()
            assert torch.equal(found.maps[d, n], maps[b, d])
            assert found.labels[d, n] == b % 3
            assert found.names[b] == f"scan {b}"
            assert torch.equal(found.images[b], (images[b] * 255).round().to(torch.uint8))
    torch.testing.assert_close(found.mean_map, maps.mean(dim=0))
    torch.testing.assert_close(found.mean_image, images.mean(dim=0))
    assert found.images_seen == 40


def test_equal_scores_occur_in_the_example_above(network, images):
    scores = exemplars(network, batches(images, 7), layer="1", count=5).scores
    assert (scores[:, 1:] == scores[:, :-1]).any()


@pytest.mark.parametrize("size", [1, 3, 16, 40])
def test_the_batch_size_changes_nothing(network, images, size):
    one = exemplars(network, batches(images, 7), layer="1", count=4)
    two = exemplars(network, batches(images, size), layer="1", count=4)
    for name in ("image_numbers", "labels", "scores", "positions", "maps", "peak_counts", "mean_map"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert one.images.keys() == two.images.keys()


def test_only_images_that_are_exemplars_of_some_filter_are_kept(network, images):
    found = exemplars(network, batches(images, 7), layer="1", count=1)
    assert set(found.images) == set(found.image_numbers.unique().tolist()) == set(found.names)
    assert len(found.images) <= 6


def test_peak_counts_count_each_image_on_which_the_filter_fires_once(network, images):
    found = exemplars(network, batches(images, 7), layer="1")
    fires = (feature_maps(network, images, "1").amax(dim=(2, 3)) > 0).sum(dim=0)
    assert torch.equal(found.peak_counts.sum(dim=(1, 2)), fires)


def test_a_filter_that_never_fires_has_no_exemplars_and_is_called_silent(network, images):
    network[0].weight.data[2] = -1.0
    found = exemplars(network, batches(images, 7), layer="1", count=3)
    assert found.silent.tolist() == [False, False, True, False, False, False]
    assert found.image_numbers[2].tolist() == [-1, -1, -1]
    assert found.scores[2].tolist() == [0, 0, 0]
    assert len(found.patches(2)) == 0


def test_an_image_without_activation_is_no_exemplar(network, images):
    network[0].weight.data[:] = 1.0
    images[3:] = 0
    found = exemplars(network, batches(images, 7), layer="1", count=5)
    assert sorted(found.image_numbers[0].tolist()) == [-1, -1, 0, 1, 2]


def test_a_patch_shows_the_pixels_under_the_peak_and_grey_beyond_the_image():
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network[0].weight.data[:] = 0
    network[0].weight.data[0, 0, 1, 1] = 1.0
    image = torch.zeros(1, 1, 6, 6)
    image[0, 0, 0, 4] = 1.0
    found = exemplars(network, batches(image, 1), layer="0", count=2)
    assert found.positions[0, 0].tolist() == [0, 4]
    assert found.boxes[0, 0].tolist() == [3, 0, 6, 2]
    assert found.patches(0).tolist() == [[[[128, 128, 128], [0, 255, 0], [0, 0, 0]]]]


def test_the_mode_of_the_network_is_restored(network, images):
    network.train()
    exemplars(network, batches(images, 7), layer="1")
    assert network.training


def test_a_loader_without_images_and_a_count_of_zero_are_refused(network, images):
    with pytest.raises(ValueError, match="loader gave no images"):
        exemplars(network, [], layer="1")
    with pytest.raises(ValueError, match="count is 0"):
        exemplars(network, batches(images, 7), layer="1", count=0)
    with pytest.raises(ValueError, match="layer 'body' is not a module"):
        exemplars(network, batches(images, 7), layer="body")
