"""Where a training computes and in which precision: the word `auto` in `trainer=...` as Lightning's arguments.

GPU          one GPU, bfloat16 where it has it, the fastest kernels (a training repeats its images, not its bits)
processor    float32, deterministic: same seed, same machine, same bits
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

log = logging.getLogger(__name__)

AUTO = "auto"


def trainer_arguments(trainer: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The arguments with every `auto` that depends on the device replaced.

    Args:
        trainer: arguments of Lightning's Trainer; `accelerator`, `devices`, `precision`, `deterministic` and
            `benchmark` may be `auto`. Whatever is not `auto` stays as it is, but for bfloat16 on a processor that
            would emulate it, 16 times as slow as float32: it becomes "32-true", with a warning.
        device: where to train if `accelerator` is `auto`.

    Returns:
        Arguments of Lightning's Trainer.

    Example:
        >>> trainer_arguments({"accelerator": "auto", "precision": "auto"}, torch.device("cpu"))
        {'accelerator': 'cpu', 'precision': '32-true'}
    """
    arguments = dict(trainer)
    accelerators = {"cuda": "gpu", "cpu": "cpu"}
    if arguments.get("accelerator") == AUTO:
        arguments["accelerator"] = accelerators.get(device.type, device.type)
        if device.type == "cuda" and device.index is not None and arguments.get("devices", AUTO) in (AUTO, 1):
            arguments["devices"] = [device.index]
    on_gpu = arguments.get("accelerator") in ("gpu", "cuda")
    for name, value in {
        "devices": 1,
        "precision": mixed_precision() if on_gpu else "32-true",
        "deterministic": not on_gpu,
        "benchmark": on_gpu,
    }.items():
        if arguments.get(name) == AUTO:
            arguments[name] = value
    if not on_gpu and str(arguments.get("precision")).startswith("bf16") and not processor_has_bfloat16():
        log.warning(
            "trainer.precision=%s: this processor has no bfloat16 and would emulate it many times slower; training in "
            "float32 (trainer.precision=32-true)",
            arguments["precision"],
        )
        arguments["precision"] = "32-true"
    return arguments


def processor_has_bfloat16() -> bool:
    """Whether this processor's convolutions compute in bfloat16 without emulating each number."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except AttributeError:  # a build without oneDNN
        return False


def mixed_precision() -> str:
    """Lightning's word for the precision of a training on this machine's GPU."""
    there = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if there else "32-true"


@contextmanager
def cudnn_as_it_was() -> Iterator[None]:
    """What Lightning sets for a whole process, put back when the training is over."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before
