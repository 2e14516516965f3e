import json
import math
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Callback

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.digits import DigitsParts
from interp_cnn.evaluation.filters.location_instability import location_instability
from interp_cnn.explanation.network.feature_maps import feature_maps
from interp_cnn.explanation.receptive_field.field import receptive_field
from interp_cnn.model.backbones import build_network
from interp_cnn.runs.filter_curves import FilterCurves
from interp_cnn.training.classification import Classification
from interp_cnn.training.fit import MetricsTable, fit
from interp_cnn.training.mask_board import Dashboard, mask_grid

WIDTHS = (4, 6, 8, 8, 8)
FEW = {"limit_train_batches": 4, "limit_val_batches": 1, "accelerator": "cpu", "deterministic": True}


def data(seed=0):
    module = PartDataModule(
        DigitsParts, batch_size=16, seed=seed, image_size=24, scale=(1.5, 2.0), distractors=1
    )
    module.setup()
    return module


def module_for(digits, *, seed=0, enabled=True, ratio=0.3, warmup_epochs=2.0, **options):
    torch.manual_seed(seed)
    network = build_network(
        "small_cnn",
        num_classes=10,
        channels=1,
        image_size=(24, 24),
        mean=digits.mean,
        std=digits.std,
        widths=WIDTHS,
        mask={"enabled": enabled, **options.pop("mask", {})},
    )
    return Classification(
        network,
        num_classes=10,
        image_size=(24, 24),
        channels=1,
        loss_weight={"ratio": ratio, "warmup_epochs": warmup_epochs},
        **options,
    )


