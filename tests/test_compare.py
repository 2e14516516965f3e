import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from interp_cnn.cli import main as cli

SMALL = [
    "model.widths=[4,6,8,8,8]",
    "training.epochs=2",
    "resamples=20",
    "sample_images=2",
    "training.learning_rate=0.01",
]
DIGITS = ["data.image_size=24", "data.scale=[1.5,2.0]", "data.batch_size=64"]


def interp_cnn(*words: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "interp_cnn", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # in this process as in one of its own
def test_compare_writes_what_it_promises_and_the_same_seed_gives_the_same_bits(tmp_path, monkeypatch, capfd):
    first, second = tmp_path / "a", tmp_path / "b"
    found = interp_cnn("compare", *SMALL, *DIGITS, f"hydra.run.dir={first}", folder=tmp_path)
    assert found.returncode == 0, found.stderr
    words = " ".join(found.stdout.split())
    assert "Accuracy" in words and "best fixed spot" in words and "report:" in words
    assert max(map(len, found.stdout.splitlines())) <= 80
    assert "Tip:" not in found.stdout + found.stderr
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *SMALL, *DIGITS, f"hydra.run.dir={second}"]) == 0
    assert (first / "report" / "index.html").is_file()
    for kind in ("interpretable", "plain"):
        assert (first / kind / "checkpoints" / "last.ckpt").is_file()
        assert list((first / kind).glob("events.out.tfevents.*"))
        states = [
            torch.load(folder / kind / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            for folder in (first, second)
        ]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        table = pd.read_csv(first / kind / "metrics.csv").set_index("epoch")
        assert table.index.tolist() == [0, 1]
        measured = pd.read_csv(first / "tables" / "summary.csv").set_index("name").loc[kind, "accuracy"]
        assert measured == pytest.approx(table.loc[1, "val/accuracy"], abs=1e-6)
    for table in ("summary.csv", "filters.csv", "differences.csv"):
        tables = [pd.read_csv(folder / "tables" / table) for folder in (first, second)]
        pd.testing.assert_frame_equal(*tables, check_exact=True)
    content = json.loads((first / "tables" / "comparison.json").read_text())
    assert [network["name"] for network in content["networks"]] == ["interpretable", "plain"]
    assert {"random_cell", "centre", "best_constant", "oracle"} <= set(content["baselines"])

    capfd.readouterr()
    assert cli.main(["compare", *SMALL, *DIGITS, f"hydra.run.dir={first}"]) == 0
    assert "training" not in capfd.readouterr().err  # nothing was trained again
    for kind, seconds in json.loads((first / "report/data/reproduction.json").read_text())["seconds"].items():
        trained = json.loads((first / kind / "run.json").read_text())["seconds"]
        assert seconds == pytest.approx(trained, abs=0.06)  # not those of a call that trained nothing

    runs = f"runs=[{first}/interpretable,{first}/plain]"
    assert cli.main(["evaluate", runs, "resamples=20", "hydra.run.dir=e"]) == 0
    assert (tmp_path / "e" / "filters.csv").is_file()
    assert (tmp_path / "e" / "figures" / "tracking_gain.png").is_file()
    assert "| interpretable |" in (tmp_path / "e" / "summary.md").read_text()


@pytest.mark.slow
def test_compare_on_photographs_of_one_category_against_negatives(tmp_path, data_root):
    words = ["data=animal_parts", f"data.root={data_root / 'animalparts64_small'}", "data.categories=[fox]"]
    small = [*SMALL, "data.image_size=32", "hydra.run.dir=a"]
    found = interp_cnn("compare", *words, *small, folder=tmp_path)
    assert found.returncode == 0, found.stderr
    filters = pd.read_csv(tmp_path / "a" / "tables" / "filters.csv")
    assert set(filters["category"].dropna()) == {"fox"}  # the negatives get no filters


def test_a_method_that_there_is_not_is_refused_before_the_trainings(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *DIGITS, "methods=[foo]", "hydra.run.dir=out"]) == 2
    assert "no method 'foo'" in capfd.readouterr().err and not (tmp_path / "out" / "interpretable").exists()


def test_comparing_the_plain_network_with_itself_is_refused(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "model=plain"]) == 2
    said = capfd.readouterr().err
    assert "compared with itself" in said and "Traceback" not in said
