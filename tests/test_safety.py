"""Nothing that comes from disk runs, nothing damaged is trusted, and nothing is left half written."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from interp_cnn.cli import errors
from interp_cnn.runs.configuration import load_config
from interp_cnn.runs.folder import build_data, load_checkpoint
from interp_cnn.runs.going_on import sound_checkpoint
from interp_cnn.storage.files import alone_in, npz_bytes, read_npz, replacing, sweep
from interp_cnn.storage.tensors import read_tensors
from interp_cnn.training.checkpoints import WholeCheckpoints

DIGITS = {
    "_target_": "interp_cnn.data.datamodule.PartDataModule",
    "dataset": {"_target_": "interp_cnn.data.digits.DigitsParts", "_partial_": True},
}
RUN = "seed: 0\ndata: {a: 1}\nmodel: {b: 2}\n"


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "interp_cnn.data.images.os.system",
        "interp_cnn.data.datamodule.csv.writer",
        "interp_cnn.data.images.Path",
        "interp_cnn.runs.networks.load_network",
        "torch.load",
        "torch.hub.load",
        "builtins.eval",
        "interp_cnn.data.digits.Nothing",
        "interp_cnn.data.",
        "",
        7,
    ],
)
@pytest.mark.parametrize("place", ["module", "dataset"])
def test_nothing_but_the_projects_own_data_classes_is_called(target, place):
    config = (
        {**DIGITS, "_target_": target} if place == "module" else {**DIGITS, "dataset": {"_target_": target}}
    )
    with pytest.raises(ValueError, match=r"only classes of the modules interp_cnn\.data\.\* are called"):
        build_data(OmegaConf.create(config))


def test_a_setting_of_another_kind_is_a_sentence():
    with pytest.raises(ValueError, match="the settings of data do not fit"):
        build_data(OmegaConf.create({**DIGITS, "batch_size": None}))
    with pytest.raises(ValueError, match="expected a PartDataModule"):
        build_data(OmegaConf.create({"_target_": "interp_cnn.data.digits.DigitsParts"}))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            RUN + "x: !!python/object/apply:os.system [touch owned]\n",
            "no configuration that a training wrote",
        ),
        (RUN + "x: &a [1]\ny: *a\n", "it has YAML aliases"),
        (RUN + "x: ${oc.env:HOME}\n", "it has interpolations"),
        ("- 1\n", "it has no seed"),
        ("seed: 0\n", "it has no data"),
        ("{", "no configuration that a training wrote"),
        ("", "it has no seed"),
        ("[" * 1000 + "]" * 1000, "no configuration that a training wrote"),
        (RUN + "#" * (1 << 20), "a training writes a few thousand"),
        ("seed: 0\ndata: {a: 1}\nmodel: {kind: 7}\n", "model.kind=7 is no name"),
        ("seed: 0\ndata: {a: 1}\nmodel: {kind: [plain]}\n", "is no name"),
    ],
)
def test_a_runs_configuration_is_plain_values_or_refused(text, sentence, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        load_config(tmp_path)
    assert not Path("owned").exists()


class Owner:
    """What a hostile pickle does when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch owned",)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": Owner()}}, "a.ckpt")
    with pytest.raises(ValueError, match="could run code"):
        load_checkpoint(Path("a.ckpt"))
    assert not Path("owned").exists()


def test_a_flipped_bit_in_a_weight_is_seen_though_torch_does_not_look(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"a": torch.full((1000,), 1.5)}}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((9,), 1.5).numpy().tobytes()) + 17] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["state_dict"]["a"].unique().numel() == 2
    with pytest.raises(ValueError, match="it is damaged"):
        read_tensors(path)


def test_a_container_whose_end_is_damaged_is_refused_by_a_sentence(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(4)}}, path)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x06\x07") + 4] = 1  # the number of a disk
    path.write_bytes(content)
    with pytest.raises(ValueError, match="it is damaged"):
        read_tensors(path)


def test_a_file_that_unpacks_to_more_than_its_size_is_refused_before_it_is_unpacked(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1_000_000)}}, tmp_path / "a.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "a.ckpt") as plain,
        zipfile.ZipFile(tmp_path / "b.ckpt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    with pytest.raises(ValueError, match="more than its own size"):
        read_tensors(tmp_path / "b.ckpt")


def test_the_checkpoint_before_is_taken_when_the_last_is_damaged_and_that_is_said(tmp_path, caplog):
    last = tmp_path / "last.ckpt"
    for epoch in range(3):
        WholeCheckpoints().save_checkpoint({"state_dict": {}, "epoch": epoch}, str(last))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert load_checkpoint(sound_checkpoint(last))["epoch"] == 2
    last.write_bytes(last.read_bytes()[:100])
    assert load_checkpoint(sound_checkpoint(last))["epoch"] == 1
    assert "going on from the one before" in caplog.text
    last.unlink()
    assert load_checkpoint(sound_checkpoint(last))["epoch"] == 1
    (tmp_path / "previous.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match="train anew"):
        sound_checkpoint(last)


def test_a_full_disk_is_told_with_the_file_that_has_no_room(tmp_path):
    path = tmp_path / "last.ckpt"
    with pytest.raises(OSError) as found, replacing(path):
        raise OSError(28, "No space left on device")
    assert errors.sentence(found.value, ["train"]) == f"No space left on device: {path}"


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(OSError, match="full"), replacing(path) as draft:
        draft.write_text("half")
        raise OSError("full")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.txt", "before")]
    (tmp_path / ".b.txt.12.draft").touch()
    (tmp_path / ".report-x.draft").mkdir()
    sweep(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


HOLD = """
import sys, time
from pathlib import Path
from interp_cnn.storage.files import alone_in
with alone_in(Path(sys.argv[1]), part=sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("theirs", "ours", "refused"),
    [
        ("", "", True),
        ("", "0-of-2", True),
        ("0-of-2", "", True),
        ("0-of-2", "0-of-2", True),
        ("0-of-2", "1-of-2", False),
    ],
)
def test_two_runs_do_not_share_a_folder_but_two_shares_of_one_do(theirs, ours, refused, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), theirs], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        try:
            if refused:
                with (
                    pytest.raises(ValueError, match="another interp-cnn is at work"),
                    alone_in(tmp_path, part=ours),
                ):
                    pass
            else:
                with alone_in(tmp_path, part=ours):
                    pass
        finally:
            other.kill()
    with alone_in(tmp_path):  # the lock of a killed process is gone
        pass


def test_arrays_come_back_as_they_were_and_python_objects_are_refused(tmp_path):
    arrays = {
        "a.lrp": np.arange(6, dtype=np.float32).reshape(2, 3),
        "flags": np.array([True]),
        "none": np.zeros((0, 2)),
    }
    (tmp_path / "maps.npz").write_bytes(npz_bytes(arrays))
    again = read_npz(tmp_path / "maps.npz")
    assert list(again) == list(arrays)
    for name, values in arrays.items():
        assert again[name].dtype == values.dtype and np.array_equal(again[name], values)
    with np.load(tmp_path / "maps.npz") as stored:
        assert stored.files == list(arrays)
    with pytest.raises(ValueError, match=r"[Oo]bject arrays"):
        npz_bytes({"words": np.array([object()])})
