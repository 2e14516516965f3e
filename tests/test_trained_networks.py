"""Trained networks as folders: saved, given away, loaded again; those that come with the package; the Hub."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import interp_cnn
from interp_cnn.cli import main as cli
from interp_cnn.evaluation.statistics import Estimate
from interp_cnn.exports.pretrained import _without_places, description_of, pretrained_files
from interp_cnn.model.backbones import build_network
from interp_cnn.pretrained.shipped import shipped_folder, shipped_names
from interp_cnn.runs.folder import load_run
from interp_cnn.runs.places import run_folders

PIXELS = {"channels": 3, "image_size": (16, 16), "mean": [0.4], "std": [0.2]}
SHIPPED = ["digits-interpretable", "digits-plain"]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network("small_cnn", num_classes=3, widths=[4, 4, 4, 6, 6], **PIXELS).eval()


@pytest.fixture(scope="module")
def runs():
    return {name: load_run(name) for name in SHIPPED}


def test_the_networks_that_come_with_the_package_are_small_and_of_tensors_alone():
    assert shipped_names() == SHIPPED
    for name in SHIPPED:
        folder = shipped_folder(name)
        assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000
        assert {it.dtype for it in load_file(folder / "model.safetensors").values()} <= {
            torch.float32,
            torch.int64,
        }
        text = (folder / "config.json").read_text() + (folder / "README.md").read_text()
        assert "/tmp" not in text and "/home" not in text and "hydra.run.dir" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_is_as_good_as_its_card_says(name, runs):
    run = runs[name]
    config = interp_cnn.from_pretrained(name).config
    images = torch.stack([run.data.val_set[number].image for number in range(len(run.data.val_set))])
    with torch.no_grad():
        accuracy = (run.network(images).argmax(1) == run.data.val_set.labels).double().mean().item()
    assert accuracy == pytest.approx(config["measures"]["accuracy"]["value"], abs=1.5 / 359)
    assert f"{config['measures']['part_interpretability']['value']:.3f}" in (
        shipped_folder(name) / "README.md"
    ).read_text("utf-8")
    assert (
        config["made_by"]["command"] == "interp-cnn compare" and config["made_by"]["git_commit"] == "da9e1a8"
    )


def test_a_shipped_network_stands_for_its_run(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (runs[name] for name in SHIPPED)
    assert (first.kind, second.kind) == ("interpretable", "plain") and first.epochs == 12
    assert first.layers == ["conv5"] and first.filter_categories["conv5"].shape == (128,)
    assert first.data.val_set.names == second.data.val_set.names and len(first.data.val_set) == 359
    assert run_folders("digits-plain") == [shipped_folder("digits-plain")]
    (tmp_path / "digits-plain").mkdir()  # a folder of that name goes first
    with pytest.raises(FileNotFoundError, match="digits-plain is no run folder"):
        run_folders("digits-plain")
    with pytest.raises(ValueError, match="keeps one set of weights"):
        load_run("digits-interpretable", checkpoint="best")


def test_a_network_comes_back_with_the_same_logits_and_its_names(network, tmp_path):
    images = torch.rand(3, 3, 16, 16)
    folder = interp_cnn.save_pretrained(network.train(), tmp_path / "mine", classes=["a", "b", "c"])
    assert network.training and sorted(it.name for it in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    again = interp_cnn.from_pretrained(folder)
    assert not again.training and again.config["classes"] == ["a", "b", "c"]
    assert torch.equal(again(images), network.eval()(images))
    once_more = interp_cnn.save_pretrained(again, tmp_path / "copy")
    assert json.loads((once_more / "config.json").read_text())["classes"] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="holds a network alone"):
        load_run(folder)


def test_figures_that_are_given_stand_on_the_card(network, tmp_path):
    measures = SimpleNamespace(summary={"accuracy": Estimate(0.75, 0.5, 0.9, 12)})
    folder = interp_cnn.save_pretrained(network, tmp_path / "mine", measures=measures)
    assert "| accuracy | 0.750 \\[0.500, 0.900\\], 12 images |" in (folder / "README.md").read_text("utf-8")
    assert interp_cnn.from_pretrained(folder).config["measures"]["accuracy"]["n"] == 12


def test_a_run_is_saved_with_its_data_and_without_the_places_of_its_machine(runs, tmp_path):
    run = runs["digits-plain"]
    folder = interp_cnn.save_pretrained(run, tmp_path / "digits")
    again = load_run(folder)
    assert again.config == run.config and again.epochs == run.epochs
    assert again.data.val_set.names == run.data.val_set.names
    for key, value in run.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[key], value)
    saved = interp_cnn.from_pretrained(folder).config
    assert saved["measures"] == interp_cnn.from_pretrained("digits-plain").config["measures"]
    command = "interp-cnn train data.root=/home/me/images '+a=[~/b]' seed=1 hydra.run.dir=/x 'c=C:\\d'"
    assert _without_places(command) == "interp-cnn train data.root=DIR +a=DIR seed=1 c=DIR"


def test_what_cannot_be_saved_is_refused_in_a_sentence(network, runs, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    for what, place, options, said in (
        (network, tmp_path, {}, "holds other files; expected a new folder"),
        (nn.Linear(1, 1), tmp_path / "a", {}, "Linear is a network that nothing here could build again"),
        (
            network,
            tmp_path / "a",
            {"classes": ["x"]},
            "classes has 1 names; the network tells 3 classes apart",
        ),
        (runs["digits-plain"], tmp_path / "a", {"classes": ["x"]}, "leave them out"),
    ):
        with pytest.raises(ValueError, match=said):
            interp_cnn.save_pretrained(what, place, **options)
    assert (tmp_path / "README.md").read_text() == "mine" and not (tmp_path / "a").exists()


def test_a_damaged_folder_is_refused_in_a_sentence(network, tmp_path):
    folder = interp_cnn.save_pretrained(network, tmp_path / "mine")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"head.bias": torch.full((3,), float("nan"))}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"weights that are NaN or infinite: head\.bias"):
        interp_cnn.from_pretrained(folder)
    save_file({"head.bias": weights["head.bias"]}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        interp_cnn.from_pretrained(folder)
    for text in ("{", "[]", '{"network": {}}', '{"network": {}, "classes": ["${oc.env:HOME}"]}'):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match="is no description of a trained network"):
            interp_cnn.from_pretrained(folder)


def test_an_unknown_name_is_answered_with_those_that_there_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"digits-plane is no .*digits-interpretable, digits-plain"):
        interp_cnn.from_pretrained("digits-plane")
    with pytest.raises(FileNotFoundError, match="by name there are digits-interpretable, digits-plain"):
        load_run("digits-plane")
    for words in (["explain", "digits-plane"], ["explain", "run=digits-plane"], ["evaluate", "digits-plane"]):
        assert cli.main(words) == 2
        assert "did you mean digits-plain" in (said := capsys.readouterr().err)
        assert "with the package come digits-interpretable, digits-plain" in said
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_network_whose_images_stayed_elsewhere_answers_about_other_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        for number in range(8):
            (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    words = ["data=image_folder", "data.root=images", "data.image_size=16", "data.batch_size=4"]
    small = [
        "model.name=small_cnn",
        "model.widths=[4,4,8,8,8]",
        "training.epochs=1",
        "trainer=cpu",
        "logger=csv",
    ]
    assert cli.main(["train", *words, *small, "hydra.run.dir=run"]) == 0
    about = description_of(load_run("run"), {})
    assert about["training"]["data"]["root"] is None and str(tmp_path) not in json.dumps(about)
    interp_cnn.save_pretrained("run", "saved")
    with pytest.raises(ValueError, match="does not say where its images lie: give root=DIR"):
        load_run("saved")
    assert load_run("saved", root="images").data.val_set.names == load_run("run").data.val_set.names
    explain = ["explain", "saved", "limit=1", "methods=lrp", "draw=false"]
    assert cli.main([*explain, "images=images", "hydra.run.dir=a"]) == 0
    assert cli.main([*explain, "data=image_folder", "data.root=images", "hydra.run.dir=b"]) == 0
    capsys.readouterr()
    assert cli.main(explain) == 2
    assert "nothing to show to interpretable: give images=DIR, or data=..." in capsys.readouterr().err


# The Hugging Face Hub: asked only where it is named, and never in a test


def test_nothing_is_asked_of_the_hub_unless_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # an import of it would fail
    with pytest.raises(FileNotFoundError, match="hf-hub:OWNER/NAME asks the Hugging Face Hub"):
        interp_cnn.from_pretrained("somebody/something")


def test_without_its_package_the_hub_is_refused_by_the_name_of_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package huggingface_hub: .*interp-cnn\[hub\]"):
        interp_cnn.from_pretrained("hf-hub:somebody/something")
    with pytest.raises(ValueError, match="expected hf-hub:OWNER/NAME"):
        interp_cnn.from_pretrained("hf-hub:../../etc")


def test_a_network_of_the_hub_is_loaded_from_what_was_downloaded(network, tmp_path, monkeypatch):
    folder = interp_cnn.save_pretrained(network, tmp_path / "hub")
    asked = []

    def snapshot_download(repository, **options):
        asked.append((repository, options["revision"]))
        return str(folder)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(interp_cnn.from_pretrained("hf-hub:a/b@v1")(images), network(images))
    assert asked == [("a/b", "v1")]
    config = json.loads((folder / "config.json").read_text())
    config["network"]["name"] = "os:abort"  # would end this process
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="built by os:abort, code that did not come with it"):
        interp_cnn.from_pretrained("hf-hub:a/b")


def test_the_folder_of_an_export_is_the_same(network):
    about = {"network": network._arguments, "classes": ["a", "b", "c"]}
    files = dict(pretrained_files(network, torch.rand(2, 3, 16, 16), about, ["safetensors"], place="model"))
    assert sorted(files) == ["model/README.md", "model/config.json", "model/model.safetensors"]


@pytest.mark.slow
def test_explain_and_evaluate_take_a_shipped_network_by_name_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["explain", "digits-interpretable", "limit=1", "methods=lrp", "hydra.run.dir=maps"]) == 0
    assert (tmp_path / "maps/index.html").is_file()
    assert cli.main(["evaluate", *SHIPPED, "resamples=20", "untrained=false", "hydra.run.dir=figures"]) == 0
    assert "interpretable" in capsys.readouterr().out
    assert cli.main(["export", "digits-plain", "what=[model]"]) == 2
    assert "give to=DIR" in capsys.readouterr().err