class Stop(Callback):
    """Breaks off in the middle of an epoch, as a kill would."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 2:
            raise RuntimeError("killed")


def trained(folder: Path, digits, epochs=3, **options):
    module = module_for(digits, **options.pop("module", {}))
    fit(module, digits, folder=folder, epochs=epochs, seed=0, trainer=FEW, **options)
    return module


def same_weights(one, two) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"filter_loss": {"gradient": "target_template", "assignment": "sum"}, "presence": 1.0},
    ],
    ids=["defaults", "labels"],
)
def test_a_training_broken_off_within_an_epoch_goes_on_bit_for_bit(tmp_path, options):
    whole = trained(tmp_path / "whole", data(), module={**options})
    broken = module_for(data(), **options)
    with pytest.raises(RuntimeError, match="killed"):
        fit(broken, data(), folder=tmp_path / "broken", epochs=3, seed=0, trainer=FEW, callbacks=[Stop()])
    last = tmp_path / "broken" / "checkpoints" / "last.ckpt"
    resumed = trained(tmp_path / "broken", data(), ckpt_path=last, module={"seed": 9, **options})
    assert same_weights(whole, resumed)
    tables = [pd.read_csv(tmp_path / name / "metrics.csv") for name in ("whole", "broken")]
    assert tables[0]["epoch"].tolist() == [0, 1, 2]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tmp_path):
    one, two = (trained(tmp_path / name, data(), epochs=1) for name in "ab")
    other = trained(tmp_path / "c", data(), epochs=1, module={"seed": 1})
    assert same_weights(one, two)
    assert not same_weights(one, other)


def test_twins_start_from_the_same_weights_and_see_the_same_images(tmp_path):
    digits = data()
    on, off = module_for(digits), module_for(digits, enabled=False, ratio=0.0)
    assert same_weights(on, off)
    seen = []
    for _ in range(2):
        sampler = data().train_dataloader().sampler
        sampler.set_epoch(3)
        seen.append(list(sampler))
    assert seen[0] == seen[1]


def test_the_run_folder_holds_what_it_promises(tmp_path):
    digits = data()
    trained(tmp_path, digits, epochs=2, callbacks=[Dashboard("interpretable", images=3, filters=2)])
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert any(key.endswith("categories.response") for key in state["state_dict"])
    table = pd.read_csv(tmp_path / "metrics.csv")
    for name in ("mutual_information", "category_entropy", "spatial_entropy", "task_loss", "accuracy"):
        assert table[f"train/{name}"].notna().all() and table[f"val/{name}"].notna().all()
    assert table["train/gradient_ratio"].iloc[-1] > 0
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_what_is_not_measured_in_every_epoch_keeps_its_last_value_after_a_resume(tmp_path):
    def trainer(epoch, **metrics):
        metrics = {name.replace("_", "/", 1): torch.tensor(value) for name, value in metrics.items()}
        optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
        return SimpleNamespace(current_epoch=epoch, callback_metrics=metrics, optimizers=[optimizer])

    table, resumed = MetricsTable(tmp_path / "a.csv"), MetricsTable(tmp_path / "b.csv")
    table.on_validation_end(trainer(0, val_accuracy=0.5, train_gradient_ratio=0.25), None)
    resumed.load_state_dict(table.state_dict())
    resumed.on_validation_end(trainer(1, val_accuracy=0.75), None)
    assert [row["val/accuracy"] for row in resumed.rows] == [0.5, 0.75]
    assert [row["train/gradient_ratio"] for row in resumed.rows] == [0.25, 0.25]
    assert [row["epoch"] for row in resumed.rows] == [0, 1]


def test_tensorboard_holds_the_scalars_the_mask_grids_and_the_hyperparameters(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(tmp_path, data(), epochs=2, callbacks=[Dashboard("interpretable", images=3, filters=2)])
    board = EventAccumulator(str(tmp_path)).Reload()
    scalars = set(board.Tags()["scalars"])
    assert {"train/task_loss", "val/mutual_information", "train/gradient_ratio", "val/accuracy"} <= scalars
    assert len(board.Images("masks/conv5")) == 2
    assert "whole_run/accuracy" in scalars and "epoch" not in scalars
    for tag in ("train/task_loss", "val/accuracy", "work/batches_per_second"):
        assert [one.step for one in board.Scalars(tag)] == [1, 2]
    assert [one.step for one in board.Images("masks/conv5")] == [1, 2]
    assert [one.step for one in board.Scalars("whole_run/accuracy")] == [2]


def test_the_ratio_of_the_gradients_is_the_given_one_in_every_step(monkeypatch):
    module = module_for(data(), warmup_epochs=0)
    logged, maps = {}, []
    monkeypatch.setattr(module, "_log", lambda tag, value, images, **_: logged.update({tag: value}))
    module.masks["conv5"].register_forward_hook(lambda mask, *_: maps.append(mask.kept_maps))
    module._trainer = type("Trainer", (), {"current_epoch": 0, "num_training_batches": 4, "max_epochs": 3})()
    for batch in islice(data().train_dataloader(), 3):
        found = {}
        for ratio in (0.3, 0.0):
            module.loss_weight.ratio = ratio
            total = module.training_step(batch, 0)
            (found[ratio],) = torch.autograd.grad(total, maps[-1])
        module.on_after_backward()
        pull = (found[0.3] - found[0.0]).norm() / found[0.0].norm()
        assert pull.item() == pytest.approx(0.3, rel=1e-4)
        assert float(logged["train/gradient_ratio"]) == pytest.approx(0.3) and logged["train/loss_weight"] > 0


def test_masks_grow_from_nothing_to_full_strength_by_the_given_part_of_the_steps(tmp_path):
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, *unused):
            seen.append(pl_module.masks["conv5"].growth)

    trained(tmp_path, data(), module={"mask_growth": 0.5}, callbacks=[Watch()])
    assert seen == pytest.approx([min(1.0, step / (len(seen) / 2)) for step in range(len(seen))])


@pytest.mark.slow
def test_with_presence_filters_fire_more_for_the_classes_that_they_are_dealt(tmp_path):
    losses = []
    for weight in (1e-9, 1.0):
        folder, module = tmp_path / str(weight), module_for(data(), presence=weight)
        fit(module, data(), folder=folder, epochs=4, seed=0, trainer={**FEW, "limit_train_batches": 60})
        losses.append(pd.read_csv(folder / "metrics.csv")["train/presence_loss"].tolist())
    assert all(math.isnan(column[0]) for column in losses)  # nothing is known of the filters yet
    assert losses[1][-1] < losses[1][1] - 0.1 and losses[1][-1] < losses[0][-1] - 0.1


def test_every_parameter_is_optimised_once():
    digits = data()
    module = module_for(digits, mask={"beta_rule": "spread"})
    module.trainer = type("Trainer", (), {"estimated_stepping_batches": 10})()
    found = module.configure_optimizers()["optimizer"]
    listed = [id(p) for group in found.param_groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in module.parameters())


class Optimisers(Callback):
    """The optimiser of every epoch."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.seen.append(trainer.optimizers[0])


