"""Landmarks regressed on positions: a literal second implementation, and planted filters."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from interp_cnn.evaluation.filters.landmark_regression import (
    FEWEST,
    PENALTIES,
    images_to_learn_from,
    landmark_errors,
)

DIAGONAL = math.hypot(64, 64)


def planted(images=80, seed=0):
    """One landmark, and filters: a mirror image of it, one beside it, a constant, a random one, a silent one."""
    generator = torch.Generator().manual_seed(seed)
    landmarks = 10 + 44 * torch.rand(images, 1, 2, generator=generator)
    beside = landmarks + 3 * torch.randn(images, 1, 2, generator=generator)
    wandering = 64 * torch.rand(images, 1, 2, generator=generator)
    still = torch.full((images, 1, 2), 31.5)
    positions = torch.cat((63 - landmarks, beside, still, wandering, still), dim=1)
    fires = torch.ones(images, 5, dtype=torch.bool)
    fires[:, 4] = False
    return positions, fires, landmarks, torch.zeros(images, dtype=torch.int64)


def literal_errors(positions, landmarks, seed):
    """Ridge with the penalty of the least leave-one-out error, found by leaving each image out."""
    mixed = torch.randperm(len(positions), generator=torch.Generator().manual_seed(seed)).tensor_split(2)
    errors = np.full(len(positions), np.nan)
    for learn, test in (mixed, mixed[::-1]):
        inputs, target = (
            (some[learn].double() / DIAGONAL).reshape(len(learn), -1).numpy()
            for some in (positions, landmarks)
        )
        losses = []
        for penalty in PENALTIES:
            total = 0.0
            for out in range(len(inputs)):
                kept = np.arange(len(inputs)) != out
                model = Ridge(alpha=penalty).fit(inputs[kept], target[kept])
                total += float(((model.predict(inputs[out : out + 1]) - target[out]) ** 2).sum())
            losses.append(total)
        model = Ridge(alpha=PENALTIES[int(np.argmin(losses))]).fit(inputs, target)
        unseen, truth = (
            (some[test].double() / DIAGONAL).reshape(len(test), -1).numpy() for some in (positions, landmarks)
        )
        errors[test] = np.linalg.norm(model.predict(unseen) - truth, axis=1)
    return errors


def test_errors_equal_a_regression_written_out():
    positions, fires, landmarks, labels = planted(images=24)
    ours = landmark_errors(positions[:, 1:4], fires[:, 1:4], landmarks, labels, diagonal=DIAGONAL, seed=4)
    assert ours.every[:, 0].tolist() == pytest.approx(
        literal_errors(positions[:, 1:4], landmarks, 4), abs=1e-9
    )


def test_the_better_the_filters_the_smaller_the_error():
    positions, fires, landmarks, labels = planted()

    def error(*filters):
        chosen = list(filters)
        found = landmark_errors(positions[:, chosen], fires[:, chosen], landmarks, labels, diagonal=DIAGONAL)
        return float(found.every.mean()), float(found.few.mean()), float(found.constant.mean())

    mirror, beside, constant, wandering, silent = (error(number)[0] for number in range(5))
    mean_place = error(0)[2]
    assert mirror < 0.001 and beside == pytest.approx(3 * math.sqrt(math.pi / 2) / DIAGONAL, rel=0.25)
    assert constant == silent == pytest.approx(mean_place, abs=1e-9)
    assert wandering == pytest.approx(mean_place, rel=0.1)
    both = error(1, 3)
    assert both[0] == pytest.approx(beside, rel=0.15) and both[1] == pytest.approx(beside, rel=0.15)


def test_few_filters_find_the_good_one_among_many_bad_ones():
    positions, _, landmarks, labels = planted()
    generator = torch.Generator().manual_seed(5)
    noise = 64 * torch.rand(80, 100, 2, generator=generator)
    many = torch.cat((noise, positions[:, 1:2]), dim=1)
    found = landmark_errors(many, torch.ones(80, 101, dtype=torch.bool), landmarks, labels, diagonal=DIAGONAL)
    assert float(found.few.mean()) < 0.6 * float(found.every.mean()) < 0.6 * float(found.constant.mean())


def test_a_category_with_few_images_and_unknown_landmarks_have_no_error():
    positions, fires, landmarks, labels = planted(images=40)
    landmarks[3] = torch.nan
    labels[-(FEWEST - 1) :] = 1
    found = landmark_errors(positions, fires, landmarks, labels, diagonal=DIAGONAL)
    known = found.every[:, 0].isfinite()
    assert known.tolist() == [number != 3 and number < 40 - FEWEST + 1 for number in range(40)]


def test_images_without_a_landmark_are_not_learnt_from():
    _, _, landmarks, labels = planted(images=40)
    landmarks[::2] = torch.nan
    assert images_to_learn_from(landmarks, labels, 0).tolist() == list(range(1, 40, 2))
