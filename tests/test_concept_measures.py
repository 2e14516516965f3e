"""What concepts say about images: by hand, and by literal loops."""

import math

import pytest
import torch
from planted import SIZE, PlantedNetwork, planted_batches

from interp_cnn.evaluation.concepts import concept_measures, firings_beside_parts
from interp_cnn.explanation.concepts.concepts import Concept, FiringRule
from interp_cnn.explanation.network.feature_maps import feature_maps
from interp_cnn.explanation.receptive_field.field import receptive_field

RADIUS = 3.0
NOWHERE = torch.zeros(0, 3, dtype=torch.int64)


def concept(channel, category, floor=0.5):
    return Concept(str(channel), (channel,), ((0, 0),), category, NOWHERE, floor)


@pytest.fixture(scope="module")
def measured():
    """Filter 0 fires at the head, 1 at the centre, 2 at noise, 3 never."""
    network = PlantedNetwork()
    concepts = [concept(0, 1), concept(1, 1), concept(2, 1, floor=0.9), concept(3, 1)]
    field = receptive_field(network, "maps", (SIZE, SIZE), channels=3)
    options = {"layer": "maps", "rule": FiringRule(torch.ones(4)), "field": field, "radius": RADIUS}
    table, maps = concept_measures(network, planted_batches(), concepts, parts=("head", "tail"), **options)
    return network, concepts, table, maps, field


def test_a_concept_that_fires_at_a_part_is_pure_and_one_that_fires_at_noise_is_not(measured):
    _, _, table, maps, _ = measured
    head, centre, noise, silent = table.to_dict("records")
    assert head["part"] == "head" and head["purity"] == 1 and head["purity_by_chance"] < 0.3
    assert head["coverage"] == 1 and head["confidence"] == 0.5 and math.isclose(head["lift"], 1.5)
    assert math.isclose(head["support"], 40 / (120 * SIZE * SIZE))
    assert centre["tracking_gain"] <= 0
    assert head["concentration"] == 1
    assert abs(noise["purity"] - noise["purity_by_chance"]) < 0.05
    assert silent["coverage"] == silent["confidence"] == 0 and math.isnan(silent["purity"])
    assert maps.shape == (4, SIZE, SIZE) and maps[1, 11, 11] == 1 and maps[3].sum() == 0


def test_measures_equal_loops_over_images_and_cells(measured):
    network, concepts, table, _, _ = measured
    beside = {name: [0.0, 0.0, 0.0] for name in ("0", "2")}
    for batch in planted_batches():
        maps = feature_maps(network, batch.images, "maps")
        for image, label, landmarks in zip(maps, batch.labels.tolist(), batch.landmarks, strict=True):
            if label != 1:
                continue
            for one in (concepts[0], concepts[2]):
                for row in range(SIZE):
                    for column in range(SIZE):
                        if image[one.channels[0], row, column] < one.floor:
                            continue
                        away = [math.dist((row, column), place) for place in landmarks.tolist()]
                        nearest = away.index(min(away)) if min(away) <= RADIUS else 2
                        beside[one.name][nearest] += 1
    for number, name in ((0, "0"), (2, "2")):
        total = sum(beside[name])
        row = table.iloc[number]
        for part, count in zip(("head", "tail", "none"), beside[name], strict=True):
            assert math.isclose(row[f"beside_{part}"], count / total)
        assert math.isclose(row["purity"], max(beside[name][:2]) / total)


def test_an_image_without_a_landmark_takes_no_part_and_a_missing_landmark_is_near_nothing(measured):
    field = measured[4]
    fires = torch.zeros(2, 1, SIZE, SIZE, dtype=torch.bool)
    fires[:, 0, 4, 4] = True
    landmarks = torch.full((2, 2, 2), torch.nan)
    landmarks[1, 1] = torch.tensor([4.0, 6.0])
    beside = firings_beside_parts(fires, landmarks, field, radius=2.0)
    assert beside.tolist() == [[[0, 0, 0]], [[0, 1, 0]]]
    assert firings_beside_parts(fires, landmarks, field, radius=1.9).tolist()[1] == [[0, 0, 1]]


def test_a_concept_at_the_only_landmark_keeps_its_distance_to_it(measured):
    network, concepts, _, _, field = measured
    options = {"layer": "maps", "rule": FiringRule(torch.ones(4)), "field": field, "radius": RADIUS}
    table, _ = concept_measures(network, planted_batches(parts=1), concepts[:2], parts=("head",), **options)
    assert table.location_instability[0] == 0 and table.tracking_gain[0] == 1
    assert table.location_instability[1] > 0.05 and table.tracking_gain[1] <= 0


def test_without_parts_the_other_measures_stand(measured):
    network, concepts, _, _, field = measured
    batches = planted_batches(parts=0)
    options = {"layer": "maps", "rule": FiringRule(torch.ones(4)), "field": field, "radius": RADIUS}
    table, _ = concept_measures(network, batches, concepts[:1], parts=(), **options)
    assert table.purity.isna().all() and table.location_instability.isna().all() and table.coverage[0] == 1
