"""Loggers by choice: each gets curves by finished epochs and the dashboards' pictures, and none ends a training."""

import importlib.util
import logging

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image
from test_training import FEW, data, module_for

from interp_cnn.cli import config_text
from interp_cnn.cli import main as cli
from interp_cnn.commands.train import _strongest
from interp_cnn.training.confusion_board import Answers
from interp_cnn.training.fit import fit
from interp_cnn.training.loggers import KINDS, check_logger
from interp_cnn.training.mask_board import Dashboard, add_measures


def train(folder, logger, caplog):
    digits = data()
    callbacks = [Dashboard("any", strongest=_strongest, images=4, filters=2), Answers()]
    with caplog.at_level(logging.WARNING):
        trainer = fit(
            module_for(digits, enabled=True, ratio=0.3),
            digits,
            folder=folder,
            epochs=2,
            seed=0,
            callbacks=callbacks,
            trainer=FEW,
            logger=logger,
        )
    assert "leaves pictures out" not in caplog.text
    add_measures(folder, {"location_instability": 0.25}, step=2, verdict="better")
    assert not [*folder.glob("events.out.tfevents.*")]
    return trainer


def settings(kind: str) -> dict:
    with initialize_config_dir(str(config_text.config_folder()), version_base="1.3"):
        return dict(compose("train", overrides=[f"logger={kind}"]).logger)


def test_every_logger_is_a_choice_and_tensorboard_the_default():
    assert sorted(config_text.groups()["logger"]) == sorted(KINDS)
    for command in ("train", "compare"):
        assert config_text.chosen(command)["logger"] == "tensorboard"
    for kind in KINDS:
        assert settings(kind)["kind"] == kind


def test_csv_is_a_table_by_finished_epochs_and_pictures_as_files(tmp_path, caplog):
    train(tmp_path, settings("csv"), caplog)
    table = pd.read_csv(tmp_path / "curves/metrics.csv")
    own = pd.read_csv(tmp_path / "metrics.csv")
    losses = table.dropna(subset=["val/task_loss"])
    assert losses["step"].tolist() == [1, 2]
    assert losses["val/task_loss"].tolist() == pytest.approx(own["val/task_loss"].tolist())
    for name in ("masks/conv5/00001.png", "masks/conv5/00002.png", "exemplars/conv5/00002.png"):
        with Image.open(tmp_path / "pictures" / name) as picture:
            assert picture.width > 20
    assert [*(tmp_path / "pictures/confusion").iterdir()]


def test_weights_and_biases_offline_gets_curves_and_pictures(tmp_path, caplog, monkeypatch):
    pytest.importorskip("wandb", reason="wandb (extra wandb) is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    trainer = train(tmp_path, {**settings("wandb"), "offline": True}, caplog)
    [run] = (tmp_path / "wandb").glob("offline-run-*")
    assert [*run.glob("*.wandb")] and [*run.glob("files/media/images/masks/*.png")]
    import wandb

    assert wandb.run is None, "the next training is another run"
    assert trainer.logger.version in run.name


@pytest.mark.filterwarnings("ignore")  # MLflow's own, of its libraries
def test_mlflow_keeps_curves_and_pictures_in_a_local_store(tmp_path, caplog):
    pytest.importorskip("mlflow", reason="mlflow (extra mlflow) is not installed")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    trainer = train(tmp_path / "run", {**settings("mlflow"), "tracking_uri": store}, caplog)
    client, run = trainer.logger.experiment, trainer.logger.run_id
    history = client.get_metric_history(run, "val/task_loss")
    assert [point.step for point in history] == [1, 2]
    assert client.get_run(run).data.params["kind"] == "any"
    assert any(it.path.endswith(".png") for it in client.list_artifacts(run, "masks/conv5"))


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_a_package_that_is_not_there_is_named_with_its_extra(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    there = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == kind else there(name, *more)
    )
    assert cli.main(["train", f"logger={kind}"]) == 2
    assert f"needs the package {kind}: pip install 'interp-cnn[{kind}]'" in capsys.readouterr().err


def test_an_unknown_logger_is_answered_with_those_that_there_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "logger=tensorbord"]) == 2
    assert "did you mean tensorboard?" in capsys.readouterr().err
    with pytest.raises(
        ValueError, match=r"logger\.kind is 'neptune'; expected tensorboard, csv, wandb, mlflow"
    ):
        check_logger({"kind": "neptune"})


@pytest.mark.slow
def test_train_writes_with_the_chosen_logger(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "logger=csv", "training.epochs=1", "trainer=cpu", "hydra.run.dir=run"]
    assert cli.main([*words, "model.widths=[4,4,8,8,8]"]) == 0
    assert (tmp_path / "run/curves/metrics.csv").is_file()
    assert not [*(tmp_path / "run").glob("events.out.tfevents.*")]
