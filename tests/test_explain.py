"""The command `explain` as a user meets it: runs and networks of their own, folders of pictures, refusals, resuming."""

import json
import logging
import os
import random
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from shutil import copyfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn
from torchvision.models import get_model

from interp_cnn.attribution import folder as explanations
from interp_cnn.attribution.folder import Explanations, _map_record
from interp_cnn.attribution.request import MapSettings
from interp_cnn.cli import config_text, errors
from interp_cnn.cli import main as cli
from interp_cnn.commands import explain as command
from interp_cnn.commands.train import classification
from interp_cnn.data.photographs import photographs
from interp_cnn.explanation.methods import run as asking
from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.methods.run import ImageMap, explain_images
from interp_cnn.report.maps import records as explained
from interp_cnn.runs.folder import build_data, load_run, network_for
from interp_cnn.runs.inputs import InputPicture, Subject, folder_pictures, spread
from interp_cnn.storage.names import folder_name

NETWORK = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(24, 3)

    def forward(self, images):
        return self.head(self.pool(self.conv(images).relu()).flatten(1))

def build():
    torch.manual_seed(3)
    return Tiny()

def smooth():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

def scripted():
    return torch.jit.script(build().eval())

def chances():
    return nn.Sequential(build(), nn.Softmax(1))

def each_chance():
    return nn.Sequential(build(), nn.Sigmoid())

class Noisy(Tiny):
    def forward(self, images):
        return nn.functional.dropout(super().forward(images))
"""
CHEAP = "methods=[sensitivity_analysis,lrp]"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A comparison's folder with two runs in it, as a training leaves them."""
    folder = tmp_path_factory.mktemp("compare")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_text.config_folder()), version_base="1.3"):
        for seed, kind in enumerate(("interpretable", "plain")):
            words = [
                f"model={kind}",
                "model.name=small_cnn",
                "model.widths=[4,4,4,4,6]",
                "data.image_size=24",
                "data.scale=[1.5,2.0]",
            ]
            config = OmegaConf.create(OmegaConf.to_container(compose("train", overrides=words), resolve=True))
            torch.manual_seed(seed)
            data = build_data(config.data)
            module = classification(network_for(config.model, data), config, data)
            (folder / kind / "checkpoints").mkdir(parents=True)
            OmegaConf.save(config, folder / kind / "config.yaml")
            state = {"state_dict": module.state_dict(), "epoch": 0}
            torch.save(state, folder / kind / "checkpoints" / "last.ckpt")
            (folder / kind / "metrics.csv").write_text("epoch\n0\n")
            (folder / kind / "run.json").write_text("{}")
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder: the user's network and some pictures; afterwards everything global is as it was."""
    generator = np.random.default_rng(0)
    for folder in ("fox", "cat"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
    (tmp_path / "my_networks_to_explain.py").write_text(NETWORK)
    (tmp_path / "names.txt").write_text("cat\nfox\nwolf\n")
    for name, size in {"fox/1.png": (20, 20), "fox/2.png": (20, 20), "cat/1.png": (20, 14)}.items():
        pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    GlobalHydra.instance().clear()
    handlers, level = logging.root.handlers[:], logging.root.level
    yield tmp_path
    for handler in set(logging.root.handlers) - set(handlers):
        handler.close()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    sys.modules.pop("my_networks_to_explain", None)


MINE = "network=my_networks_to_explain:build"
PHOTOS = ("images=photos", "classes=names.txt", "image_size=16")


@cache
def defaults() -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_text.config_folder()), version_base="1.3"):
        return compose("explain")


def explain(*words: str, out: str = "out") -> int:
    """The command line without Hydra's composing, which is most of the time: the exit code."""
    try:
        command.explain(
            OmegaConf.merge(defaults(), OmegaConf.from_dotlist(list(words))), Path(out).absolute()
        )
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        print(errors.sentence(error, ["explain", *words]), file=sys.stderr)
        return 2
    return 0


def records(folder) -> dict[str, explained.ImageRecord]:
    found = [explained.read_record(path) for path in sorted((folder / "images").glob("*"))]
    return {record.file: record for record in found if record is not None}


def maps_of(folder) -> dict[str, dict[str, np.ndarray]]:
    return {path.name: explained.read_maps(path) for path in sorted((folder / "images").iterdir())}


# What it writes


