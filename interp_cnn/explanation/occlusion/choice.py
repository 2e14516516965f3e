"""Which engine a job runs on: chosen by the device, and on a GPU by the clock.

On a processor the incremental engine is the faster one wherever its plan pays. On a GPU it is not: there all windows
go in one batch, or, where that does not pay either, in plain batches. Small jobs are plain: to trace a network and to
lay out its frames takes longer than they do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.precision import precision_now
from interp_cnn.explanation.occlusion.costs import dense_batch
from interp_cnn.explanation.occlusion.occluders import Occluders
from interp_cnn.explanation.occlusion.one_batch.engine import OneBatchOcclusion

logger = logging.getLogger(__name__)

PLANNING = 0.3  # seconds that a plan takes, roughly: plain batches that take less are not worth one
_MEASURED: WeakKeyDictionary[nn.Module, dict[tuple, bool]] = (
    WeakKeyDictionary()
)  # verdicts by network and plan


def plain_seconds(network: nn.Module, images: Tensor, windows: int) -> float:
    """Seconds of one forward pass per window, timed on one batch of the plain method's size.

    Args:
        network: in evaluation mode.
        images: (B, C, H, W).
        windows: of all images together.
    """
    size = min(dense_batch(images), windows)
    some = images[:1].expand(size, -1, -1, -1)
    return seconds_of(lambda: network(some.clone()), images.device) / size * windows


def faster_than_plain(engine: OneBatchOcclusion, network: nn.Module, occluders: Occluders) -> bool:
    """True if the first batch of an engine takes less time than plain batches of as many windows.

    Measured once for a network and a plan of one kind; later engines of the same kind take the verdict over.

    Args:
        engine: of this network.
        network: in evaluation mode.
        occluders: of the image that the engine was made with.
    """
    images, grid = occluders.images[:1], engine.grid
    kind = (tuple(images.shape[1:]), grid.size, grid.stride, grid.row_starts, grid.column_starts)
    kind += (images.dtype, images.device, engine.dtype, precision_now())
    verdicts = _MEASURED.setdefault(network, {})
    if kind not in verdicts:
        batch = engine.batches(1, engine.capacity(images.device))[0]
        clean = engine.first_clean or engine.clean(images)
        engine.replays.record = False  # recording pays from the second batch on, and is not what is timed
        batch_seconds = seconds_of(
            lambda: engine.drops(clean, batch, engine.changes_of(occluders)), images.device
        )
        engine.replays.record = True
        plain = plain_seconds(network, images, batch.count)
        verdicts[kind] = batch_seconds < plain
        logger.info(
            "occlusion: %d windows take %.1f ms in one batch, %.1f ms in plain batches",
            *(batch.count, batch_seconds * 1000, plain * 1000),
        )
    return verdicts[kind]


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, the second one: the first makes torch choose its kernels."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    function()
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start
