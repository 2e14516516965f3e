"""A picture that fails ends no training: what a dashboard cannot draw is said once and left out."""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger

log = logging.getLogger(__name__)


class EpochBoard(TensorBoardLogger):
    """TensorBoard by finished epochs: curves, pictures and final measures have one axis, and "epoch" is no curve."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Quantities of an epoch, which they name, at the number of epochs that are then finished."""
        named = dict(metrics)
        epoch = named.pop("epoch", None)
        if named:
            super().log_metrics(named, step if epoch is None else int(epoch) + 1)


def board_of(trainer: Trainer) -> Any:
    """TensorBoard's writer of a training."""
    if not isinstance(trainer.logger, TensorBoardLogger):
        raise ValueError(f"logger is {type(trainer.logger).__name__}; expected TensorBoardLogger")
    return trainer.logger.experiment


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
