"""Trainings that break off or are very short: NaN and infinite losses, one step, one image, ends and restarts."""

import math

import pytest
import torch
from small_trainings import Counter, epochs_in, train

from interp_cnn.training.confusion_board import probability_counts
from interp_cnn.training.schedule import one_cycle, one_cycle_schedule


class Broken(Counter):
    """Its training loss is no number at one step of one epoch."""

    def __init__(self, value, epoch, losses):
        super().__init__(losses)
        self.value, self.epoch = value, epoch

    def training_step(self, batch, batch_index):
        broken = self.current_epoch == self.epoch and batch_index == 1
        return -self.weight * 0 + self.value if broken else -self.weight


@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize(
    ("value", "word"), [(math.nan, "NaN"), (math.inf, "infinite"), (-math.inf, "infinite")]
)
def test_a_loss_that_is_no_number_ends_the_training_in_one_sentence(value, word, epoch, tmp_path, capfd):
    module = Broken(value, epoch, [1, 1, 1, 1])
    with pytest.raises(ValueError, match=rf"the loss became {word} in epoch {epoch + 1} "):
        train(tmp_path, [1, 1, 1, 1], module)
    assert epochs_in(tmp_path).get("last", 0) == epoch if epoch else not (tmp_path / "checkpoints").exists()
    said = capfd.readouterr().err.splitlines(keepends=True)
    assert len(said) == epoch and all(line.endswith("\n") for line in said)  # what is said next begins a line


@pytest.mark.parametrize(("value", "word"), [(math.nan, "NaN"), (math.inf, "infinite")])
@pytest.mark.parametrize("patience", [None, 1])
def test_a_validation_loss_that_is_no_number_ends_it_too_and_the_epoch_before_is_kept(
    value, word, patience, tmp_path
):
    with pytest.raises(
        ValueError, match=rf"the validation loss became {word} in epoch 3 \(last\.ckpt holds epoch 2\)"
    ):
        train(tmp_path, [2, 1, value, 1], patience=patience)
    assert epochs_in(tmp_path) == {"best": 2, "last": 2, "previous": 1}


def test_the_board_counts_answers_that_are_no_numbers():
    counts = probability_counts(torch.full((3, 4), math.nan), torch.tensor([0, 1, 2]))
    assert counts.sum() == 12 and counts[:, :, 0].sum() == 12


@pytest.mark.parametrize("steps", [2, 3, 5, 7, 20, 100, 333])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3, 0.5, 0.77, 1.0])
def test_the_rate_is_that_of_torchs_one_cycle_wherever_that_is_defined(steps, share):
    if abs(share * steps - 1) < 1e-9 or share * steps < 1 or (share == 1.0 and steps < 2):
        assert one_cycle(0, steps=steps, warmup_share=share) == 1.0  # no whole step to rise in
        return
    theirs, ours = (torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3) for _ in range(2))
    torchs = torch.optim.lr_scheduler.OneCycleLR(
        theirs, 0.3, total_steps=steps, pct_start=share, cycle_momentum=False
    )
    mine = one_cycle_schedule(ours, steps=steps, warmup_share=share)["scheduler"]
    for step in range(steps):
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
        if step < steps - 1:
            for optimizer, schedule in ((theirs, torchs), (ours, mine)):
                optimizer.step()
                schedule.step()


@pytest.mark.parametrize("steps", range(1, 60))
def test_the_rate_is_a_share_of_its_peak_for_every_length_and_share(steps):
    for share in (0.0, 1e-9, 0.2, 1 / steps, 1 / (2 * steps), 2 / (steps + 1), 1.0):
        rates = [one_cycle(step, steps=steps, warmup_share=share) for step in range(steps + 1)]
        assert all(0 < rate <= 1 for rate in rates)
        assert steps == 2 or max(rates[:steps]) > 0.3  # of two steps neither need lie at the peak


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_warm_up_that_is_no_share_is_refused(share):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    with pytest.raises(ValueError, match="expected a share from 0 to 1"):
        one_cycle_schedule(optimizer, steps=5, warmup_share=share)
