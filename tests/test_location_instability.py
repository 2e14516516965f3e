import math

import pytest
import reference_measures as reference
import torch

from interp_cnn.evaluation.filters.location_instability import (
    instability_per_part,
    location_instability,
    strongest_category,
    strongest_images,
)

DIAGONAL = math.hypot(64, 64)


def observations(images=60, filters=5, parts=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand(images, filters, 2, generator=generator) * 63
    scores = torch.rand(images, filters, generator=generator)
    landmarks = torch.rand(images, parts, 2, generator=generator) * 63
    landmarks[torch.rand(images, parts, generator=generator) < 0.3] = torch.nan
    return positions, scores, landmarks


@pytest.mark.parametrize("top_images", [2, 7, 100])
def test_it_equals_the_literal_loops(top_images):
    positions, scores, landmarks = observations()
    ours = location_instability(positions, scores, landmarks, diagonal=DIAGONAL, top_images=top_images)
    assert ours.dtype == torch.float64
    expected = reference.location_instability(positions, scores, landmarks, DIAGONAL, top_images)
    assert ours.tolist() == pytest.approx(expected, abs=1e-12)


def test_equal_scores_go_to_the_earlier_image():
    positions, scores, landmarks = observations()
    scores = (scores * 3).round()
    ours = location_instability(positions, scores, landmarks, diagonal=DIAGONAL, top_images=9)
    expected = reference.location_instability(positions, scores, landmarks, DIAGONAL, 9)
    assert ours.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("top_images", [5, 100])
def test_resamplings_equal_the_loops_over_the_drawn_images(top_images):
    positions, scores, landmarks = observations()
    drawn = torch.randint(60, (4, 60), generator=torch.Generator().manual_seed(1))
    drawn[3] = torch.arange(60) // 20  # three images, twenty times each: the truncated order does not suffice
    weights = torch.stack([torch.bincount(row, minlength=60) for row in drawn])
    ours = instability_per_part(
        positions, scores, landmarks, weights, diagonal=DIAGONAL, top_images=top_images
    ).nanmean(dim=0)
    for row, expected in zip(ours, drawn.tolist(), strict=True):
        loops = reference.location_instability(positions, scores, landmarks, DIAGONAL, top_images, expected)
        # three images: the five strongest draws are all of one image, which has no spread
        assert row.tolist() == pytest.approx(loops, abs=1e-9, nan_ok=True)


def test_the_strongest_images_are_those_of_a_stable_sort():
    scores = (torch.rand(50, 40, generator=torch.Generator().manual_seed(0)) * 30).round()
    scores[:, 7] = 1.0
    for count in (1, 10, 50, 90):
        expected = scores.argsort(dim=0, descending=True, stable=True)[:count]
        assert torch.equal(strongest_images(scores, count).sort(dim=0).values, expected.sort(dim=0).values)


def test_a_resampling_whose_strongest_images_are_missing_looks_further_down():
    positions, scores, landmarks = observations(images=200, parts=1)
    scores = torch.arange(200, 0, -1).float().unsqueeze(1).expand(200, 5)
    weights = torch.ones(2, 200)
    weights[1, :150] = 0
    ours = instability_per_part(
        positions, scores, landmarks, weights, diagonal=DIAGONAL, top_images=4
    ).nanmean(dim=0)
    loops = reference.location_instability(
        positions, scores, landmarks, DIAGONAL, 4, [i for i in range(200) if i >= 150]
    )
    assert ours[1].tolist() == pytest.approx(loops, abs=1e-9)


def test_a_hand_made_example():
    # distances to the only landmark: 0, 3, 6 and 9 pixels; the weakest image does not count; diagonal 10.
    positions = torch.tensor([[[0.0, 0.0]], [[0.0, 3.0]], [[6.0, 0.0]], [[0.0, 9.0]]])
    scores = torch.tensor([[3.0], [2.0], [4.0], [1.0]])
    landmarks = torch.zeros(4, 1, 2)
    assert location_instability(
        positions, scores, landmarks, diagonal=10, top_images=3
    ).item() == pytest.approx(0.3)


def test_a_filter_on_the_landmark_or_at_a_fixed_distance_from_it_has_instability_zero():
    _, scores, landmarks = observations(parts=1)
    on = landmarks.expand(60, 5, 2).clone()
    assert location_instability(on.nan_to_num(), scores, landmarks, diagonal=DIAGONAL).tolist() == [0.0] * 5
    beside = on.nan_to_num() + torch.tensor([3.0, -4.0])
    assert location_instability(beside, scores, landmarks, diagonal=DIAGONAL).abs().max() < 1e-7


def test_it_ignores_the_order_of_images_and_follows_that_of_filters():
    positions, scores, landmarks = observations()
    whole = location_instability(positions, scores, landmarks, diagonal=DIAGONAL, top_images=9)
    images, filters = torch.randperm(60), torch.randperm(5)
    permuted = location_instability(
        positions[images][:, filters],
        scores[images][:, filters],
        landmarks[images],
        diagonal=DIAGONAL,
        top_images=9,
    )
    assert torch.allclose(permuted, whole[filters], atol=1e-12)


def test_without_landmarks_there_is_no_number():
    positions, scores, landmarks = observations()
    assert location_instability(positions, scores, landmarks * torch.nan, diagonal=DIAGONAL).isnan().all()
    assert location_instability(positions[:1], scores[:1], landmarks[:1], diagonal=DIAGONAL).isnan().all()
    assert location_instability(positions[:0], scores[:0], landmarks[:0], diagonal=DIAGONAL).isnan().all()


def test_the_strongest_category_is_the_highest_mean_and_never_the_background():
    labels = torch.tensor([0, 0, 1, 1, 2])
    scores = torch.tensor([[1.0, 9, 0], [3, 0, 0], [2, 2, 0], [3, 0, 0], [9, 9, 0]])
    assert strongest_category(scores, labels, 4).tolist() == [2, 2, -1]
    assert strongest_category(scores, labels, 4, background=2).tolist() == [1, 0, -1]


def test_wrong_shapes_and_numbers_are_named():
    positions, scores, landmarks = observations()
    with pytest.raises(ValueError, match=r"landmarks \(60, 2\)"):
        location_instability(positions, scores, landmarks[:, 0], diagonal=DIAGONAL)
    with pytest.raises(ValueError, match="diagonal is 0"):
        location_instability(positions, scores, landmarks, diagonal=0)
    with pytest.raises(ValueError, match="top_images is 1"):
        location_instability(positions, scores, landmarks, diagonal=DIAGONAL, top_images=1)
