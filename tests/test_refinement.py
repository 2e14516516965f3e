"""Coarse-to-fine occlusion, chosen windows, and pairs of windows, against full occlusion."""

from functools import partial

import pytest
import torch
from occlusion_networks import five_convolutions, lively, pictures
from torch import nn

from interp_cnn.explanation.occlusion.fills import shuffled
from interp_cnn.explanation.occlusion.job import OcclusionJob
from interp_cnn.explanation.occlusion.maps import becomes_class, occlusion_drops
from interp_cnn.explanation.occlusion.pairs import pair_interactions
from interp_cnn.explanation.occlusion.refinement import refined_drops
from interp_cnn.explanation.occlusion.windows import window_grid

NETWORK = lively(five_convolutions()).double()
IMAGES = pictures(2, (40, 44)).double()
TARGETS = torch.tensor([3, 7])
OPTIONS = {"window": 6, "stride": 3, "fill": 0.4}


@pytest.fixture(scope="module")
def full() -> torch.Tensor:
    return occlusion_drops(NETWORK, IMAGES, engine="dense", **OPTIONS)


@pytest.mark.parametrize("engine", ["dense", "incremental"])
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_chosen_windows_are_computed_and_say_so(engine, share, full):
    wanted = torch.rand(2, *full.shape[2:], generator=torch.Generator().manual_seed(2)) < share
    job = OcclusionJob(NETWORK, IMAGES, engine=engine, wanted=wanted, **OPTIONS)
    assert job.cost().windows == round(int(wanted.sum()) / 2)
    for _ in job.run():
        pass
    assert job.known[wanted].all() and job.known.sum() <= 2 * wanted.sum()
    for index in range(2):
        known = job.known[index]
        torch.testing.assert_close(job.drops[index][:, known], full[index][:, known], rtol=1e-9, atol=1e-12)
        assert (job.drops[index][:, ~known] == 0).all()


def test_chosen_windows_of_another_grid_are_refused():
    with pytest.raises(ValueError, match=r"^wanted must be boolean"):
        OcclusionJob(NETWORK, IMAGES, wanted=torch.ones(2, 3, 3, dtype=torch.bool), **OPTIONS)


@pytest.mark.parametrize("levels", [1, 2])
def test_refined_drops_are_exact_where_they_say_so_and_the_error_bound_holds(levels, full):
    found = refined_drops(
        NETWORK, IMAGES, TARGETS, levels=levels, matters=0.4, audit=20, window=6, stride=3, fill=0.4
    )
    own = full[torch.arange(2), TARGETS]
    torch.testing.assert_close(found.drops[found.exact], own[found.exact], rtol=1e-9, atol=1e-12)
    assert found.computed.double().mean() < 1.5 * own[0].numel() and not found.exact.all()
    for index in range(2):
        wrong = ((found.drops - own).abs()[index] > found.error[index])[~found.exact[index]].double().mean()
        assert wrong <= found.share[index]
        assert found.share[index] == pytest.approx(1 - 0.05 ** (1 / 20))
    largest = own.abs().flatten(1).argmax(1)
    assert found.exact.flatten(1)[torch.arange(2), largest].all()


def test_refining_everything_gives_every_window_and_no_error(full):
    found = refined_drops(NETWORK, IMAGES, TARGETS, levels=1, matters=1e-9, window=6, stride=3, fill=0.4)
    assert found.exact.all() and (found.error == 0).all() and (found.share == 0).all()
    torch.testing.assert_close(found.drops, full[torch.arange(2), TARGETS], rtol=1e-9, atol=1e-12)


def test_estimates_are_exact_where_windows_tile_and_every_pixel_counts_alike():
    torch.manual_seed(0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).double()
    images = torch.ones(1, 1, 22, 16, dtype=torch.float64)  # 22: a row of blocks is cut, pixels are left over
    options = {"window": 4, "stride": 4}
    found = refined_drops(network, images, torch.tensor([1]), levels=2, matters=5.0, audit=1000, **options)
    expected = occlusion_drops(network, images, **options)[:, 1]
    torch.testing.assert_close(found.drops, expected)
    assert found.error.max() < 1e-8 and found.exact.all()


def test_coarse_windows_larger_than_the_image_are_refused():
    with pytest.raises(ValueError, match=r"^levels must leave coarse windows within the image, got 4"):
        refined_drops(NETWORK, IMAGES, TARGETS, levels=4, window=6, stride=3)


