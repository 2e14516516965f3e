"""Shapley values against all orders written out, captum, a closed form, and their own standard errors."""

import itertools

import pytest
import torch
from relevance_networks import Functional, images_and_targets, prepared
from torch import Tensor, nn

from interp_cnn.explanation.shapley import shapley_estimate, shapley_values


class Pairs(nn.Module):
    """Logit 0: a weighted sum; logit 1: products of neighbouring pixels, shared half and half by symmetry."""

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        weights = torch.arange(1.0, flat.shape[1] + 1)
        return torch.stack([flat @ weights + 1, (flat[:, ::2] * flat[:, 1::2]).sum(1) - 3], 1)


def over_all_orders(network, image: Tensor, covered: Tensor, features: Tensor, target: int) -> Tensor:
    count = int(features.max()) + 1
    values = torch.zeros(count)
    orders = list(itertools.permutations(range(count)))
    for order in orders:
        shown = covered.clone()
        before = network(shown[None])[0, target]
        for i in order:
            shown = torch.where(features == i, image, shown)
            after = network(shown[None])[0, target]
            values[i] += (after - before) / len(orders)
            before = after
    return values


def test_few_windows_equal_the_mean_over_all_orders():
    network, (images, targets) = prepared(Functional()), images_and_targets()
    features = (torch.arange(16)[:, None] // 8) * 2 + torch.arange(16) // 8
    estimate = shapley_estimate(network, images, targets, features=8, baseline="mean")
    assert torch.equal(estimate.features[0], features) and estimate.standard_error.max() == 0
    covered = images.mean((2, 3), keepdim=True).expand_as(images)
    with torch.no_grad():
        for b in range(3):
            expected = over_all_orders(network, images[b], covered[b], features, int(targets[b]))
            torch.testing.assert_close(estimate.values[b, targets[b]], expected, atol=1e-5, rtol=1e-4)


def test_few_windows_equal_captum():
    captum = pytest.importorskip("captum.attr")
    network, (images, targets) = prepared(Functional()), images_and_targets()
    features = torch.arange(16)[:, None].expand(16, 16) // 4
    ours = shapley_values(network, images, targets, features=features)
    theirs = captum.ShapleyValues(network).attribute(
        images, target=targets, feature_mask=features[None, None]
    )
    torch.testing.assert_close(
        ours * 3 * 64, theirs.detach(), atol=1e-5, rtol=1e-4
    )  # captum repeats, ours spreads


@pytest.mark.parametrize("features", [1, (1, 2), None])
def test_linear_and_pairwise_games_have_closed_forms(features):
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    estimate = shapley_estimate(Pairs(), images, torch.tensor([0, 1]), features=features, orders=30)
    linear, pairs = estimate.maps(torch.tensor([0, 0])), estimate.maps(torch.tensor([1, 1]))
    weights = torch.arange(1.0, 17).reshape(1, 1, 4, 4)
    products = (images[..., ::2] * images[..., 1::2]).repeat_interleave(2, dim=3) / 2
    if features == (1, 2):
        weighted = (
            (weights * images).unflatten(3, (2, 2)).mean(4, keepdim=True).expand(-1, -1, -1, -1, 2).flatten(3)
        )
        torch.testing.assert_close(linear, weighted)
    else:
        torch.testing.assert_close(linear, weights * images)
    torch.testing.assert_close(pairs, products)  # antithetic orders settle pairs exactly


def test_sampled_values_are_complete_and_within_their_standard_errors():
    network, (images, targets) = prepared(Functional()), images_and_targets()
    # 12 windows: exact over 4096 subsets against sampled over orders
    exact = shapley_estimate(network, images[:1], targets[:1], features=(4, 6), orders=400)
    assert exact.orders.max() == 0
    sampled = shapley_estimate(network, images[:1], targets[:1], features=(4, 6), orders=300, tolerance=1e-6)
    assert sampled.orders.tolist() == [300]
    change = (network(images[:1]) - network(torch.zeros_like(images[:1])))[0].detach()
    for estimate in (exact, sampled):
        torch.testing.assert_close(estimate.values[0].sum(1), change, atol=1e-4, rtol=1e-4)
    z = ((sampled.values - exact.values) / sampled.standard_error)[0]
    assert 0.6 < float(z.square().mean().sqrt()) < 1.5


def test_sampling_stops_early_and_an_image_does_not_depend_on_its_neighbours():
    network, (images, targets) = prepared(Functional()), images_and_targets()
    together = shapley_estimate(network, images, targets, features=3, orders=200, tolerance=0.2)
    assert (together.orders < 200).all() and (together.orders >= 8).all()
    own = torch.arange(3), targets
    error, size = together.standard_error[own].amax(1), together.values[own].abs().amax(1)
    assert (error <= 0.2 * size).all()
    alone = shapley_estimate(
        network, images[1:2], targets[1:2], features=3, orders=200, tolerance=0.2, batch_size=7
    )
    torch.testing.assert_close(alone.values[0], together.values[1], atol=1e-5, rtol=1e-4)
    other = shapley_estimate(
        network,
        images,
        targets,
        features=3,
        orders=8,
        tolerance=1.0,
        generator=torch.Generator().manual_seed(9),
    )
    assert (other.values - together.values).abs().max() > 1e-4


def test_several_baselines_are_averaged():
    network, (images, targets) = prepared(Functional()), images_and_targets()
    one, two = (shapley_values(network, images, targets, features=8, baseline=b) for b in ("zero", 0.5))
    both = shapley_values(network, images, targets, features=8, baseline=["zero", 0.5])
    torch.testing.assert_close(both, (one + two) / 2)


def test_shapley_refuses_what_has_no_answer():
    network, (images, targets) = prepared(Functional()), images_and_targets()
    for options, words in (
        ({"features": 0}, "features"),
        ({"features": torch.zeros(4, 4, dtype=torch.int64)}, r"features must be whole numbers \(16, 16\)"),
        ({"features": torch.full((16, 16), 2)}, "each at least once"),
        ({"orders": 0}, "orders"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"baseline": "grey"}, "baseline"),
    ):
        with pytest.raises(ValueError, match=words):
            shapley_values(network, images, targets, **options)
    with pytest.raises(ValueError, match="final softmax"):
        shapley_values(nn.Sequential(network, nn.Softmax(1)), images, targets)
    with pytest.raises(ValueError, match=r"0\.\.4"):
        shapley_values(network, images, targets + 5)
    network.train()
    shapley_values(network, images, targets, features=8)
    assert network.training
