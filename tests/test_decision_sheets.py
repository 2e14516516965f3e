"""Decision sheets: what they show adds up to the network's own logit, in pictures, tables and files."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from test_portraits import few, network_of
from test_training import data

from interp_cnn.decisions.sheet import Asked, chosen, decide, decisions_about
from interp_cnn.explanation.filters.exemplars import exemplars
from interp_cnn.exports.decisions import decision_files
from interp_cnn.report.album import Album
from interp_cnn.report.decisions.pages import DecidedImage, write_decisions
from interp_cnn.report.decisions.picture import decision_picture
from interp_cnn.report.decisions.views import decision_views, headline, other_lines, spread_out


def asked_of(digits) -> Asked:
    """A small network with random weights and its exemplars."""
    network = network_of(digits, enabled=True)
    return Asked("mine", network, digits.classes, exemplars(network, few(digits), layer="conv5", count=4))


@pytest.fixture(scope="module")
def digits():
    return data()


@pytest.fixture(scope="module")
def asked(digits):
    return asked_of(digits)


@pytest.fixture(scope="module")
def image(digits):
    return digits.val_set[5].image


def test_a_sheet_adds_up_to_the_networks_logit(asked, image):
    with torch.no_grad():
        logits = asked.network(image[None])[0]
    sheet = decide(asked, image, 7, label="3")
    assert sheet.score == pytest.approx(logits[7].item(), abs=1e-6)
    assert sheet.probability == pytest.approx(logits.softmax(0)[7].item(), abs=1e-6)
    shown = [one.share for one in sheet.shown] + [share for *_, share in other_lines(sheet)]
    assert sum(shown) == pytest.approx(sheet.score, abs=1e-5)
    assert sheet.layer == "conv5" and sheet.linear and sheet.method == "exact"
    for one in sheet.shown:
        assert one.drop == pytest.approx(one.share, abs=1e-5)
        assert one.share == pytest.approx(sheet.shares[one.number], abs=1e-6)


def test_the_bars_of_a_sheet_meet_end_to_end_and_end_at_the_logit(asked, image, tmp_path):
    sheet = decide(asked, image, 2)
    (view,) = decision_views([sheet], image, Album(tmp_path), base="decisions/0")
    bars = [row.bar for row in view.rows] + [bar for *_, bar in view.lesser]
    reached = view.zero
    for bar in bars:
        left, right = bar.left, bar.left + bar.width
        start, end = (left, right) if bar.sign == "for" else (right, left)
        assert start == pytest.approx(reached, abs=0.5)
        reached = end
    total = view.total
    assert reached == pytest.approx(total.left + total.width if total.sign == "for" else total.left, abs=1.0)
    assert all(0 <= bar.left <= 100 and bar.left + bar.width <= 100.5 for bar in bars)


def test_the_sentence_above_a_sheet_adds_up_to_the_logit(asked, image, tmp_path):
    (view,) = decision_views([decide(asked, image, 2)], image, Album(tmp_path), base="decisions/0")
    numbers = [float(it) for it in re.findall(r"[+-]\d+\.\d+", view.made_of.replace("\u2212", "-"))]
    shown, score, *others = numbers
    assert score == pytest.approx(view.decision.score, abs=0.006) and others
    assert shown + sum(others) == pytest.approx(score, abs=0.005 * len(numbers) + 1e-6)


def test_several_sheets_of_an_image_share_one_scale(asked, image, tmp_path):
    sheets = [decide(asked, image, target) for target in (2, 3)]
    views = decision_views(sheets, image, Album(tmp_path), base="decisions/0")
    one, other = (view.total for view in views)
    assert one.width / other.width == pytest.approx(abs(sheets[0].score / sheets[1].score), rel=0.05)
    assert views[0].zero == views[1].zero


def test_an_image_that_is_mistaken_gets_a_sheet_of_both_classes(asked, image):
    with torch.no_grad():
        said = int(asked.network(image[None]).argmax())
    wrong = str((said + 1) % 10)
    both = decisions_about([asked], image, wrong)
    assert [one.target for one in both] == [str(said), wrong]
    assert headline(both[0]).endswith(f"wrongly: it is class {wrong}")
    assert headline(both[1]).endswith(f"and says class {said}")
    assert [one.target for one in decisions_about([asked], image, str(said))] == [str(said)]
    assert [one.target for one in decisions_about([asked], image)] == [str(said)]


def test_filters_are_called_by_what_their_strongest_images_show(asked, digits):
    for number, label in enumerate(asked.labels):
        shown = asked.strongest.labels[number][asked.strongest.image_numbers[number] >= 0].tolist()
        if not shown:
            assert label == "never fires"
            continue
        name, count, of = re.fullmatch(r"class (\d+) \((\d+) of (\d+)\)", label).groups()
        assert int(of) == len(shown) and int(count) == shown.count(digits.classes.index(name))
        assert int(count) == max(shown.count(one) for one in shown)


def test_what_brings_next_to_nothing_is_not_shown():
    assert chosen(torch.tensor([3.0, 0.001, 2.0, -0.001, -1.0])) == [0, 2, 4]
    assert chosen(torch.tensor([0.0, 0.0])) == []
    assert len(chosen(torch.ones(20))) == 5


def test_discs_do_not_cover_each_other():
    places = spread_out([(0.5, 0.5)] * 6 + [(0.0, 0.0), (0.01, 0.0), (1.0, 1.0), (1.0, 0.99)], 0.1)
    assert places[0] == (0.5, 0.5) and places[6] == (0.0, 0.0)
    for number, (x, y) in enumerate(places):
        assert 0 <= x <= 1 and 0 <= y <= 1
        assert all(np.hypot(x - a, y - b) > 0.09 for a, b in places[:number])


def test_a_network_without_exemplars_is_asked_too(asked, image):
    sheet = decide(Asked("bare", asked.network, asked.classes), image, 1)
    assert sheet.layer == "conv5" and all(one.label == "" and not one.exemplars for one in sheet.shown)


def test_page_table_and_record_say_the_same(asked, image, tmp_path):
    decided = [DecidedImage("<b>.png", "3", image.numpy(), decisions_about([asked], image, "3"))]
    page = write_decisions(tmp_path, decided, title="Why", facts={"layer": "conv5"}, first="index.html")
    text = page.read_text("utf-8")
    assert "&lt;b&gt;.png" in text and "<b>.png" not in text
    rows = list(csv.DictReader((tmp_path / "decisions.csv").read_text("utf-8").splitlines()))
    (record,) = json.loads((tmp_path / "decisions.json").read_text("utf-8"))
    first = record["decisions"][0]
    assert record["file"] == "<b>.png" and len(first["shares"]) == 6
    assert sum(first["shares"]) + first["rest"] == pytest.approx(first["score"], abs=1e-4)
    mine = [row for row in rows if row["target"] == first["target"]]
    assert [float(row["share"]) for row in mine] == pytest.approx([one["share"] for one in first["shown"]])
    for source in re.findall(r'src="([^"]+\.png)"', text):
        assert (tmp_path / source).is_file()


def test_exported_sheets_are_a_picture_and_its_numbers(asked, image):
    files = dict(decision_files([("a.png", image.numpy(), decisions_about([asked], image, "3"))], place="d"))
    pictures = [name for name in files if name.endswith(".png")]
    assert pictures and all(files[name].startswith(b"\x89PNG") for name in pictures)
    assert {name.removesuffix(".json") for name in files if name.endswith(".json")} == {
        name.removesuffix(".png") for name in pictures
    }


def test_the_picture_has_a_row_for_everything_that_is_shown(asked, image):
    sheet = decide(asked, image, 4)
    assert decision_picture(sheet, image.numpy()).shape[1] == 2000
    taller = decision_picture(sheet, image.numpy()).shape[0]
    assert taller >= 2 * 62 * (len(sheet.shown) + len(other_lines(sheet)) + 1)
