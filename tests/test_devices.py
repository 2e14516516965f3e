"""Where commands compute: words for devices, what `auto` becomes for Lightning, and what a GPU itself must show."""

import pytest
import torch
from omegaconf import OmegaConf
from test_training import data, module_for

from interp_cnn.explanation.gradients.gradients import saliency
from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.methods.registry import METHODS
from interp_cnn.explanation.methods.run import explain_images
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.explanation.network.precision import precision_now
from interp_cnn.runs.devices import computing, device_named, training_device
from interp_cnn.training.devices import trainer_arguments
from interp_cnn.training.fit import fit

CPU = torch.device("cpu")
AUTO = {
    "accelerator": "auto",
    "devices": 1,
    "precision": "auto",
    "deterministic": "auto",
    "benchmark": "auto",
}


def test_auto_is_the_processor_where_there_is_no_gpu_and_a_gpu_where_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_named("auto") == CPU == device_named("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_named("auto").type == "cuda"


@pytest.mark.parametrize(
    ("name", "count", "sentence"),
    [
        (
            "cuda",
            0,
            "device=cuda: this machine has no GPU that torch can use; device=auto takes what there is",
        ),
        ("cuda:2", 2, "device=cuda:2: this machine has 2 GPUs that torch can use"),
        ("cuda:1", 1, "device=cuda:1: this machine has 1 GPU that torch can use"),
        ("gpu", 1, "device=gpu: expected auto, cpu, cuda, cuda:1, ... or mps"),
        ("meta", 1, "device=meta: expected auto"),
        ("cpu:3", 1, "device=cpu:3: expected auto"),
        ("", 1, "device=: expected auto"),
        (0, 1, "device=0: expected auto"),
        (None, 1, "device=None: expected auto"),
        ("mps", 1, "device=mps is not there"),
    ],
)
def test_a_device_that_is_not_there_is_one_sentence(name, count, sentence, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError) as caught:
        device_named(name)
    assert str(caught.value).startswith(sentence) and "\n" not in str(caught.value)


def test_on_apples_gpu_a_training_runs_and_the_rest_computes_on_the_processor(monkeypatch, caplog):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert training_device("mps").type == "mps" and not caplog.records
    assert device_named("mps") == CPU and len(caplog.records) == 1
    assert trainer_arguments(AUTO, training_device("mps"))["accelerator"] == "mps"


def test_auto_on_a_processor_is_what_trainer_cpu_says():
    named = OmegaConf.to_container(OmegaConf.load("conf/trainer/cpu.yaml"))
    chosen = OmegaConf.merge(named, OmegaConf.load("conf/trainer/auto.yaml"))
    chosen.pop("defaults")
    found = trainer_arguments(OmegaConf.to_container(chosen), CPU)
    assert found.pop("benchmark") is False and found == named


@pytest.mark.parametrize("there", [True, False])
def test_auto_on_a_gpu_is_mixed_precision_where_the_gpu_has_it(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: there)
    found = trainer_arguments(AUTO, torch.device("cuda:1"))
    assert found == {
        "accelerator": "gpu",
        "devices": [1],
        "precision": "bf16-mixed" if there else "32-true",
        "deterministic": False,
        "benchmark": True,
    }
    named = trainer_arguments({**AUTO, "accelerator": "cpu", "precision": "64-true"}, torch.device("cuda"))
    assert (named["accelerator"], named["precision"], named["deterministic"]) == ("cpu", "64-true", True)


def test_a_training_leaves_the_processes_switches_as_they_were(tmp_path):
    digits, cudnn = data(), torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    fit(
        module_for(digits), digits, folder=tmp_path, epochs=1, seed=0,
        trainer={"accelerator": "cpu", "benchmark": True, "limit_train_batches": 1, "limit_val_batches": 1},
    )  # fmt: skip
    assert (cudnn.benchmark, cudnn.deterministic) == before


@pytest.mark.parametrize("there", [True, False])
def test_bfloat16_is_left_out_on_a_processor_that_would_emulate_it(there, monkeypatch, caplog):
    monkeypatch.setattr("interp_cnn.training.devices.processor_has_bfloat16", lambda: there)
    asked = {**AUTO, "precision": "bf16-mixed"}
    given = trainer_arguments({**asked, "accelerator": "cpu"}, CPU)
    assert given["precision"] == ("bf16-mixed" if there else "32-true")
    assert there == (not caplog.messages) and (there or "training in float32" in caplog.text)
    assert trainer_arguments({**asked, "accelerator": "gpu"}, CPU)["precision"] == "bf16-mixed"


def test_a_command_computes_in_the_precision_that_it_names():
    for name in ("float32", "tf32", "bfloat16"):
        with computing(OmegaConf.create({"device": "cpu", "precision": name})) as device:
            assert device == CPU and precision_now() == name
    with (
        pytest.raises(ValueError, match="precision=half: expected one of float32, tf32, bfloat16"),
        computing(OmegaConf.create({"device": "cpu", "precision": "half"})),
    ):
        pass


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("single_pixel", "shapley_values")])
def test_a_map_of_a_gpu_is_that_of_the_processor(name):
    module = module_for(data()).network.eval()
    images = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(1))
    targets, options = torch.tensor([0, 1]), Options(window=6, stride=4)
    expected = explain_images(name, module, images, targets, options).maps
    found = explain_images(name, module.to("cuda"), images.cuda(), targets.cuda(), options).maps
    assert ((found - expected).abs().max() <= 1e-3 * expected.abs().max()).item()


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # torch calls its own switch a prototype
def test_a_step_on_a_gpu_waits_for_nothing():
    module = module_for(data()).cuda()
    assert device_of(module.network).type == "cuda"
    torch.cuda.set_sync_debug_mode("error")
    try:
        saliency_inputs = torch.rand(2, 1, 24, 24, device="cuda")
        module.network(saliency_inputs).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert saliency(module.network, saliency_inputs, torch.tensor([0, 1], device="cuda")).is_cuda
