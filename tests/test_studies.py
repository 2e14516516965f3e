"""Studies: work in parts that goes on after a stop, groups of occluders, refusals, and the command on few images."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from interp_cnn.cli import main as cli
from interp_cnn.evaluation.maps.completeness import completeness
from interp_cnn.explanation.occlusion import fills
from interp_cnn.explanation.occlusion.windows import window_grid
from interp_cnn.figures.colours import DARK
from interp_cnn.figures.curves import Curve, curve_panels
from interp_cnn.figures.matrices import matrix
from interp_cnn.studies.map_measures import (
    MEASURES,
    Cost,
    MapJudge,
    agreement,
    edges,
    multiply_adds,
    randomised,
)
from interp_cnn.studies.occluder_groups import dealt, map_of_groups
from interp_cnn.studies.parts import done_in_parts
from interp_cnn.studies.shared import fill_named, log_odds, paper


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


def test_a_parts_file_under_the_name_of_another_is_not_taken_for_it(tmp_path):
    parts = {name: lambda value=value: {"a": np.array([value])} for name, value in (("one", 1), ("two", 2))}
    done_in_parts(tmp_path, "key", parts, label="counting")
    (tmp_path / "two.npz").write_bytes((tmp_path / "one.npz").read_bytes())
    assert [int(part["a"][0]) for part in done_in_parts(tmp_path, "key", parts, label="counting")] == [1, 2]


def test_groups_of_occluders_share_out_what_a_linear_network_loses():
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    images, targets = torch.rand(3, 1, 6, 6), torch.tensor([0, 1, 0])
    grid = window_grid((6, 6), 2, 2)
    groups = dealt(len(grid), 2, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(groups).tolist()) == list(range(9))
    maps = map_of_groups(network, images, targets, grid=grid, groups=groups, fill=fills.constant(0.0))
    lost = network(images) - network(torch.zeros_like(images))
    assert torch.allclose(maps.sum((1, 2)), lost[range(3), targets].double(), atol=1e-5)


@pytest.fixture
def small():
    """A small network, images and targets."""
    layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    torch.manual_seed(0)
    return nn.Sequential(*layers), torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])


def test_multiply_adds_are_those_of_the_layers_forward_and_back(small):
    network, images, _ = small
    image = images[:1].clone().requires_grad_()
    forward = 36 * 9 * 4 + 4 * 36 * 3
    assert multiply_adds(lambda: network(image)) == forward
    assert multiply_adds(lambda: torch.autograd.grad(network(image)[0, 0], image)) == 2 * forward
    assert multiply_adds(lambda: network(images)) == 3 * forward


def test_a_linear_networks_contributions_are_faithful_in_every_way_and_their_opposite_in_none():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    torch.manual_seed(0)
    images, targets = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 0])
    ground = paper().replace(images, None, 0)
    maps = (network[1].weight[targets].view_as(images) * (images - ground)).sum(1).detach()
    judge = MapJudge(network, images, targets, seed=0)
    assert judge.one_pass.multiply_adds == 64 * 2
    lost = (network(images) - network(ground))[range(3), targets].detach()
    total = completeness(maps.sum((1, 2)), lost)
    right, wrong = (
        dict(zip(MEASURES, judge.measures(one, Cost(1, 2, 3), total=total, pixelwise=True).T, strict=True))
        for one in (maps, -maps)
    )
    assert torch.allclose(right["ratio"], torch.ones(3).double(), atol=1e-4)
    assert torch.allclose(right["sensitivity_n"], torch.ones(3).double(), atol=1e-4)
    assert torch.allclose(wrong["sensitivity_n"], -torch.ones(3).double(), atol=1e-4)
    assert right["infidelity"].max() < 1e-6
    assert (right["srg"] > 0).all() and torch.allclose(right["srg"], -wrong["srg"], atol=1e-5)
    assert (right["deletion"] < wrong["deletion"]).all() and (right["insertion"] > wrong["insertion"]).all()
    assert right["multiply_adds"].tolist() == [2, 2, 2]


def test_edges_stay_the_same_when_layers_are_shuffled_and_maps_that_ask_do_not(small):
    network, images, targets = small
    found = randomised(network, images, targets, ("lrp", "occlusion"), seed=0)
    assert found.shape == (3, 2, 2, 3, 2)
    assert torch.allclose(found[..., 2, :], torch.ones(()).double())
    assert found[:, 0, -1, :2, 0].mean(0).max() < 0.9


def test_maps_agree_with_themselves_and_as_much_the_one_way_as_the_other():
    kinds = [torch.rand(2, 12, 12), edges(torch.rand(2, 1, 12, 12))]
    found = agreement(kinds)
    assert found.shape == (2, 2, 2, 2)
    assert torch.allclose(found[:, range(2), range(2)], torch.ones(()).double())
    assert torch.allclose(found[:, 0, 1], found[:, 1, 0])


def test_a_matrix_and_panels_on_one_scale_are_drawn_in_both_themes():
    assert matrix(np.eye(2), ["a$", "b"], label="likeness").shape[1] == 1520
    x = np.arange(1.0, 4.0)
    panels = {
        name: {"one": Curve(x, scale * x), "two": Curve(x, x, control=True)}
        for name, scale in (("a", 1), ("b", 9))
    }
    words = {"across": "x", "up": "y", "logarithmic": (False, True)}
    assert curve_panels(panels, **words, shared=True, places=["p", "q", "r", "s"], theme=DARK).ndim == 3


def test_a_matrix_writes_what_rounds_to_zero_without_a_sign():
    plain, below = (matrix([[1, zero], [zero, 1]], ["a", "b"], label="r") for zero in (0.0, -0.0))
    assert np.array_equal(plain, below)


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
        (["study", "study=grid"], "which study? give experiment=NAME, one of occlusion_study"),
        (["study", "experiment=occlusion_study", "images=1"], "images=1: expected 2 or more"),
        (
            ["study", "experiment=occlusion_study", "study.windows=[3,x]"],
            "study.windows=[3, 'x'] does not fit: expected a list of numbers: [1,2] (default [3, 5, 9])",
        ),
        (["study", "experiment=occlusion_study", "study.windowz=[3]"], "did you mean study.windows?"),
        (
            ["study", "experiment=occlusion_study", "study.windows=[0]"],
            "study.windows=[0]: expected whole numbers of 1 or more",
        ),
        (["study", "experiment=occlusion_study", "study.strides=[99]"], "study.strides: expected one"),
        (
            ["study", "experiment=occlusion_study", "study.fills=null"],
            "study.fills: expected at least one of",
        ),
        (["study", "experiment=distortion_study", "study.early=2"], "study.early=2: expected a share"),
        (
            ["study", "experiment=distractor_study", "study.methods=[]"],
            "study.methods: expected at least one",
        ),
        (
            ["study", "experiment=grid_study", "study.methods=[lrp,lrpp]"],
            "no method 'lrpp'; expected filter_evidence",
        ),
        (["study", "experiment=grid_study", "study.confidence=2"], "study.confidence=2: expected a share"),
        (
            ["study", "experiment=single_deletion_study", "study.methods=[]"],
            "study.methods: expected at least",
        ),
        (["compare", "experiment=grid_study"], "experiment=grid_study is for the command study"),
        (["compare", "experiment=occlusion_study"], "is for the command study"),
    ],
)
def test_a_study_that_cannot_be_is_refused_in_one_sentence(words, sentence, capsys, tmp_path):
    assert cli.main([*words, f"hydra.run.dir={tmp_path}"]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["occlusion", "distortion", "distractor", "grid", "single_deletion"])
def test_a_study_writes_its_page_and_the_same_tables_again(name, tmp_path):
    small = ["images=4", "together=2", "shown=200", "resamples=20", "widths=[4,4,4,4,8]", "training.epochs=1"]
    if name == "occlusion":
        small += [
            "study.windows=[9]",
            "study.strides=[4]",
            "study.sides=[28]",
            "study.methods=[lrp]",
            "study.randomised=2",
        ]
    if name == "distortion":
        small += ["study.steps=4", "study.fills=[paper,noise]"]
    if name == "distractor":
        small += ["study.methods=[lrp,grad_cam]"]
    if name == "grid":  # of networks that know little yet
        small += ["study.methods=[lrp,filter_maps]", "study.confidence=0.2", "study.most=3", "images=200"]
        small += [
            "data.distractors=0",
            "data.image_size=24",
            "data.scale=[1.6,2]",
            "shown=6000",
            "widths=[8,8,16,16,16]",
        ]
    if name == "single_deletion":
        small += ["study.methods=[lrp,filter_evidence]"]
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
            *(table[[name for name in table if not name.endswith("seconds")]] for table in (first, second))
        )
    page = (tmp_path / "report/index.html").read_text()
    assert "<h2>Answer</h2>" in page and "on-dark" in page
    assert not re.search(r"[-−]0\.0+\b(?!%)", page)
    for alt, caption in re.findall(r'alt="([^"]+)">\s*<figcaption>([^<]+)', page):
        assert alt != caption