def test_one_optimiser_with_its_moments_lives_through_all_epochs(tmp_path):
    watch = Optimisers()
    module = trained(tmp_path, data(), epochs=2, callbacks=[watch])
    assert watch.seen[0] is watch.seen[1]
    state = watch.seen[0].state
    assert {int(state[parameter]["step"]) for parameter in module.parameters()} == {8}  # 2 epochs of 4 steps


def test_the_filters_category_does_not_change_in_validation(tmp_path):
    digits = data()
    module = trained(tmp_path, digits, epochs=1)
    before = {name: value.clone() for name, value in module.filter_losses.state_dict().items()}
    module.eval()
    module.trainer.validate(module, digits, verbose=False)
    for name, value in module.filter_losses.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_both_objectives_agree_on_what_is_right():
    digits = data()
    logits = torch.eye(10) * 20 - 10
    for objective in ("softmax", "logistic"):
        module = module_for(digits, objective=objective)
        assert module.task_loss(logits, torch.arange(10)) < 0.01
        assert module.task_loss(logits, torch.arange(10).roll(1)) > 5


def test_class_weights_scale_each_images_loss_and_the_mean_is_over_images():
    """Not over the weights of the batch: a batch cut in pieces has the same loss, whatever classes lie in each."""
    weights = torch.linspace(0.2, 5, 10)
    module = module_for(data(), class_weights=weights)
    logits, labels = torch.randn(12, 10), torch.tensor([0] * 6 + [9] * 4 + [3, 7])
    each = [-weights[label] * row.log_softmax(0)[label] for row, label in zip(logits, labels, strict=True)]
    loss = module.task_loss(logits, labels)
    assert loss == pytest.approx(float(sum(each)) / 12, rel=1e-5)
    pieces = [module.task_loss(logits[part], labels[part]) for part in torch.arange(12).chunk(3)]
    assert loss == pytest.approx(float(sum(pieces)) / 3, rel=1e-5)


def test_a_mask_grid_has_a_row_per_image_and_a_column_per_filter():
    words = [f"filter {number}" for number in range(4)]
    picture = mask_grid(torch.rand(3, 1, 16, 16), torch.rand(3, 4, 4, 4), words)
    column = 4 * 16  # as wide as its words need
    assert picture.shape[1] == 5 * (column + 10) + 10 and picture.shape[0] > 4 * (3 * 18 - 2)


def test_half_precision_trains(tmp_path):
    module = module_for(data())
    fit(module, data(), folder=tmp_path, epochs=1, seed=0, trainer={**FEW, "precision": "bf16-mixed"})
    assert all(p.isfinite().all() for p in module.parameters())


COMMAND = [sys.executable, "-m", "interp_cnn", "train", "model.widths=[4,6,8,8,8]", "training.epochs=4"]
COMMAND += ["data.image_size=24", "data.scale=[1.5,2.0]", "data.batch_size=32"]