def test_a_run_is_explained_on_its_validation_images_one_of_each_class_first(runs, place, capsys):
    assert explain(f"run={runs / 'plain'}", "limit=3", CHEAP) == 0
    found = records(place / "out")
    assert [record.label for record in sorted(found.values(), key=lambda r: r.label)] == ["0", "1", "2"]
    run = load_run(runs / "plain", checkpoint="last")
    index = {name: number for number, name in enumerate(run.data.val_set.names)}
    for record in found.values():
        image = run.data.val_set[index[record.file]].image[None]
        with torch.no_grad():
            logits = run.network(image)[0]
        [answer] = record.answers
        assert answer.target == run.data.classes[int(logits.argmax())] and answer.against == ""
        assert answer.score == pytest.approx(float(logits.max()), abs=1e-5)
        relevance = next(one for one in answer.maps if one.method == "lrp")
        assert relevance.expected == pytest.approx(answer.score, abs=1e-5)
        assert relevance.relative_error < 1e-3
        stored = explained.read_maps(place / "out" / "images" / folder_name(record.file))
        assert set(stored) == {"sensitivity_analysis", "lrp"} and stored["lrp"].dtype == np.float32
        expected = explain_images("lrp", run.network, image, logits.argmax()[None], Options())
        np.testing.assert_allclose(stored["lrp"], expected.maps[0].numpy(), rtol=1e-3, atol=1e-5)
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 images of 359 (limit=null: all) explained: out/index.html" in shown
    table = pd.read_csv(place / "out" / "maps.csv")
    assert len(table) == 6 and set(table["network"]) == {"plain"}
    assert json.loads((place / "out" / "explain.json").read_text())["question"]["limit"] == 3


def test_the_networks_of_a_comparison_stand_side_by_side_on_one_scale(runs, place):
    assert explain(f"run={runs}", "limit=1", "methods=[saliency]", "target=true", "shared_scale=images") == 0
    [record] = records(place / "out").values()
    assert [answer.network for answer in record.answers] == ["interpretable", "plain"]
    assert {answer.target for answer in record.answers} == {record.label}
    [folder] = (place / "out" / "images").iterdir()
    names = {path.name for path in folder.glob("*-saliency-overlay.png")}
    assert names == {"interpretable-saliency-overlay.png", "plain-saliency-overlay.png"}
    assert set(explained.read_maps(folder)) == {"interpretable.saliency", "plain.saliency"}
    assert explain(f"run=[{runs / 'plain'},{runs / 'plain'}]", "limit=1", "methods=[saliency]", out="b") == 0
    [record] = records(place / "b").values()
    assert len({answer.network for answer in record.answers}) == 2


def test_a_network_of_ones_own_explains_pictures_of_any_size_with_the_names_of_its_classes(place):
    assert explain(MINE, "images=photos", "classes=names.txt", "image_size=null", "target=fox", CHEAP) == 0
    found = records(place / "out")
    assert {file: record.size for file, record in found.items()} == {
        "fox/1.png": (20, 20),
        "fox/2.png": (20, 20),
        "cat/1.png": (20, 14),
    }
    assert {record.label for record in found.values()} == {"fox", "cat"}
    assert {answer.target for record in found.values() for answer in record.answers} == {"fox"}


def test_for_and_against_explains_the_difference_to_the_runner_up(place):
    assert explain(MINE, *PHOTOS, "against=runner_up", "methods=[lrp]", "target=true") == 0
    for record in records(place / "out").values():
        [answer] = record.answers
        logits = {score.name: score.logit for score in answer.scores}
        others = {name: logit for name, logit in logits.items() if name != record.label}
        assert answer.target == record.label and answer.against == max(others, key=others.get)
        assert answer.score == pytest.approx(logits[answer.target] - logits[answer.against], abs=1e-5)
        assert answer.maps[0].sum == pytest.approx(answer.score, rel=1e-3, abs=1e-5)


def test_one_scale_for_all_images_is_the_largest(place):
    assert explain(MINE, *PHOTOS, CHEAP, "shared_scale=images", "colours=orange-blue", "contours=true") == 0
    largest = max(
        one.scale for r in records(place / "out").values() for one in r.answers[0].maps if one.method == "lrp"
    )
    page = (place / "out" / "index.html").read_text()
    assert page.count(f"<span>+{largest:.2g}</span>") == 3
    assert "Orange speaks for the class, blue against it" in page


