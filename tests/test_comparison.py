import json
import math
from contextlib import contextmanager

import pandas
import pytest
import torch
from planted import SETTINGS, SIZE, PlantedNetwork, planted_batches, planted_images

from interp_cnn.evaluation.filters import observations
from interp_cnn.evaluation.filters.comparison import compare, measure_network
from interp_cnn.evaluation.filters.location_instability import location_instability
from interp_cnn.evaluation.filters.regions import RegionRule
from interp_cnn.evaluation.statistics import paired_share_difference, share_of_hits
from interp_cnn.explanation.receptive_field.field import receptive_field

OPTIONS = SETTINGS | {"resamples": 60}
CATEGORIES = torch.tensor([1, 1, 2, 2])


def measured(name="planted", network=None, parts=("head",), **changes):
    batches = planted_batches(parts=len(parts))
    options = OPTIONS | {"name": name, "parts": parts, "filter_categories": CATEGORIES} | changes
    return measure_network(network or PlantedNetwork(), batches, **options)


def test_a_filter_on_the_head_gains_one_and_a_constant_or_noisy_one_nothing():
    measures = measured()
    table = measures.filters.set_index("filter")
    assert table.loc[0, "location_instability"] == pytest.approx(0, abs=1e-9)
    assert table.loc[0, "tracking_gain"] == pytest.approx(1.0)
    assert -0.4 < table.loc[1, "tracking_gain"] <= 1e-9
    assert table.loc[2, "tracking_gain"] < 0
    assert table["category"].tolist() == ["red", "red", "orange", None]
    assert math.isnan(table.loc[3, "tracking_gain"]) and table.loc[3, "score"] == 0
    assert measures.summary["tracking_filters"].value == pytest.approx(1 / 3)


def test_a_network_whose_logits_are_no_numbers_is_refused_in_a_sentence():
    network = PlantedNetwork()
    network.head.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="logits that are NaN or infinite"):
        measured(network=network)


def test_the_figures_are_those_of_the_measures_on_the_category_alone():
    measures = measured(parts=("head", "tail"))
    _, labels, landmarks = planted_images()
    _, positions, scores = measures.observations.block(torch.arange(4))
    mine = labels == 1
    expected = location_instability(
        positions[mine], scores[mine], landmarks[mine], diagonal=math.hypot(SIZE, SIZE)
    )
    assert measures.filters["location_instability"].tolist()[:2] == pytest.approx(expected[:2].tolist())
    mean = measures.filters["location_instability"].mean()
    assert measures.summary["location_instability"].value == pytest.approx(mean)
    assert measures.summary["instability_minimum"].value <= mean + 1e-12
    assert measures.accuracy.n == 120 and measures.accuracy.value == 1.0
    assert measures.summary["location_instability"].n == 80


def test_a_filter_on_the_head_tracks_the_head_whatever_the_tail_does():
    table = measured(parts=("head", "tail")).filters
    assert table["part"][0] == "head" and table["part_gain"][0] == pytest.approx(1.0)
    assert table["tracking_gain"][0] < 0.7, "the tail lies anywhere"
    assert table["part_gain"][1] <= 1e-9 and table["part"][3] is None


def test_every_estimate_has_an_interval_around_it_and_an_n():
    measures = measured(parts=("head", "tail"))
    for name, estimate in measures.summary.items():
        assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9, name
        assert estimate.n > 0


def test_without_given_categories_a_filter_belongs_where_it_fires_most_and_never_to_the_background():
    measures = measured(filter_categories=None)
    assert set(measures.filters["category"][:3]) <= {"red", "orange"}
    assert measures.filters["category"][3] is None


def test_the_network_comes_back_as_it_was_and_one_pass_is_enough():
    network = PlantedNetwork().train()
    batches = iter(planted_batches(parts=1))  # without masks
    measure_network(network, batches, **OPTIONS | {"name": "once", "parts": ("head",)})
    assert network.training and next(batches, None) is None


def test_probes_tell_the_filter_on_the_head_from_the_constant():
    table = measured().filters
    assert table["following"][0] > 0.85 and table["translation_gain"][0] > 0.6
    assert table["following"][1] == 0 and table["translation_gain"][1] == pytest.approx(0)
    assert table["noise_stability"][:2].tolist() == pytest.approx([1, 1])
    assert table["shifted_gain"][0] > 0.6 and table["shifted_gain"][1] <= 1e-9
    assert "following" not in measured(probes=False).summary


