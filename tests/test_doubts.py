"""Lines about answers that mean little: a grey network shown colours, random weights, a network that guesses."""

import logging

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from interp_cnn.runs.doubts import say_colour, say_guessing
from interp_cnn.runs.inputs import network_subject


@pytest.fixture(autouse=True)
def lines(caplog):
    caplog.set_level(logging.WARNING)
    return caplog


def test_colours_are_told_and_grey_is_not(lines):
    grey = torch.rand(1, 8, 8).expand(3, 8, 8)
    say_colour("digits", [grey, grey + 0.01 * torch.rand(3, 8, 8)], 5)
    assert not lines.messages
    say_colour("digits", [grey, torch.rand(3, 8, 8)], 5)
    assert "1 of the first 2 of 5 pictures are in colour" in lines.messages[0]


@pytest.mark.parametrize(("right", "said"), [(10, True), (14, True), (30, False), (100, False)])
def test_a_network_that_guesses_is_told(right, said, lines):
    labels = [str(number % 10) for number in range(100)]
    say_guessing("net", np.arange(100) < right, labels)
    assert bool(lines.messages) == said
    if said:
        assert f"right on {right} % of 100 images" in lines.messages[0] and "(10 %)" in lines.messages[0]


def test_the_most_frequent_class_alone_is_no_skill(lines):
    say_guessing("net", np.arange(100) < 90, ["a"] * 90 + ["b"] * 10)
    say_guessing("one class", np.ones(20, dtype=bool), ["a"] * 20)
    assert len(lines.messages) == 2


def test_random_weights_are_told_once_and_given_ones_are_not(lines, tmp_path):
    network_subject("torchvision:squeezenet1_1")
    assert len(lines.messages) == 1 and "they are random" in lines.messages[0]
    lines.clear()
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "weights.pth")
    network_subject("torchvision:squeezenet1_1", weights=str(tmp_path / "weights.pth"))
    assert not lines.messages


def test_explain_tells_a_grey_run_that_photographs_are_in_colour(tmp_path, monkeypatch, lines):
    from types import SimpleNamespace

    from interp_cnn.commands import explain_inputs

    pixels = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "fox.png")
    subject = SimpleNamespace(
        name="digits", classes=("0",), channels=1, image_size=(16, 16), data=None, crop=False
    )
    monkeypatch.setattr(explain_inputs, "run_subjects", lambda *a, **k: [subject])
    monkeypatch.setattr(explain_inputs, "run_folders", lambda runs: runs)
    monkeypatch.setattr(explain_inputs, "moved_root", lambda *a: None)
    monkeypatch.setattr(explain_inputs, "with_classes", lambda one, *a, **k: one)
    from omegaconf import OmegaConf

    settings = {
        "run": "x",
        "network": None,
        "mean": None,
        "std": None,
        "checkpoint": "last",
        "images": str(tmp_path),
    }
    config = OmegaConf.create(settings | {"image_size": None, "classes": None, "fit": None, "seed": 0})
    pictures, _ = explain_inputs.pictures_and_networks(config)
    assert len(pictures) == 1 and "are in colour" in lines.messages[0]
