"""Consistency, presence, stability and purity of parts in a window: literal loops, and filters planted to order."""

import math

import pytest
import reference_measures as reference
import torch

from interp_cnn.evaluation.filters.part_windows import (
    PATCH,
    STRONGEST,
    WINDOW,
    PartStability,
    best_presence,
    consistency,
    part_presence,
    part_purity,
    presence_of_spots,
    sides_merged,
)
from interp_cnn.evaluation.statistics import resampling

SIZE = (64, 48)


def observations(images=50, filters=4, parts=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor(SIZE)
    landmarks = torch.rand(images, parts, 2, generator=generator) * size
    positions = landmarks[:, :1] + 14 * torch.randn(images, filters, 2, generator=generator)
    landmarks[torch.rand(images, parts, generator=generator) < 0.3] = torch.nan
    positions = positions.nan_to_num(nan=20.0)
    scores = torch.rand(images, filters, generator=generator) - 0.1
    return positions, scores, landmarks


def drawn_rows(images, rows=3, seed=1):
    drawn = torch.randint(images, (rows, images), generator=torch.Generator().manual_seed(seed))
    drawn[0] = torch.arange(images)
    return drawn, torch.stack([torch.bincount(row, minlength=images) for row in drawn])


def test_presence_equals_the_literal_loops():
    positions, scores, landmarks = observations()
    drawn, weights = drawn_rows(50)
    ours = part_presence(positions, scores > 0, landmarks, weights, SIZE)
    for row, images in enumerate(drawn.tolist()):
        for f in range(4):
            expected = reference.presences(positions, scores, landmarks, images, f, SIZE, WINDOW)
            assert ours[:, row, f].tolist() == pytest.approx(expected, abs=1e-12)
    once = part_presence(positions, scores > 0, landmarks, None, SIZE)
    assert torch.equal(once[:, 0], ours[:, 0])


def test_purity_equals_the_literal_loops():
    positions, scores, landmarks = observations(seed=3)
    landmarks[:5] = torch.nan
    drawn, weights = drawn_rows(50)
    ours = part_purity(positions, scores, landmarks, torch.tensor([0, 1, 0]), weights, SIZE)
    for f in range(4):
        arguments = (positions, scores, landmarks, [0, 1, 0])
        first = reference.purities(*arguments, list(range(50)), f, SIZE, PATCH, STRONGEST)
        kept = max(first, key=lambda kind: (first[kind], -kind))
        for row, images in enumerate(drawn.tolist()):
            found = reference.purities(*arguments, sorted(images), f, SIZE, PATCH, STRONGEST)
            assert float(ours[row, f]) == pytest.approx(found[kept], abs=1e-12)


def test_the_best_fixed_spot_is_the_best_of_all_spots_in_the_loops():
    _, _, landmarks = observations()
    spots = torch.cartesian_prod(torch.arange(4.0, 64, 8), torch.arange(4.0, 48, 8))
    drawn, weights = drawn_rows(50)
    ours = presence_of_spots(spots, landmarks, weights, SIZE)
    ones = torch.ones(50, 1)
    for k in range(3):
        every = [
            reference.presences(spot.expand(50, 1, 2), ones, landmarks, range(50), 0, SIZE, WINDOW)[k]
            for spot in spots
        ]
        assert float(ours[k, 0]) == pytest.approx(max(every), abs=1e-12)
        best = spots[every.index(max(every))].expand(50, 1, 2)
        again = reference.presences(best, ones, landmarks, drawn[1].tolist(), 0, SIZE, WINDOW)[k]
        assert float(ours[k, 1]) == pytest.approx(again, abs=1e-12)


def simulated(images=300, seed=0):
    """Two parts that move freely, and five filters: tracker, constant, random, follower of either part, silent."""
    generator = torch.Generator().manual_seed(seed)
    landmarks = torch.rand(images, 2, 2, generator=generator) * 63
    either = torch.randint(2, (images,), generator=generator)
    answers = (
        landmarks[:, 0],
        torch.full((images, 2), 31.5),
        torch.rand(images, 2, generator=generator) * 63,
        landmarks[torch.arange(images), either],
        torch.zeros(images, 2),
    )
    scores = torch.rand(images, 5, generator=generator) + 0.01
    scores[:, 4] = 0
    return torch.stack(answers, dim=1), scores, landmarks


def test_planted_filters_come_in_the_right_order():
    positions, scores, landmarks = simulated()
    presence = part_presence(positions, scores > 0, landmarks, None, (64, 64))
    assert consistency(presence)[0].tolist() == [1, 0, 0, 0, 0]
    tracker, constant, wandering, either, silent = best_presence(presence)[0].tolist()
    assert tracker == 1 and silent == 0
    # half of the time exactly there, else wherever the other part is, which covers a few percent of this square
    assert tracker > either > max(constant, wandering) + 0.2
    once = torch.ones(1, 300, dtype=torch.uint8)
    pure = part_purity(positions, scores, landmarks, torch.arange(2), once, (64, 64))[0]
    assert float(pure[0]) == 1 and 0.3 <= float(pure[3]) <= 0.9
    assert max(float(pure[1]), float(pure[2])) <= 0.3 and math.isnan(float(pure[4]))


def test_a_part_that_hardly_moves_makes_a_fixed_spot_consistent():
    _, _, landmarks = simulated()
    landmarks = 31.5 + (landmarks - 31.5) / 4
    constant = torch.full((300, 1, 2), 31.5)
    fires = torch.ones(300, 1, dtype=torch.bool)
    presence = part_presence(constant, fires, landmarks, None, (64, 64))
    assert consistency(presence).item() == 1
    spots = presence_of_spots(torch.tensor([[31.5, 31.5]]), landmarks, None, (64, 64))
    assert torch.equal(spots, presence[..., 0])  # and the baseline says so


def test_without_a_visible_part_nobody_knows():
    positions, scores, landmarks = simulated(20)
    presence = part_presence(positions, scores > 0, landmarks * torch.nan, None, (64, 64))
    assert consistency(presence).isnan().all() and best_presence(presence).isnan().all()
    none = part_presence(positions, scores > 0, landmarks[:, :0], None, (64, 64))
    assert none.shape == (0, 1, 5) and best_presence(none).isnan().all() and consistency(none).isnan().all()


def test_stability_counts_the_images_whose_parts_stay():
    landmarks = torch.tensor(
        [[[30.0, 30.0]], [[30.0, 30.0]], [[30.0, 30.0]], [[torch.nan] * 2], [[30.0, 30.0]]]
    )
    before = torch.tensor([30.0, 30.0, 60.0, 30.0, 30.0]).reshape(5, 1, 1).expand(5, 1, 2)
    after = torch.tensor([31.0, 60.0, 60.0, 30.0, 30.0]).reshape(5, 1, 1).expand(5, 1, 2)
    fires = torch.ones(5, 1, dtype=torch.bool)
    again = torch.tensor([True, True, True, True, False]).unsqueeze(1)
    stability = PartStability(torch.tensor([0]), (64, 64))
    stability.update((before, fires), (after, again), landmarks, torch.zeros(5, dtype=torch.int64))
    draws = resampling(5, resamples=5)
    # stays, leaves, never there, not annotated, falls silent
    assert float(stability.shares(draws)[0]) == pytest.approx(2 / 4)


def test_left_and_right_are_one_part_only_as_words():
    names = ["left wing", "right wing", "bright spot", "Left_Eye", "eye_right", "eye", "leftover"]
    assert sides_merged(names).tolist() == [0, 0, 1, 2, 2, 2, 3]
    assert sides_merged([]).tolist() == []
