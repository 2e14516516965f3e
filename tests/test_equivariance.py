"""The equivariance loss: a literal second computation, and what it says of filters that are known."""

import pytest
import torch
from torch.nn import functional

from interp_cnn.model.interpretable_conv import TemplateMask
from interp_cnn.model.templates import expected_positions, part_templates
from interp_cnn.training.equivariance import equivariance_loss, random_view


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


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
    found = expected_positions(view.images, gain=gain, beta=torch.tensor(4.0))[:, 0]
    assert inside.sum() > 20
    assert (found - expected)[inside].abs().max() < 0.12


def test_posterior_mean_equals_the_sum_over_templates():
    maps = torch.rand(3, 2, 4, 5, dtype=torch.float64, generator=generator())
    gain = torch.tensor([2.0, 0.5], dtype=torch.float64)
    found = expected_positions(maps, gain=gain, beta=torch.tensor(4.0))
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
    one, each = (
        expected_positions(maps, gain=torch.ones(3), beta=beta)
        for beta in (torch.tensor(3.0), torch.full((3,), 3.0))
    )
    assert torch.allclose(one, each, atol=1e-6)


def test_a_filter_that_follows_pays_little_and_a_fixed_one_pays_all():
    images, _ = blobs()
    view = random_view(images, generator(1), colour=0.0)
    settings = {"scale": torch.ones(1), "temperature": 30.0, "mask": TemplateMask(1)}
    following = equivariance_loss(torch.cat([images, view.images]), view, **settings)
    flat = torch.ones(128, 1, 16, 16)  # the posterior's mean is the middle
    fixed = equivariance_loss(flat, view, **settings)
    assert following < 0.05
    assert 0.7 < fixed < 1.1  # views that lose the middle are not counted


def test_the_gradient_teaches_a_flat_map_to_follow():
    images, _ = blobs()
    view = random_view(images, generator(1), colour=0.0)
    both = torch.cat([images, view.images])
    sharpness = torch.tensor(0.01, requires_grad=True)
    loss = equivariance_loss(
        functional.relu(sharpness * both), view, scale=torch.ones(1), temperature=3.0, mask=TemplateMask(1)
    )
    loss.backward()
    assert sharpness.grad < 0


def test_maps_that_are_zero_everywhere_cost_nothing_and_have_a_finite_gradient():
    view = random_view(torch.rand(2, 3, 8, 8), generator())
    maps = torch.zeros(4, 2, 4, 4, requires_grad=True)
    loss = equivariance_loss(maps, view, scale=torch.ones(2), temperature=3.0, mask=TemplateMask(2))
    loss.backward()
    assert loss == 0 and maps.grad.isfinite().all()


def test_the_same_seed_gives_the_same_views_in_the_range_of_pixels():
    images = torch.rand(5, 3, 8, 8, generator=generator())
    one, two = (random_view(images, generator(7)) for _ in range(2))
    assert torch.equal(one.images, two.images) and torch.equal(one.offset, two.offset)
    assert one.images.min() >= 0 and one.images.max() <= 1
    assert random_view(images[:, :1], generator()).images.shape == (5, 1, 8, 8)


@pytest.mark.parametrize(
    ("options", "words"), [({"equivariance": -1.0}, "0 .off."), ({"views": 3}, "1 or 2")]
)
def test_a_wrong_weight_or_number_of_views_is_named(options, words):
    from interp_cnn.model.backbones import SmallCNN
    from interp_cnn.training.classification import Classification

    with pytest.raises(ValueError, match=words):
        Classification(SmallCNN(2), num_classes=2, image_size=(16, 16), channels=3, **options)