def test_masks_bring_part_interpretability_and_dissection_with_their_nulls():
    said = []

    @contextmanager
    def stage(what):
        said.append(what.split(" of ")[0])
        yield

    options = OPTIONS | {"name": "masked", "parts": ("head", "tail"), "filter_categories": CATEGORIES}
    batches = planted_batches(per_class=60, masks=True)
    measures = measure_network(
        PlantedNetwork(), batches, **options, regions=RegionRule(radius=2.5), stage=stage
    )
    assert said == [
        "masked: feature maps",
        "masked: judging 4 filters on 180 images",
        "masked: shares",
        "masked: judging views and noisy copies",
        "masked: regions",
    ]
    table, summary = measures.filters, measures.summary
    # T_f leaves 0.5 % of the cells: all dots of filter 0, and about 3 cells per image of filter 2's noise.
    assert table["part_interpretability"][0] == 1.0 and table["part_interpretability_null"][0] < 0.3
    assert table["part_interpretability"][1] < 0.4
    assert table["region_part"][0] == "head", "the dots lie on heads"
    by_category = table.dropna(subset="category").groupby("category")["fixed_region"]
    assert (by_category.nunique() == 1).all(), "one region is best for a category, whichever filter asks"
    floor = compare([measures]).baselines["best_constant"]["part_interpretability"]
    assert floor.value == pytest.approx(by_category.first().mean())
    assert 0 <= floor.low <= floor.value <= floor.high <= 1
    heads = sum(int(batch.part_masks[:, 0].sum()) for batch in batches)
    assert table["dissection_iou"][0] == pytest.approx(120 / heads), "one pixel of each square"
    assert summary["part_interpretability"].low <= summary["part_interpretability"].value
    assert summary["unique_detectors"].n == 120, "the background shows no part"
    with pytest.raises(ValueError, match="read twice"):
        measure_network(PlantedNetwork(), iter(batches), **options)


@pytest.mark.slow
def test_threshold_and_receptive_field_are_settings():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 5, stride=2, padding=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.LazyLinear(3),
    )
    network(torch.zeros(1, 3, SIZE, SIZE))
    batches = planted_batches(parts=1, masks=True)
    changes = {"layer": "1", "parts": ("head",), "filter_categories": torch.tensor([1, 2]), "probes": False}
    maps = torch.cat([network[:2](batch.images) for batch in batches]).detach()
    labels, masks = (torch.cat([getattr(one, name) for one in batches]) for name in ("labels", "part_masks"))
    shares = []
    rules = RegionRule(0.02, "exact"), RegionRule(0.02, radius=3.0), RegionRule(0.1, "exact")
    for rule in (*rules, RegionRule(0.05, radius=3.0, threshold="exact")):
        options = OPTIONS | {"name": "strided"} | changes
        table = measure_network(network, batches, **options, regions=rule).filters
        for index, category in enumerate((1, 2)):
            values = maps[:, index].flatten().sort(descending=True).values
            threshold = values[int(rule.tail * len(values))]
            hits = []
            for image in (labels == category).nonzero().flatten().tolist():
                region = torch.zeros(SIZE, SIZE, dtype=torch.bool)
                for row, column in (maps[image, index] > threshold).nonzero().tolist():
                    region |= _region_of(2 * row, 2 * column, rule)
                inside, union = (region & masks[image, 0]).sum(), (region | masks[image, 0]).sum()
                hits.append(bool(inside / union > 0.2))
            # the sketched threshold lies at most 0.8 % above the exact one: single images may differ
            shares.append(sum(hits) / len(hits))
            tolerance = 1e-9 if rule.threshold == "exact" else 2 / 40
            assert table["part_interpretability"][index] == pytest.approx(shares[-1], abs=tolerance)
    assert 0 < shares[2] != shares[0], shares


def _region_of(row, column, rule):
    rows, columns = torch.arange(SIZE)[:, None] - row, torch.arange(SIZE)[None] - column
    if rule.field == "exact":
        return (rows.abs() <= 2) & (columns.abs() <= 2)
    return rows.square() + columns.square() <= rule.radius**2


