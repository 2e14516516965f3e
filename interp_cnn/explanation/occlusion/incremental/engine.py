"""Exact occlusion drops without running the whole network per window.

Hiding a window changes only a cone of values. The engine keeps the clean values of every layer and sends, for
many windows at once, the *difference* of the small changed part through the network (the delta form: see
`operations`), on frames that grow from layer to layer (`frames`, `plan`).
Where the cone covers the whole map, or where an operation has no delta rule, the rest of the network runs densely
on the changed maps. The result is exact: the same numbers as one forward pass per window, up to rounding.

The idea is that of Krypton (S. Nakandala, A. Kumar, Y. Papakonstantinou, "Incremental and approximate inference
for faster occlusion-based deep CNN explanations", SIGMOD 2019); the delta form, the grouping by phase and the
polynomial convolutions are this module's own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from interp_cnn.explanation.occlusion.incremental.evaluation import GraphStep
from interp_cnn.explanation.occlusion.incremental.faithful import clean_values, faithful_graph
from interp_cnn.explanation.occlusion.incremental.frames import Chunk, CleanMaps, Span, Spans, place, whole
from interp_cnn.explanation.occlusion.incremental.groups import WindowRun
from interp_cnn.explanation.occlusion.incremental.jumps import jumped, largest_on_the_way, moved_by_rounding
from interp_cnn.explanation.occlusion.incremental.layouts import as_written, channels_last
from interp_cnn.explanation.occlusion.incremental.operations import CallSite
from interp_cnn.explanation.occlusion.incremental.plan import Plan, chunks_of, joint_batch, plan_of
from interp_cnn.explanation.occlusion.occluders import Occluders
from interp_cnn.explanation.occlusion.windows import WindowGrid
from interp_cnn.hardware.memory import free_memory

logger = logging.getLogger(__name__)

CLEAN_BYTES = 2**28  # clean maps of as many images as fit are kept at once
BUDGET = 48 * 2**20  # bytes of frames that live together: what a processor's caches hold is fastest

# (images, window rows, window columns) -> (I, A, B, height, width, C): replacement minus image in the uncut windows,
# zero where a window's shape or the image ends
Changes = Callable[[range, tuple[int, ...], tuple[int, ...]], Tensor]


# Differences of two orders of summation stay far below, those of a place or a jump decided otherwise lie above.
UNLIKE = {torch.float32: 3e-4, torch.float64: 1e-8}


@dataclass
class Clean:
    """The clean images' logits (B, K) and maps."""

    logits: Tensor
    maps: CleanMaps
    largest: dict[str, Tensor]  # (B,) of what the rest reads, where that jumps; see `jumps`
    unlike: Tensor  # (B,): on the same values the dense rest answers otherwise than the network, as rounding decides


@dataclass
class Piece:
    """Windows whose frames move together."""

    rows: WindowRun
    columns: WindowRun
    chunk: Chunk

    @property
    def row_windows(self) -> tuple[int, ...]:
        """Rows of the grid."""
        return tuple(self.rows.windows[a] for a in self.chunk.rows)

    @property
    def column_windows(self) -> tuple[int, ...]:
        """Columns of the grid."""
        return tuple(self.columns.windows[b] for b in self.chunk.columns)


