"""Replayed filter losses: on a GPU a graph, here a stand-in that runs the step again into the same tensors."""

import copy
import logging
import pickle

import pytest
import torch

from interp_cnn.hardware import cuda_graphs
from interp_cnn.model import filter_loss, recorded_steps
from interp_cnn.model.filter_loss import FilterLoss

STEPS = recorded_steps.STEPS_BEFORE + 4
LOSSES = {
    "defaults": {},
    "frozen": {"gradient": "frozen_partition", "norm": "l1"},
    "paper": {"gradient": "target_template", "assignment": "sum"},
    "released code": {"gradient": "released_code", "position": "centroid"},
    "spread": {"beta": torch.linspace(3, 5, 5)},
    "background": {"background": 0},
}


def stand_in(run):
    out = run()

    def again():
        for place, value in zip(out, run(), strict=True):
            if place is not None:
                place.copy_(value)

    return out, again


@pytest.fixture
def replaying(monkeypatch):
    """As on a GPU where replays are twice as fast; the list tells how often one was made."""
    made, times = [], iter([2.0, 1.0] * 100)

    def captured(run, device):
        made.append(run)
        return stand_in(run)

    monkeypatch.setattr(recorded_steps, "captured", captured)
    monkeypatch.setattr(filter_loss, "replays_on", lambda device: True)
    monkeypatch.setattr(recorded_steps, "timed", lambda run, device: (run(), next(times)))
    return made


def training(options: dict, sizes=(6,) * STEPS):
    """Everything that the steps of a training answer, and the loss."""
    torch.manual_seed(0)
    options = dict(options)
    beta = options.pop("beta", torch.tensor(4.0))
    loss, answers = FilterLoss(5, (4, 3), num_classes=3, **options), []
    for size in sizes:
        maps = torch.rand(size, 5, 4, 3).requires_grad_()
        terms = loss(maps, torch.randint(0, 3, (size,)), beta)
        answers += [*terms, *torch.autograd.grad(2 * terms.loss, maps)]
    return [one.detach() for one in answers], loss


@pytest.mark.parametrize("kind", LOSSES)
def test_replayed_steps_answer_teach_and_remember_what_steps_as_they_are_do(kind, replaying, monkeypatch):
    replayed, loss = training(LOSSES[kind])
    assert len(replaying) == 1
    monkeypatch.setattr(filter_loss, "replays_on", lambda device: False)
    plain, other = training(LOSSES[kind])
    for one, two in zip(replayed, plain, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)
    for one, two in zip(loss.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_each_size_of_batch_has_its_own_recording_and_odd_ones_run_as_they_are(replaying, monkeypatch):
    sizes = [6, 6, 4, 6, 6, 4, 6, 4, 4, 4, 3, 3, 3, 3, 3, 6, 4]
    replayed, _ = training({}, sizes)
    assert len(replaying) == recorded_steps.MOST
    monkeypatch.setattr(filter_loss, "replays_on", lambda device: False)
    for one, two in zip(replayed, training({}, sizes)[0], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)


def failing(run, device):
    raise RuntimeError("operation not permitted when stream is capturing\nmore of it")


def wrong(run, device):
    out, again = stand_in(run)
    return out, lambda: (again(), out[1].mul_(1.1))


@pytest.mark.parametrize(
    ("capture", "words"), [(failing, "not permitted when stream"), (wrong, "other numbers")]
)
def test_where_a_recording_fails_or_is_wrong_the_training_is_the_same_and_says_so_once(
    capture, words, replaying, monkeypatch, caplog
):
    monkeypatch.setattr(recorded_steps, "captured", capture)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    with caplog.at_level(logging.INFO):
        found, loss = training({})
    assert [words in one.message for one in caplog.records] == [True]
    monkeypatch.setattr(filter_loss, "replays_on", lambda device: False)
    expected, other = training({})
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)
    assert torch.equal(loss.scale, other.scale) and loss.batches == other.batches == STEPS


def test_a_recording_that_is_no_faster_is_not_kept(replaying, monkeypatch, caplog):
    monkeypatch.setattr(recorded_steps, "timed", lambda run, device: (run(), 1.0))
    with caplog.at_level(logging.INFO):
        _, loss = training({})
    assert len(replaying) == 1 and "no faster" in caplog.text and not loss.steps.record


def test_copies_start_without_recordings_and_moved_memory_is_recorded_anew(replaying):
    _, loss = training({})
    assert len(replaying) == 1
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other.steps is not loss.steps and torch.equal(other.scale, loss.scale)
    loss.register_buffer("scale", loss.scale + 1)  # as a module that was moved
    before = loss.scale.clone()
    loss(torch.rand(6, 5, 4, 3).requires_grad_(), torch.zeros(6, dtype=torch.long), torch.tensor(4.0))
    assert not torch.equal(loss.scale, before)


def test_the_processor_records_nothing():
    assert not cuda_graphs.replays_on(torch.device("cpu"))
    assert cuda_graphs.replays_on(torch.device("cuda", 0))
