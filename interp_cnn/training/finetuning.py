"""Fine-tuning: what a network started from learns more slowly than what is new, later, or not at all."""

from collections.abc import Collection
from dataclasses import dataclass

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

FREEZE = ("none", "trunk", "auto")


@dataclass(frozen=True)
class FineTuning:
    """How pretrained parameters are trained.

    Args:
        pretrained: their names in the network; none of the rest has any effect without them.
        trunk_rate: their learning rate as a share of that of the new ones.
        freeze: "none", "trunk" (they stay as they are), or "auto": "trunk" on a processor, "none" on a GPU.
        frozen_epochs: first epochs in which they stay as they are.
        frozen_statistics: keep the statistics of their batch norms.

    Raises:
        ValueError: a value out of its range.
    """

    pretrained: Collection[str] = ()
    trunk_rate: float = 0.1
    freeze: str = "none"
    frozen_epochs: int = 0
    frozen_statistics: bool = False

    def __post_init__(self) -> None:
        if self.freeze not in FREEZE:
            raise ValueError(f"training.freeze is {self.freeze!r}; expected one of {', '.join(FREEZE)}")
        if not 0 <= self.trunk_rate <= 1:
            raise ValueError(f"training.trunk_rate is {self.trunk_rate}; expected a share from 0 to 1")
        if self.frozen_epochs < 0:
            raise ValueError(f"training.frozen_epochs is {self.frozen_epochs}; expected 0 or more")

    def frozen(self, accelerator: str) -> bool:
        """Whether pretrained parameters never change, trained on `cpu`, `cuda` or `mps`."""
        return self.freeze == "trunk" or (self.freeze == "auto" and accelerator == "cpu")

    def groups(
        self, network: nn.Module, others: Collection[nn.Parameter], *, rate: float, decay: float
    ) -> list[dict]:
        """Groups of parameters for an optimiser: weights decay, biases and norms do not; pretrained ones are slower.

        Args:
            network: whose parameters are trained.
            others: further parameters, such as those of a loss.
            rate: learning rate of the new ones.
            decay: weight decay.
        """
        old = [it for name, it in network.named_parameters() if name in self.pretrained]
        known = {id(it) for it in old}
        new = [it for it in (*network.parameters(), *others) if id(it) not in known]
        groups = []
        for parameters, share in ((new, 1.0), (old, self.trunk_rate)):
            for decays in (True, False):
                chosen = [it for it in parameters if it.requires_grad and (it.dim() > 1) == decays]
                if chosen:
                    groups.append(
                        {"params": chosen, "lr": rate * share, "weight_decay": decay if decays else 0.0}
                    )
        return groups


class Freezing(Callback):
    """Holds pretrained parameters, and the statistics of their batch norms, for as long as they are to be held.

    Args:
        network: that is trained.
        settings: how.
        accelerator: `cpu`, `cuda` or `mps`, on which it is trained.
    """

    def __init__(self, network: nn.Module, settings: FineTuning, accelerator: str):
        names = set(settings.pretrained)
        self.parameters = [it for name, it in network.named_parameters() if name in names]
        held = {id(it) for it in self.parameters}
        self.modules = [
            module
            for module in network.modules()
            if (parameters := list(module.parameters())) and all(id(it) in held for it in parameters)
        ]
        self.settings, self.always = settings, settings.frozen(accelerator)
        if self.always:
            self._hold(True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is held in this epoch is in evaluation mode: no dropout, no new statistics."""
        held = self.always or trainer.current_epoch < self.settings.frozen_epochs
        self._hold(held)
        for module in self.modules:
            if held or (self.settings.frozen_statistics and isinstance(module, _BatchNorm)):
                module.eval()

    def _hold(self, held: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(not held)
