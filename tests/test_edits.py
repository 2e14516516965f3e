"""What changes a filter: recipe, figures, page and table, and what cannot be asked."""

import csv
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_decision_sheets import asked_of
from test_training import data

from interp_cnn.cli import main as cli
from interp_cnn.discovery import edits as room
from interp_cnn.discovery.edit_settings import EditSettings
from interp_cnn.discovery.edit_summaries import mean_of, median_of, summary_of
from interp_cnn.discovery.edits import EditRequest, around_median, explain_edits, fill_of
from interp_cnn.explanation.network.feature_maps import feature_maps_and_logits
from interp_cnn.report.concepts.edit_records import (
    EditsReading,
    FilterEdits,
    PastedPatch,
    SilencedImage,
    share_in_words,
)
from interp_cnn.report.concepts.edits import ROWS, TABLE, write_edits

SMALL = EditSettings(filters=2, exemplars=2, cells=4, controls=3, pool=6, images=4, shown=1)


def silenced(size=0.1, *, found=True, after=0.4, controls=(0.9, 0.7), name="image <1>"):
    image = np.zeros((1, 12, 12), dtype=np.uint8)
    hidden = np.zeros((12, 12), dtype=bool)
    hidden[:4, :4] = found
    return SilencedImage(
        name, 1, "a & b", found, size, 4, 1.0, after, controls, (5.0, 3.0, 4.5), (0.0, 0.75), image, hidden, image
    )  # fmt: skip


def patch():
    image = np.zeros((1, 12, 12), dtype=np.uint8)
    return PastedPatch(
        "image 7", True, 4, 1 / 9, 2.0, 0.1, 1.5, 0.5, (1.0, 4.0, 1.5), (0.0, 0.75, 0.25),
        image[:, :4, :4], image, image,
    )  # fmt: skip


FILTERS = [
    FilterEdits(
        2,
        "a & b",
        [silenced(0.1), silenced(0.3), silenced(found=False, size=0, controls=(math.nan,))],
        patch(),
    ),
    FilterEdits(5, "a & b", [silenced(0.2, after=0.2)], None),
    FilterEdits(9, "a & b", [silenced(0.04)], patch()),
]


def test_figures_are_means_over_filters_of_the_exemplars_that_were_silenced():
    summary = summary_of(FILTERS)
    assert (summary.filters, summary.images) == (3, 5)
    assert summary.silenced.value == pytest.approx(4 / 5)
    assert summary.size.value == pytest.approx(0.1)  # of 0.1, 0.2 and 0.04
    assert summary.fallen.value == pytest.approx((0.6 + 0.8 + 0.6) / 3)
    assert summary.fallen_elsewhere.value == pytest.approx(0.2)
    assert summary.over_control.value == pytest.approx((0.4 + 0.6 + 0.4) / 3)
    assert summary.beaten.value == 1 and summary.logit.value == -2 and summary.logit_elsewhere.value == -0.5
    assert summary.turned.value == 1 and summary.turned_elsewhere.value == pytest.approx(0.25)
    assert summary.excited.value == pytest.approx(0.75) and summary.excited_by_chance.value == pytest.approx(
        0.25
    )
    assert summary.quiet.value == pytest.approx(0.05) and summary.own.value == 1
    assert summary.patch_logit.value == 3 and summary.patch_logit_by_chance.value == 0.5
    assert summary.followed.value == pytest.approx(
        0.75
    ) and summary.followed_by_chance.value == pytest.approx(0.25)
    nothing = summary_of([FilterEdits(0, "c", [silenced(found=False, controls=(math.nan,))], None)])
    assert (
        math.isnan(nothing.size.value) and math.isnan(nothing.excited.value) and nothing.silenced.value == 0
    )
    assert "unknown of the image" in nothing.sentence


def test_intervals_hold_the_figure_and_narrow_with_more_filters():
    values = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for figure, literal in ((mean_of, values.mean()), (median_of, values.median())):
        many, few = figure(values), figure(torch.cat((values[:20], torch.tensor([math.nan]))))
        assert many.value == pytest.approx(float(literal)) and many.n == 200 and few.n == 20
        assert many.low < many.value < many.high and many.high - many.low < few.high - few.low
    assert math.isnan(mean_of(values[:2]).low) and math.isnan(mean_of(values[:0]).value)
    assert mean_of(torch.ones(5)).low == 1


def test_filters_around_the_median_are_shown_never_the_best():
    many = [replace(FILTERS[1], number=n, silenced=[silenced(size=n / 10)]) for n in (7, 1, 4, 9, 2, 8, 3)]
    many.append(replace(FILTERS[1], number=0, silenced=[]))
    assert [many[place].number for place in around_median(many, 3)] == [7, 4, 3]
    assert around_median(many, 50) == list(range(8))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    readings = [
        EditsReading("interpretable", "conv5", FILTERS, summary_of(FILTERS), [0, 1]),
        EditsReading("<plain>", "conv5", FILTERS[1:], summary_of(FILTERS[1:]), [0]),
    ]
    return write_edits(
        tmp_path_factory.mktemp("edits"), readings, share=0.5, fill="neighbours", first="index.html"
    )


