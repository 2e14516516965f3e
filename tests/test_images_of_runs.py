"""No command shows a run, as validation images, those that it was trained on, whatever data are given beside it."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from PIL import Image

from interp_cnn.commands import export, study
from interp_cnn.commands.explain_inputs import pictures_and_networks
from interp_cnn.commands.train import train
from interp_cnn.data.image_files import content_of
from interp_cnn.data.samplers import EpochSampler
from interp_cnn.data.split_record import FILE, Side, SplitRecord
from interp_cnn.runs.folder import load_checkpoint, load_run
from interp_cnn.runs.images import leave_out_trained_on
from interp_cnn.runs.inputs import run_subjects, shown_data
from interp_cnn.runs.moved_images import moved_root

CONF = Path(__file__).resolve().parent.parent / "conf"
TINY = [
    "data.image_size=24",
    "data.batch_size=4",
    "model.name=small_cnn",
    "model.widths=[4,4,6,8,8]",
    "training.epochs=1",
    "model=plain",
]


def composed(command: str, *overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, overrides=list(overrides))


def data_of(root: Path, *more: str) -> DictConfig:
    return composed("explain", "data=image_folder", f"data.root={root}", *more).data


def pictures(root: Path, count: int = 24) -> Path:
    rng = np.random.default_rng(0)
    for number in range(count):
        path = root / ("disc", "bar")[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
    return root


def test_the_images_of_a_run_are_found_from_every_folder(tmp_path, monkeypatch):
    pictures(tmp_path / "here" / "set")
    monkeypatch.chdir(tmp_path / "here")
    trained(Path("set"), tmp_path / "run")
    kept = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "run.json").unlink()
    relative = kept.replace(str(tmp_path / "here" / "set"), "set")  # as earlier versions wrote it
    assert relative != kept
    (tmp_path / "run" / "config.yaml").write_text(relative)
    trained(Path("set"), tmp_path / "run", resume=True)  # the same settings
    monkeypatch.chdir(tmp_path)
    assert len(load_run(tmp_path / "run").data.val_set) == 6


def test_a_training_keeps_the_average_of_its_weights_where_it_is_asked_for(tmp_path):
    pictures(tmp_path / "set")
    last, average = (
        load_run(trained(tmp_path / "set", tmp_path / name, *more)).network.state_dict()
        for name, more in (("last", ()), ("average", ("training.average=0.9",)))
    )
    assert not torch.equal(last["conv1.0.weight"], average["conv1.0.weight"])


def trained(root: Path, folder: Path, *more: str, **options) -> Path:
    return train(composed("train", "data=image_folder", f"data.root={root}", *TINY, *more), folder, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of images, and two runs that split it in different ways."""
    place = tmp_path_factory.mktemp("made")
    root = pictures(place / "set")
    trained(root, place / "a", "data.val_fraction=0.5", "data.split_seed=1")
    trained(root, place / "b", "data.val_fraction=0.4", "data.split_seed=2")
    return place


