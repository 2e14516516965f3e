"""LRP and DeepLIFT on CUDA, recorded once and replayed for the next images.

A walk back along a tape is thousands of kernels on small tensors, and launching them takes the host longer than the
GPU needs for them. So when the same question (network, size of the batch, rules) comes again, its whole way, from the
forward pass to the pixels, is recorded as a CUDA graph. The recording is held against the same maps computed as they
are, and kept if it gives the same numbers in less time and does not take much of the free memory; otherwise, and where
recording fails, maps are computed as they are, and a line is logged. One recording is kept for each method, as long as
the network lives and stays what it was. What a walk would ask of the host is gathered on the way and looked at
afterwards.
"""

import logging
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.logits import check_logits, check_targets
from interp_cnn.explanation.network.tried import state_of
from interp_cnn.hardware.cuda_graphs import captured, replays_on, synchronise, timed
from interp_cnn.hardware.memory import free_memory

log = logging.getLogger(__name__)

MOST_MEMORY = 0.25  # of what is free: more is not kept for a recording
SAME = 1e-3  # of the largest value: two orders of summation

Outcome = tuple[Tensor, ...]  # the logits (B, K) first
Compute = Callable[[Tensor, Tensor], Outcome]  # of images and targets; asks the host for nothing


@dataclass
class _Recording:
    """A CUDA graph, with its inputs and outputs at fixed addresses."""

    network: weakref.ref
    key: list
    images: Tensor
    targets: Tensor
    out: Outcome
    again: Callable[[], Any]

    def replay(self, images: Tensor, targets: Tensor) -> Outcome:
        check_targets(targets, self.out[0].shape[1])
        self.images.copy_(images)
        self.targets.copy_(targets)
        self.again()
        check_logits(self.out[0], len(images))
        return tuple(tensor.clone() for tensor in self.out)


class Recordings:
    """The recording of one method, or none.

    Attributes:
        of: the method, for the log.
        kept: of the question that came last.
    """

    def __init__(self, of: str) -> None:
        self.of = of
        self.kept: _Recording | None = None
        self._seen: list | None = None  # came once
        self._tried: list | None = None  # was recorded, or not worth it

    def run(
        self, compute: Compute, network: nn.Module, images: Tensor, targets: Tensor, options: Hashable
    ) -> Outcome | None:
        """What `compute` gives, replayed; None where there is no recording and none is to be made.

        Args:
            compute: writes nothing, and depends on nothing but its arguments, the network and the options.
            network: in evaluation mode.
            images: (B, C, H, W).
            targets: (B,).
            options: everything else that the outcome depends on.
        """
        if not replays_on(images.device):
            return None
        state = state_of(network, images[:1])
        if state is None:
            return None
        key = [state, tuple(images.shape), options]
        kept = self.kept
        if kept is not None and kept.network() is network and kept.key == key:
            return kept.replay(images, targets)
        if self._seen == key:
            self._tried, self._seen = key, None
            self.kept = None  # its memory first
            return self._recorded(compute, network, images, targets, key)
        if self._tried != key:
            self._seen = key  # what comes once is not worth it; and torch has chosen its kernels by then
        return None

    def _recorded(
        self, compute: Compute, network: nn.Module, images: Tensor, targets: Tensor, key: list
    ) -> Outcome:
        eager, eager_time = timed(lambda: compute(images, targets), images.device)
        free = free_memory(images.device)
        try:
            made = self._captured(compute, network, images, targets, key)
            made.replay(images, targets)
            replayed, replay_time = timed(lambda: made.replay(images, targets), images.device)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            synchronise(images.device)
            return self._without(eager, str(error).partition("\n")[0])
        taken = free - free_memory(images.device)
        if not all(_alike(*pair) for pair in zip(replayed, eager, strict=True)):
            return self._without(eager, "it gives other numbers")
        if replay_time >= eager_time or taken > MOST_MEMORY * free:
            seconds = f"{replay_time:.4f} s against {eager_time:.4f} s, {taken / 1e6:.0f} MB"
            log.debug("%s: not replayed: %s", self.of, seconds)
            return eager
        self.kept = made
        return eager

    def _captured(
        self, compute: Compute, network: nn.Module, images: Tensor, targets: Tensor, key: list
    ) -> _Recording:
        own_images, own_targets = images.clone(), targets.clone()
        out, again = captured(lambda: compute(own_images, own_targets), images.device)
        gone = weakref.ref(network, lambda _: setattr(self, "kept", None))
        return _Recording(gone, key, own_images, own_targets, out, again)

    def _without(self, eager: Outcome, reason: str) -> Outcome:
        log.info("%s: not replayed, because %s", self.of, reason)
        return eager


def _alike(tensor: Tensor, other: Tensor) -> bool:
    if not tensor.is_floating_point():
        return bool((tensor == other).all())
    size = float(other.abs().nan_to_num(0).max()) if other.numel() else 0.0
    return torch.allclose(tensor, other, rtol=SAME, atol=SAME * size, equal_nan=True)
