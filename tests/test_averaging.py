"""The moving average of a training's weights: the equation, what a checkpoint holds, and how a training goes on."""

import pytest
import torch
from pytorch_lightning import LightningModule
from small_trainings import BATCHES, train
from torch import nn

from interp_cnn.runs.folder import load_checkpoint
from interp_cnn.training.averaging import MovingAverage

DECAY = 0.6


class Averaged(LightningModule):
    """Counts its steps in the one weight of its network, and notes what is validated."""

    def __init__(self):
        super().__init__()
        self.network = nn.ParameterDict({"weight": nn.Parameter(torch.zeros(()))})
        self.validated = []

    @property
    def weight(self):
        return self.network["weight"]

    def training_step(self, batch, batch_index):
        return -self.weight

    def validation_step(self, batch, batch_index):
        self.validated.append(self.weight.item())
        self.log("val/task_loss", torch.tensor(1.0))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def averaged(folder, epochs, module=None, **options):
    module = module or Averaged()
    train(folder, [1.0] * epochs, module, callbacks=[MovingAverage(module.network, DECAY)], **options)
    return module


def expected(steps: int) -> float:
    average = 0.0
    for step in range(1, steps + 1):  # the weight after so many steps is their number
        decay = min(DECAY, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * step
    return average


def test_what_is_validated_saved_and_handed_out_is_the_average_and_the_training_goes_on_with_its_own(
    tmp_path,
):
    module = averaged(tmp_path, 2)
    ends = [expected(BATCHES), expected(2 * BATCHES)]
    assert module.validated == pytest.approx(ends) and module.weight.item() == pytest.approx(ends[1])
    saved = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert saved["state_dict"]["network.weight"].item() == pytest.approx(ends[1])
    own = next(state for name, state in saved["callbacks"].items() if name.startswith("MovingAverage"))
    assert own["own"]["weight"].item() == 2 * BATCHES
    best = load_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    assert best["state_dict"]["network.weight"].item() == pytest.approx(ends[0])


def test_a_training_that_is_gone_on_with_ends_with_the_same_average(tmp_path):
    whole = averaged(tmp_path / "whole", 3)
    first = Averaged()
    averaged(tmp_path / "first", 2, first)
    gone_on = averaged(tmp_path / "more", 3, ckpt_path=tmp_path / "first" / "checkpoints" / "last.ckpt")
    assert gone_on.weight.item() == whole.weight.item() == pytest.approx(expected(3 * BATCHES))


@pytest.mark.parametrize("decay", [0, 1, -0.1, True, "much"])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ValueError, match=r"training\.average is"):
        MovingAverage(nn.Linear(1, 1), decay)