@pytest.fixture
def place(made, tmp_path):
    """A copy of both, to be changed; the runs look for their images where the copies are."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for run in ("a", "b"):
        path = tmp_path / run / "config.yaml"
        path.write_text(path.read_text().replace(str(made), str(tmp_path)))
    return tmp_path


def contents_shown(runs, config: DictConfig | None = None) -> set[str]:
    networks = run_subjects([str(run) for run in runs])
    data = shown_data(networks, config)
    assert data is not None
    return {*data.val_set.contents()}


def learned(run: Path) -> set[str]:
    record = SplitRecord.read(run)
    assert record is not None
    return {*record.train.contents}


def test_a_run_with_data_beside_it_is_explained_on_its_own_validation_images(made):
    config = composed(
        "explain", f"run={made / 'a'}", "data=image_folder", f"data.root={made / 'set'}", "limit=null"
    )
    names, networks = pictures_and_networks(config)
    assert [picture.name for picture in names] == SplitRecord.read(made / "a").val.names
    assert networks[0].data is not None and networks[0].data.val_set.names == [one.name for one in names]


def test_images_of_a_folder_that_was_trained_on_are_not_validation_images_through_another_data_set(
    made, place
):
    config = data_of(place / "set")
    config.dataset._target_ = "interp_cnn.data.image_folder.ImageFolderParts"
    (network,) = run_subjects([str(made / "a")])
    elsewhere = replace(network, data=None)  # as if the run had other data: these are set up anew
    data = shown_data([elsewhere], config)
    assert not {*data.val_set.contents()} & learned(made / "a")


def test_what_one_of_two_runs_was_trained_on_is_shown_to_neither(made, caplog):
    a, b = (SplitRecord.read(made / run) for run in "ab")
    both = {*a.val.contents} & {*b.train.contents}
    assert both and {*a.val.contents} - both
    shown = contents_shown([made / "a", made / "b"])
    assert shown == {*a.val.contents} - both
    line = f"{len(both)} of {len(a.val.names)} validation images are left out, since {made / 'b'} was trained on them"
    assert caplog.text.count(line) == 1


def _rename(root, names):
    for name in names:
        (root / name).rename((root / name).with_name("0 " + Path(name).name))


def _retouch(root, names):
    for number, name in enumerate(names):
        Image.new("RGB", (24, 24), (number, 9, 9)).save(root / name)


def _convert(root, names):
    for name in names:
        Image.open(root / name).save((root / name).with_suffix(".bmp"))
        (root / name).unlink()


def _add(root, names):
    for number in range(6):
        Image.new("RGB", (24, 24), (number, 99, 9)).save(root / "bar" / f"0 new {number}.png")


def _nothing(root, names):
    pass


@pytest.mark.parametrize("change", [_nothing, _rename, _retouch, _convert, _add])
def test_whatever_becomes_of_the_folder_no_run_is_shown_what_it_was_trained_on(place, change):
    a, b = (SplitRecord.read(place / run) for run in "ab")
    change(place / "set", a.val.names)
    networks = run_subjects([str(place / "a"), str(place / "b")])
    data = shown_data(networks)
    fair = [name for name in a.val.names if name not in b.train.names]
    assert len(data.val_set) == len(fair)
    assert {Path(name).stem.removeprefix("0 ") for name in data.val_set.names} == {Path(n).stem for n in fair}


def test_runs_without_a_record_are_compared_by_what_their_own_split_gives(place):
    seen = {*SplitRecord.read(place / "b").train.contents}
    for run in "ab":
        (place / run / FILE).unlink()
    assert not contents_shown([place / "a", place / "b"]) & seen


def test_the_same_images_in_two_folders_are_the_same_images(place):
    shutil.copytree(place / "set", place / "copy")
    path = place / "b" / "config.yaml"
    path.write_text(path.read_text().replace(str(place / "set"), str(place / "copy")))
    assert not contents_shown([place / "a", place / "b"]) & learned(place / "b")


def test_twins_lose_no_image_and_there_is_no_word(made, caplog):
    before = SplitRecord.read(made / "a").val.contents
    assert contents_shown([made / "a", made / "a"]) == {*before} and "left out" not in caplog.text


def test_runs_that_share_no_validation_image_are_refused_in_one_sentence(place):
    a = SplitRecord.read(place / "a")
    SplitRecord(a.classes, a.val, a.train).write(place / "b")
    with pytest.raises(ValueError, match=r"every validation image of .*a was a training image of .*b; ask"):
        contents_shown([place / "a", place / "b"])


def test_a_study_of_two_runs_shows_them_what_neither_was_trained_on(made, monkeypatch, tmp_path):
    shown = []

    def stop(chosen, judged, batch, first):
        shown.extend(judged.images.contents())
        raise InterruptedError

    runs = [
        replace_kind(load_run(made / run), kind) for run, kind in (("a", "plain"), ("b", "interpretable"))
    ]
    monkeypatch.setattr(study, "_runs", lambda *_: runs)
    monkeypatch.setattr(study.DistractorStudy, "measured", stop)
    config = composed("study", "experiment=distractor_study", "device=cpu")
    with pytest.raises(InterruptedError):
        study.study(config, tmp_path)
    assert shown and not {*shown} & (learned(made / "a") | learned(made / "b"))


def replace_kind(run, kind):
    config = run.config.copy()
    config.model.kind = kind
    return replace(run, config=config)


def test_a_training_that_goes_on_elsewhere_keeps_the_names_of_what_is_gone(place, monkeypatch):
    root, half = place / "set", place / "half"

    def killed(sampler, epoch):
        if epoch:
            raise InterruptedError
        sampler.epoch = epoch

    with monkeypatch.context() as patch:
        patch.setattr(EpochSampler, "set_epoch", killed)
        with pytest.raises(InterruptedError):
            trained(root, half, "training.epochs=2")
    begun = SplitRecord.read(half)
    gone, retouched = begun.train.names[:2]
    kept = (root / gone).read_bytes()
    (root / gone).unlink()
    Image.new("RGB", (24, 24), (1, 2, 3)).save(root / retouched)
    checkpoint = half / "checkpoints" / "last.ckpt"
    on = trained(root, place / "on", "training.epochs=2", f"ckpt_path={checkpoint}")
    after = SplitRecord.read(on)
    assert after.train.contents == [*begun.train.contents, content_of(root / retouched)]
    assert after.val == begun.val
    (root / "bar" / "it is back.png").write_bytes(kept)
    assert "bar/it is back.png" not in load_run(on).data.val_set.names


def test_a_study_that_goes_on_counts_the_images_that_it_began_with(place):
    config = composed(
        "study", "experiment=distractor_study", "data=image_folder", f"data.root={place / 'set'}"
    )
    record = SplitRecord.read(place / "a")
    (place / "set" / record.train.names[0]).unlink()
    assert study._training_images(config, place / "a") == len(record.train.names)


def test_images_are_joined_by_content_and_without_one_by_name():
    one = Side(["a", "b"], [0, 1], ["1", ""], ["3", "4"], ["", ""])
    other = Side(["c", "b", "d"], [0, 1, 1], ["1", "", "2"], ["3", "4", "5"], [""] * 3)
    joined = one.joined(other)
    assert joined == Side(["a", "b", "d"], [0, 1, 1], ["1", "", "2"], [], []) and joined.shown == [
        "3",
        "4",
        "5",
    ]


def test_a_file_that_takes_anothers_name_size_and_time_has_its_own_content(tmp_path):
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    for path in (first, second):
        os.utime(path, ns=(10**18, 10**18))
    before = content_of(first)
    second.replace(first)
    assert content_of(first) != before


VAIN = ["data.val_fraction=0.9", "data.annotations=marks.csv", "+data.split_seed=4"]


@pytest.mark.parametrize("words", [VAIN[:1], VAIN[1:2], VAIN])
def test_settings_of_the_data_that_a_run_does_not_take_are_named_in_one_line(
    made, monkeypatch, caplog, words
):
    given = ["data=image_folder", f"data.root={made / 'set'}", *words]
    config = DictConfig({"overrides": {"task": [f"run={made / 'a'}", *given]}})
    monkeypatch.setattr(HydraConfig, "initialized", staticmethod(lambda: True))
    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: config))
    assert moved_root(data_of(made / "set"), [made / "a", made / "b"]) == str(made / "set")
    [line] = [one.getMessage() for one in caplog.records]
    ignored = ", ".join(word.lstrip("+") for word in words)
    assert line == f"ignored: {ignored}; of a run's data only data.root may be another"


def test_data_of_another_kind_are_no_place_of_a_runs_images(made):
    assert moved_root(composed("explain", "data=mnist").data, [made / "a"]) is None
    assert moved_root(None, [made / "a"]) is None


def test_leaving_out_twice_leaves_out_once(made):
    runs = [load_run(made / run) for run in "ab"]
    seen = [run.seen for run in runs]
    leave_out_trained_on(runs[0].data, seen)
    names = runs[0].data.val_set.names
    leave_out_trained_on(runs[0].data, seen)
    assert runs[0].data.val_set.names == names and len(runs[0].data.val_set[0].image) == 3


def test_what_an_export_wrote_of_other_images_is_written_again(place, capsys):
    config = composed("export", "exemplars=2", "what=[filters]")
    judging, learning = SplitRecord.read(place / "a").val.names, SplitRecord.read(place / "a").train.names

    def exported() -> str:
        export.export(load_run(place / "a"), config, place / "out")
        return capsys.readouterr().out

    assert "filters: there already" not in exported()
    assert "filters: there already" in exported()
    for name in (judging[len(judging) // 2], learning[3]):  # neither the first nor the last
        _retouch(place / "set", [name])
        assert "filters: there already" not in exported()
        assert "filters: there already" in exported()
    (place / "set" / judging[1]).unlink()
    assert "filters: there already" not in exported()


def test_what_a_study_kept_of_other_images_is_made_again(place, monkeypatch, tmp_path):
    keys = []
    monkeypatch.setattr(study, "_runs", lambda *_: [load_run(place / "a")])
    monkeypatch.setattr(study, "done_in_parts", lambda folder, key, *_, **__: keys.append(key) or stop())

    def stop():
        raise InterruptedError

    config = composed("study", "experiment=distortion_study", "device=cpu")
    names = SplitRecord.read(place / "a").val.names
    for change in (_nothing, _nothing, _retouch, _rename):
        change(place / "set", names[2:3])
        with pytest.raises(InterruptedError):
            study.study(config, tmp_path)
    assert keys[0] == keys[1] and len({*keys}) == 3


def test_a_finished_training_whose_last_checkpoint_is_damaged_is_finished_again(place):
    run = trained(place / "set", place / "two", "training.epochs=2")
    last = run / "checkpoints" / "last.ckpt"
    before = load_checkpoint(last)["state_dict"]
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    again = load_checkpoint(
        trained(place / "set", run, "training.epochs=2", resume=True) / "checkpoints/last.ckpt"
    )
    assert all(torch.equal(before[name], value) for name, value in again["state_dict"].items())
    assert load_run(run).epochs == 2
