"""Damaged files of every kind that is read: a value or one sentence, never another exception, never a hang.

Real files are changed, cut and doubled by hypothesis: `pytest tests/test_fuzz.py --fuzz 2500` tries 2500 of each kind.
So are the values of a run's configuration, and the words of command lines.
"""

import json
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from interp_cnn.cli import errors
from interp_cnn.cli import main as cli
from interp_cnn.data.animal_parts import AnimalParts
from interp_cnn.data.images import read_rgb
from interp_cnn.discovery.stages import cached
from interp_cnn.report.maps import records as explained
from interp_cnn.runs.configuration import load_config
from interp_cnn.runs.folder import build_data, load_checkpoint
from interp_cnn.studies.parts import done_in_parts

LONGEST = 20  # seconds of the processor for one file: a hang, not a busy machine
CSV = """file,wnid,name,label,split_by_photo,head_n,head_x,head_y,head_w,head_h,head_multi
a.png,n1,fox,1,train,1,0.5,0.25,0.2,0.2,
a.png,n1,fox,1,val,2,,,,,0.1 0.1 0.2 0.2;0.5 0.5 0.1 0.1
a.png,neg,negative,-1,train,0,,,,,
a.png,neg,negative,-1,val,0,,,,,
"""
CHANGES = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.integers(0, 3), st.binary(min_size=1, max_size=6)),
    min_size=1,
    max_size=5,
)


