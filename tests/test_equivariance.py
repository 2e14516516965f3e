"""The equivariance loss: a literal second computation, and what it says of filters that are known."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from interp_cnn.model.templates import expected_positions, part_templates, position_posterior
from interp_cnn.training.equivariance import View, crowding_loss, equivariance_loss, random_view


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def positions(maps, gain, beta=4.0):
    posterior = position_posterior(maps, gain=gain, beta=torch.as_tensor(beta))
    return expected_positions(posterior, *maps.shape[2:])


def loss_of(maps, view, temperature):
    """The loss as a training takes it, for filters of scale 1."""
    gain = torch.full(maps.shape[1:2], temperature)
    posterior = position_posterior(maps, gain=gain, beta=torch.tensor(4.0))
    return equivariance_loss(posterior, maps.amax((2, 3)), view, tuple(maps.shape[2:]))


def blobs(size=16, count=64):
    """Images with one bright blob near the middle, (B, 1, size, size), and its (x, y), -1 to 1."""
    places = (torch.rand(count, 2, generator=generator()) - 0.5) * 0.6
    line = (torch.arange(size) + 0.5) * 2 / size - 1
    squared = (line - places[:, :1]).square()[:, None, :] + (line - places[:, 1:]).square()[:, :, None]
    return (-squared / 0.02).exp()[:, None], places


def test_a_blob_lies_in_the_view_where_the_view_says():
    images, places = blobs()
    view = random_view(images, generator(1), colour=0.0)
    expected = view.places(places[:, None])[:, 0]
    inside = (expected.abs() < 0.8).all(1)
    gain = torch.tensor([30.0])
    found = positions(view.images, gain)[:, 0]
    assert inside.sum() > 20
    assert (found - expected)[inside].abs().max() < 0.12


def test_posterior_mean_equals_the_sum_over_templates():
    maps = torch.rand(3, 2, 4, 5, dtype=torch.float64, generator=generator())
    gain = torch.tensor([2.0, 0.5], dtype=torch.float64)
    found = positions(maps, gain)
    templates = part_templates(4, 5, dtype=torch.float64)[:-1]
    for image in range(3):
        for channel in range(2):
            scores = [gain[channel] * (maps[image, channel] * template).sum() for template in templates]
            weights = torch.stack(scores).exp()
            x = sum(w * ((t % 5 + 0.5) * 2 / 5 - 1) for t, w in enumerate(weights)) / weights.sum()
            y = sum(w * ((t // 5 + 0.5) * 2 / 4 - 1) for t, w in enumerate(weights)) / weights.sum()
            assert torch.allclose(found[image, channel], torch.stack([x, y]))


def test_one_steepness_for_all_filters_equals_the_same_for_each():
    maps = torch.rand(2, 3, 4, 4)
    one, each = (positions(maps, torch.ones(3), beta) for beta in (3.0, torch.full((3,), 3.0)))
    assert torch.allclose(one, each, atol=1e-6)


def test_a_filter_that_follows_pays_little_and_a_fixed_one_pays_all():
    images, _ = blobs()
    view = random_view(images, generator(1), colour=0.0)
    following = loss_of(torch.cat([images, view.images]), view, 30.0)
    flat = torch.ones(128, 1, 16, 16)  # the posterior's mean is the middle
    fixed = loss_of(flat, view, 30.0)
    assert following < 0.05
    assert 0.7 < fixed < 1.1  # views that lose the middle are not counted


def test_the_gradient_teaches_a_flat_map_to_follow():
    images, _ = blobs()
    view = random_view(images, generator(1), colour=0.0)
    both = torch.cat([images, view.images])
    sharpness = torch.tensor(0.01, requires_grad=True)
    loss_of(functional.relu(sharpness * both), view, 3.0).backward()
    assert sharpness.grad < 0


def test_maps_that_are_zero_everywhere_cost_nothing_and_have_a_finite_gradient():
    view = random_view(torch.rand(2, 3, 8, 8), generator())
    maps = torch.zeros(4, 2, 4, 4, requires_grad=True)
    loss = loss_of(maps, view, 3.0)
    (
        loss
        + crowding_loss(
            position_posterior(maps, gain=torch.ones(2), beta=torch.tensor(4.0)), maps.amax((2, 3))
        )
    ).backward()
    assert loss == 0 and maps.grad.isfinite().all()


def test_crowding_is_1_for_filters_at_one_cell_and_0_when_they_cover_the_image():
    cells = torch.eye(6)[None]  # (1, D, T): each of six filters is sure of a cell of its own
    assert crowding_loss(cells, torch.ones(1, 6)).abs() < 1e-6
    assert crowding_loss(cells[:, :1].expand(1, 6, 6), torch.ones(1, 6)) == pytest.approx(1.0)
    assert crowding_loss(cells, torch.tensor([[1.0, 0, 0, 0, 0, 0]])) == pytest.approx(
        1.0
    )  # silent ones do not count


def test_crowding_equals_the_entropy_of_the_mean_posterior():
    posterior = torch.rand(3, 4, 5, dtype=torch.float64, generator=generator()).softmax(-1)
    heights = torch.rand(3, 4, dtype=torch.float64, generator=generator(1))
    expected = 0.0
    for image in range(3):
        mean = sum(heights[image, d] * posterior[image, d] for d in range(4)) / heights[image].sum()
        expected += (1 - float(-(mean * mean.log()).sum()) / np.log(5)) / 3
    assert float(crowding_loss(posterior, heights)) == pytest.approx(expected)


def test_the_same_seed_gives_the_same_views_in_the_range_of_pixels():
    images = torch.rand(5, 3, 8, 8, generator=generator())
    one, two = (random_view(images, generator(7)) for _ in range(2))
    assert torch.equal(one.images, two.images) and torch.equal(one.offset, two.offset)
    assert one.images.min() >= 0 and one.images.max() <= 1
    assert random_view(images[:, :1], generator()).images.shape == (5, 1, 8, 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"equivariance": -1.0}, "0 .off."),
        ({"diversity": -1.0}, "diversity is -1.0"),
        ({"views": 3}, "1 or 2"),
    ],
)
def test_a_wrong_weight_or_number_of_views_is_named(options, words):
    from interp_cnn.model.backbones import SmallCNN
    from interp_cnn.training.classification import Classification

    with pytest.raises(ValueError, match=words):
        Classification(SmallCNN(2), num_classes=2, image_size=(16, 16), channels=3, **options)


def test_a_place_that_the_view_does_not_show_counts_nothing():
    """Filter 0 is followed to a place inside the view, filter 1 lay where the view does not reach."""
    size = 8
    posterior = torch.zeros(2, 2, size * size)
    posterior[0, 0, 4 * size + 6] = posterior[0, 1, 4 * size] = (
        1.0  # of the image: right of the middle, left edge
    )
    posterior[1, 0, 2 * size + 1] = posterior[1, 1, 7 * size + 7] = 1.0  # of the view
    posterior.requires_grad_()
    view = View(torch.zeros(1, 1, 32, 32), torch.ones(1, 2), torch.tensor([[0.9, 0.1]]))
    places = view.places(expected_positions(posterior, size, size)[:1])
    assert (places[0, 0].abs() < 1).all() and places[0, 1, 0] < -1
    both = equivariance_loss(posterior, torch.ones(2, 2), view, (size, size))
    alone = equivariance_loss(posterior[:, :1], torch.ones(2, 1), view, (size, size))
    assert both > 0 and torch.allclose(both, alone)
    both.backward()
    assert posterior.grad[:, 1].abs().max() == 0 < posterior.grad[:, 0].abs().max()