def test_pair_interactions_are_those_of_literal_pairs():
    options = {"window": (9, 8), "stride": 12, "fill": torch.tensor([0.1, 0.5, 0.9])[:, None, None].double()}
    first = [(0, 1), (2, 3)]
    found = pair_interactions(NETWORK, IMAGES, first, **options)
    grid = window_grid((40, 44), (9, 8), 12)
    masks = [[grid.mask(r, c) for c in range(len(grid.columns))] for r in range(len(grid.rows))]

    def drop(mask: torch.Tensor) -> torch.Tensor:
        return NETWORK(IMAGES) - NETWORK(torch.where(mask, options["fill"], IMAGES))

    with torch.no_grad():
        for number, (row, column) in enumerate(first):
            own = masks[row][column]
            for r, line in enumerate(masks):
                for c, other in enumerate(line):
                    expected = drop(own | other) - drop(own) - drop(other)
                    torch.testing.assert_close(found[:, :, number, r, c], expected, rtol=1e-8, atol=1e-10)


def test_pairs_are_symmetric_and_add_up_on_a_linear_network():
    torch.manual_seed(1)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    images = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    windows = [(row, column) for row in range(2) for column in range(2)]
    apart = pair_interactions(linear, images, windows, window=4, stride=4)
    for number, (row, column) in enumerate(windows):
        apart[:, :, number, row, column] += occlusion_drops(linear, images, window=4, stride=4)[
            :, :, row, column
        ]
    assert apart.abs().max() < 1e-12
    overlapping = pair_interactions(
        linear, images, [(r, c) for r in range(3) for c in range(3)], window=4, stride=2
    )
    matrix = overlapping.flatten(3)
    torch.testing.assert_close(matrix, matrix.transpose(2, 3))
    assert matrix.abs().max() > 1e-3


def test_pairs_outside_the_grid_or_with_a_fill_that_looks_are_refused():
    with pytest.raises(ValueError, match=r"^first must name windows"):
        pair_interactions(NETWORK, IMAGES, [(0, 9)], window=8, stride=12)
    with pytest.raises(ValueError, match=r"^fill of pairs must not depend"):
        pair_interactions(NETWORK, IMAGES, [(0, 0)], window=8, stride=12, fill=shuffled())


def test_which_class_it_becomes_is_that_of_the_occluded_image(full):
    with torch.no_grad():
        found = becomes_class(NETWORK(IMAGES), full)
        grid = window_grid((40, 44), 6, 3)
        for row, column in [(0, 0), (3, 5), (11, 12), (6, 2)]:
            occluded = torch.where(grid.mask(row, column), 0.4, IMAGES)
            assert torch.equal(found[:, row, column], NETWORK(occluded).argmax(1))


def test_a_job_is_priced_watched_stopped_and_taken_up_again_with_the_same_bits(monkeypatch):
    monkeypatch.setattr("interp_cnn.explanation.occlusion.incremental.engine.BUDGET", 2**18)
    images = pictures(3, (40, 44))
    network = lively(five_convolutions())
    options = {"window": 6, "stride": 3, "fill": 0.4, "engine": "incremental"}
    whole, first, second = (OcclusionJob(network, images, **options) for _ in range(3))
    cost = whole.cost()
    assert cost.forward_passes == 3 * 12 * 13 and 0 < cost.forward_equivalents < cost.forward_passes
    assert cost.seconds > 0 and cost.multiply_adds > 0
    steps = list(whole.run())
    assert len(steps) > 3 and [step.done for step in steps] == list(range(1, steps[-1].total + 1))
    for number, _ in enumerate(first.run()):
        if number == 1:
            break
    second.load_state_dict(first.state_dict())
    assert [step.total for step in second.run()] == [len(steps) - 2] * (len(steps) - 2)
    assert torch.equal(second.drops, whole.drops) and second.known.all()
    with pytest.raises(ValueError, match=r"^state must come from"):
        OcclusionJob(network, images.flip(0), **options).load_state_dict(first.state_dict())


@pytest.mark.parametrize("engine", ["dense", "incremental", "one_batch"])
def test_a_refined_map_is_the_same_whatever_the_engine_and_whichever_images_stand_beside_it(
    engine, monkeypatch
):
    options = {"window": 5, "stride": 3, "levels": 2, "audit": 7}
    together = refined_drops(NETWORK, IMAGES, TARGETS, **options)
    monkeypatch.setattr(
        "interp_cnn.explanation.occlusion.refinement.OcclusionJob", partial(OcclusionJob, engine=engine)
    )
    for number in (1, 0):
        alone = refined_drops(NETWORK, IMAGES[number : number + 1], TARGETS[number : number + 1], **options)
        assert torch.equal(alone.exact[0], together.exact[number])
        torch.testing.assert_close(alone.drops[0], together.drops[number], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(alone.error[0], together.error[number], rtol=1e-9, atol=1e-12)