def test_methods_of_one_unit_share_a_scale_when_asked(place):
    words = (MINE, *PHOTOS, "methods=[lrp,gradient_x_input,occlusion]")
    assert explain(*words, "shared_scale=methods") == 0
    found = records(place / "out")
    expected = []
    for record in found.values():
        scales = {one.method: one.scale for one in record.answers[0].maps}
        shared = max(scales["lrp"], scales["gradient_x_input"])
        expected += [f"{scale:.2g}" for scale in (shared, shared, scales["occlusion"])]
    page = (place / "out" / "index.html").read_text()
    assert sorted(bit.split("<")[0] for bit in page.split("<span>+")[1:]) == sorted(expected)
    assert explain(*words, "shared_scale=all") == 0
    every = [one.scale for r in found.values() for one in r.answers[0].maps if one.method != "occlusion"]
    assert (place / "out" / "index.html").read_text().count(f"<span>+{max(every):.2g}</span>") == 6


def test_photographs_of_every_kind_keep_their_proportions_and_a_broken_one_is_quarantined(place, capsys):
    """A disc must stay a disc: on tall, wide, turned, grey, transparent and 16-bit pictures."""
    (place / "mixed").mkdir()
    rows, columns = np.mgrid[:90, :140]
    disc = (((rows - 45) ** 2 + (columns - 70) ** 2) < 30**2).astype(np.uint8) * 255
    rgb = np.stack([disc] * 3, axis=2)
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures = {
        "wide.png": Image.fromarray(rgb),
        "tall.png": Image.fromarray(rgb.transpose(1, 0, 2)),
        "grey.png": Image.fromarray(disc),
        "deep.png": Image.fromarray(disc.astype(np.uint16) * 257),
        "clear.png": Image.fromarray(np.concatenate([rgb, np.full((90, 140, 1), 255, np.uint8)], axis=2)),
        "small.gif": Image.fromarray(disc).resize((35, 22)),
    }
    for name, picture in pictures.items():
        picture.save(place / "mixed" / name)
    Image.fromarray(rgb).save(place / "mixed" / "turned.jpg", exif=turned, quality=95)
    whole = (place / "mixed" / "turned.jpg").read_bytes()
    (place / "mixed" / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    state = get_model("mobilenet_v3_small", num_classes=3).state_dict()
    torch.save(state, place / "weights.pt")
    words = ("network=torchvision:mobilenet_v3_small", "weights=weights.pt", "images=mixed", "image_size=33")
    assert explain(*words, "methods=[saliency]") == 2
    assert "broken.jpg: the image is corrupt or truncated" in capsys.readouterr().err
    assert explain(*words, "methods=[saliency]", "on_error=skip", "grain=1") == 0
    assert "7 images explained, 1 left out" in capsys.readouterr().out
    assert pd.read_csv(place / "out" / "quarantine.csv")["file"].tolist() == ["broken.jpg"]
    page = (place / "out" / "index.html").read_text("utf-8")
    assert "mobilenet_v3_small, weights.pt" in page and "1 left out, see quarantine.csv" in page
    for file in records(place / "out"):
        drawn = Image.open(place / "out" / "images" / folder_name(file) / "image.png").convert("L")
        inside = np.asarray(drawn) > 127
        height, width = inside.any(1).sum() / len(inside), inside.any(0).sum() / len(inside)
        assert abs(height - width) < 0.07 and height == pytest.approx(60 / 90, abs=0.07), file
    [squeezed] = folder_pictures(photographs("mixed/wide.png"), [], size=(33, 33), channels=1, crop=False)
    inside = squeezed.pixels()[0] > 0.5
    assert inside.any(1).sum() / 33 == pytest.approx(60 / 90, abs=0.07)
    assert inside.any(0).sum() / 33 == pytest.approx(60 / 140, abs=0.07)


def test_maps_and_what_layers_stand_for_link_to_each_other(runs, place, capsys):
    words = ["patterns.images=60", "patterns.quota=1", "patterns.null_draws=0", "patterns.kinds=[filters]"]
    assert explain(f"run={runs / 'plain'}", "what=[maps,patterns]", CHEAP, "limit=1", *words) == 0
    out = place / "out"
    assert 'href="patterns.html"' in (out / "index.html").read_text("utf-8")
    assert 'href="index.html"' in (out / "patterns.html").read_text("utf-8")
    units, summary = (pd.read_csv(out / "patterns" / f"{name}.csv") for name in ("units", "summary"))
    assert set(units.kind) == {"filters"} and "confidence" in set(summary.measure)
    assert "filters" in capsys.readouterr().out


def test_atoms_of_dictionaries_have_galleries(runs, place, capsys):
    words = ["patterns.images=60", "patterns.quota=1", "patterns.kinds=[nmf,topk]", "patterns.atoms=5"]
    assert explain(f"run={runs / 'plain'}", "what=[patterns]", *words) == 0
    out = place / "out"
    units, summary = (pd.read_csv(out / "patterns" / f"{name}.csv") for name in ("units", "summary"))
    assert set(units.kind) == {"nmf", "topk"} and {"left_over", "atoms"} <= set(summary.measure)
    assert units.unit.str.match(r"atom \d+ \(\d+").all()
    text = (out / "index.html").read_text("utf-8")
    assert "NMF atoms of plain" in text and "TopK atoms of plain" in text
    assert explain(f"run={runs / 'plain'}", "what=[patterns]", *words[:-1], "patterns.atoms=7") == 2
    assert "patterns.atoms=7: expected at most 6 for nmf" in capsys.readouterr().err


def test_without_drawing_there_are_numbers_and_raw_maps_only(place):
    assert explain(MINE, *PHOTOS, CHEAP, "draw=false") == 0
    assert len(records(place / "out")) == 3
    assert not list((place / "out").rglob("*.png"))
    assert explain(MINE, *PHOTOS, CHEAP) == 0
    assert len(list((place / "out").rglob("panel.png"))) == 3


def test_random_torchvision_weights_are_those_of_the_seed(place):
    for out, seed in {"a": 0, "b": 0, "c": 1}.items():
        words = ("network=torchvision:mobilenet_v3_small", "images=photos/fox/1.png", "image_size=32")
        assert explain(*words, "methods=[saliency]", f"seed={seed}", out=out) == 0
    assert "mobilenet_v3_small, random weights" in (place / "a" / "index.html").read_text("utf-8")
    first, again, other = (maps_of(place / out) for out in "abc")
    [folder] = first
    maps = [found[folder]["saliency"] for found in (first, again, other)]
    assert np.allclose(maps[0], maps[1], rtol=1e-4, atol=0)  # several threads sum in an order of their own
    assert not np.allclose(maps[0], maps[2], rtol=1e-4, atol=0)


# The standard set


def test_a_method_that_a_network_does_not_allow_is_left_out_of_the_standard_set_with_its_sentence(place):
    words = ("network=my_networks_to_explain:smooth", "images=photos/fox/1.png", "image_size=12")
    assert explain(*words) == 0
    [record] = records(place / "out").values()
    refused = {one.method: one.refused for one in record.answers[0].maps if one.refused}
    assert refused["guided_backprop"].startswith("guided_backprop changes the gradient of rectifiers")
    assert "guided_backprop" not in maps_of(place / "out")[folder_name("1.png")]
    page = (place / "out" / "images" / folder_name("1.png") / "index.html").read_text()
    assert "the network runs none" in page


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_network_is_explained_by_the_methods_that_need_not_look_into_it(place):
    words = ("network=my_networks_to_explain:scripted", "images=photos/fox/1.png", "image_size=12")
    assert explain(*words) == 0
    [record] = records(place / "out").values()
    refused = {one.method: one.refused for one in record.answers[0].maps if one.refused}
    assert set(refused) == {"lrp", "deeplift", "grad_cam", "guided_backprop"}
    assert "no module that returns feature maps" in refused.pop("grad_cam")
    assert all("script" in reason for reason in refused.values())


def test_the_same_method_asked_for_by_name_stops_the_command(place, capsys):
    words = ("network=my_networks_to_explain:smooth", "images=photos/fox/1.png", "image_size=12")
    assert explain(*words, "methods=[guided_backprop]") == 2
    assert "guided_backprop: guided_backprop changes the gradient of rectifiers" in capsys.readouterr().err


def test_of_several_methods_asked_for_by_name_the_others_are_drawn_and_the_exit_code_says_what_is_missing(
    place, capsys, caplog
):
    words = ("network=my_networks_to_explain:smooth", *PHOTOS, "image_size=12", "batch_size=1")
    names = "methods=[guided_backprop,saliency,deconvnet]"
    for _ in ("anew", "again"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert explain(*words, names) == 2
        said = [one.getMessage() for one in caplog.records if "refused:" in one.getMessage()]
        assert [one.split()[0] for one in said] == [
            "guided_backprop",
            "deconvnet",
        ]  # each once, of three images
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "guided_backprop of my_networks_to_explain:smooth in 3 of 3" in error and "deconvnet" in error
        assert (place / "out" / "index.html").is_file() and (place / "out" / "maps.csv").is_file()
        assert all(set(one) == {"saliency"} for one in maps_of(place / "out").values())


# Going on


def counted(monkeypatch) -> list[tuple[str, int]]:
    """Every question that is asked from now on: method and number of images."""
    asked: list[tuple[str, int]] = []

    def note(name, network, images, *rest, **more):
        asked.append((name, len(images)))
        return asking.asked(name, network, images, *rest, **more)

    monkeypatch.setattr(explanations, "asked", note)
    return asked


def test_called_again_it_asks_nothing_twice(place, monkeypatch):
    assert explain(MINE, *PHOTOS, CHEAP) == 0
    before = {path: path.stat().st_mtime_ns for path in (place / "out" / "images").rglob("*.[np][pn][zg]")}
    asked = counted(monkeypatch)
    assert explain(MINE, *PHOTOS, CHEAP) == 0
    assert asked == []
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert explain(MINE, *PHOTOS, CHEAP, "colours=orange-blue") == 0
    assert asked == [] and all(
        path.stat().st_mtime_ns > before[path] for path in before if "lrp" in path.name
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", ["seed=1", "target=fox", "fill=mean", "against=runner_up", "classes=null", "image_size=18"]
)
def test_what_the_maps_depend_on_is_asked_again(change, place, monkeypatch):
    assert explain(MINE, *PHOTOS, CHEAP, "draw=false") == 0
    asked = counted(monkeypatch)
    assert explain(MINE, *PHOTOS, CHEAP, "draw=false", change) == 0
    assert sum(count for _, count in asked) == 6


def test_changed_weights_or_pixels_are_asked_again_and_nothing_else(place, monkeypatch):
    words = (MINE, *PHOTOS, CHEAP, "draw=false", "batch_size=1")
    assert explain(*words) == 0
    asked = counted(monkeypatch)
    Image.new("RGB", (20, 20), "red").save(place / "photos" / "fox" / "1.png")
    assert explain(*words) == 0
    assert asked == [("sensitivity_analysis", 1), ("lrp", 1)]
    sys.modules.pop("my_networks_to_explain")
    (place / "my_networks_to_explain.py").write_text(NETWORK.replace("manual_seed(3)", "manual_seed(44)"))
    assert explain(*words) == 0
    assert len(asked) > 2


def test_maps_of_other_code_are_made_again(place, monkeypatch):
    assert explain(MINE, *PHOTOS, CHEAP, "draw=false") == 0
    asked = counted(monkeypatch)
    monkeypatch.setattr(explanations, "code_of", lambda *packages: "a mended bug")
    assert explain(MINE, *PHOTOS, CHEAP, "draw=false") == 0
    assert sum(count for _, count in asked) == 6


@pytest.mark.slow
@pytest.mark.parametrize("stop", range(6))
def test_interrupted_work_goes_on_and_ends_as_if_it_had_never_stopped(stop, place, monkeypatch):
    words = (MINE, *PHOTOS, CHEAP, "batch_size=1", "draw=false")
    with monkeypatch.context() as patch:
        calls = iter(range(stop + 1))

        def interrupted(*question, **more):
            if next(calls) == stop:
                raise KeyboardInterrupt
            return asking.asked(*question, **more)

        patch.setattr(explanations, "asked", interrupted)
        assert explain(*words) == 130
    assert len(records(place / "out")) == stop // 2
    asked = counted(monkeypatch)
    assert explain(*words) == 0
    assert len(asked) == 6 - stop // 2 * 2
    assert explain(*words, out="whole") == 0
    resumed, whole = maps_of(place / "out"), maps_of(place / "whole")
    assert resumed.keys() == whole.keys()
    for name, maps in whole.items():
        assert all(np.array_equal(maps[key], resumed[name][key]) for key in maps)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bits(runs, place):
    """SIGKILL at random moments, until a call gets through."""
    words = [sys.executable, "-m", "interp_cnn", "explain", f"run={runs / 'interpretable'}", "limit=24"]
    words += ["methods=[saliency,lrp]", "batch_size=3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*words, "hydra.run.dir=whole"], check=True, env=environment, capture_output=True)
    generator = random.Random(0)
    kept = []
    for _ in range(2):
        job = subprocess.Popen([*words, "hydra.run.dir=out"], env=environment, stderr=subprocess.DEVNULL)
        goal = (kept[-1] if kept else 0) + generator.randint(1, 10)
        while job.poll() is None and len(list((place / "out").glob("images/*/explanation.json"))) < goal:
            time.sleep(0.003)
        job.kill()
        job.wait()
        kept.append(len(records(place / "out")))
    assert 0 < kept[0] < kept[-1] < 24
    subprocess.run([*words, "hydra.run.dir=out"], check=True, env=environment, capture_output=True)
    resumed, whole = maps_of(place / "out"), maps_of(place / "whole")
    assert resumed.keys() == whole.keys() and len(whole) == 24
    for name, maps in whole.items():
        assert all(np.array_equal(maps[key], resumed[name][key]) for key in maps)
        pictures = [(place / out / "images" / name / "panel.png").read_bytes() for out in ("out", "whole")]
        assert pictures[0] == pictures[1]
    left_over = [path for path in (place / "out").rglob("*") if path.name.startswith(".") and path.is_file()]
    assert len(left_over) <= 2  # what was being written when the process died


def test_a_full_disk_leaves_no_half_image_behind(place, monkeypatch, capsys):
    def full(folder, maps):
        raise OSError(28, "No space left on device", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(explained, "write_maps", full)
        assert explain(MINE, *PHOTOS, CHEAP) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert explain(MINE, *PHOTOS, CHEAP) == 0
    assert len(records(place / "out")) == 3


# Shares


@pytest.mark.parametrize("shares", [2, 3])
def test_the_shares_of_several_processes_join_to_the_bits_of_one(shares, place, monkeypatch, capsys):
    for number in range(5):  # 8 images in blocks of 2
        copyfile(place / "photos" / "fox" / "1.png", place / "photos" / f"more{number}.png")
    (place / "photos" / "bad.png").write_bytes(b"not an image")
    words = (MINE, *PHOTOS, CHEAP, "batch_size=2", "draw=false", "limit=null", "on_error=skip")
    assert explain(*words, out="whole") == 0
    for share in reversed(range(shares)):
        assert explain(*words, f"shard={share}/{shares}") == 0
        assert not (place / "out" / "index.html").exists()
    asked = counted(monkeypatch)
    capsys.readouterr()
    assert explain(*words) == 0
    assert asked == [] and "8 images explained, 1 left out" in capsys.readouterr().out
    resumed, whole = maps_of(place / "out"), maps_of(place / "whole")
    assert resumed.keys() == whole.keys() and len(whole) == 8
    for name, maps in whole.items():
        assert all(np.array_equal(maps[key], resumed[name][key]) for key in maps)
    joined, once = ((place / out / "manifest.csv").read_text() for out in ("out", "whole"))
    assert joined == once
    rows = [
        row
        for share in range(shares)
        for row in (place / "out" / f"manifest-{share}-of-{shares}.csv").read_text().splitlines()[1:]
    ]
    assert sorted(rows) == sorted(once.splitlines()[1:])
    assert explain(*words) == 0 and (place / "out" / "manifest.csv").read_text() == once


def test_a_flipped_bit_in_a_share_is_made_again_by_the_call_that_joins(place, monkeypatch):
    words = (MINE, *PHOTOS, CHEAP, "batch_size=1", "draw=false")
    for share in ("0/2", "1/2"):
        assert explain(*words, f"shard={share}") == 0
    before = maps_of(place / "out")
    path = next((place / "out" / "images").glob("*/maps.npz"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    asked = counted(monkeypatch)
    assert explain(*words) == 0
    assert [count for _, count in asked] == [1, 1]  # two methods, one image
    after = maps_of(place / "out")
    assert all(np.array_equal(before[name][key], after[name][key]) for name in before for key in before[name])


@pytest.mark.parametrize("shard", ["2/2", "a/b", "1", "-1/2", "0/0"])
def test_a_share_that_is_none_is_refused(shard, place, capsys):
    assert explain(MINE, *PHOTOS, CHEAP, f"shard='{shard}'") == 2
    assert "expected K/N with K from 0 to N-1" in capsys.readouterr().err


# Refusals


def test_a_corrupt_picture_stops_the_command_or_is_listed(place, capsys):
    content = (place / "photos" / "fox" / "1.png").read_bytes()
    (place / "photos" / "fox" / "1.png").write_bytes(content[: len(content) // 2])
    (place / "photos" / "empty.jpg").touch()
    assert explain(MINE, *PHOTOS, CHEAP) == 2
    assert "empty.jpg: the file is empty (0 bytes)" in capsys.readouterr().err
    assert explain(MINE, *PHOTOS, CHEAP, "on_error=skip") == 0
    assert "2 images explained, 2 left out (quarantine.csv)" in capsys.readouterr().out
    table = pd.read_csv(place / "out" / "quarantine.csv")
    assert table["file"].tolist() == ["empty.jpg", "fox/1.png"]
    assert "corrupt or truncated" in table["reason"][1]
    assert sorted(records(place / "out")) == ["cat/1.png", "fox/2.png"]
    assert explain(MINE, "images=photos/empty.jpg", CHEAP, "on_error=skip") == 2
    assert "none of the 1 images could be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "give run=FOLDER or network=NAME, not both"),
        (["run=a", MINE], "give run=FOLDER or network=NAME, not both"),
        (["run=nowhere"], "run folder nowhere does not exist"),
        ([MINE], "nothing to show to my_networks_to_explain:build: give images=DIR, or data=..."),
        (["network=torchvision:resnet81", *PHOTOS], "did you mean resnet18 or"),
        ([MINE, *PHOTOS, "methods=[oclusion]"], "no method 'oclusion'; did you mean occlusion?"),
        ([MINE, *PHOTOS, "methods=[]"], "methods=[] asks nothing"),
        ([MINE, *PHOTOS, "what=[pattern]"], "nothing is called 'pattern'; did you mean patterns?"),
        ([MINE, *PHOTOS, "what=[]"], "what=[] asks nothing"),
        ([MINE, *PHOTOS, "what=[patterns]"], "what=[patterns] asks run=..., or data=..."),
        ([MINE, *PHOTOS, "what=[patterns]", "patterns.kinds=[sets]"], "no kind 'sets'"),
        (
            [MINE, *PHOTOS, "target=foxx"],
            "target=foxx: my_networks_to_explain:build knows no such class; did you mean fox",
        ),
        (
            [MINE, *PHOTOS, "what=[maps,patterns]", "shard=0/2"],
            "what=[patterns] asks run=..., or data=...",
        ),
        ([MINE, *PHOTOS, "target=3"], "target=3: my_networks_to_explain:build knows no such class"),
        ([MINE, "images=photos", "target=true"], "target=true, but not every image has a class"),
        ([MINE, *PHOTOS, "against=all"], "against=all: expected none or runner_up"),
        ([MINE, *PHOTOS, "colours=red"], "colours=red: expected green-red or orange-blue"),
        ([MINE, *PHOTOS, "on_error=ignore"], "on_error='ignore': expected 'raise' or 'skip'"),
        ([MINE, *PHOTOS, "fit=stretch"], "fit=stretch: expected crop or squeeze, or null"),
        ([MINE, *PHOTOS, "shared_scale=true"], "shared_scale=True: expected none, images, methods, all"),
        ([MINE, *PHOTOS, "image_size=0"], "image_size=0: expected pixels"),
        ([MINE, *PHOTOS, "limit=0"], "limit=0: expected 1 image or more"),
        ([MINE, *PHOTOS, "batch_size=0"], "batch_size=0: expected 1 or more"),
        ([MINE, *PHOTOS, "grain=0"], "grain=0: expected 1 or more"),
        ([MINE, *PHOTOS, "window=99", "methods=[occlusion]"], "window must fit into the image"),
        ([MINE, *PHOTOS, "window=0.0", "methods=[occlusion]"], "window must be pixels"),
        ([MINE, *PHOTOS, "baseline=gray", "methods=[deeplift]"], "baseline must be 'zero', 'mean', 'blur'"),
        ([MINE, *PHOTOS, "device=quantum"], "device=quantum: expected auto, cpu, cuda"),
        ([MINE, *PHOTOS, "layer=conf", "methods=[grad_cam]"], "no layer 'conf'; did you mean conv?"),
        ([MINE, "images=photo"], "images=photo: no such folder; did you mean photos?"),
        (
            [MINE, "images=photos", "classes=name.txt"],
            "classes=name.txt: no such file; did you mean names.txt?",
        ),
        ([MINE, "images=photos", "classes=photos/fox/1.png"], "holds no names"),
        ([MINE, *PHOTOS, "weights=a.pt", "checkpoint=b.pt"], "are both given; give one"),
        ([MINE, *PHOTOS, "weights=a.pt"], "weights file a.pt does not exist"),
        ([MINE, *PHOTOS, "checkpoint=b.pt"], "weights file b.pt does not exist"),
        (
            ["network=my_networks_to_explain:chances", *PHOTOS, "methods=[saliency]"],
            "without its final softmax",
        ),
        (["network=my_networks_to_explain:each_chance", *PHOTOS], "without its final sigmoid"),
        (
            ["network=my_networks_to_explain:each_chance", *PHOTOS, "against=runner_up", "batch_size=2"],
            "without its final sigmoid",
        ),
        (
            ["network=my_networks_to_explain:Noisy", *PHOTOS],
            "drops values out at random in evaluation mode: dropout in the network's forward",
        ),
    ],
)
def test_what_cannot_be_explained_is_refused_in_one_sentence(words, sentence, place, capsys):
    assert explain(*words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert sentence in line
    assert not (place / "out" / "index.html").exists()


def test_a_folder_of_images_may_have_a_number_for_its_name(place):
    (place / "photos" / "fox").rename(place / "1")
    assert explain(MINE, "images=1", "classes=names.txt", CHEAP) == 0
    assert sorted(records(place / "out")) == ["1.png", "2.png"]


def test_a_file_with_too_few_names_for_the_classes_is_refused(place, capsys):
    (place / "names.txt").write_text("cat\nfox\n")
    assert explain(MINE, *PHOTOS) == 2
    assert (
        "names.txt has 2 names, but my_networks_to_explain:build tells 3 classes apart"
        in capsys.readouterr().err
    )


def test_a_run_that_shows_other_channels_or_a_checkpoint_that_is_none_is_refused(runs, place, capsys):
    assert explain(f"run={runs / 'plain'}", "checkpoint=first") == 2
    assert "checkpoint=first: a run keeps last and best" in capsys.readouterr().err
    assert explain(f"run={runs / 'plain' / 'checkpoints'}") == 2
    assert "is no run folder: it has no config.yaml" in capsys.readouterr().err


# Through the command line


def test_the_command_line_explains_refuses_and_says_where_to_look(place, capsys):
    assert cli.main(["explain", MINE, *PHOTOS, CHEAP, "target=true", "hydra.run.dir=out"]) == 0
    assert capsys.readouterr().out == "3 images explained: out/index.html\n"
    assert "interp-cnn" in json.loads((place / "out" / "explain.json").read_text())["command"]
    assert cli.main(["explain", MINE, "data=digits", "hydra.run.dir=b"]) == 2
    sentence = "my_networks_to_explain:build takes images of 3 channels, those of data have 1"
    assert capsys.readouterr().err == f"interp-cnn: {sentence}\n"


# Choosing


def test_images_are_chosen_from_all_classes_in_turn():
    pictures = [
        InputPicture(f"{label}{number}", label, lambda: None) for label in "ab" for number in range(3)
    ]
    assert [picture.name for picture in spread(pictures, 3)] == ["a0", "b0", "a1"]
    assert spread(pictures, None) == pictures and spread(pictures, 6) == pictures


def test_images_of_one_name_keep_folders_of_their_own(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    subject = Subject("linear", network, ("a", "b"), 3)
    images = [torch.rand(3, 8, 8) for _ in range(3)]
    for _ in range(2):
        kept = Explanations(tmp_path, [subject], MapSettings(("gradient_x_input",), Options()))
        kept.add([InputPicture("same", "", lambda one=one: one) for one in images])
        assert len(set(kept.names)) == 3
    for name, image in zip(kept.names, images, strict=True):
        target = network(image[None]).argmax()
        expected = image.flatten() * network[1].weight[target]
        found = explained.read_maps(tmp_path / "images" / name)["gradient_x_input"]
        np.testing.assert_allclose(
            found.flatten(), expected.detach().view(3, -1).sum(0), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(("outliers", "held"), [(49, True), (51, False)])
def test_a_maps_colours_span_all_but_half_a_per_cent_of_its_values(outliers, held):
    values = torch.ones(101, 99)
    values.view(-1)[:outliers] = -1000.0  # of 9,999 values: 49.99 lie beyond the quantile of .995
    question = SimpleNamespace(options=Options(), grain=1)
    record = _map_record("occlusion", ImageMap(values, 0.0, None, 0.0, 0.0, ""), question, ["a", "b"])
    assert (record.scale == 1.0) == held and record.low == -1000.0
