"""Part interpretability over radii and tails, and positions on parts: literal loops and planted filters."""

import itertools
from types import SimpleNamespace

import pandas
import pytest
import reference_measures as reference
import torch
from planted import SETTINGS, SIZE, PlantedNetwork, planted_batches
from test_part_interpretability import FIELD, planted_maps, random_maps, thresholds_of

from interp_cnn.evaluation.filters.comparison import compare, measure_network
from interp_cnn.evaluation.filters.peak_on_part import PeakOnPart
from interp_cnn.evaluation.filters.region_settings import RADII, TAILS, RegionSettings, higher_in
from interp_cnn.evaluation.filters.regions import RegionRule
from interp_cnn.evaluation.filters.threshold import StreamingThreshold
from interp_cnn.explanation.network.feature_maps import peaks
from interp_cnn.report.evaluation.region_settings import settings_by_kind, settings_line
from interp_cnn.report.evaluation.tables import write_measures

CATEGORIES = torch.tensor([0, 1, 2, -1])


@pytest.mark.slow
def test_every_setting_equals_the_literal_loops():
    maps, labels, masks = random_maps()
    tails = {0.02: thresholds_of(maps, 0.02), 0.1: thresholds_of(maps, 0.1)}
    settings = RegionSettings(tails, CATEGORIES, 3, FIELD)
    settings.update(maps, labels, masks)
    table = settings.table(resamples=10, seed=0)
    assert len(table) == (len(RADII) + 1) * 2
    for row in table[table["cells"] != "exact"].itertuples():
        expected = reference.part_interpretability(
            maps, labels, masks, CATEGORIES.tolist(), FIELD, row.radius, tail=row.tail
        )
        assert row.value == pytest.approx(sum(expected[:3]) / 3), row
        assert row.low <= row.value <= row.high


def test_another_tail_is_answered_by_the_same_counts():
    maps, _, _ = random_maps()
    many, one = StreamingThreshold(4, tail=0.1), StreamingThreshold(4, tail=0.02)
    for each in (many, one):
        each.update(maps)
    assert torch.equal(many.thresholds(0.02), one.thresholds())
    many.refine(maps)
    assert torch.equal(many.thresholds(0.02), one.thresholds())


def test_positions_on_parts_equal_the_literal_loops():
    maps, labels, masks = random_maps()
    positions, scores = peaks(maps)
    cells = positions[..., 0] * 6 + positions[..., 1]
    fires = scores > 1.2
    measure = PeakOnPart(CATEGORIES, 3, FIELD.cell_centres(), (24, 24))
    for start in range(0, 24, 7):
        some = slice(start, start + 7)
        measure.update(cells[some], fires[some], labels[some], masks[some])
    shares, null = measure.result().shares()[0], measure.null().shares()[0]
    for f in range(3):
        own = [i for i in range(24) if int(labels[i]) == f]
        for k in range(3):
            shown = [i for i in own if masks[i, k].any()]
            pairs = [(i, i) for i in shown]
            moved = [(now, before) for before, now in itertools.pairwise(own) if masks[before, k].any()]
            for found, chosen in ((shares, pairs), (null, moved)):
                hits = 0
                for image, of in chosen:
                    row, column = FIELD.cell_centres()[cells[image, f]].round().int().tolist()
                    hits += bool(fires[image, f]) and bool(masks[of, k, row, column])
                assert float(found[f, k]) == pytest.approx(hits / len(chosen))
    assert not measure.result().images[:, 3].any() and measure.best_spots()[3].isnan()


def test_the_best_fixed_spot_is_the_best_of_all_cells():
    _, labels, masks = random_maps()
    cells = torch.zeros(24, 4, dtype=torch.int64)
    fires = torch.ones(24, 4, dtype=torch.bool)
    every = []
    for cell in range(36):
        measure = PeakOnPart(CATEGORIES, 3, FIELD.cell_centres(), (24, 24))
        measure.update(cells + cell, fires, labels, masks)
        every.append(measure.result().shares()[0].nan_to_num(nan=-1).amax(dim=1))
    assert torch.allclose(measure.best_spots()[:3], torch.stack(every).amax(dim=0)[:3])


def test_a_filter_on_the_head_is_always_on_it_and_a_constant_rarely():
    maps, labels, masks, field = planted_maps()
    positions, scores = peaks(maps)
    measure = PeakOnPart(torch.tensor([1, 1, 2, 2]), 2, field.cell_centres(), (SIZE, SIZE))
    measure.update(positions[..., 0] * SIZE + positions[..., 1], scores > 0, labels, masks)
    shares = measure.result().shares()[0].amax(dim=1)
    assert shares[0] == 1 and shares[1] < 0.3 and shares[2] < 0.3 and shares[3] == 0
    assert shares[1] <= measure.best_spots()[1] < 0.4


def test_higher_in_counts_settings_and_leaves_out_ties():
    tables = [pandas.DataFrame({"value": values}) for values in ([0.5, 0.2, 0.3], [0.1, 0.2, 0.4])]
    assert higher_in(tables) == [1, 1]


@pytest.mark.slow
def test_evaluate_writes_the_settings_where_they_are_asked_for(tmp_path):
    measured = measure_network(
        PlantedNetwork(),
        planted_batches(masks=True),
        **SETTINGS,
        name="net",
        parts=("head", "tail"),
        regions=RegionRule(settings=True),
    )
    assert measured.region_settings is not None
    assert len(measured.region_settings) == (len(RADII) + 1) * len(TAILS)
    write_measures(compare([measured]), tmp_path)
    assert (tmp_path / "figures" / "part-interpretability-settings.png").is_file()
    assert "network" in (tmp_path / "part_interpretability_settings.csv").read_text().splitlines()[0]
    assert "plain in 20" in (tmp_path / "summary.md").read_text()


def test_networks_of_a_kind_are_averaged_and_their_range_is_the_band():
    tables = [
        pandas.DataFrame(
            {"tail": 0.005, "cells": [1, 2], "value": values, "low": 0.0, "high": 1.0, "by_chance": 0.1}
        )
        for values in ([0.2, 0.4], [0.4, 0.8], [0.5, 0.5])
    ]
    networks = [
        SimpleNamespace(name=name, kind=kind, region_settings=table)
        for name, kind, table in zip("abc", ("one", "one", "two"), tables, strict=True)
    ]
    found = settings_by_kind(SimpleNamespace(networks=networks))
    assert found["one"]["value"].tolist() == pytest.approx([0.3, 0.6])
    assert found["one"]["low"].tolist() == [0.2, 0.4] and found["one"]["high"].tolist() == [0.4, 0.8]
    assert found["two"]["low"].tolist() == [0, 0]
    assert settings_line(SimpleNamespace(networks=networks)).endswith("2 settings: one in 1, two in 1")
