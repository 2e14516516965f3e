"""A training whose loss is no number any more ends, with the last whole checkpoint kept."""

import math

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor


class FiniteLoss(Callback):
    """Ends a training when a loss of training or validation is NaN or infinite.

    Training losses are gathered where they lie and looked at before the validation, so that no step waits for it. It
    stands first among the callbacks: nobody draws what is no number.

    Args:
        monitor: tag of the validation loss.
    """

    def __init__(self, monitor: str):
        self.monitor = monitor
        self.total: Tensor | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins anew."""
        self.total = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, *unused) -> None:
        """Adds the step's loss: a sum is finite only if all its parts are."""
        loss = outputs["loss"].detach().float()
        self.total = loss if self.total is None else self.total + loss

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the training losses so far."""
        if self.total is not None:
            self._check(trainer, "loss", self.total)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the validation loss."""
        if self.monitor in trainer.callback_metrics:
            self._check(trainer, "validation loss", trainer.callback_metrics[self.monitor])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the training losses where nothing is validated."""
        self.on_validation_start(trainer, pl_module)

    def _check(self, trainer: Trainer, name: str, loss: Tensor) -> None:
        value = float(loss)
        if trainer.strategy.reduce_boolean_decision(math.isfinite(value), all=True):
            return
        epoch = trainer.current_epoch + 1
        kept = f"last.ckpt holds epoch {epoch - 1}" if epoch > 1 else "no epoch was finished"
        raise ValueError(
            f"the {name} became {'infinite' if math.isinf(value) else 'NaN'} in epoch {epoch} ({kept}); "
            "a lower training.learning_rate or a training.gradient_clip may help"
        )
