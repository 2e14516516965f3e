"""Galleries: stages that are made once, pages that hold together, and numbers that add up."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import torch

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.digits import DigitsParts
from interp_cnn.discovery import verification as verifying
from interp_cnn.discovery.finding import firing_replications
from interp_cnn.discovery.images import spread_images
from interp_cnn.discovery.pages import show, window_boxes
from interp_cnn.discovery.settings import Drawing, Mining, settings_of
from interp_cnn.discovery.sources import sources_of
from interp_cnn.discovery.stages import cached
from interp_cnn.discovery.tables import summary_table, units_table
from interp_cnn.discovery.verification import verify_concepts
from interp_cnn.explanation.concepts.concepts import Concept, FiringRule
from interp_cnn.explanation.network.feature_maps import feature_maps
from interp_cnn.model.backbones import build_network
from interp_cnn.model.upconvolution import Upconvolution
from interp_cnn.report.concepts.cards import Unit, in_a_sentence, rows_of_pictures
from interp_cnn.runs.inputs import Subject

MINING = Mining(images=120, min_support=0.02, quota=1, null_draws=0, shown=2, false_discovery_rate=1.0)
DRAWING = Drawing(("window", "channels"))


@pytest.fixture(scope="module")
def data():
    data = PartDataModule(DigitsParts, batch_size=64, image_size=16, distractors=0, scale=(1.5, 1.5))
    data.setup()
    return data


@pytest.fixture(scope="module")
def subjects(data):
    found = []
    for seed, (name, enabled) in enumerate({"interpretable": True, "plain <b>": False}.items()):
        torch.manual_seed(seed)
        options = {"image_size": (16, 16), "mean": data.mean, "std": data.std, "mask": {"enabled": enabled}}
        network = build_network("small_cnn", num_classes=10, channels=1, widths=(4, 4, 6, 6, 8), **options)
        found.append(Subject(name, network, data.classes, 1, (16, 16), data))
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("gallery")


@pytest.fixture(scope="module")
def found(place, subjects, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "decoder_for", untrained)
        return verify_concepts(place / "patterns", sources_of(subjects, data), data, MINING, DRAWING)


def untrained(network, data, **options):
    torch.manual_seed(0)
    return Upconvolution(8, grid=(4, 4), image_size=(16, 16), channels=1).eval()


@pytest.fixture(scope="module")
def page(place, found, data):
    return show(place, found, data, MINING, command="interp-cnn explain", first="index.html")


def test_atoms_of_dictionaries_are_units_like_others(place, subjects, data):
    [source] = sources_of(subjects[1:], data)
    mining = replace(MINING, kinds=("nmf", "topk"), atoms=6, active=2)
    found = verify_concepts(place / "atoms", [source], data, mining, None)
    assert [one.units.kind for one in found] == ["nmf", "topk"]
    for one in found:
        assert 1 < len(one.units.concepts) <= 6 and one.units.rule.dictionary.atoms.shape == (6, 8)
        assert one.units.facts["atoms"] == 6 and 0 <= one.units.facts["left_over"] < 1
        categories = [concept.category for concept in one.units.concepts]
        assert len(categories) == len(set(categories))  # quota 1
        assert all(0 <= row["replication"] <= 1 for row in one.units.rows)
        assert np.isfinite(one.effects.numpy()).any() and one.measures.coverage.max() > 0
    with pytest.raises(ValueError, match=r"patterns\.atoms=9: expected at most 8 for nmf"):
        verify_concepts(place / "atoms", [source], data, replace(mining, atoms=9), None)


def test_a_unit_that_the_other_half_finds_too_replicates_fully(subjects, data):
    [source] = sources_of(subjects[1:], data)
    images = spread_images(data, 30)
    rule, places = FiringRule(torch.ones(8)), torch.zeros(0, 3, dtype=torch.int64)

    def concept(channel, category):
        return Concept(str(channel), (channel,), ((0, 0),), category, places, 0.1)

    units, others = (
        [concept(0, 1), concept(1, 1), concept(2, 3)],
        [concept(0, 1), concept(2, 2), concept(4, 3)],
    )
    maps = feature_maps(
        source.network, torch.stack([images[number].image for number in range(30)]), source.layer
    )

    def overlap(one, other):
        first, second = maps[:, one] >= 0.1, maps[:, other] >= 0.1
        return float((first & second).sum() / (first | second).sum().clamp(min=1))

    expected = [1.0 if (maps[:, 0] >= 0.1).any() else 0.0, overlap(1, 0), overlap(2, 4)]
    assert firing_replications(source, images, (rule, units), (rule, others)) == pytest.approx(expected)
    assert firing_replications(source, images, (rule, units), (rule, [])) == [0.0, 0.0, 0.0]


def test_a_masked_network_is_asked_with_and_without_its_mask(subjects, data):
    names = [(source.name, source.layer) for source in sources_of(subjects, data)]
    assert names == [
        ("interpretable, masked map", "conv5"),
        ("interpretable, unmasked map", "conv5.layer"),
        ("plain <b>", "conv5"),
    ]
    assert len(sources_of(subjects, data, unmasked=False)) == 2
    [source] = sources_of(subjects[1:], data, layer="conv3")
    assert source.layer == "conv3" and source.field.grid == (4, 4)
    with pytest.raises(ValueError, match="other classes"):
        sources_of([replace(subjects[0], classes=("a",))], data)


def test_every_source_is_judged_on_the_same_images_with_occurrences_of_its_class(found, data):
    images = spread_images(data, MINING.images)
    assert len({one.source.name for one in found}) == 3 and {one.units.kind for one in found} == {
        "patterns",
        "filters",
    }
    judging = {tuple(one.units.judging.tolist()) for one in found}
    assert len(judging) == 1 and len(next(iter(judging))) == pytest.approx(60, abs=6)
    for one in found:
        for concept in one.units.concepts:
            assert len(concept.channels) in ((1,) if one.units.kind == "filters" else (2, 3, 4))
            numbers = concept.occurrences[:, 0].tolist()
            assert len(numbers) == len(set(numbers)) <= 2 and set(numbers) <= set(one.units.judging.tolist())
            assert {images[number].label for number in numbers} <= {concept.category}
        assert set(one.pictures) == {"window", "channels", "full"}
        shown = sum(len(concept.occurrences) for concept in one.units.concepts)
        assert one.pictures["window"]["pictures"].shape == (shown, 1, 16, 16)
        assert one.effects.shape == (len(one.units.concepts), 2)


def test_nodes_of_the_graph_are_units_like_others(place, subjects, data):
    [source] = sources_of(subjects[1:], data)
    mining = replace(MINING, kinds=("graph",))
    [one] = verify_concepts(place / "graph", [source], data, mining, None)
    assert one.units.kind == "graph" and len(one.units.concepts) <= 10
    assert all(concept.place is not None and concept.floor > 0 for concept in one.units.concepts)
    assert set(units_table([one], data.classes).replication) <= {0.0, 1.0}


def test_the_other_network_is_asked_for_the_class_too_and_for_what_was_mined_there(found):
    names = {one.source.subject: one.pictures["window"].keys() for one in found}
    assert "class_of.plain <b>" in names["interpretable"] and "class_of.interpretable" in names["plain <b>"]
    for one in found:
        full = one.pictures["full"]
        assert np.nanmin(full["witnessed"]) >= 0 and np.nanmax(full["witnessed_control"]) <= 1


def test_nothing_is_made_twice_and_other_weights_are_asked_again(place, found, subjects, data, monkeypatch):
    monkeypatch.setattr(verifying, "decoder_for", untrained)
    for name in ("mine_concepts", "_concept_measures", "_verified_pictures", "_decoder_quality"):
        monkeypatch.setattr(verifying, name, lambda *args, name=name, **kwargs: pytest.fail(f"{name} again"))
    again = verify_concepts(place / "patterns", sources_of(subjects, data), data, MINING, DRAWING)
    for one, other in zip(found, again, strict=True):
        assert [c.name for c in one.units.concepts] == [c.name for c in other.units.concepts]
        pd.testing.assert_frame_equal(one.measures, other.measures)
        assert np.array_equal(one.pictures["full"]["pictures"], other.pictures["full"]["pictures"])
    with pytest.raises(pytest.fail.Exception, match="mine_concepts again"):
        verify_concepts(place / "patterns", sources_of(subjects, data), data, replace(MINING, top=5), None)


def test_a_stage_survives_its_own_damage_and_heeds_its_question(tmp_path):
    path, calls = tmp_path / "stage.npz", []

    def make():
        calls.append(1)
        return {"values": np.arange(3), "words": np.array("text")}

    for question in ({"a": 1}, {"a": 1}, {"a": 2}):
        stored = cached(path, question, make)
        assert stored["values"].tolist() == [0, 1, 2] and str(stored["words"]) == "text"
    assert len(calls) == 2
    path.write_bytes(path.read_bytes()[:50])
    assert cached(path, {"a": 2}, make)["values"].tolist() == [0, 1, 2] and len(calls) == 3


def test_tables_have_a_row_per_unit_and_means_over_units(found, data):
    units = units_table(found, data.classes)
    summary = summary_table(found, units).set_index(["source", "kind", "measure"])
    assert len(units) == sum(len(one.units.concepts) for one in found)
    for one in found:
        key = (one.source.name, one.units.kind)
        mine = units[(units.source == key[0]) & (units.kind == key[1])]
        assert summary.value[(*key, "kept")] == len(mine)
        assert summary.value[(*key, "confidence")] == pytest.approx(mine.confidence.mean())
        window = one.pictures["window"]
        for number, value in enumerate(mine.window_reactivation):
            drawn = window["reactivation"][window["concepts"] == number]
            assert value == pytest.approx(drawn.sum() / len(drawn)) if len(drawn) else np.isnan(value)
        low, high = (summary[end][(*key, "coverage")] for end in ("low", "high"))
        assert low <= summary.value[(*key, "coverage")] <= high
        assert 0 < summary.value[(one.source.name, "decoder", "nre")] < 2


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.images, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
        self.links += [value for name, value in attributes if name in ("href", "src")]


def test_pages_link_to_what_is_there_escape_names_and_describe_their_pictures(page, place, found):
    pages = sorted(place.glob("*.html"))
    assert page == place / "index.html" and len(pages) == 1 + len(found)
    for one in pages:
        text = one.read_text("utf-8")
        assert "plain <b>" not in text and "undefined" not in text.lower()
        tags = Tags(text)
        for link in tags.links:
            if not link.startswith(("data:", "#")):
                assert (place / unquote(link.split("#")[0])).is_file(), link
        assert all(image["alt"] and image["loading"] == "lazy" for image in tags.images)
    gallery = next(one for one in pages if "patterns.html" in one.name).read_text("utf-8")
    assert gallery.count("<article") == len(re.findall("real patches</figcaption>", gallery)) > 0
    assert "<td>–</td>" not in gallery


def test_a_card_says_when_its_pictures_do_not_bring_it_back():
    def unit(**values):
        return Unit(0, "1", "a", np.zeros((0, 1, 4, 4)), np.zeros((0, 4)), {}, np.zeros((2, 2)), values, ())

    assert unit().reactivates is None and not rows_of_pictures(unit())
    seen = {
        "window_reactivation": 0.5,
        "window_control": 0.1,
        "full_reactivation": 0.75,
        "window_own_class": 1.0,
    }
    others = {"window_class_of.b": 0.25, "window_class_of.itself": float("nan")}
    rows = rows_of_pictures(unit(**seen, **others))
    assert rows[0] == ("re-activation", "50\u00a0% against control 10\u00a0%; everything kept 75\u00a0%")
    assert rows[1] == ("seen as a", "own network 100\u00a0%, b 25\u00a0%") and len(rows) == 3
    rows = rows_of_pictures(
        unit(**seen, window_witnessed=0.2, window_witnessed_control=0.1, full_witnessed=1.0)
    )
    assert rows[1][1] == "20\u00a0% against control 10\u00a0%; everything kept 100\u00a0%"
    assert unit(window_reactivation=0.5, window_control=0.1).reactivates is True
    assert unit(window_reactivation=0.25, window_control=0.1).reactivates is False
    assert unit(window_reactivation=0.1, window_control=float("nan")).reactivates is False


def test_window_boxes_hold_the_cells_around_and_end_at_the_border(subjects, data):
    [source] = sources_of(subjects[1:], data)  # stride 4
    boxes = window_boxes(source.field, torch.tensor([[0, 0], [1, 2]])).tolist()
    (_, _, right, bottom), (left, top, _, _) = boxes
    assert boxes[0][:2] == [0, 0] and right == bottom and 6 <= right <= 10
    assert left - top == 4 and boxes[1][3] - top == 12


@pytest.mark.parametrize(
    ("patterns", "reconstructions", "sentence"),
    [
        ({"kinds": ["pattern"]}, {}, "no kind 'pattern'"),
        ({"kinds": []}, {}, "mines nothing"),
        ({"quota": 0}, {}, "patterns.quota=0"),
        ({"atoms": 0}, {}, "patterns.atoms=0: expected 1 or more"),
        ({"active": 0}, {}, "patterns.active=0: expected 1 or more"),
        ({}, {"modes": ["windows"]}, "no mode 'windows'"),
    ],
)
def test_wrong_settings_are_named(patterns, reconstructions, sentence):
    drawing = {"modes": ["window"], "decoders": [], "epochs": None, **reconstructions}
    with pytest.raises(ValueError, match=sentence):
        settings_of(patterns, drawing, seed=0, device="cpu")


def test_the_first_page_opens_with_the_best_pattern_of_each_class_of_every_source(page, found):
    text = page.read_text("utf-8")
    openings = re.findall(r'<a href="([^"#]+)#unit=(\d+)"><b>([^<]+)</b>', text)
    kinds = [one for one in found if one.units.kind == found[0].units.kind]
    assert len(openings) == len({*openings}) >= len(kinds) > 1
    for address, number, category in openings:
        cards = (page.parent / unquote(address)).read_text("utf-8")
        heading = re.search(rf'id="u{number}">.*?<span class="tag">([^<]+)<', cards)
        assert heading and heading.group(1) == category
    places = [text.index(f'id="{name}"') for name in ("best", "galleries", "numbers", "howto")]
    assert places == sorted(places)


def test_a_sentence_says_what_comes_back_or_where_it_fires():
    unit = Unit(0, "3 & 17", "8", np.zeros(0), np.zeros(0), {}, np.zeros((2, 2)), {}, ())
    fires = replace(unit, values={"coverage": 0.8, "confidence": 0.915})
    assert in_a_sentence(fires) == "fires on 80\u00a0% of class 8; 92\u00a0% of its firings are there"
    seen = replace(unit, values={**fires.values, "window_reactivation": 0.5, "window_control": 0.0})
    assert in_a_sentence(seen) == "seen again in 50\u00a0% of its pictures, unrelated patterns in 0\u00a0%"
