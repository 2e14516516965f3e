import math

import pytest
import reference_measures as reference
import torch
from test_location_instability import DIAGONAL, observations

from interp_cnn.evaluation.filters.location_instability import location_instability
from interp_cnn.evaluation.filters.tracking import best_constant, gain_over, tracking_gain

CELLS = torch.cartesian_prod(torch.arange(4.0, 64, 8), torch.arange(4.0, 64, 8))


@pytest.mark.parametrize("top_images", [6, 100])
def test_the_best_constant_equals_trying_every_cell(top_images):
    _, scores, landmarks = observations(images=30, filters=3)
    ours, cell = best_constant(scores, landmarks, CELLS[::7], diagonal=DIAGONAL, top_images=top_images)
    expected = reference.best_constant(scores, landmarks, CELLS[::7], DIAGONAL, top_images)
    assert ours.tolist() == pytest.approx(expected, abs=1e-12)
    answers = CELLS[::7][cell].expand(30, 3, 2)
    again = location_instability(answers, scores, landmarks, diagonal=DIAGONAL, top_images=top_images)
    assert again.tolist() == pytest.approx(expected, abs=1e-12)


def test_a_filter_that_tracks_the_head_has_gain_one_and_one_that_answers_the_best_cell_gain_zero():
    _, scores, landmarks = observations(images=200, filters=2, parts=1)
    options = {"diagonal": DIAGONAL, "top_images": 100}
    _, best = best_constant(scores, landmarks, CELLS, **options)
    positions = torch.stack((landmarks[:, 0].nan_to_num(), CELLS[best[1]].expand(200, 2)), dim=1)
    gain = tracking_gain(positions, scores, landmarks, CELLS, **options)
    assert gain.tolist() == pytest.approx([1.0, 0.0], abs=1e-9)


def test_no_constant_gains_and_shuffled_images_lose_the_gain():
    _, scores, landmarks = observations(images=300, filters=64, parts=1)
    constants = CELLS.expand(300, 64, 2)
    gains = tracking_gain(constants, scores, landmarks, CELLS, diagonal=DIAGONAL)
    assert gains.max() <= 1e-9
    near = landmarks[:, :1].nan_to_num(nan=31.5) + torch.randn(
        300, 64, 2, generator=torch.Generator().manual_seed(3)
    )
    assert tracking_gain(near, scores, landmarks, CELLS, diagonal=DIAGONAL).min() > 0.8
    shuffled = near[torch.randperm(300, generator=torch.Generator().manual_seed(4))]
    assert tracking_gain(shuffled, scores, landmarks, CELLS, diagonal=DIAGONAL).max() < 0.05


def test_a_gain_over_nothing_is_zero_or_unknown():
    instability = torch.tensor([0.0, 0.1, 0.1, math.nan, 0.3])
    baseline = torch.tensor([0.0, 0.0, 0.2, 0.2, 0.1])
    assert gain_over(instability, baseline).nan_to_num(nan=9).tolist() == pytest.approx([0, 9, 0.5, 9, -2])


def test_no_cell_to_compare_with_is_refused():
    positions, scores, landmarks = observations()
    with pytest.raises(ValueError, match=r"cells has shape \(0, 2\)"):
        tracking_gain(positions, scores, landmarks, CELLS[:0], diagonal=DIAGONAL)
