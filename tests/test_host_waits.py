"""A training step asks no tensor for its value: on a GPU the host would wait for it there, in every step."""

import pytest
import torch
from pytorch_lightning import Callback
from test_training import FEW, data, module_for
from torch.utils._python_dispatch import TorchDispatchMode

from interp_cnn.training.fit import fit

FILTER_LOSSES = {
    "defaults": {},
    "paper": {"gradient": "target_template", "assignment": "sum"},
    "released code": {"gradient": "released_code"},
    "paper, Eq. (4)": {"gradient": "frozen_partition"},
}


class Reads(TorchDispatchMode):
    """Counts the values that the host reads from tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket is torch.ops.aten._local_scalar_dense
        return function(*args, **(kwargs or {}))


class Watching(Callback):
    """Watches every step from its batch to its gradients, logging included; the optimiser is torch's own matter."""

    def __init__(self) -> None:
        self.reads, self.steps, self.watching = Reads(), 0, False

    def on_train_batch_start(self, *unused) -> None:
        self.reads.__enter__()
        self.watching = True

    def on_before_optimizer_step(self, *unused) -> None:
        self.reads.__exit__(None, None, None)
        self.watching = False
        self.steps += 1


def reads_of_a_training(folder, **module) -> tuple[int, int]:
    """Values read, and steps."""
    digits, watching = data(), Watching()
    fit(
        module_for(digits, **module),
        digits,
        folder=folder,
        epochs=1,
        seed=0,
        trainer=FEW,
        callbacks=[watching],
    )
    assert watching.steps == 4 and not watching.watching
    return watching.reads.count, watching.steps


def test_a_read_is_seen():
    with Reads() as reads:
        assert torch.ones(()) and float(torch.ones(1)) and torch.ones(2).tolist()
    assert reads.count >= 2


@pytest.mark.parametrize("kind", FILTER_LOSSES)
def test_a_step_with_any_filter_loss_reads_nothing(kind, tmp_path):
    assert reads_of_a_training(tmp_path, filter_loss=FILTER_LOSSES[kind])[0] == 0


@pytest.mark.parametrize(
    "mask",
    [
        {"position": "centroid"},
        {"position": "template", "beta_rule": "spread"},
        {"norm": "l1", "strength": 0.5},
    ],
    ids=str,
)
def test_a_step_with_any_mask_reads_nothing(mask, tmp_path):
    assert reads_of_a_training(tmp_path, mask=mask, mask_growth=0.5)[0] == 0


@pytest.mark.parametrize("module", [{"enabled": False, "ratio": 0.0}, {"objective": "logistic"}], ids=str)
def test_a_step_of_the_twin_or_of_the_other_objective_reads_nothing(module, tmp_path):
    assert reads_of_a_training(tmp_path, **module)[0] == 0


def test_with_two_views_a_step_reads_one_seed_of_the_processors_own_generator(tmp_path):
    reads, steps = reads_of_a_training(tmp_path, views=2, equivariance=0.3, diversity=0.1)
    assert reads == steps
