"""Exact occlusion drops with all windows of an image, or of several images, in one batch.

The same graph of the network and the same delta rules as the incremental engine's, in another organisation. That
one groups windows whose frames move in lockstep, in pieces that fit a processor's caches. Here every window has its
own offset at every step and all frames have one size (`frames`), so a step is a few calls for all windows together:
place, convolve, fetch the clean values, take the maximum. Nothing depends on numbers that the device would have to
report, so the calls can be recorded once and replayed for the next windows and images (`replay`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from interp_cnn.explanation.occlusion.incremental.costs import dense_products
from interp_cnn.explanation.occlusion.incremental.faithful import clean_values, faithful_graph
from interp_cnn.explanation.occlusion.incremental.jumps import jumping
from interp_cnn.explanation.occlusion.incremental.layouts import as_written, channels_last
from interp_cnn.explanation.occlusion.incremental.operations import Convolution, Linear
from interp_cnn.explanation.occlusion.incremental.tracing import Untraceable
from interp_cnn.explanation.occlusion.occluders import Occluders, WindowList
from interp_cnn.explanation.occlusion.one_batch.program import Program, program_of
from interp_cnn.explanation.occlusion.one_batch.replay import Replays, Table
from interp_cnn.explanation.occlusion.one_batch.tables import Key
from interp_cnn.explanation.occlusion.windows import WindowGrid
from interp_cnn.hardware.memory import free_memory

logger = logging.getLogger(__name__)

MEMORY_SHARE = (
    0.2  # of the free memory, for the deltas of one batch; convolutions take work space beside them
)
MOST_IMAGES = 64
MOST_KNOWN = 64  # batches whose index tensors are kept
LARGEST = 2**31 - 1  # numbers that one tensor of a batch may hold: beyond it some kernels fail

# (images, windows) -> (I, W, height, width, C): replacement minus image in the uncut windows
ListedChanges = Callable[[range, WindowList], Tensor]


@dataclass(eq=False)
class CleanImages:
    """What the windows of some images read: logits (B, K), maps with margins, values (B, h, w, C)."""

    logits: Tensor
    maps: dict[Key, Tensor]
    values: dict[str, Tensor]


@dataclass(frozen=True)
class WindowBatch:
    """Windows computed together, the first `count` of which are wanted; the rest fills the batch up."""

    images: range
    windows: tuple[int, ...]  # numbers in the grid, row by row
    count: int


@dataclass
class ListedDrops:
    """Drops of windows: drops[i, k, w] is that of window (rows[w], columns[w])."""

    images: range
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    drops: Tensor  # (I, K, W)

    def index(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of the grid, as they index the last two axes of all drops."""
        return torch.tensor(self.rows), torch.tensor(self.columns)


