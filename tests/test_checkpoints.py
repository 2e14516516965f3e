"""Which epoch a checkpoint is of: `last` the last, `previous` the one before, `best` that of the lowest loss."""

import itertools
import logging
import shutil

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from pytorch_lightning import Callback
from small_trainings import BATCHES, epochs_in, train

from interp_cnn.cli import config_text
from interp_cnn.commands import compare
from interp_cnn.commands import train as command
from interp_cnn.runs.folder import load_checkpoint, load_run


class Kill(Callback):
    """Ends a training as SIGKILL would: at a step, or behind the last epoch."""

    def __init__(self, step: int | None):
        self.step = step

    def on_train_batch_end(self, trainer, *unused):
        if trainer.global_step == self.step:
            raise RuntimeError("killed")

    def on_train_end(self, *unused):
        if self.step is None:
            raise RuntimeError("killed")


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([1, 2, 3, 4], 1),
        ([1, 2, 0.5, 4], 3),
        ([4, 3, 2, 1], 4),
        ([1, 1, 1, 1], 1),
        ([2, 1, 3, 1], 2),
        ([3], 1),
    ],
)
def test_last_is_the_last_epoch_and_previous_the_one_before_whatever_the_loss(losses, best, tmp_path):
    train(tmp_path, losses)
    expected = {"best": best, "last": len(losses), "previous": len(losses) - 1}
    assert epochs_in(tmp_path) == {name: epochs for name, epochs in expected.items() if epochs}


@pytest.mark.parametrize(
    ("losses", "stopped"), [([1, 2, 3, 4, 5], 3), ([2, 1, 3, 4, 5, 6], 4), ([3, 2, 1], 3)]
)
def test_with_patience_last_is_the_epoch_at_which_it_stopped(losses, stopped, tmp_path):
    train(tmp_path, losses, patience=2)
    found = epochs_in(tmp_path)
    assert (found["last"], found["previous"]) == (stopped, stopped - 1)
    assert pd.read_csv(tmp_path / "metrics.csv")["epoch"].tolist() == list(range(stopped))


SOON = {(5, None, False), (8, 2, False), (None, 2, False), (5, 2, True), (10, None, True), (None, None, True)}


@pytest.mark.parametrize(
    ("step", "patience", "elsewhere"),
    [
        pytest.param(*case, marks=[] if case in SOON else pytest.mark.slow)
        for case in itertools.product((4, 5, 6, 7, 8, 10, None), (None, 2), (False, True))
    ],
)
def test_a_killed_training_ends_with_the_same_checkpoints_as_one_that_was_not(
    step, patience, elsewhere, tmp_path
):
    losses = [2, 1, 3, 4, 5]
    train(tmp_path / "whole", losses, patience=patience)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "killed", losses, patience=patience, callbacks=[Kill(step)])
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    assert epochs_in(last.parent.parent)["last"] == ((step - 1) // BATCHES if step else 4 if patience else 5)
    folder = tmp_path / "other" if elsewhere else tmp_path / "killed"
    train(folder, losses, patience=patience, ckpt_path=last)
    found, whole = epochs_in(folder), epochs_in(tmp_path / "whole")
    if elsewhere:  # it has the checkpoints of its own epochs, and the best of all
        assert found["best"] == whole["best"]
        assert step is None or found["last"] == whole["last"]
    else:
        assert found == whole


def test_the_best_epoch_so_far_is_known_in_another_folder_too(tmp_path):
    train(tmp_path / "a", [1, 2, 3], epochs=3)
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    train(tmp_path / "b", [1, 2, 3, 2.5, 1.5], ckpt_path=last)
    assert epochs_in(tmp_path / "b") == {"best": 1, "last": 5, "previous": 4}
    last.with_name("best.ckpt").unlink()
    train(tmp_path / "c", [1, 2, 3, 2.5, 1.5], ckpt_path=last)
    assert epochs_in(tmp_path / "c") == {"best": 5, "last": 5, "previous": 4}


@pytest.fixture(scope="module")
def diverging(tmp_path_factory):
    """A run whose validation loss is lowest after its first epoch: the learning rate is far too high."""
    folder = tmp_path_factory.mktemp("run")
    GlobalHydra.instance().clear()
    words = ["model.widths=[4,4,4,4,6]", "data.image_size=24", "data.scale=[1.5,2.0]", "data.batch_size=256"]
    words += ["training.epochs=3", "training.learning_rate=0.3", "training.warmup_share=0.9"]
    with initialize_config_dir(str(config_text.config_folder()), version_base="1.3"):
        config = compose("train", overrides=words)
    command.train(config, folder)
    table = pd.read_csv(folder / "metrics.csv")
    assert table["val/task_loss"].idxmin() < len(table) - 1
    return folder


@pytest.mark.slow
def test_what_is_loaded_as_last_has_the_accuracy_of_the_tables_last_row(diverging):
    run = load_run(diverging, checkpoint="last")
    assert run.epochs == 3
    right = [
        (run.network(batch.images).argmax(1) == batch.labels).double().mean()
        for batch in run.data.val_dataloader()
    ]
    sizes = [len(batch.labels) for batch in run.data.val_dataloader()]
    accuracy = sum(share * size for share, size in zip(right, sizes, strict=True)) / sum(sizes)
    table = pd.read_csv(diverging / "metrics.csv")
    assert accuracy == pytest.approx(table["val/accuracy"].iloc[-1], abs=1e-6)
    assert load_run(diverging, checkpoint="best").epochs == table["val/task_loss"].idxmin() + 1


@pytest.mark.slow
def test_weights_of_another_epoch_are_not_taken_for_the_last(diverging, tmp_path, caplog):
    shutil.copytree(diverging, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copyfile(checkpoints / "best.ckpt", checkpoints / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt holds epoch \d, but the training went on to epoch 3"):
        load_run(tmp_path / "run", checkpoint="last")
    (tmp_path / "run" / "run.json").unlink()
    with caplog.at_level(logging.WARNING):
        run = load_run(tmp_path / "run", checkpoint="last")
    assert f"is not finished: its weights are those of epoch {run.epochs}" in caplog.text


@pytest.mark.slow
def test_weights_that_are_no_numbers_are_refused_with_their_file(diverging, tmp_path):
    shutil.copytree(diverging, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = load_checkpoint(last)
    content["state_dict"]["network.conv1.0.weight"][0] = torch.nan
    torch.save(content, last)
    with pytest.raises(
        ValueError, match=r"last\.ckpt holds weights that are NaN or infinite \(conv1\.0\.weight\)"
    ):
        load_run(tmp_path / "run")


@pytest.mark.slow
def test_networks_of_different_epochs_are_not_compared(diverging, tmp_path):
    last, best = (load_run(diverging, checkpoint=name) for name in ("last", "best"))
    best.config.model.kind = "plain"
    with pytest.raises(ValueError, match="the weights of different epochs"):
        compare.report_on([last, best], tmp_path, last.config, seconds={})