def test_a_rule_for_regions_that_makes_no_sense_is_refused():
    for values, part in (
        ({"field": "box"}, "regions.field is 'box'; expected round or exact"),
        ({"tail": 1.0}, "regions.tail is 1.0"),
        ({"threshold": "rough"}, "regions.threshold is 'rough'; expected sketch or exact"),
        ({"field": "exact", "radius": 3.0}, "with regions.field=round"),
        ({"radius": -1.0}, "regions.radius is -1.0"),
    ):
        with pytest.raises(ValueError, match=part):
            RegionRule(**values)


def test_scores_tell_what_a_filter_knows_about_the_label():
    measures = measured(parts=("head", "tail"))
    table = measures.filters
    assert table["category_selectivity"][1] == pytest.approx(0, abs=1e-6), "the constant fires everywhere"
    assert table["label_information"][0] > 5 * table["label_information_null"][0]
    assert measures.summary["dead_filters"].value == 0.25
    assert 1 < measures.summary["effective_filters"].value <= 2, "only filters 0 and 2 vary"
    assert table["concentration"][0] == pytest.approx(1)
    assert table["tracks"].tolist() == [True, False, False, False]
    assert measures.coverage == {"head": 1, "tail": 0}


def test_two_equal_networks_differ_by_nothing_and_a_worse_one_shows():
    worse = PlantedNetwork()
    with torch.no_grad():
        worse.read.weight[0, 0] = 0.0  # filter 0 now looks at noise
        worse.read.weight[0, 2] = 1.0
        worse.head.weight[1, 0] = -1.0  # and red is taken for nothing
    comparison = compare([measured("one"), measured("two"), measured("worse", worse)])
    same = comparison.differences_of("one", "two")
    assert all(one.value == 0 and one.low == 0 and one.high == 0 and one.paired for one in same.values())
    assert same["accuracy"].p == 1.0 and same["location_instability"].p == 1.0
    wrong = int((1 - comparison.networks[0].observations.correct).sum())
    assert same["accuracy"].note == (
        f"both err on the same {wrong} images" if wrong else "neither errs on any image"
    )
    assert same["location_instability"].note == "the same difference in every draw of the images"
    shown = comparison.differences_of("one", "worse")
    assert shown["accuracy"].low > 0 and shown["accuracy"].p < 0.01
    assert shown["location_instability"].high < 0 and shown["location_instability"].p <= 2 / 61
    assert shown["accuracy"].test == "McNemar's exact test" and not shown["accuracy"].bounded
    assert shown["location_instability"].test == "bootstrap over images"
    assert shown["tracking_gain"].low > 0 and shown["tracking_gain"].p <= 2 / 61


def test_an_interval_leaves_out_zero_exactly_where_its_p_value_is_below_its_level():
    networks = [PlantedNetwork()]
    for seed in (0, 1, 5):  # networks that differ a little, from not at all to beyond chance
        generator = torch.Generator().manual_seed(seed)
        networks.append(PlantedNetwork())
        with torch.no_grad():
            for parameter in networks[-1].parameters():
                parameter += 0.02 * seed * torch.randn(parameter.shape, generator=generator)
    comparison = compare([measured(f"{i}", network) for i, network in enumerate(networks)])
    found = [one for one in comparison.differences if math.isfinite(one.p) and math.isfinite(one.low)]
    contradictions = [one for one in found if (one.p < 0.05) != (one.low > 0 or one.high < 0)]
    assert not contradictions
    assert 10 < sum(one.p < 0.05 for one in found) < len(found) - 10


def test_answers_that_nobody_can_judge_are_left_out():
    known = torch.tensor([1.0, 0.0, torch.nan, 1.0], dtype=torch.float64)
    assert share_of_hits(known).value == pytest.approx(2 / 3) and share_of_hits(known).n == 3
    nothing = share_of_hits(torch.full((5,), torch.nan))
    assert math.isnan(nothing.value) and nothing.n == 0
    difference, p = paired_share_difference(torch.ones(0, dtype=torch.bool), torch.ones(0, dtype=torch.bool))
    assert math.isnan(difference.value) and math.isnan(p)


