"""Class sheets: they add up to the class's mean logit, in pictures and tables, and say how few filters do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from report_example import example_contents
from test_decision_sheets import asked_of
from test_training import data

from interp_cnn.decisions.classes import Batches, alike, class_reading
from interp_cnn.report import write_report
from interp_cnn.report.album import Album
from interp_cnn.report.decisions.class_contents import ClassReading, FewFilters
from interp_cnn.report.decisions.class_tables import class_tables
from interp_cnn.report.decisions.class_views import class_sheet_views, sentence


@pytest.fixture(scope="module")
def digits():
    return data()


@pytest.fixture(scope="module")
def asked(digits):
    return asked_of(digits)


@pytest.fixture(scope="module")
def reading(asked, digits):
    found = class_reading(asked, digits)
    assert found is not None
    return found


@pytest.mark.slow
def test_a_class_sheet_adds_up_to_the_mean_logit_of_its_images(reading, asked, digits):
    assert [one.target for one in reading.sheets] == list(digits.classes)
    three = reading.sheets[3]
    images = torch.stack([digits.val_set[place].image for place in (digits.val_set.labels == 3).nonzero()])
    with torch.no_grad():
        logits = asked.network(images)[:, 3]
    assert three.images == len(images)
    assert three.score == pytest.approx(float(logits.mean()), abs=1e-5)
    assert three.shares.sum() + three.rest == pytest.approx(three.score, abs=1e-5)
    assert three.mean_image == pytest.approx(images.mean(0).numpy(), abs=1e-5)
    shown = sum(one.share for one in three.shown) + sum(part.sum() for part in three.others)
    assert shown + three.rest == pytest.approx(three.score, abs=1e-5)
    for one in three.shown:
        assert one.share == pytest.approx(three.shares[one.number], abs=1e-6) and 0 <= one.often <= 1
        assert all(0 <= part <= 1 for part in one.place)
        assert len(one.relevant) <= 3 and all(image.shape == images[0].shape for image, _ in one.relevant)


def test_the_bars_of_a_class_end_at_its_mean_logit(reading, tmp_path):
    (view,) = class_sheet_views(reading.sheets[2:3], Album(tmp_path), base="classes/0002")
    reached = view.zero
    for bar in [row.bar for row in view.rows] + [bar for _, bar in view.lesser]:
        start, end = bar.left, bar.left + bar.width
        start, end = (start, end) if bar.sign == "for" else (end, start)
        assert start == pytest.approx(reached, abs=0.5)
        reached = end
    end = view.total.left + (view.total.width if view.total.sign == "for" else 0)
    assert reached == pytest.approx(end, abs=2)
    pictures = [it for row in view.rows for it in (row.fires, row.relevant) if it]
    assert pictures and all((tmp_path / it.source).is_file() for it in [view.image, *pictures])


def test_with_all_filters_the_own_head_is_the_network_and_its_accuracy_that_of_the_images(
    reading, asked, digits
):
    few = reading.few
    right = total = 0
    for batch in digits.val_dataloader():
        with torch.no_grad():
            right += int((asked.network(batch.images).argmax(1) == batch.labels).sum())
        total += len(batch.labels)
    assert few.accuracy == pytest.approx(right / total) and few.images == total
    assert few.filters == 6 and [count for count, _ in few.kept] == [1, 2, 4, 6]
    assert few.kept[-1] == (few.filters, pytest.approx(few.accuracy))
    assert all(0 < count <= few.filters for count, _ in few.sheets)
    weights = [one for one in few.scoring if one.filter is not None]
    assert all(one.weight > 0 for one in weights)
    assert len(few.scoring) - len(weights) == len(digits.classes)


def test_a_sentence_says_how_few_filters_do():
    few = FewFilters(
        "mine", "conv5", 128, 400, 0.9, [(1, 0.5), (4, 0.895), (128, 0.9)], [], (3.25, 0.887), []
    )
    assert sentence(few) == (
        "can do with 3.2 filters per class: a new head that only adds up that few (a scoring sheet) is right on "
        "88.7\u00a0% of the images, its own head with all 128 filters of conv5 on 90.0\u00a0%. Its own head loses less "
        "than a point with each class's strongest 4 alone"
    )
    costly = sentence(replace(few, kept=[(32, 0.4), (64, 0.5), (128, 0.9)]))
    assert costly.endswith("Its own head loses more than a point even with each class's strongest 64")
    assert sentence(replace(few, kept=[])).endswith("on 90.0\u00a0%")
    lost = replace(few, kept=[], sheets=[(2.0, 0.5), (9.0, 0.8)], sparsest=(9.0, 0.8))
    assert sentence(lost).startswith(
        "loses more than a point to any head that only adds up a few filters (a scoring sheet): 80.0\u00a0% with 9.0"
    )


def test_tables_have_every_filter_of_every_class_and_every_weight(reading):
    tables = dict(class_tables([reading]))
    filters = tables["class_filters.csv"]
    classes, depth = len(reading.sheets), reading.few.filters
    assert len(filters) == classes * depth
    for _, rows in filters.groupby("class"):
        assert sorted(rows["rank"]) == list(range(1, depth + 1))
        assert rows.sort_values("rank")["share"].is_monotonic_decreasing
    assert set(tables["few_filters.csv"]["head"]) == {"own head", "scoring sheet"}
    weights = tables["scoring_sheet.csv"]
    assert len(weights) == len(reading.few.scoring) and weights["filter"].isna().sum() == classes
    assert not list(class_tables([]))


@pytest.mark.slow
def test_a_report_has_the_sheets_of_a_class_on_its_page_and_the_curve_on_the_page_of_classes(
    reading, tmp_path
):
    contents = example_contents(filters=3, samples=1)
    mine = [
        ClassReading(
            [
                replace(sheet, network=network.name, target=name)
                for sheet, name in zip(reading.sheets, contents.classes, strict=False)
            ],
            replace(reading.few, network=network.name),
        )
        for network in contents.networks
    ]
    page = write_report(tmp_path / "report", replace(contents, readings=mine))
    folder = page.parent
    one = (folder / "classes" / "0001.html").read_text("utf-8")
    assert one.count('class="decision"') == 2 and "What makes it horse" in one
    every = (folder / "classes.html").read_text("utf-8")
    assert "How few filters do" in every and "filters per class:" in every
    assert (folder / "data" / "scoring_sheet.csv").is_file()
    without = write_report(tmp_path / "without", contents).parent
    assert "What makes it" not in (without / "classes" / "0001.html").read_text("utf-8")
    assert "How few filters do" not in (without / "classes.html").read_text("utf-8")


def test_a_network_that_nobody_can_share_out_has_no_reading(asked, digits, monkeypatch, caplog):
    from interp_cnn.decisions import classes
    from interp_cnn.explanation.network.refusals import Refusal

    def refuse(*args, **more):
        raise Refusal("no maps")

    monkeypatch.setattr(classes, "image_shares", refuse)
    with caplog.at_level("INFO"):
        assert class_reading(asked, digits) is None
    assert "mine: what its classes are made of is left out: no maps" in caplog.text


@pytest.mark.parametrize("most", [1, 3, 7, 50, 1000])
def test_images_are_taken_from_all_classes_alike(most):
    labels = torch.tensor([0] * 40 + [1] * 5 + [2] * 100)
    places = alike(labels, most)
    counts = labels[places].bincount(minlength=3).tolist()
    assert places == sorted(set(places)) and sum(counts) == min(most, 145)
    if most == 50:
        assert counts == [22, 5, 23]


def test_batches_are_fixed_views_that_can_be_read_again(digits):
    loader = Batches(digits.train_set, 30, size=8)
    first, second = (torch.cat([batch.images for batch in loader]) for _ in range(2))
    assert torch.equal(first, second) and len(first) == 30
    assert np.array_equal(first[4].numpy(), digits.train_set[loader.places[4]].image.numpy())