class OneBatchOcclusion:
    """Occlusion of one network by one grid of windows; the plan is made once and used for any number of images."""

    name = "one_batch"

    def __init__(
        self,
        network: nn.Module,
        grid: WindowGrid,
        example: Tensor,
        *,
        logits: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Trace the network and lay out the frames.

        Args:
            network: classifier in evaluation mode; its weights are read now.
            grid: the windows.
            example: (B, C, H, W), images of the right size, type and device.
            logits: what the network gives for the example, if known.
            dtype: number type of the deltas, that of the images if not given.

        Raises:
            Untraceable: the network is not a constant graph, or a step of it jumps: which windows hang on rounding is
                not watched here, see `incremental.jumps`.
        """
        self.dtype = dtype or example.dtype
        with torch.no_grad():
            self.graph, values = faithful_graph(network, example[:1], logits)
            if steps := jumping(self.graph):
                words = ", ".join(sorted({str(self.graph.steps[name].node.target) for name in steps}))
                raise Untraceable(f"rounding may decide what a step answers that jumps ({words})")
            self.program: Program = program_of(self.graph, grid, self.dtype)
            self.first_clean: CleanImages | None = self._kept(example[:1], values)
        self.grid = grid
        self.replays = Replays(self.program)
        self._capacity: int | None = None
        self._known: dict[tuple[int, tuple[int, ...]], tuple[WindowList, Table]] = {}

    @property
    def pays(self) -> bool:
        """False if no step beyond the image has a delta rule."""
        return len(self.program.instructions) > 0

    def products(self) -> int:
        """Multiply-adds of all windows together."""
        frames, total = self.program.layout.frames, 0
        for name, step in self.graph.steps.items():
            if name in frames and isinstance(step.operation, Convolution | Linear):
                total += step.operation.weight.numel() * math.prod(axis.size for axis in frames[name])
            else:
                total += dense_products(step)
        return total * len(self.program.grid)

    def clean(self, images: Tensor) -> CleanImages:
        """Run the clean images once and keep what the deltas need."""
        return self._kept(images, clean_values(self.graph, images))

    def _kept(self, images: Tensor, values: dict[str, Tensor]) -> CleanImages:
        layout, graph = self.program.layout, self.graph
        logits = values[graph.output].to(images)
        wanted = layout.values | {name for name, _ in layout.maps}
        last = {name: channels_last(values[name], graph.steps[name].form).contiguous() for name in wanted}
        maps = {key: clean_map.of(last) for key, clean_map in layout.maps.items()}
        kept = {name: last[name].to(images.dtype) for name in layout.values}
        return CleanImages(logits, maps, kept)

    def capacity(self, device: torch.device) -> int:
        """Windows that go together in a share of the free memory of a device."""
        budget = int(free_memory(device) * MEMORY_SHARE)
        item = max(torch.empty(0, dtype=self.dtype).element_size(), 4 if self.program.frontier else 1)
        most = self.program.numbers_per_window
        return max(1, min(budget // (most * item), LARGEST // most))

    def images_together(self, device: torch.device) -> int:
        """Images whose windows all go into one batch; 1 if those of one image do not."""
        return max(1, min(MOST_IMAGES, self._most_windows(device) // len(self.grid)))

    def work(self, images: int, device: torch.device, wanted: np.ndarray | None) -> list[WindowBatch]:
        """See `batches`, as many windows together as memory allows."""
        return self.batches(images, self._most_windows(device), wanted)

    def _most_windows(self, device: torch.device) -> int:
        """What `capacity` says the first time: batches must come out alike whenever they are listed."""
        if self._capacity is None:
            self._capacity = self.capacity(device)
        return self._capacity

    @property
    def groups(self) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Rows, and columns, of windows that are computed alike: all of them."""
        return [tuple(range(len(self.grid.row_starts)))], [tuple(range(len(self.grid.column_starts)))]

    @staticmethod
    def changes_of(occluders: Occluders) -> ListedChanges:
        """What `drops` takes as changes."""
        return occluders.listed_changes

    def batches(self, images: int, capacity: int, wanted: np.ndarray | None = None) -> list[WindowBatch]:
        """The work for a number of images, in batches of one size each.

        Args:
            images: how many.
            capacity: windows that go together.
            wanted: (rows, columns), the windows to compute; None: all.
        """
        windows = np.arange(len(self.grid)) if wanted is None else np.flatnonzero(wanted)
        if not len(windows):
            return []
        together = max(1, min(images, capacity // len(windows)))
        parts = -(-len(windows) // capacity)
        size = -(-len(windows) // parts)
        batches = []
        for first in range(0, images, together):
            some = range(first, min(first + together, images))
            for start in range(0, len(windows), size):
                chosen = windows[start : start + size].tolist()
                filled = (*chosen, *[chosen[-1]] * (size - len(chosen)))
                batches.append(WindowBatch(some, filled, len(chosen)))
        return batches

    def drops(self, clean: CleanImages, batch: WindowBatch, changes: ListedChanges) -> list[ListedDrops]:
        """Drops of one batch of windows; in halves where memory ends, which no estimate can exclude."""
        try:
            return [self._drops_at_once(clean, batch, changes)]
        except torch.OutOfMemoryError:
            if len(batch.windows) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(batch.windows) // 2
        logger.info("occlusion: memory is full; %d windows at once instead of %d", half, len(batch.windows))
        parts = []
        for windows, count in (
            (batch.windows[:half], min(batch.count, half)),
            (batch.windows[half:], max(batch.count - half, 0)),
        ):
            if count:
                parts += self.drops(clean, WindowBatch(batch.images, windows, count), changes)
        return parts

    def _drops_at_once(self, clean: CleanImages, batch: WindowBatch, changes: ListedChanges) -> ListedDrops:
        listed, table = self._listed(batch, clean.logits.device)
        change = changes(batch.images, listed)
        some = slice(batch.images.start, batch.images.stop)
        maps, values = clean.maps, clean.values
        if len(batch.images) != len(clean.logits):
            maps = {key: value[some] for key, value in maps.items()}
            values = {name: value[some] for name, value in values.items()}
        out = self.replays.run(maps, values, table, change)
        drops = self._rest(values)[:, None] - out if self.program.frontier else out
        rows, columns = zip(*listed.positions[: batch.count], strict=True)
        drops = drops[:, : batch.count].transpose(1, 2).to(clean.logits.dtype)
        return ListedDrops(batch.images, rows, columns, drops)

    def _rest(self, values: dict[str, Tensor]) -> Tensor:
        """Clean logits (I, K) as the plain rest of the network gives them: with the rounding of what is subtracted."""
        known = {
            n: as_written(values[n], self.graph.steps[n].form, self.graph.steps[n].shape)
            for n in self.program.frontier
        }
        return self.graph.dense(known, [self.graph.output])[self.graph.output]

    def _listed(self, batch: WindowBatch, device: torch.device) -> tuple[WindowList, Table]:
        """The windows of a batch, and the index tensors of its run; the same for the next images."""
        key = len(batch.images), batch.windows
        if key not in self._known:
            if len(self._known) >= MOST_KNOWN:  # windows chosen anew for every image do not come again
                self._known.clear()
            rows, columns = np.divmod(np.array(batch.windows), len(self.grid.column_starts))
            indices, lengths = self.program.layout.tables.of(len(batch.images), rows, columns)
            positions = tuple(zip(rows.tolist(), columns.tolist(), strict=True))
            self._known[key] = WindowList(positions), (indices.to(device), lengths)
        return self._known[key]