def test_the_page_shows_figures_filters_and_what_became_of_them(page):
    text = page.read_text("utf-8")
    assert (
        "<plain>" not in text
        and "image <1>" not in text
        and "http" not in text.replace("http://www.w3.org", "")
    )
    for title, *_ in ROWS:
        assert title.replace("'", "&#39;") in text
    words = re.sub(r"<[^>]+>", "", text)
    assert "10 % of the image leave 40 % of the peak, elsewhere 80 %; logit of a &amp; b −2.00" in words
    assert "no edit that was tried silences it" in words and "decision turns" in words
    assert "5 % of the exemplars' peak become 75 %, with random patches 25 %" in words
    for source in re.findall(r'src="(figures/[^"]+)"', text):
        assert (page.parent / source).is_file()
    assert len(re.findall(r"<li><h3>", text)) == 3


def test_the_table_has_a_row_for_every_edit_and_every_patch(page):
    rows = list(csv.DictReader((page.parent / TABLE).read_text("utf-8").splitlines()))
    assert [row["kind"] for row in rows if row["network"] == "interpretable"] == [
        *["silence"] * 3, "paste", "silence", "silence", "paste",
    ]  # fmt: skip
    first, pasted = rows[0], rows[3]
    assert (first["image"], first["found"], first["size"], first["peak_control"]) == (
        "image <1>",
        "1",
        "0.1",
        "0.8",
    )
    assert (pasted["own"], pasted["exemplar_peak"], pasted["logit_after"], pasted["decided_after"]) == (
        "1", "2.0", "4.0", "0.75",
    )  # fmt: skip


def test_shares_have_a_decimal_below_ten_per_cent():
    assert (share_in_words(0.0432), share_in_words(0.432), share_in_words(math.nan)) == (
        "4.3 %",
        "43 %",
        "unknown",
    )


@pytest.fixture(scope="module")
def asked_for(tmp_path_factory):
    digits = data()
    asked = asked_of(digits)
    subject = SimpleNamespace(name="mine", data=digits, classes=tuple(digits.classes))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(room, "asked_of", lambda *question: asked)
        kept = []
        patched.setattr(
            room, "write_edits", lambda *given, **more: kept.append(given[1]) or write_edits(*given, **more)
        )
        request = EditRequest([subject], torch.device("cpu"), None, SMALL, 0, "index.html")
        page, sentences = explain_edits(request, tmp_path_factory.mktemp("asked"))
        again, _ = explain_edits(request, tmp_path_factory.mktemp("again"))
    return asked, kept[0][0], page, sentences, again


def test_what_is_said_is_what_the_network_answers_on_the_edited_images(asked_for):
    asked, reading, page, [sentence], again = asked_for
    assert sentence.startswith("mine: painting over ") and "(median of 2)" in sentence
    assert len(reading.filters) == 2 and len(reading.shown) == 1
    for one in reading.filters:
        for it in one.silenced:
            images = torch.stack([torch.from_numpy(it.image), torch.from_numpy(it.edited)]).float() / 255
            maps, logits = feature_maps_and_logits(asked.network, images, "conv5")
            peaks = maps[:, one.number].amax((1, 2))
            assert it.before == pytest.approx(float(peaks[0]), rel=1e-4)
            assert it.category == int(logits[0].argmax()) and it.logits[0] == pytest.approx(
                float(logits[0].max()), abs=1e-4
            )
            if it.found:
                assert it.after < 0.5 * it.before and it.after == pytest.approx(
                    float(peaks[1]), abs=0.02 * it.before
                )
                assert it.size == pytest.approx(it.hidden.mean()) and len(it.controls) <= 3
                assert np.array_equal(it.image[:, ~it.hidden], it.edited[:, ~it.hidden])
        assert one.patch is not None and one.patch.image.shape == one.patch.pasted.shape
        changed = (one.patch.image != one.patch.pasted).any(0)
        assert changed.sum() <= one.patch.side**2 and one.patch.before <= one.patch.exemplar
    assert (page.parent / TABLE).read_bytes() == (again.parent / TABLE).read_bytes()  # same seed, same table


@pytest.mark.parametrize("name", ["neighbours", "blur"])
def test_fills_are_made_for_the_size_of_the_images(name):
    image = torch.rand(1, 3, 20, 30)
    hidden = torch.zeros(1, 1, 20, 30, dtype=torch.bool)
    hidden[..., 5:9, 5:9] = True
    assert fill_of(name, (20, 30))(image, hidden).shape == image.shape


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["edits.filters=0"], "edits.filters=0: expected 1 or more"),
        (["edits.exemplars=10"], "edits.exemplars=10: expected 1 to 9, the images kept of a filter"),
        (["edits.images=1"], "edits.images=1: expected 2 or more"),
        (["edits.share=1"], "edits.share=1: expected a share above 0 and below 1"),
        (["edits.patch=0"], "edits.patch=0: expected a share above 0 and below 1"),
        (["edits.fill=paint"], "edits.fill=paint: expected neighbours or blur"),
        (["edits.cells=49"], "edits.cells=49: expected at most 48, the pixels of a side"),
        (["what=[edit]"], "nothing is called 'edit'; did you mean edits"),
    ],
)
def test_what_cannot_be_asked_is_said(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["explain", "digits-plain", "what=[edits]", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_network_without_images_is_refused():
    from omegaconf import OmegaConf

    from interp_cnn.commands.explain_filters import filter_pages

    config = OmegaConf.create({"edits": {}, "layer": None, "seed": 0})
    with pytest.raises(ValueError, match=r"what=\[edits\]: bare has no images here"):
        filter_pages(config, {"edits"}, [SimpleNamespace(name="bare", data=None)], torch.device("cpu"))