def test_a_network_that_errs_nowhere_still_has_an_interval():
    estimate = share_of_hits(torch.ones(40, dtype=torch.bool))
    assert estimate.value == estimate.high == 1.0 and estimate.low == pytest.approx(0.9124, abs=1e-4)


def test_shuffling_the_images_destroys_the_gain():
    comparison = compare([measured()])
    assert comparison.networks[0].filters["tracking_gain"][0] == pytest.approx(1.0)
    shuffled = comparison.baselines["shuffled_images"]
    assert shuffled["tracking_gain"].high < 0
    assert {"random_cell", "centre", "best_constant", "oracle", "oracle_jitter"} < set(comparison.baselines)


def test_other_images_are_not_compared_in_pairs():
    other = measure_network(
        PlantedNetwork(),
        planted_batches(per_class=50, parts=1),
        **OPTIONS | {"name": "other", "parts": ("head",), "filter_categories": CATEGORIES},
    )
    difference = compare([measured("one"), other]).differences_of("one", "other")["accuracy"]
    assert not difference.paired and difference.test == "bootstrap over images"


def test_the_tables_go_to_disk_and_come_back(tmp_path):
    comparison = compare([measured("one"), measured("two")])
    comparison.to_csv(tmp_path / "tables")
    comparison.to_json(tmp_path / "summary.json")
    summary = pandas.read_csv(tmp_path / "tables" / "summary.csv")
    assert summary["name"].tolist()[:3] == ["one", "two", "random_cell"]
    assert summary["tracking_gain"].tolist() == pytest.approx(
        comparison.table()["tracking_gain"].tolist(), nan_ok=True
    )
    assert len(pandas.read_csv(tmp_path / "tables" / "filters.csv")) == 8
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["networks"][0]["measures"]["accuracy"]["n"] == 120
    assert len(list(tmp_path.rglob("*"))) == 5, "no temporary file is left"


def test_a_data_set_without_landmarks_still_has_an_accuracy():
    measures = measured(parts=())
    assert measures.accuracy.value == 1.0
    assert math.isnan(measures.summary["tracking_gain"].value)
    assert set(compare([measures]).baselines) == {"shuffled_images"}


def test_the_same_seed_gives_the_same_figures():
    one, two = measured(), measured()
    assert one.summary == two.summary
    pandas.testing.assert_frame_equal(one.filters, two.filters)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="parts names 3 parts; the images have 1"):
        measure_network(PlantedNetwork(), planted_batches(parts=1), **OPTIONS | {"name": "x", "parts": "abc"})
    with pytest.raises(ValueError, match=r"expected image_size \(9, 9\)"):
        measured(image_size=(9, 9))
    with pytest.raises(ValueError, match=r"filter_categories has shape \(2,\)"):
        measured(filter_categories=torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="no batch"):
        measure_network(PlantedNetwork(), [], **OPTIONS | {"name": "x", "parts": ("head",)})
    with pytest.raises(ValueError, match="measures is empty"):
        compare([])


def test_the_position_is_the_receptive_field_centre_of_the_peak():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 4, stride=4), torch.nn.Flatten(), torch.nn.Linear(72, 3)
    )
    measures = measured("strided", network, layer="0", filter_categories=torch.tensor([1, 2]))
    field = receptive_field(network, "0", (SIZE, SIZE))
    cells = measures.observations.cells.long()
    assert torch.equal(
        measures.observations.block(torch.arange(2)).positions,
        field.centres(torch.stack((cells // 6, cells % 6), dim=2)),
    )


@pytest.mark.slow
def test_filters_that_are_judged_one_at_a_time_get_the_same_figures(monkeypatch):
    batches = planted_batches(parts=2, masks=True)
    found = []
    for answers in (observations.BLOCK, 1):
        monkeypatch.setattr(observations, "BLOCK", answers)
        options = OPTIONS | {"name": "planted", "parts": ("head", "tail")}
        found.append(compare([measure_network(PlantedNetwork(), batches, **options)]))
    together, alone = found
    pandas.testing.assert_frame_equal(together.table(), alone.table(), rtol=1e-9)
    pandas.testing.assert_frame_equal(together.networks[0].filters, alone.networks[0].filters, rtol=1e-9)
