"""What a run is: its own folder, or one that holds some; the same for every command, also where images were moved."""

import logging

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

from interp_cnn.cli import config_text
from interp_cnn.commands import evaluate, export
from interp_cnn.commands.evaluate import matched_classes
from interp_cnn.commands.train import classification
from interp_cnn.runs.folder import build_data, load_run, network_for
from interp_cnn.runs.inputs import run_subjects
from interp_cnn.runs.moved_images import moved_root
from interp_cnn.runs.places import only_run, run_folders


def composed(command, *words):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_text.config_folder()), version_base="1.3"):
        return OmegaConf.create(OmegaConf.to_container(compose(command, overrides=list(words)), resolve=True))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """A comparison's folder, as a training leaves it, whose images were moved from `images` to `moved`."""
    place = tmp_path_factory.mktemp("comparison")
    generator = torch.Generator().manual_seed(0)
    for name in ("fox", "cat"):
        (place / "images" / name).mkdir(parents=True)
        for number in range(6):
            pixels = torch.randint(0, 256, (20, 20, 3), generator=generator).byte().numpy()
            Image.fromarray(pixels).save(place / "images" / name / f"{number}.png")
    for kind in ("plain", "interpretable"):
        config = composed(
            "train",
            f"model={kind}",
            "model.name=small_cnn",
            "model.widths=[4,4,4,4,6]",
            "data=image_folder",
            f"data.root={place / 'images'}",
            "data.image_size=16",
        )
        torch.manual_seed(0)
        data = build_data(config.data)
        module = classification(network_for(config.model, data), config, data)
        folder = place / "runs" / kind
        (folder / "checkpoints").mkdir(parents=True)
        OmegaConf.save(config, folder / "config.yaml")
        torch.save({"state_dict": module.state_dict(), "epoch": 0}, folder / "checkpoints" / "last.ckpt")
        (folder / "metrics.csv").write_text("epoch\n0\n")
        (folder / "run.json").write_text("{}")
    (place / "runs" / ".hydra").mkdir()
    (place / "runs" / ".hydra" / "config.yaml").write_text("seed: ${oc.env:HOME}\n")
    (place / "images").rename(place / "moved")
    return place


def test_a_run_is_its_folder_or_a_folder_of_runs_without_what_is_hidden(comparison, tmp_path, monkeypatch):
    runs = comparison / "runs"
    both = [runs / "interpretable", runs / "plain"]
    assert run_folders(str(runs)) == both == run_folders([runs / "interpretable", str(runs / "plain")])
    assert run_folders([runs / "plain", runs / "interpretable"]) == both[::-1]
    assert only_run(runs / "plain") == runs / "plain"
    monkeypatch.setenv("HOME", str(comparison))
    assert run_folders("~/runs/plain") == [runs / "plain"]
    for number in (10, 2):
        (tmp_path / "sweep" / str(number)).mkdir(parents=True)
        (tmp_path / "sweep" / str(number) / "config.yaml").touch()
    assert [folder.name for folder in run_folders(tmp_path / "sweep")] == ["2", "10"]
    monkeypatch.chdir(tmp_path / "sweep")  # run=2 is a number to Hydra
    assert [folder.name for folder in run_folders(2)] == ["2"] and len(run_folders([10, 2])) == 2
    for kind in ("plain", "interpretable", "mask_only", "loss_only"):
        (tmp_path / kind / kind).mkdir(parents=True)
        (tmp_path / kind / "plain").mkdir(exist_ok=True)
        for one in (tmp_path / kind).iterdir():
            (one / "config.yaml").touch()
        assert [folder.name for folder in run_folders(tmp_path / kind)] == [*dict.fromkeys([kind, "plain"])]
    (tmp_path / "one" / "only").mkdir(parents=True)
    (tmp_path / "one" / "only" / "config.yaml").touch()
    assert only_run(tmp_path / "one").name == "only"


def test_a_folder_without_runs_and_one_with_several_where_one_is_meant_are_refused(comparison, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        run_folders(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"is no run folder: it has no config\.yaml"):
        run_folders(tmp_path)
    with pytest.raises(ValueError, match=r"holds 2 runs; give one of them: .*interpretable, .*plain") as told:
        load_run(comparison / "runs")
    assert ".hydra" not in str(told.value)
    with pytest.raises(ValueError, match="a run keeps last and best"):
        load_run(comparison / "runs" / "plain", checkpoint="lst")


def test_load_run_takes_the_last_epoch_and_a_moved_root(comparison):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_run(comparison / "runs" / "plain")
    run = load_run(comparison / "runs" / "plain", root=comparison / "moved")
    assert run.epochs == 1 and len(run.data.val_set) > 0


@pytest.mark.slow
def test_every_command_takes_a_comparison_and_its_moved_images_by_the_same_words(
    comparison, tmp_path, monkeypatch
):
    moved = ["data=image_folder", f"data.root={comparison / 'moved'}"]
    runs = comparison / "runs"
    for command in ("evaluate", "explain", "export", "study"):
        assert moved_root(composed(command, *moved).data, run_folders(runs)) == str(comparison / "moved")
        if command not in ("study",):
            assert moved_root(composed(command).get("data"), run_folders(runs)) is None
    found = run_subjects([str(runs)], root=str(comparison / "moved"))
    assert [subject.name for subject in found] == ["interpretable", "plain"]
    exported = []
    monkeypatch.setattr(export, "export", lambda found, config, place: exported.append(found.kind))
    export.run(composed("export", f"run={runs}", *moved))
    assert exported == ["interpretable", "plain"]
    measured = []
    monkeypatch.setattr(evaluate, "measure_run", lambda found, **options: measured.append(found.kind))
    config = composed("evaluate", f"runs=[{runs}]", "untrained=false", *moved)
    evaluate._measured_runs(config, None, torch.device("cpu"))
    assert measured == ["interpretable", "plain"]


@pytest.mark.parametrize(
    ("names", "classes", "answers", "said"),
    [
        (["cat", "fox"], ["fox", "cat"], [1, 0], ""),
        (["Red fox", " CAT", "wolf"], ["cat", "red_fox"], [1, 0, -1], ""),
        (["crane", "fox", "crane"], ["fox", "crane"], [1, 0, 1], ""),
        (["cat", "wolf", "bear"], ["fox", "cat"], [1, -1, -1], "accuracy without the images of fox"),
        (["a", "b", "c"], ["fox", "cat"], [-1, -1, -1], "no accuracy: none of the network's 3 classes"),
        ([], ["fox", "cat"], [-1, -1, -1], r"no accuracy: .* classes=FILE names them"),
    ],
)
def test_a_networks_classes_are_matched_with_the_datas_by_their_names(names, classes, answers, said, caplog):
    with caplog.at_level(logging.WARNING):
        assert matched_classes(names, classes, 3 if len(names) != 2 else 2).tolist() == answers
    assert bool(caplog.text) == bool(said)
    if said:
        assert said.split(":")[0] in caplog.text


def test_a_network_without_names_and_with_as_many_classes_as_the_data_has_their_order():
    assert matched_classes([], ["fox", "cat"], 2) is None
    with pytest.raises(ValueError, match="classes has 3 names, but the network tells 2 classes apart"):
        matched_classes(["a", "b", "c"], ["fox", "cat"], 2)
