import csv
import math

import pytest
import reference_measures as reference
import torch

from interp_cnn.evaluation.filters.baselines import annotation_baselines, shuffled_images
from interp_cnn.evaluation.filters.part_windows import PATCH

SIZE = 64


def annotated(images=60, parts=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    landmarks = 31.5 + 8 * torch.randn(images, parts, 2, generator=generator)
    landmarks[torch.rand(images, parts, generator=generator) < 0.2] = torch.nan
    return landmarks, torch.arange(images) % 3


def test_centre_best_constant_and_oracle_equal_the_loops():
    landmarks, labels = annotated()
    options = {"image_size": (SIZE, SIZE), "grid": (4, 4), "resamples": 20}
    rows = annotation_baselines(landmarks, labels, **options)
    diagonal = math.hypot(SIZE, SIZE)
    steps = torch.arange(7.5, 64, 16)
    cells = torch.cat((torch.cartesian_prod(steps, steps), torch.tensor([[31.5, 31.5]])))
    centre, constant, oracle, other = [], [], [], []
    for category in range(3):
        mine = landmarks[labels == category]
        scores = torch.zeros(len(mine), 1)
        middle = torch.full((len(mine), 1, 2), 31.5)
        centre += reference.location_instability(middle, scores, mine, diagonal, 100)
        constant += reference.best_constant(scores, mine, cells, diagonal, 100)
        for part in range(2):
            both = mine.clone()
            both[mine[:, part].isnan().any(dim=1)] = torch.nan
            answer = mine[:, part : part + 1].nan_to_num()
            oracle += reference.location_instability(answer, scores, both, diagonal, 100)
            other += reference.location_instability(answer, scores, both[:, [1 - part]], diagonal, 100)
    for name, expected in {
        "centre": centre, "best_constant": constant, "oracle": oracle, "oracle_other_part": other
    }.items():  # fmt: skip
        measured = rows[name]["location_instability"]
        assert measured.value == pytest.approx(sum(expected) / len(expected)), name
        assert measured.low <= measured.value <= measured.high
    assert rows["best_constant"]["tracking_gain"].value == pytest.approx(0, abs=1e-9)
    assert rows["oracle"]["location_instability"].value < rows["oracle_jitter"]["location_instability"].value
    assert rows["oracle"]["part_gain"].value == pytest.approx(1)
    assert rows["best_constant"]["part_gain"].value == pytest.approx(0, abs=1e-9)
    assert rows["centre"]["part_gain"].value <= 0
    assert rows["random_cell"]["tracking_gain"].value < rows["centre"]["tracking_gain"].value <= 0


def test_with_one_part_the_oracle_is_perfect_and_there_is_no_other_part():
    landmarks, labels = annotated(parts=1)
    rows = annotation_baselines(landmarks, labels, image_size=(SIZE, SIZE), resamples=20)
    assert rows["oracle"]["location_instability"].value == 0 and rows["oracle"]["tracking_gain"].value == 1
    assert "oracle_other_part" not in rows


@pytest.mark.slow
def test_the_same_seed_gives_the_same_baselines():
    landmarks, labels = annotated()
    one, two, three = (
        annotation_baselines(landmarks, labels, image_size=(SIZE, SIZE), resamples=20, seed=seed)
        for seed in (0, 0, 1)
    )
    assert one == two and one["random_cell"] != three["random_cell"]


def test_shuffling_deals_positions_within_the_category_only():
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    positions = torch.arange(6.0).reshape(6, 1, 1).expand(6, 2, 2).clone()
    shuffled = positions[shuffled_images(labels, torch.Generator().manual_seed(1))]
    assert not torch.equal(shuffled, positions)
    for label in (0, 1):
        mine = labels == label
        assert sorted(shuffled[mine][:, 0, 0].tolist()) == sorted(positions[mine][:, 0, 0].tolist())


def read_animal_parts(folder, size):
    landmarks, labels = [], []
    with open(folder / "annotations.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["label"] == "1":
                places = [row[f"{part}_{axis}"] for part in ("head", "leg") for axis in ("y", "x")]
                landmarks.append([float(place) * size - 0.5 if place else math.nan for place in places])
                labels.append(row["wnid"])
    names = sorted(set(labels))
    landmarks = torch.tensor(landmarks).reshape(-1, 2, 2)
    known = landmarks.isfinite().all(dim=2).any(dim=1)
    return landmarks[known], torch.tensor([names.index(label) for label in labels])[known]


@pytest.mark.slow
def test_the_published_table_of_baselines_comes_out_of_the_annotations(data_root):
    landmarks, labels = read_animal_parts(data_root / "animalparts128", 128)
    rows = annotation_baselines(landmarks, labels, image_size=(128, 128), resamples=50)
    found = {
        name: row["location_instability"].value for name, row in rows.items() if "location_instability" in row
    }
    assert found["random_cell"] == pytest.approx(0.152, abs=0.003)
    assert found["centre"] == pytest.approx(0.069, abs=0.002)
    assert found["best_constant"] < found["centre"]
    assert found["oracle"] < 0.05 < found["best_constant"]


def test_purity_of_constants_and_the_oracle_is_what_the_loops_give():
    landmarks, labels = annotated(images=90)
    options = {"image_size": (SIZE, SIZE), "grid": (4, 4), "resamples": 20}
    rows = annotation_baselines(landmarks, labels, **options)
    purity = {name: row["part_purity"].value for name, row in rows.items() if "part_purity" in row}
    assert purity["oracle"] >= 0.5 and purity["oracle"] > 2 * purity["best_constant"]
    assert purity["best_constant"] > purity["random_cell"]
    scores = torch.arange(90, 0, -1.0).unsqueeze(1)
    centre = torch.full((90, 1, 2), 31.5)
    known = ~landmarks.isnan().any(dim=2).all(dim=1)
    everywhere = reference.purities(
        centre, scores, landmarks, [0, 1], known.nonzero().flatten().tolist(), 0, (SIZE, SIZE), PATCH, 90
    )
    assert purity["centre"] == pytest.approx(max(everywhere.values()), abs=0.1)  # ten images at a time


def test_landmarks_regressed_on_nothing_are_no_better_than_their_mean_place():
    landmarks, labels = annotated(images=120)
    rows = annotation_baselines(landmarks, labels, image_size=(SIZE, SIZE), resamples=20)
    mean, wandering, oracle = (
        rows[name]["landmark_error"].value for name in ("mean_place", "random_cell", "oracle")
    )
    assert oracle < 0.3 * mean and wandering > 0.9 * mean
