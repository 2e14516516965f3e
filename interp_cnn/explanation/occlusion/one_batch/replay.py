"""Running a program, and on CUDA replaying it.

A batch of small kernels is bound by launching them. On CUDA the program is recorded once for a number of images
and windows and replayed for the next ones: inputs are copied to where the recorded kernels read them. The first
batch of a size runs as it is (it also makes torch choose its kernels), the second is recorded, so that a single
batch pays for no recording. Where recording fails, batches run as they are, and a line is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from interp_cnn.explanation.occlusion.one_batch.program import Program
from interp_cnn.explanation.occlusion.one_batch.tables import Batch, Key

logger = logging.getLogger(__name__)

Size = tuple[int, int]  # images, windows
Table = tuple[Tensor, list[int]]  # index tensors behind one another, and their lengths


class Replays:
    """Runs one program on batches; holds the recordings, and with them their memory.

    Attributes:
        record: record batches of a size that comes again.
        try_kernels: let cuDNN find its fastest kernels by trying all, which takes seconds on a large network.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.record, self.try_kernels = True, False
        self._recordings: dict[Size, _Recording] = {}
        self._seen: set[Size] = set()

    def run(
        self,
        maps: dict[Key, Tensor],
        values: dict[str, Tensor],
        table: Table,
        change: Tensor,
    ) -> Tensor:
        """(I, W, K), see `Program.run`.

        Args:
            maps: clean maps of the images.
            values: clean values of the images.
            table: index tensors, see `Table`.
            change: (I, W, height, width, C).
        """
        indices, lengths = table
        size = change.shape[0], change.shape[1]
        with _on_device(change.device, self.try_kernels):
            if size in self._recordings:
                return self._recordings[size].replay(maps, values, indices, change)
            if self.record and change.device.type == "cuda" and size in self._seen:
                try:
                    pool = next(
                        (r.graph.pool() for r in self._recordings.values()), None
                    )  # one memory for all
                    recording = _Recording(self.program, maps, values, table, change, pool)
                    self._recordings[size] = recording
                    return recording.replay(maps, values, indices, change)
                except torch.OutOfMemoryError:
                    raise  # smaller batches may be recorded
                except RuntimeError as error:
                    self.record = False
                    torch.cuda.synchronize(change.device)
                    logger.warning("occlusion: batches are not recorded, because %s", _first_line(error))
            if self.record:
                self._seen.add(size)
            batch = Batch(*size, maps, values, list(indices.split(lengths)))
            return self.program.run(batch, change)


class _Recording:
    """A CUDA graph of one run, with its inputs at fixed addresses."""

    def __init__(
        self,
        program: Program,
        maps: dict[Key, Tensor],
        values: dict[str, Tensor],
        table: Table,
        change: Tensor,
        pool: Any,  # a handle of torch's, or None
    ) -> None:
        indices, lengths = table
        self.maps = {key: value.clone() for key, value in maps.items()}
        self.values = {name: value.clone() for name, value in values.items()}
        self.indices, self.change = indices.clone(), change.clone()
        images, windows = change.shape[:2]
        index = list(self.indices.split(lengths))
        batch = Batch(images, windows, self.maps, self.values, index)
        self._copied: tuple[object, object] = (maps, indices)
        self.graph = torch.cuda.CUDAGraph()
        # other threads may go on using the device, such as one that loads data
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.out = program.run(batch, self.change)

    def replay(
        self, maps: dict[Key, Tensor], values: dict[str, Tensor], indices: Tensor, change: Tensor
    ) -> Tensor:
        if self._copied[0] is not maps:
            for key, value in maps.items():
                self.maps[key].copy_(value)
            for name, value in values.items():
                self.values[name].copy_(value)
        if self._copied[1] is not indices:
            self.indices.copy_(indices)
        self._copied = maps, indices
        self.change.copy_(change)
        self.graph.replay()
        return self.out.clone()


@contextmanager
def _on_device(device: torch.device, try_kernels: bool) -> Iterator[None]:
    """Of several GPUs, the one where the images lie."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or try_kernels
    try:
        with torch.cuda.device(device):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
