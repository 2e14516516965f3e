"""How far a training is."""

import sys
import time

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from tqdm import tqdm


class EpochProgress(TQDMProgressBar):
    """One bar over all epochs' batches, with the time that is left; a line for each epoch where nobody watches."""

    def __init__(self, label: str):
        super().__init__(refresh_rate=10)
        self.label = label
        self.total_bar = None
        self.first, self.started = 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module) -> None:
        """Opens the bar."""
        self.first, self.started = trainer.current_epoch, time.monotonic()
        if trainer.is_global_zero and sys.stderr.isatty():
            done = trainer.current_epoch * trainer.num_training_batches
            assert trainer.max_epochs is not None  # `fit` gives it
            total = trainer.max_epochs * trainer.num_training_batches
            self.total_bar = tqdm(
                total=total, initial=done, desc=self.label, unit="batch", file=sys.stderr, dynamic_ncols=True
            )

    def on_train_batch_end(self, trainer: Trainer, *unused) -> None:
        """One batch further."""
        if self.total_bar is not None:
            self.total_bar.update(1)

    def on_train_epoch_end(self, trainer: Trainer, *unused) -> None:
        """Shows the epoch's accuracy."""
        sentence = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        if "val/accuracy" in trainer.callback_metrics:
            sentence += f", val accuracy {float(trainer.callback_metrics['val/accuracy']):.3f}"
        if self.total_bar is not None:
            self.total_bar.set_postfix_str(sentence)
        elif trainer.is_global_zero:
            assert trainer.max_epochs is not None  # `fit` gives it
            done, left = (
                trainer.current_epoch + 1 - self.first,
                trainer.max_epochs - trainer.current_epoch - 1,
            )
            took = time.monotonic() - self.started
            left *= took / done
            tqdm.write(f"{self.label}: {sentence}, {took:.0f} s, about {left:.0f} s left", file=sys.stderr)

    def on_train_end(self, trainer: Trainer, *unused) -> None:
        """Closes the bar."""
        if self.total_bar is not None:
            self.total_bar.close()

    def on_exception(self, trainer: Trainer, *unused) -> None:
        """Closes the bar, so that what is said next begins a line of its own."""
        self.on_train_end(trainer)

    def on_train_epoch_start(self, *unused) -> None:
        """No bar per epoch."""

    def on_validation_start(self, *unused) -> None:
        """No bar for the validation."""

    def on_validation_batch_start(self, *unused) -> None:
        """No bar for the validation."""

    def on_validation_batch_end(self, *unused) -> None:
        """No bar for the validation."""

    def on_validation_end(self, *unused) -> None:
        """No bar for the validation."""

    on_sanity_check_start = on_sanity_check_end = on_validation_start
