"""Measures of relevance maps: against closed forms on linear networks, curves by hand, Quantus, and literal loops."""

import json
import math

import numpy as np
import pytest
import torch
from quantus_pixel_flipping import RECORD, STEP, example
from torch import nn

from interp_cnn.evaluation.maps.agreement import structural_similarity
from interp_cnn.evaluation.maps.completeness import (
    completeness,
    infidelity,
    random_pixels,
    random_squares,
    removals,
    sensitivity_n,
)
from interp_cnn.evaluation.maps.localisation import pointing_game, rank_accuracy, shares
from interp_cnn.evaluation.maps.pixel_flipping import (
    Regions,
    area_under,
    deletion,
    insertion,
    most_relevant_first,
    random_order,
    replaced_shares,
    score_curves,
    symmetric_relevance_gain,
)
from interp_cnn.evaluation.maps.randomisation import STILL_ALIKE, randomisation_check
from interp_cnn.explanation.gradients.gradients import gradient_x_input, guided_backprop, sensitivity_analysis
from interp_cnn.explanation.network.logits import being_tried
from interp_cnn.explanation.occlusion import fills
from interp_cnn.explanation.occlusion.maps import occlusion_map
from interp_cnn.explanation.propagation.deeplift import deeplift
from interp_cnn.explanation.propagation.lrp import lrp


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture
def linear(generator) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A linear network (double precision), images and targets."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).double()
    images = torch.rand(4, 1, 6, 6, generator=generator, dtype=torch.float64)
    return network, images, torch.tensor([0, 1, 2, 0])


def contributions(network, images, targets, baseline=0.0):
    return (network[1].weight[targets].view_as(images) * (images - baseline)).sum(1).detach()


@pytest.mark.parametrize("baseline", [0.0, 0.3])
def test_a_linear_networks_contributions_have_sensitivity_one_and_infidelity_zero(
    linear, generator, baseline
):
    network, images, targets = linear
    maps = contributions(network, images, targets, baseline)
    for subsets in (random_pixels((6, 6), 5, 20, generator), random_squares((6, 6), 20, generator)):
        found = removals(network, images, targets, subsets, fill=fills.constant(baseline), batch_size=7)
        assert torch.allclose(sensitivity_n(maps, found), torch.ones(4).double())
        assert torch.allclose(sensitivity_n(-3 * maps, found), -torch.ones(4).double())
        assert infidelity(maps, found).max() < 1e-20
        assert infidelity(2 * maps, found).min() > 1e-3
        assert infidelity(2 * maps, found, scaled=True).max() < 1e-20


def test_a_map_without_variation_has_no_sensitivity(linear, generator):
    network, images, targets = linear
    found = removals(
        network, images, targets, random_pixels((6, 6), 5, 9, generator), fill=fills.constant(0.0)
    )
    assert sensitivity_n(torch.ones(4, 6, 6), found).isnan().all()


def test_completeness_compares_the_sum_with_what_it_should_be():
    found = completeness(torch.tensor([3.0, 0.0]), torch.tensor([-2.0, 0.0]))
    assert (found.delta[0], found.ratio[0], found.error[0]) == (5.0, -1.5, 2.5)
    assert found.error[1].isnan()


def test_curves_of_a_linear_network_are_the_running_sums_of_its_contributions(linear):
    network, images, targets = linear
    maps = contributions(network, images, targets)
    regions, shares_ = Regions((6, 6), 2), replaced_shares(9)
    (order,) = most_relevant_first(regions.sums(maps))
    curves = score_curves(
        network,
        images,
        targets,
        order,
        regions=regions,
        shares=shares_,
        fill=fills.constant(0.0),
        batch_size=5,
    )
    whole = network(images).gather(1, targets[:, None])
    falls = regions.sums(maps).gather(1, order).cumsum(1)
    assert torch.allclose(curves.logit, torch.cat([whole, whole - falls], 1))
    assert torch.allclose(curves.probability[:, 0], network(images).softmax(1)[range(4), targets])


