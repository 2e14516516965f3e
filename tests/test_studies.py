"""Studies: work in parts that goes on after a stop, groups of occluders, refusals, and the command on few images."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from interp_cnn import cli
from interp_cnn.explanation import fills
from interp_cnn.explanation.windows import window_grid
from interp_cnn.studies.asking import fill_named, log_odds, paper
from interp_cnn.studies.occluder_groups import dealt, map_of_groups
from interp_cnn.studies.work import done_in_parts


def test_parts_that_are_done_are_not_made_again_and_end_the_same(tmp_path):
    made = []

    def part(number):
        def make():
            made.append(number)
            if number == 2 and made.count(2) == 1:
                raise KeyboardInterrupt
            return {"values": np.full(2, float(number))}

        return make

    parts = {f"part-{number}": part(number) for number in range(4)}
    with pytest.raises(KeyboardInterrupt):
        done_in_parts(tmp_path, "a", parts, label="judging")
    found = done_in_parts(tmp_path, "a", parts, label="judging")
    assert made == [0, 1, 2, 2, 3]
    assert [one["values"].tolist() for one in found] == [[0, 0], [1, 1], [2, 2], [3, 3]]
    done_in_parts(tmp_path, "b", parts, label="judging")
    assert made[5:] == [0, 1, 2, 3]
    assert not list(tmp_path.glob(".*"))


def test_groups_of_occluders_share_out_what_a_linear_network_loses():
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    images, targets = torch.rand(3, 1, 6, 6), torch.tensor([0, 1, 0])
    grid = window_grid((6, 6), 2, 2)
    groups = dealt(len(grid), 2, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(groups).tolist()) == list(range(9))
    maps = map_of_groups(network, images, targets, grid=grid, groups=groups, fill=fills.constant(0.0))
    lost = network(images) - network(torch.zeros_like(images))
    assert torch.allclose(maps.sum((1, 2)), lost[range(3), targets].double(), atol=1e-5)


def test_paper_is_the_empty_ground():
    image = torch.full((1, 1, 4, 4), 0.2)
    image[0, 0, 1, 1:3] = 1.0
    assert torch.equal(paper().replace(image, None, 0), torch.full_like(image, 0.2))


def test_log_odds_are_those_of_the_softmax():
    logits = torch.randn(5, 4)
    chances = logits.softmax(1)[:, 2]
    assert torch.allclose(log_odds(logits, torch.full((5,), 2)), (chances / (1 - chances)).log(), atol=1e-5)


def test_an_unknown_replacement_is_refused():
    with pytest.raises(ValueError, match="no replacement 'snow'; expected paper, mean"):
        fill_named("snow", 0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["study"], "which study? give experiment=NAME, one of occlusion_study"),
        (["study", "experiment=occlusion_study", "images=1"], "images=1: expected 2 or more"),
        (["compare", "experiment=occlusion_study"], "is for the command study"),
    ],
)
def test_a_study_that_cannot_be_is_refused_in_one_sentence(words, sentence, capsys, tmp_path):
    assert cli.main([*words, f"hydra.run.dir={tmp_path}"]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["occlusion", "distortion", "distractor"])
def test_a_study_writes_its_page_and_the_same_tables_again(name, tmp_path):
    small = ["images=4", "together=2", "shown=200", "resamples=20", "widths=[4,4,4,4,8]", "training.epochs=1"]
    if name == "occlusion":
        small += ["study.windows=[9]", "study.strides=[4]", "study.sides=[28]", "study.methods=[lrp]"]
    if name == "distortion":
        small += ["study.steps=4", "study.fills=[paper,noise]"]
    if name == "distractor":
        small += ["study.methods=[lrp,grad_cam]"]
    words = [sys.executable, "-m", "interp_cnn", "study", f"experiment={name}_study", *small]
    tables = []
    for _ in range(2):
        done = subprocess.run(
            [*words, f"hydra.run.dir={tmp_path}"], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        files = sorted(Path(tmp_path, "report/data").glob("*.csv"))
        tables.append([pd.read_csv(file) for file in files if file.stem != "wall"])
        next(iter(sorted((tmp_path / "parts").glob("*.npz")))).unlink()  # as if it had been stopped there
    for first, second in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(
            first.drop(columns="seconds", errors="ignore"), second.drop(columns="seconds", errors="ignore")
        )
    page = (tmp_path / "report/index.html").read_text()
    assert "<h2>Answer</h2>" in page and "on-dark" in page