@pytest.mark.slow
def test_a_training_killed_by_sigkill_ends_with_the_same_weights_after_resume(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, killed, resumed = (tmp_path / name for name in ("whole", "killed", "resumed"))
    subprocess.run([*COMMAND, f"hydra.run.dir={whole}"], check=True, env=environment, capture_output=True)
    with subprocess.Popen(
        [*COMMAND, f"hydra.run.dir={killed}"], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        last = killed / "checkpoints" / "last.ckpt"
        while not last.exists():
            time.sleep(0.01)
        time.sleep(0.4)
        process.send_signal(signal.SIGKILL)
    assert not (killed / "run.json").exists()
    subprocess.run(
        [*COMMAND, f"hydra.run.dir={resumed}", f"ckpt_path={last}"],
        check=True,
        env=environment,
        capture_output=True,
    )
    states = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (whole, resumed)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert json.loads((resumed / "run.json").read_text())["parameters"] > 0


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_is_refused_in_one_sentence(tmp_path):
    first = tmp_path / "first"
    short = [part if "epochs" not in part else "training.epochs=1" for part in COMMAND]
    subprocess.run([*short, f"hydra.run.dir={first}"], check=True, capture_output=True)
    found = subprocess.run(
        [
            *short,
            "data.batch_size=16",
            f"hydra.run.dir={tmp_path / 'b'}",
            f"ckpt_path={first}/checkpoints/last.ckpt",
        ],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2
    assert "was trained with data.batch_size=32, not 16" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_training_answers_with_its_last_accuracy_for_a_sweeper_that_searches(tmp_path, monkeypatch):
    from interp_cnn.commands import train

    def pretend(config, folder, resume):
        (folder / "metrics.csv").write_text("epoch,val/accuracy\n0,0.5\n1,0.75\n")

    hydra = SimpleNamespace(runtime=SimpleNamespace(output_dir=tmp_path))
    monkeypatch.setattr("hydra.core.hydra_config.HydraConfig.get", lambda: hydra)
    monkeypatch.setattr(train, "train", pretend)
    assert train.run(OmegaConf.create({"training": {"kind": "classification"}})) == 0.75


def test_curves_of_the_filters_are_those_of_the_measures_on_the_same_images_after_every_epoch(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    digits = data()
    curves = FilterCurves(images=40)
    module = trained(tmp_path, digits, epochs=2, callbacks=[curves])
    board = EventAccumulator(str(tmp_path)).Reload()
    points = {name: board.Scalars(f"filters/{name}") for name in ("location_instability", "tracking_gain")}
    assert all([one.step for one in them] == [1, 2] for them in points.values())
    network = module.network.eval()
    maps = feature_maps(network, curves.images, "conv5")
    flat = maps.flatten(2).max(2)
    cells = torch.stack([flat.indices // maps.shape[3], flat.indices % maps.shape[3]], 2)
    field = receptive_field(network, "conv5", digits.image_size, digits.channels)
    spread = location_instability(
        field.centres(cells), flat.values, curves.landmarks, diagonal=math.hypot(*digits.image_size)
    )
    last = points["location_instability"][-1].value
    assert last == pytest.approx(float(spread.nanmean()), abs=1e-6)
    assert len({*curves.images.flatten(1).sum(1).tolist()}) == 40  # all different, of all classes


def test_a_training_without_landmarks_has_no_curves_of_filters_and_the_weights_of_one_with_them(tmp_path):
    with_them, without = (
        trained(tmp_path / str(number), data(), epochs=1, callbacks=them)
        for number, them in enumerate(([FilterCurves(images=20)], []))
    )
    for one, other in zip(with_them.parameters(), without.parameters(), strict=True):
        assert torch.equal(one, other)
    bare = FilterCurves()
    bare.on_fit_start(SimpleNamespace(is_global_zero=True, datamodule=SimpleNamespace(parts=())), None)
    assert not len(bare.images)