def test_the_curves_of_a_known_image_are_those_by_hand():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    network[1].weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    image, target = torch.ones(1, 1, 2, 2), torch.tensor([0])
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    options = {"regions": Regions((2, 2)), "shares": replaced_shares(4), "fill": fills.constant(0.0)}
    most, least = (
        score_curves(network, image, target, most_relevant_first(signed), **options).logit
        for signed in (values, -values)
    )
    assert most.tolist() == [[10, 6, 3, 1, 0]]
    assert least.tolist() == [[10, 9, 7, 4, 0]]
    assert area_under(most).item() == (5 + 6 + 3 + 1) / 4
    assert symmetric_relevance_gain(least, most).item() == (3 + 4 + 3) / 4


def test_regions_are_squares_cut_at_the_border():
    regions = Regions((3, 5), 2)
    assert regions.of_pixel.tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    values = torch.arange(15.0).view(1, 3, 5)
    assert regions.sums(values)[0, 2] == 4 + 9
    assert regions.means(values).tolist() == [[3.0, 5.0, 6.5, 10.5, 12.5, 14.0]]


def test_a_random_order_is_a_permutation_and_the_seeds_own():
    first, second = (random_order(3, 20, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert all(sorted(row) == list(range(20)) for row in first.tolist())


class TwoCorners(nn.Module):
    """Class 0: light in the upper left quarter; class 1: in the lower right one."""

    def forward(self, images):
        half = images.shape[2] // 2
        corners = images[:, :, :half, :half], images[:, :, half:, half:]
        return torch.stack([corner.mean((1, 2, 3)) for corner in corners], 1) * 20


def corner_curves(values, *, side=1, steps=14):
    """Areas of deletion and insertion, and SRG, of maps (B, H, W), asked about either corner."""
    images = (
        torch.rand(len(values), 1, *values.shape[1:], generator=torch.Generator().manual_seed(0)) * 0.1 + 0.5
    )
    found = []
    for target in (0, 1):
        question = (TwoCorners(), images, torch.full((len(values),), target))
        regions = Regions(tuple(values.shape[1:]), side)
        options = {"regions": regions, "shares": replaced_shares(steps), "fill": fills.constant(0.0)}
        least, most = (
            score_curves(*question, most_relevant_first(regions.means(signed)), **options).logit
            for signed in (-values, values)
        )
        areas = [rule(*question, values, steps=steps)[1].mean() for rule in (deletion, insertion)]
        found.append([*map(float, areas), float(symmetric_relevance_gain(least, most).abs().max())])
    return found


def test_a_map_that_says_nothing_scores_alike_wherever_the_object_lies():
    for left, right in zip(*(scores[:2] for scores in corner_curves(torch.zeros(6, 20, 20))), strict=True):
        assert left == pytest.approx(right, abs=0.02)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_the_symmetric_relevance_gain_of_a_constant_map_is_zero(side):
    for value in (0.0, -3.5, 1e9):
        for *_, gain in corner_curves(torch.full((3, 12, 12), value), side=side):
            assert gain < 1e-12


def test_tied_regions_come_first_in_half_of_the_orders_and_others_keep_their_place():
    values = torch.tensor([[2.0, 1.0, 1.0, 0.0, 0.0, 0.0], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]])
    orders = most_relevant_first(values)
    assert orders.shape == (4, 2, 6)
    assert orders[:, 0, 0].eq(0).all() and orders[:, 1].eq(torch.arange(6)).all()
    assert (orders[:, 0, 1] == 1).sum() == 2 and orders[:, 0, 3:].min() == 3
    places = orders[:, 0].argsort(dim=1)[:, 3:].double().mean(dim=0)
    assert torch.equal(places, torch.full((3,), 4.0).double())  # the mean place of all that are tied
    assert len(most_relevant_first(values[1:])) == 1
    with pytest.raises(ValueError, match="draws is 3"):
        most_relevant_first(values, draws=3)


def test_ties_are_broken_alike_whatever_else_is_in_the_batch(linear):
    network, images, targets = linear
    maps = contributions(network, images, targets).clamp(min=0)  # about half of the pixels are tied at zero
    maps[1] = torch.arange(36.0).view(6, 6)
    for rule in (deletion, insertion):
        together = rule(network, images, targets, maps, steps=7, batch_size=5)[1]
        for i in range(len(images)):
            mine = slice(i, i + 1)
            alone = rule(network, images[mine], targets[mine], maps[mine], steps=7)[1]
            assert torch.allclose(alone, together[mine], atol=1e-6)


def test_orders_are_averaged_and_what_they_share_is_asked_once(linear):
    network, images, targets = linear
    asked = []
    hook = network.register_forward_hook(
        lambda module, inputs, output: None if being_tried() else asked.append(len(output))
    )
    options = {"regions": Regions((6, 6), 3), "shares": replaced_shares(4), "fill": fills.constant(0.0)}
    orders = torch.tensor([[0, 1, 2, 3], [0, 1, 3, 2], [1, 0, 2, 3]])[:, None].expand(-1, 4, -1)
    found = score_curves(network, images, targets, orders, **options).logit
    assert sum(asked) == 4 * (5 + 1 + 1)
    each = [score_curves(network, images, targets, order, **options).logit for order in orders]
    hook.remove()
    assert torch.allclose(found, torch.stack(each).mean(0))


def test_a_fill_that_draws_is_averaged(linear):
    network, images, targets = linear
    fill = fills.noise(samples=3)
    options = {"regions": Regions((6, 6), 3), "shares": replaced_shares(2)}
    order = torch.arange(4).expand(4, 4)
    found = score_curves(network, images, targets, order, fill=fill, **options)
    last = [
        network(fill(images, torch.ones(4, 1, 6, 6, dtype=torch.bool), sample))[range(4), targets]
        for sample in range(3)
    ]
    assert torch.allclose(found.logit[:, -1], torch.stack(last).mean(0).detach())


def test_pixel_flipping_is_quantus_own_curve():
    network, images, targets, maps = example()
    options = {"regions": Regions((8, 8)), "shares": replaced_shares(64 // STEP)}
    found = score_curves(
        network, images, targets, most_relevant_first(maps.flatten(1)), fill=fills.constant(0.0), **options
    )
    expected = torch.tensor(json.loads(RECORD.read_text())["curves"], dtype=torch.float64)
    assert torch.allclose(found.probability[:, 1:], expected, atol=1e-6)
    assert found.probability.std() > 0.1


def test_deletion_and_insertion_run_from_the_whole_image_to_its_ends(linear):
    network, images, targets = linear
    maps = contributions(network, images, targets)
    falling, deleted = deletion(network, images, targets, maps, steps=6)
    rising, inserted = insertion(network, images, targets, maps, steps=6)
    own = network(images).softmax(1)[range(4), targets]
    blurred = network(fills.blur().replace(images, None, 0)).softmax(1)[range(4), targets]
    black = network(torch.zeros_like(images)).softmax(1)[range(4), targets]
    for curve, first, last in ((falling, own, black), (rising, blurred, own)):
        assert curve.shape == (4, 7)
        assert torch.allclose(curve[:, 0], first) and torch.allclose(curve[:, -1], last)
    assert (deletion(network, images, targets, -maps, steps=6)[1] > deleted).all()
    assert torch.isfinite(inserted).all()


def test_a_map_on_the_object_wins_and_one_beside_it_loses():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 1:3, 1:3] = True
    inside, outside = mask.float(), (~mask).float() - 2 * mask.float()
    for measure in (pointing_game, rank_accuracy):
        assert measure(inside, mask).item() == 1
        assert measure(outside, mask).item() == 0
        assert math.isclose(measure(torch.ones(1, 4, 4), mask).item(), 4 / 16)


def test_an_empty_mask_has_no_answer():
    maps, masks = torch.rand(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[1, 0, 0] = True
    for measure in (pointing_game, rank_accuracy):
        assert measure(maps, masks).isnan().tolist() == [True, False]


def test_ranks_and_masses_by_hand():
    maps = torch.tensor([[[4.0, 3.0], [2.0, -9.0]]])
    masks = torch.tensor([[[True, False], [True, False]]])
    assert rank_accuracy(maps, masks).item() == 0.5
    found = shares(maps, torch.stack([masks, ~masks], 1))
    assert np.allclose(found, [[6 / 9, 3 / 9]])
    assert shares(-maps.abs(), masks[:, None]).isnan().all()


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"masks must be bool and as large as the maps \(1, 2, 2\)"):
        pointing_game(torch.ones(1, 2, 2), torch.ones(1, 3, 3, dtype=torch.bool))


def test_structural_similarity_is_the_papers_formula_at_every_place(generator):
    first, second = torch.rand(2, 14, 13, generator=generator).double()
    a, b = first / first.abs().max(), second / second.abs().max()
    axis = np.arange(11) - 5
    weights = np.exp(-(axis**2) / (2 * 1.5**2))
    kernel = torch.tensor(np.outer(weights, weights) / weights.sum() ** 2)
    found = []
    for row in range(4):
        for column in range(3):
            x, y = (v[row : row + 11, column : column + 11] for v in (a, b))
            mx, my = (kernel * x).sum(), (kernel * y).sum()
            vx, vy = (kernel * (x - mx) ** 2).sum(), (kernel * (y - my) ** 2).sum()
            vxy = (kernel * (x - mx) * (y - my)).sum()
            top = (2 * mx * my + 0.02**2) * (2 * vxy + 0.06**2)
            found.append(top / ((mx**2 + my**2 + 0.02**2) * (vx + vy + 0.06**2)))
    assert torch.allclose(structural_similarity(first[None], second[None])[0], torch.stack(found).mean())
    assert torch.allclose(structural_similarity(first[None], 7 * first[None]), torch.ones(1).double())


def edge_detector(network, images, targets):
    return (images - images.roll(1, -1)).abs().sum(1)


def added_up(method):
    return lambda network, images, targets: method(network, images, targets).sum(1)


MAPS = {
    "sensitivity analysis": added_up(sensitivity_analysis),
    "gradient x input": added_up(gradient_x_input),
    "deeplift": added_up(deeplift),
    "lrp": added_up(lrp),
    "occlusion": lambda network, images, targets: occlusion_map(network, images, targets, window=3, stride=1),
}


@pytest.fixture
def network(generator) -> nn.Module:
    layers = (nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(384, 3))
    network = nn.Sequential(*layers)
    for parameter in network.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return network


@pytest.mark.parametrize("name", MAPS)
def test_maps_of_a_method_that_asks_the_network_change_with_its_weights(network, generator, name):
    images, targets = torch.randn(4, 1, 12, 12, generator=generator), torch.tensor([0, 1, 2, 0])
    before = [parameter.clone() for parameter in network.parameters()]
    for cascading in (True, False):
        found = randomisation_check(network, images, targets, MAPS[name], cascading=cascading)
        assert [one.layer for one in found] == ["5", "2", "0"]
        assert found[-1].rank.mean() < STILL_ALIKE
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_an_edge_detector_fails_the_randomisation_check(network, generator):
    images, targets = torch.randn(4, 1, 12, 12, generator=generator), torch.tensor([0, 1, 2, 0])
    for cascading in (True, False):
        found = randomisation_check(network, images, targets, edge_detector, cascading=cascading)
        assert all(torch.allclose(one.rank, torch.ones(4).double()) for one in found)
        assert all(torch.allclose(one.structure, torch.ones(4).double()) for one in found)


def test_shuffling_one_layer_alone_leaves_the_others(network, generator):
    images, targets = torch.randn(2, 1, 12, 12, generator=generator), torch.tensor([0, 1])
    alone, together = (
        randomisation_check(network, images, targets, added_up(guided_backprop), cascading=cascading)
        for cascading in (False, True)
    )
    assert torch.equal(alone[0].rank, together[0].rank)
    assert not torch.equal(alone[1].rank, together[1].rank)
