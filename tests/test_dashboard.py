"""What TensorBoard gets: counts against scikit-learn, and the same tags for both kinds of network."""

import math

import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_score, recall_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training import FEW, data, module_for

from interp_cnn.commands.train import _occlusion, _strongest
from interp_cnn.training.confusion_board import (
    BINS,
    LAYOUT,
    Answers,
    add_curve,
    confusion_counts,
    probability_counts,
)
from interp_cnn.training.fit import fit
from interp_cnn.training.mask_board import Dashboard, _maps, add_measures


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(60, 4, generator=generator).softmax(1)
    return probabilities, torch.randint(3, (60,), generator=generator)  # the last class has no image


def test_the_confusion_matrix_is_that_of_scikit_learn(answers):
    probabilities, labels = answers
    found = confusion_counts(probabilities.argmax(1), labels, 4)
    expected = confusion_matrix(labels, probabilities.argmax(1), labels=range(4))
    assert found.tolist() == expected.tolist()


def test_the_points_of_a_curve_are_the_precision_and_recall_at_their_thresholds(answers):
    probabilities, labels = answers
    drawn = {}

    class Board:
        def add_pr_curve_raw(self, tag, *columns, num_thresholds):
            drawn[tag] = columns

    add_curve(Board(), "class/1", probability_counts(probabilities, labels)[:, 1], 0)
    true, false, rejected, missed, precision, recall, _ = drawn["class/1"]
    assert (true + false + rejected + missed == 60).all()
    for threshold in (0, 20, 25, 28):
        said = (probabilities[:, 1] * (BINS - 1)).long() >= threshold
        own = labels == 1
        assert recall[threshold] == pytest.approx(recall_score(own, said))
        assert precision[threshold] == pytest.approx(precision_score(own, said, zero_division=0))


def board_of(folder, *, enabled):
    digits = data()
    dashboard = Dashboard("any", maps={"occlusion": _occlusion}, strongest=_strongest, images=4, filters=2)
    fit(
        module_for(digits, enabled=enabled, ratio=0.3 if enabled else 0.0),
        digits,
        folder=folder,
        epochs=1,
        seed=0,
        callbacks=[dashboard, Answers()],
        trainer=FEW,
    )
    add_measures(folder, {"location_instability": 0.25}, step=1, verdict="**better**")
    return EventAccumulator(str(folder), size_guidance={"images": 50}).Reload()


def latest(events):
    """The last one by its time: files of the same second are read in the order of their names."""
    return max(events, key=lambda event: event.wall_time)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .srun. command", "ignore:.*does not have many workers.*")
def test_both_kinds_of_network_show_everything_under_the_same_tags(tmp_path):
    boards = [board_of(tmp_path / str(enabled), enabled=enabled) for enabled in (True, False)]
    for board in boards:
        tags = board.Tags()
        assert {"masks/conv5", "maps/occlusion", "exemplars/conv5", "confusion"} <= set(tags["images"])
        assert {"filters/mutual_information", "filters/spatial_entropy"} <= set(tags["histograms"])
        assert {"class/0", "class/9", "custom_scalars__config__"} <= set(tags["tensors"])
        assert latest(board.Scalars("whole_run/location_instability")).value == 0.25
        assert math.isnan(board.Scalars("whole_run/tracking_gain")[-1].value)
    pictures = [set(board.Tags()["images"]) for board in boards]
    assert pictures[0] == pictures[1]
    named = {tag for charts in LAYOUT.values() for _, tags in charts.values() for tag in tags}
    assert {"val/accuracy", "train/task_loss"} <= named & set(boards[1].Tags()["scalars"])
    for enabled in ("True", "False"):
        folder = tmp_path / enabled
        assert "filters_conv5" in (folder / "projector_config.pbtxt").read_text()
        assert list(folder.rglob("sprite.png")) and list(folder.rglob("metadata.tsv"))


@pytest.mark.filterwarnings("ignore:The .srun. command", "ignore:.*does not have many workers.*")
def test_no_picture_that_fails_ends_a_training_and_each_is_said_once(tmp_path, caplog):
    def failing(*arguments):
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    class Broken(Answers):
        def on_validation_batch_end(self, *arguments):
            super().on_validation_batch_end(None)

    digits = data()
    module = module_for(digits)
    trainer = fit(
        module,
        digits,
        folder=tmp_path,
        epochs=2,
        seed=0,
        callbacks=[Dashboard("any", maps={"a": failing}, strongest=failing, images=4), Answers(), Broken()],
        trainer=FEW,
    )
    assert trainer.current_epoch == 2 and module.network.training
    lines = [record.message for record in caplog.records if "leaves pictures out" in record.message]
    assert len(lines) == 2 and lines[1].startswith("Dashboard") and lines[1].endswith("Tried to allocate")
    assert {"whole_run/accuracy"} <= set(EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"])


def test_a_network_whose_masks_cannot_be_drawn_is_in_training_mode_again(monkeypatch):
    module = module_for(data()).train()
    monkeypatch.setattr(module.network, "forward", lambda images: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _maps(module, "conv5", torch.zeros(1, 1, 28, 28))
    assert module.training