def damaged(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Bytes replaced, cut out, put in or doubled at some places."""
    for place, kind, more in changes:
        at = place % max(len(content), 1)
        before, after = content[:at], content[at:]
        content = [
            before + more + after[len(more) :],
            before + after[7:],
            before + more + after,
            before + after * 2,
        ][kind]
        content = content[: 1 << 20]
    return content


@contextmanager
def a_limit():
    """A hang becomes a failure."""

    def late(*unused):
        raise AssertionError(f"still at work after {LONGEST} s")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def picture(folder: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)).save(folder / "a.png")
    return folder / "a.png"


def table(folder: Path) -> Path:
    picture(folder)
    (folder / "annotations.csv").write_text(CSV)
    return folder / "annotations.csv"


def configuration(folder: Path) -> Path:
    data = {
        "_target_": "interp_cnn.data.datamodule.PartDataModule",
        "dataset": {"_target_": "interp_cnn.data.animal_parts.AnimalParts", "_partial_": True},
        "root": str(folder),
        "image_size": 12,
        "batch_size": 4,
        "augmentation": {"flip": True, "shift": 0.1, "scale": 0.1},
    }
    table(folder)
    (folder / "config.yaml").write_text(
        OmegaConf.to_yaml(OmegaConf.create({"seed": 0, "data": data, "model": {"kind": "plain"}}))
    )
    return folder / "config.yaml"


def checkpoint(folder: Path) -> Path:
    torch.save({"state_dict": {"a": torch.zeros(4)}, "epoch": 1}, folder / "last.ckpt")
    return folder / "last.ckpt"


def record(folder: Path) -> Path:
    written = explained.write_maps(folder, {"lrp": np.zeros((3, 3), np.float32)})
    explained.write_record(folder, explained.ImageRecord("a.png", "cat", (3, 3), "q", [], *written))
    return folder / explained.RECORD


def part(folder: Path) -> Path:
    done_in_parts(folder, "key", {"a": lambda: {"values": np.arange(40.0)}}, label="")
    return folder / "a.npz"


def read_part(path: Path) -> None:
    (found,) = done_in_parts(path.parent, "key", {"a": lambda: {"values": np.arange(40.0)}}, label="")
    assert [*found["values"]] == [*range(40)]


def stage(folder: Path) -> Path:
    cached(folder / "a.npz", {"a": 1}, lambda: {"values": np.arange(40.0)})
    return folder / "a.npz"


def read_stage(path: Path) -> None:
    assert [*cached(path, {"a": 1}, lambda: {"values": np.arange(40.0)})["values"]] == [*range(40)]


READERS = {
    "image": (picture, lambda path: read_rgb(path, (8, 8))),
    "table": (
        table,
        lambda path: [AnimalParts(side, root=path.parent, image_size=12)[0] for side in ("train", "val")],
    ),
    "configuration": (configuration, lambda path: build_data(load_config(path.parent).data)),
    "checkpoint": (checkpoint, load_checkpoint),
    "record": (record, lambda path: explained.read_record(path.parent)),
    "part of a study": (part, read_part),
    "stage": (stage, read_stage),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_a_value_or_one_sentence(kind, tmp_path, pytestconfig):
    make, read = READERS[kind]
    path = make(tmp_path)
    whole = path.read_bytes()
    read(path)
    outcomes = {"read": 0, "refused": 0}

    @settings(
        max_examples=pytestconfig.getoption("--fuzz"),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(CHANGES)
    def one(changes):
        path.write_bytes(damaged(whole, changes))
        _counted(lambda: read(path), outcomes)

    one()
    print(kind, json.dumps(outcomes))


def _counted(read, outcomes):
    try:
        with a_limit():
            read()
        outcomes["read"] += 1
    except Exception as error:
        said = errors.sentence(error, ["train"])
        assert said is not None and "\n" not in said, repr(error)
        outcomes["refused"] += 1


ODD = (
    None,
    True,
    -1,
    0,
    1e99,
    float("nan"),
    "",
    "word",
    "../../x",
    "x" * 5000,
    "\0",
    [],
    [1, [2]],
    {},
    {"_target_": "os.abort"},
)
KEYS = (
    "_target_",
    "dataset",
    "root",
    "image_size",
    "batch_size",
    "augmentation",
    "seed",
    "workers",
    "balance",
    "new",
)


def test_a_configuration_with_any_values_is_data_or_one_sentence(tmp_path, pytestconfig):
    path = configuration(tmp_path)
    whole, outcomes = OmegaConf.load(path), {"read": 0, "refused": 0}
    values = st.one_of(
        st.sampled_from(ODD), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers())
    )

    @settings(
        max_examples=pytestconfig.getoption("--fuzz"),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.tuples(st.sampled_from(KEYS), values), min_size=1, max_size=3))
    def one(changes):
        content = OmegaConf.to_container(whole)
        for key, value in changes:
            # a huge number of workers or pixels is a wish, not damage
            if key in ("workers", "image_size") and isinstance(value, int | float):
                value = value if value < 64 else -value
            content["data"][key] = value
        path.write_text(json.dumps(content))  # JSON is YAML
        _counted(lambda: build_data(load_config(tmp_path).data), outcomes)

    one()
    print("values", json.dumps(outcomes))


TEXT = st.text(min_size=1, max_size=4)
LINES = (
    ["model.widths=[4,6,8,8,8]", "training.epochs=4", "data.scale=[1.5,2.0]"],
    ["data=mnist", "data.root=/nowhere", "model=plain", "trainer.precision=32-true"],
    ["+trainer.limit_train_batches=5", "~data.rotation", "seed=3", "training.patience=null"],
    ["training.compile=true", "data.augmentation={flip:true,shift:0.1}", "model.loss_weight.ratio=0.5"],
)


def test_any_words_on_the_command_line_are_settings_or_one_sentence(capsys, pytestconfig):
    outcomes = {"read": 0, "refused": 0}

    @settings(
        max_examples=pytestconfig.getoption("--fuzz"),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.sampled_from(LINES),
        st.integers(0, 3),
        st.integers(0, 40),
        st.text(min_size=1, max_size=4),
        st.booleans(),
    )
    def one(line, which, at, more, inside):
        words = list(line)
        word = words[which % len(words)]
        at %= len(word)
        words[which % len(words)] = word[:at] + more + word[at + (0 if inside else len(more)) :]
        words = [word for word in words if not word.startswith("-")]  # flags are argparse's
        with a_limit():
            code = cli.main(["train", *words, "--cfg", "job"])
        said = capsys.readouterr().err
        assert code in (0, 2), (words, said)
        assert "Traceback" not in said and (code == 0 or said.count("interp-cnn: ") == 1), (words, said)
        outcomes["refused" if code else "read"] += 1

    one()
    print("command lines", json.dumps(outcomes))
