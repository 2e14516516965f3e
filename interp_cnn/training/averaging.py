"""A moving average of the weights, which a training keeps in place of those of its last step.

    average <- d * average + (1 - d) * weights        after every step t, with d = min(decay, (1 + t) / (10 + t))

The weights of a small batch jitter; their average does not. Early averages are short (d grows with the steps), so that
nothing is left of the first weights (as in TensorFlow's and timm's averages). Batch norms' statistics are averaged
alike. What is validated, saved and handed out is the average; the training itself goes on with its own weights, which
lie beside it in a checkpoint, so that a training that is gone on with ends with the same bits.
"""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn


class MovingAverage(Callback):
    """Averages a network's weights and statistics; among the callbacks it stands behind those that look at the network
    after a validation.

    Args:
        network: the part of the module that is averaged, with all its floating point weights and statistics.
        decay: d, from 0 to less than 1.
        name: of the network in the module.

    Raises:
        ValueError: another decay.
    """

    def __init__(self, network: nn.Module, decay: float, *, name: str = "network") -> None:
        if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay < 1:
            raise ValueError(
                f"training.average is {decay}; expected a decay between 0 and 1, or null for none"
            )
        self.network, self.decay, self.name = network, decay, name
        self.steps = 0
        self.average: dict[str, Tensor] = {}
        self._own: dict[str, Tensor] = {}  # the training's, from a checkpoint

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins with the weights that there are; from a checkpoint these are the average."""
        self.average = {key: value.clone() for key, value in self._values().items()}
        self._write(self._own)
        self._own = {}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Takes up the weights of a step."""
        if trainer.global_step <= self.steps:  # gradients are accumulated over several batches
            return
        self.steps = trainer.global_step
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in self._values().items():
            self.average[key].lerp_(value, share)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The average is validated."""
        self._swap()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training goes on with its own."""
        self._swap()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hands out the average."""
        self._write(self.average)

    def state_dict(self) -> dict[str, Any]:
        """The training's own weights, for a checkpoint whose network is the average."""
        return {"steps": self.steps, "own": {key: value.clone() for key, value in self._values().items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up a training's own weights."""
        self.steps, self._own = state_dict["steps"], state_dict["own"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The network of a checkpoint is the average."""
        named = {f"{self.name}.{key}": value.clone() for key, value in self.average.items()}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **named}

    def _values(self) -> dict[str, Tensor]:
        return {key: value for key, value in self.network.state_dict().items() if value.is_floating_point()}

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        current = self._values()
        for key, value in values.items():
            current[key].copy_(value)

    def _swap(self) -> None:
        if self.average:
            current = {key: value.clone() for key, value in self._values().items()}
            self._write(self.average)
            self.average = current
