"""A picture that fails ends no training: what a dashboard cannot draw is said once and left out."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from interp_cnn.training.loggers import PictureBoard

log = logging.getLogger(__name__)


def board_of(trainer: Trainer) -> Any:
    """What a dashboard of a training draws for: TensorBoard's writer, or with another logger its pictures alone."""
    if isinstance(trainer.logger, TensorBoardLogger):
        return trainer.logger.experiment
    if trainer.logger is None:
        raise ValueError("the training has no logger; expected one of conf/logger")
    return PictureBoard(trainer.logger, Path(trainer.default_root_dir))


def data_of(trainer: Trainer) -> Any:
    """The data module of a training."""
    return trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] - Lightning sets it without declaring it


def left_out_when_it_fails(hook: Callable) -> Callable:
    """A method of a dashboard whose errors become one line of the log, each once; it then returns None.

    Not for a method that waits for other processes: they would wait for it.

    Example:
        >>> class Board:
        ...     @left_out_when_it_fails
        ...     def on_fit_end(self):
        ...         raise ValueError("no picture")
        >>> Board().on_fit_end()
    """

    @functools.wraps(hook)
    def guarded(self, *arguments, **options):
        try:
            return hook(self, *arguments, **options)
        except Exception as error:
            reported = self.__dict__.setdefault("_left_out", set())
            reason = " ".join(str(error).split()) or type(error).__name__
            if reason not in reported:
                reported.add(reason)
                log.warning("%s leaves pictures out, training goes on: %s", type(self).__name__, reason)
            return None

    return guarded
