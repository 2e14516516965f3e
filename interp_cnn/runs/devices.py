"""Where networks compute, as a command names it: `device=auto|cpu|cuda|cuda:1|mps` and `precision=...`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from interp_cnn.explanation.network.precision import PRECISIONS, precision

log = logging.getLogger(__name__)
DEVICES = "auto, cpu, cuda, cuda:1, ... or mps"


@contextmanager
def computing(config) -> Iterator[torch.device]:
    """The device of a command's configuration; inside, explanations and measures have its precision.

    Args:
        config: with `device` and `precision`.

    Raises:
        ValueError: no such device or precision, or none on this machine.
    """
    device = device_named(config.device)
    if config.precision not in PRECISIONS:
        raise ValueError(f"precision={config.precision}: expected one of {', '.join(PRECISIONS)}")
    with precision(config.precision):
        yield device


def device_named(name: str) -> torch.device:
    """The device `cpu`, `cuda:1`, ..., or for `auto` a GPU where there is one.

    Apple's `mps` has no float64, which measures and occlusion need: there everything but a training computes on the
    processor, and a line says so.

    Raises:
        ValueError: no word for a device, or one that this machine does not have.
    """
    device = training_device(name)
    if device.type != "mps":
        return device
    log.warning("device=mps has no float64, which maps and measures need: they compute on the processor")
    return torch.device("cpu")


def training_device(name: str) -> torch.device:
    """The device itself, on which a training runs, Apple's too.

    Raises:
        ValueError: as `device_named`.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(str(name))
    except RuntimeError as error:
        raise ValueError(f"device={name}: expected {DEVICES}") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device={name}: expected {DEVICES}")
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        count = torch.cuda.device_count()
        there = (
            f"this machine has {count} GPU{'s' if count > 1 else ''}" if count else "this machine has no GPU"
        )
        raise ValueError(f"device={name}: {there} that torch can use; device=auto takes what there is")
    if device.type == "cpu" and device.index:
        raise ValueError(f"device={name}: expected {DEVICES}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device={name} is not there: that is the GPU of Apple's processors")
    return device


def frozen(network: nn.Module) -> nn.Module:
    """The network, whose weights ask for no gradients from now on (scripted modules have no `requires_grad_`)."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network
