"""How fast a training goes, and whether it waits for images or for the network.

Between two steps the training waits until the next batch is prepared and on its way to the device. Where this takes
most of the time, more workers, a cache or smaller images make it faster, and another network does not.
"""

import logging
import time

from pytorch_lightning import Callback, Trainer

log = logging.getLogger(__name__)
MUCH = 0.5  # share of the time that is called too much


class Throughput(Callback):
    """Batches per second and the share of the time spent waiting for them: by epoch for TensorBoard, at the end in a
    line. Not in `metrics.csv`, which is the same whenever and wherever a training is repeated.
    """

    def __init__(self) -> None:
        self.batches, self.seconds, self.waiting = 0, 0.0, 0.0
        self._total = (0, 0.0, 0.0)
        self._began = self._idle_since = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module) -> None:
        """Starts the clock of an epoch."""
        self.batches, self.waiting = 0, 0.0
        self._began = self._idle_since = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, *unused) -> None:
        """A batch is there."""
        self.waiting += time.perf_counter() - self._idle_since

    def on_train_batch_end(self, trainer: Trainer, *unused) -> None:
        """The step is done."""
        self.batches += 1
        self._idle_since = time.perf_counter()
        self.seconds = self._idle_since - self._began

    def on_train_epoch_end(self, trainer: Trainer, pl_module) -> None:
        """Logs the epoch."""
        self._total = tuple(
            old + new
            for old, new in zip(self._total, (self.batches, self.seconds, self.waiting), strict=True)
        )
        if trainer.logger is not None and self.seconds > 0:
            measured = {
                "work/batches_per_second": self.batches / self.seconds,
                "work/waiting_for_images": self.waiting / self.seconds,
                "epoch": float(trainer.current_epoch),
            }
            trainer.logger.log_metrics(measured, step=trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module) -> None:
        """Says what the training was bound by."""
        batches, seconds, waiting = self._total
        if trainer.is_global_zero and seconds > 0:
            share = waiting / seconds
            bound = (
                "bound by the images: data.workers, data.cache or a smaller data.image_size make it faster"
                if share > MUCH
                else "bound by the network"
            )
            log.info(
                "%.1f batches a second, %.0f %% of the time waiting for images: %s",
                batches / seconds,
                100 * share,
                bound,
            )
