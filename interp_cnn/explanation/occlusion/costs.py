"""What an occlusion computation costs, before it runs: windows, forward passes, multiply-adds, memory, seconds.

`OcclusionCost` is what a job says of itself, `Progress` how far it is. `PlainWork` counts in the layers of one real
forward pass what the plain method would take: below some milliseconds, planning costs more than it saves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_cnn.explanation.occlusion.incremental.unit_costs import CELL, PRODUCT
from interp_cnn.hardware.memory import free_memory

LITTLE = 2**26  # bytes that are there: asking for the free memory would take longer than a small network


@dataclass(frozen=True)
class OcclusionCost:
    """What a job will take.

    Attributes:
        windows: windows per image.
        forward_passes: whole forward passes that the plain method needs (images x windows x samples).
        forward_equivalents: the multiply-adds of this job in units of one forward pass; None if not known.
        multiply_adds: of this job, direct convolutions assumed; None if not known.
        seconds: expected, from one timed forward pass.
        engine: which engine will run.
    """

    windows: int
    forward_passes: int
    forward_equivalents: float | None
    multiply_adds: int | None
    seconds: float
    engine: str


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    done: int
    total: int
    seconds: float

    @property
    def remaining(self) -> float:
        """Seconds still to go, at the pace so far."""
        return self.seconds / max(self.done, 1) * (self.total - self.done)


class PlainWork:
    """Estimates what a forward pass over all images costs, by counting in its layers while it runs."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.nanoseconds, self.counted = network, 0.0, False

    def __enter__(self) -> PlainWork:
        modules = [
            module for module in self.network.modules() if not isinstance(module, torch.jit.ScriptModule)
        ]
        leaves = [module for module in modules if not list(module.children())]
        self.handles = [module.register_forward_hook(self._count) for module in leaves]
        return self

    def __exit__(self, *_) -> None:
        for handle in self.handles:
            handle.remove()
        if not self.counted:  # no layers to count in: assume that it is a lot
            self.nanoseconds = float("inf")

    def _count(self, module: nn.Module, _, output) -> None:
        if isinstance(output, Tensor):
            self.nanoseconds += output.numel() * 2 * CELL
            if isinstance(module, nn.Conv2d | nn.Linear):
                self.counted = True
                self.nanoseconds += output.numel() * (module.weight.numel() // len(module.weight)) * PRODUCT


def dense_batch(images: Tensor) -> int:
    """Windows per forward pass of the plain method: 32 fit the caches, fewer if memory is short."""
    per_image = (
        200 * images[0].numel() * images.element_size()
    )  # VGG-16 needs about 100 maps of an image's size
    most = 32 if images.device.type == "cpu" else 256
    if most * per_image <= LITTLE:
        return most
    return max(1, min(most, free_memory(images.device) // 4 // per_image))


def is_full_memory(error: Exception) -> bool:
    """True if an error says that memory ran out."""
    full = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return full or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
