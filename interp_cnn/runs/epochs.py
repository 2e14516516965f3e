"""Which epoch the weights of a run are of: what is called its last epoch is the last of its table."""

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from interp_cnn.training.checkpoints import finished_epochs

log = logging.getLogger(__name__)


def epochs_of(path: Path, checkpoint: dict) -> int:
    """How many epochs the weights of a checkpoint were trained.

    Args:
        path: of the checkpoint, for the message.
        checkpoint: its content.

    Raises:
        ValueError: it does not say.
    """
    try:
        return finished_epochs(checkpoint)
    except ValueError as error:
        raise ValueError(f"checkpoint {path} is no training's own: {error}") from error


def check_last(folder: Path, checkpoint: Path, epochs: int) -> None:
    """A finished run's last checkpoint is of its last epoch; an unfinished run has no last epoch yet, which is logged.

    Args:
        folder: the run folder.
        checkpoint: its last.ckpt.
        epochs: that those weights were trained.

    Raises:
        ValueError: the training went on after that epoch.
    """
    if run_record(folder) is None:
        log.warning("%s is not finished: its weights are those of epoch %d", folder, epochs)
        return
    trained = last_epoch(folder)
    if epochs != trained:
        raise ValueError(
            f"{checkpoint} holds epoch {epochs}, but the training went on to epoch {trained} (versions of before "
            "2026-11-26 kept the best so far): train anew, or take it as what it is with checkpoint=best"
        )


def run_record(folder: Path) -> dict[str, Any] | None:
    """What a finished training noted in run.json; None where it is not finished.

    Raises:
        ValueError: the file is no such note.
    """
    path = folder / "run.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text("utf-8"))
        if not isinstance(record, dict):
            raise ValueError(f"it holds a {type(record).__name__}")
    except ValueError as error:
        raise ValueError(
            f"{path} is no note that a finished training wrote: {error}; delete it, and the training's command called "
            "again with the same hydra.run.dir writes it anew"
        ) from error
    return record


def last_epoch(folder: Path) -> int:
    """How many epochs a run's table of metrics has."""
    path = folder / "metrics.csv"
    try:
        return int(pd.read_csv(path)["epoch"].max()) + 1
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no table of epochs that a training wrote: {error}") from error
