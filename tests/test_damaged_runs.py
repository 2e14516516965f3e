"""Run folders that are damaged: one sentence about the file, what was expected and what to do; nothing left behind."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from interp_cnn.runs.epochs import run_record
from interp_cnn.runs.folder import load_checkpoint
from interp_cnn.storage.tensors import read_tensors


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("last.ckpt", "best.ckpt"):
        torch.save({"state_dict": {"a": torch.zeros(4000)}}, folder / name)
    return folder / "last.ckpt"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty: what wrote it was broken off, or the disk was full"),
        (b"hello\n", "it is damaged, or no file that torch.save wrote"),
        (b"\x80\x02]q\x00.", "it is damaged, or no file that torch.save wrote|it holds no state_dict"),
        (None, "it is damaged"),  # half of it
    ],
)
def test_a_checkpoint_that_is_none_is_refused_with_what_else_there_is(content, said, tmp_path):
    path = checkpoint(tmp_path / "checkpoints")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    with pytest.raises(ValueError, match=said) as refused:
        load_checkpoint(path)
    assert str(refused.value).startswith(f"checkpoint {path} cannot be read: ") and "\n" not in str(
        refused.value
    )
    assert str(refused.value).endswith("; checkpoint=best takes the weights of the best epoch")
    path.with_name("best.ckpt").unlink()
    with pytest.raises(ValueError) as refused:
        load_checkpoint(path)
    assert "checkpoint=best" not in str(refused.value)


@pytest.mark.filterwarnings("error")
def test_a_foreign_pickle_is_refused_without_a_warning_of_torch(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"save network\.state_dict\(\) instead"):
        read_tensors(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xff\xff\xff\xff\xff\xff\xff{}"])
def test_a_safetensors_file_that_is_none_is_refused_in_a_sentence(content, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"it is empty|it is damaged, or no safetensors file"):
        read_tensors(path)


@pytest.mark.parametrize("text", ['{"seconds": 1', "[1]", "", "null", "hello"])
def test_a_note_of_a_finished_training_that_is_none_is_not_taken_for_one(text, tmp_path):
    assert run_record(tmp_path) is None
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"run\.json is no note that a finished training wrote: .*; delete it"
    ):
        run_record(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"seconds": 2.5, "epochs": 3}))
    record = run_record(tmp_path)
    assert record is not None and record["epochs"] == 3
    shutil.rmtree(tmp_path)