@dataclass
class WindowDrops:
    """Drops of one batch of windows: drops[i, k, a, b] is that of window (rows[a], columns[b])."""

    images: range
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    drops: Tensor  # (I, K, A, B)
    undecided: Tensor  # (I, A, B): a mask's place, or a jump, hangs on rounding, and only a plain pass knows

    def index(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of the grid, as they index the last two axes of all drops."""
        return torch.tensor(self.rows)[:, None], torch.tensor(self.columns)


class IncrementalOcclusion:
    """Occlusion of one network by one grid of windows; the plan is made once and used for any number of images."""

    name = "incremental"

    def __init__(
        self,
        network: nn.Module,
        grid: WindowGrid,
        example: Tensor,
        *,
        logits: Tensor | None = None,
        dtype: torch.dtype | None = None,
        every_step: bool = False,
    ) -> None:
        """Trace the network and make the plan.

        Args:
            network: classifier in evaluation mode; its weights are read now.
            grid: the windows.
            example: (B, C, H, W), images of the right size, type and device.
            logits: what the network gives for the example, if known.
            dtype: number type of the frames, that of the images if not given.
            every_step: everything that can run incrementally does (for tests).

        Raises:
            Untraceable: the network is not a constant graph.
        """
        self.dtype = dtype or example.dtype
        with torch.no_grad():
            self.graph, values = faithful_graph(network, example[:1], logits)
            unknown = self.graph.unknown()
            if unknown:
                logger.info(
                    "occlusion: %s has no delta rule and runs densely", ", ".join(sorted(set(unknown)))
                )
            self.plan: Plan = plan_of(self.graph, grid, every_step)
            self.margins: dict[tuple[str, str], tuple[int, int]] = {}
            self.first_clean: Clean | None = self._kept(example[:1], values)

    @property
    def pays(self) -> bool:
        """False if the plan found nothing worth doing incrementally."""
        return len(self.plan.moving) > 1

    def products(self) -> int:
        """Multiply-adds of all windows together."""
        return self.plan.products()

    def images_together(self, device: torch.device) -> int:
        """Images whose clean maps are kept at once."""
        item = torch.empty(0, dtype=self.graph.dtype).element_size()
        each = sum(2 * math.prod(step.shape[1:]) for step in self.graph.steps.values()) * item
        return max(1, CLEAN_BYTES // max(each, 1))

    def work(self, images: int, device: torch.device, wanted: np.ndarray | None) -> list[list[Piece]]:
        """See `batches`, in pieces that fit a processor's caches."""
        return self.batches(images, min(BUDGET, free_memory(device) // 8), wanted)

    @property
    def groups(self) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Rows, and columns, of windows that are computed alike."""
        rows, columns = ([run.windows for run in axis] for axis in self.plan.runs)
        return rows, columns

    @staticmethod
    def changes_of(occluders: Occluders) -> Changes:
        """What `drops` takes as changes."""
        return occluders.changes

    def clean(self, images: Tensor) -> Clean:
        """Run the clean images once and keep what the deltas need; `first_clean` is that of the example."""
        return self._kept(images, clean_values(self.graph, images))

    def _kept(self, images: Tensor, values: dict[str, Tensor]) -> Clean:
        graph, plan = self.graph, self.plan
        logits = values[graph.output].to(images)
        plain, unlike = logits, torch.zeros(len(images), dtype=torch.bool, device=logits.device)
        largest = largest_on_the_way(graph, values, plan.ordered) if plan.jumps else {}
        inside = {}
        for name in (*plan.moving, *plan.joint):
            form = graph.steps[name].form
            inside[name] = channels_last(values.pop(name), form).contiguous().to(images.dtype)
        if plan.dense:
            # what is subtracted from densely computed logits must carry the same rounding
            known = {n: _written(inside[n], graph.steps[n]) for n in plan.frontier}
            logits = graph.dense(known, [graph.output])[graph.output]
            if self.dtype in UNLIKE:
                unlike = (logits - plain).abs().amax(1) > UNLIKE[self.dtype] * plain.abs().amax(1)
        return Clean(logits, CleanMaps(inside, self.dtype, self.margins), largest, unlike)

    def batches(
        self, images: int, budget: int = BUDGET, wanted: np.ndarray | None = None
    ) -> list[list[Piece]]:
        """The work for a number of images, in pieces and batches of pieces; always the same; see `chunks_of`."""
        item = torch.empty(0, dtype=self.dtype).element_size()
        most = joint_batch(self.plan, item, budget)
        batches: list[list[Piece]] = []
        number = 0
        for rows, columns, chunk in chunks_of(self.plan, images, item, budget, wanted):
            if not batches or number >= most or batches[-1][0].chunk.images != chunk.images:
                batches.append([])
                number = 0
            batches[-1].append(Piece(rows, columns, chunk))
            number += math.prod(chunk.lead)
        return batches

    def drops(self, clean: Clean, batch: list[Piece], changes: Changes) -> list[WindowDrops]:
        """Drops of one batch of windows."""
        handed: dict[str, list[Tensor]] = {name: [] for name in self.plan.handed}
        for piece in batch:
            change = changes(piece.chunk.images, piece.row_windows, piece.column_windows)
            for name, delta in self._moving(piece, clean.maps, change).items():
                handed[name].append(delta)
        deltas = {name: torch.cat(handed.pop(name), 1) for name in self.plan.handed}
        drops, undecided = self._finish(deltas, clean, batch[0].chunk.images)  # (I, N, K), (I, N)
        sizes = [len(piece.chunk.rows) * len(piece.chunk.columns) for piece in batch]
        parts = drops.to(clean.logits.dtype).transpose(1, 2).split(sizes, 2)
        doubts = undecided.split(sizes, 1)
        return [
            WindowDrops(
                p.chunk.images,
                p.row_windows,
                p.column_windows,
                part.unflatten(2, p.chunk.lead[1:]),
                doubt.unflatten(1, p.chunk.lead[1:]),
            )
            for p, part, doubt in zip(batch, parts, doubts, strict=True)
        ]

    def _moving(self, piece: Piece, maps: CleanMaps, change: Tensor) -> dict[str, Tensor]:
        """Frames that move with the window; what others read of them, as whole maps (I, A B, 1, h, w, C)."""
        plan, image = self.plan, self.graph.image
        rows, columns, chunk = piece.rows, piece.columns, piece.chunk
        top = rows.spans[image].start - plan.grid.row_starts[rows.windows[0]]
        left = columns.spans[image].start - plan.grid.column_starts[columns.windows[0]]
        change = change[:, :, :, top : top + rows.spans[image].size, left : left + columns.spans[image].size]
        deltas = {image: change.to(self.dtype)}
        self._propagate(plan.moving, deltas, set(plan.handed), chunk, maps, (rows, columns))
        handed = {}
        for name in plan.handed:
            spans = rows.spans[name], columns.spans[name]
            everywhere = whole(spans[0]), whole(spans[1])
            placed = place(deltas.pop(name), spans, everywhere, chunk)
            handed[name] = placed.flatten(1, 2)[:, :, None]
        return handed

    def _propagate(
        self,
        names: list[str],
        deltas: dict[str, Tensor],
        kept: set[str],
        chunk: Chunk,
        maps: CleanMaps,
        runs: tuple[WindowRun, WindowRun] | None = None,
        undecided: list[Tensor] | None = None,
    ) -> None:
        """Send deltas through the named steps; without runs all frames are whole maps."""
        steps = self.graph.steps
        foreign = (
            [deltas[self.graph.image]] if self.graph.image in deltas else []
        )  # it lies in the fill's pixels
        unread = dict.fromkeys(steps, 0)
        for name in names:
            for source in steps[name].inputs:
                unread[source] += 1
        for name in names:
            if name in deltas:
                continue
            step = steps[name]
            if runs is None:
                spans = _whole_spans(step)
                sources = tuple(_whole_spans(steps[source]) for source in step.inputs)
                inputs = [deltas[source] for source in step.inputs]
            else:
                rows, columns = runs
                spans = rows.spans[name], columns.spans[name]
                sources = tuple(zip(rows.sources[name], columns.sources[name], strict=True))
                inputs = [
                    place(deltas[source], (rows.spans[source], columns.spans[source]), wanted, chunk)
                    for source, wanted in zip(step.inputs, sources, strict=True)
                ]
            for source in step.inputs:
                unread[source] -= 1
            for source in set(step.inputs):
                if unread[source] == 0 and source not in kept:
                    del deltas[source]
            # a rule may overwrite memory that no other delta, by whatever name, lies in
            reusable = _is_owned(inputs[0], [*inputs[1:], *deltas.values(), *foreign])
            site = CallSite(name, step.inputs, sources, spans, chunk, maps, reusable, undecided)
            deltas[name] = step.rule.delta(site, *inputs)
            del inputs

    def _finish(self, deltas: dict[str, Tensor], clean: Clean, images: range) -> tuple[Tensor, Tensor]:
        """The joint and the dense part, windows of several pieces together.

        Returns:
            (I, N, K) drops, and (I, N) which of them hang on rounding.
        """
        plan, output = self.plan, self.graph.output
        number = next(iter(deltas.values())).shape[1]
        chunk = Chunk(images, range(number), range(1))
        doubts = [clean.unlike[images.start : images.stop, None].expand(-1, number)]
        # narrow frames decide peaks as well as they can
        undecided: list[Tensor] | None = [] if self.dtype.itemsize >= 4 else None
        self._propagate(plan.joint, deltas, set(plan.frontier), chunk, clean.maps, undecided=undecided)
        doubts += [mask.flatten(1) for mask in undecided or []]
        if output in deltas:
            return -deltas[output][:, :, 0, 0, 0], torch.stack(doubts).any(0)
        known, moves = {}, {}
        some = slice(images.start, images.stop)
        undecided = [] if self.dtype.itemsize >= 4 else None
        for name in plan.frontier:
            step = self.graph.steps[name]
            before = clean.maps.values[name][some, None, None]
            delta = deltas.pop(name)
            changed = delta.to(before.dtype) + before
            known[name] = _written(changed.flatten(0, 2), step)
            if plan.jumps and undecided is not None:
                move = moved_by_rounding(
                    changed.flatten(1, 2), delta.flatten(1, 2), clean.largest[name][some]
                )
                moves[name] = _written(move.flatten(0, 1), step)
        inexact = any(bool(move.any()) for move in moves.values())
        wanted = [output, *(plan.jumps if inexact else [])]
        values = self.graph.dense(known, wanted, undecided=undecided)
        if inexact and undecided is not None:
            undecided.append(jumped(self.graph, known, moves, {name: values[name] for name in wanted}))
        doubts += [mask.unflatten(0, (len(images), number)) for mask in undecided or []]
        occluded = values[output].to(clean.logits.dtype).unflatten(0, (len(images), number))
        return clean.logits[some, None] - occluded, torch.stack(doubts).any(0)


def _whole_spans(step: GraphStep) -> Spans:
    return Span(0, 0, step.size[0], step.size[0]), Span(0, 0, step.size[1], step.size[1])


def _written(value: Tensor, step: GraphStep) -> Tensor:
    """(N, h, w, C) in the axes the network uses at this step."""
    return as_written(value, step.form, step.shape)


def _is_owned(tensor: Tensor, others: list[Tensor]) -> bool:
    memory = tensor.untyped_storage().data_ptr()
    return all(other.untyped_storage().data_ptr() != memory for other in others)
