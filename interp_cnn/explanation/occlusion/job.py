"""One occlusion computation as a thing that can be priced, watched, interrupted and taken up again.

    job = OcclusionJob(network, images, window=16, stride=8)
    print(job.cost())                       # before the run
    job.load_state_dict(saved)              # optional: go on where an earlier run stopped
    for progress in job.run():              # one batch of windows at a time
        ...                                 # draw a bar; save job.state_dict()
    job.drops                               # (B, K, rows, columns)

Which engine computes a batch is decided here: "incremental" (exact, only the changed part is recomputed, see
`incremental`), "one_batch" (the same, all windows together, for GPUs: see `one_batch`), "dense" (one forward pass per
window) or "auto": incremental on a processor, and on a GPU the faster of the other two by the clock (`choice`), where
it pays and where the network can be traced. Some windows of every few images are held against plain forward passes
(`checks`). Whatever stops an engine leads to plain passes and one log line under "auto", else to one sentence.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from interp_cnn.explanation.network import feature_maps as activations
from interp_cnn.explanation.network.logits import check_logits, checked_evaluation
from interp_cnn.explanation.network.precision import precision as precision_of
from interp_cnn.explanation.network.precision import precision_now, rounding
from interp_cnn.explanation.occlusion.checks import (
    PRECISIONS,
    Unfaithful,
    check_request,
    compare,
    decided_plainly,
    in_words,
    logits_of,
    plain_logits,
    windows_to_check,
)
from interp_cnn.explanation.occlusion.choice import PLANNING, faster_than_plain, plain_seconds
from interp_cnn.explanation.occlusion.costs import (
    OcclusionCost,
    PlainWork,
    Progress,
    dense_batch,
    is_full_memory,
)
from interp_cnn.explanation.occlusion.engines import CleanLogits, Engine, engine_for, multiply_adds_per_pass
from interp_cnn.explanation.occlusion.fills import Fill, as_fill
from interp_cnn.explanation.occlusion.incremental.engine import WindowDrops
from interp_cnn.explanation.occlusion.occluders import Occluders
from interp_cnn.explanation.occlusion.one_batch.engine import OneBatchOcclusion
from interp_cnn.explanation.occlusion.windows import Window, window_grid

logger = logging.getLogger(__name__)

WORTHWHILE = 15e6  # nanoseconds of plain work below which planning costs more than it saves


class OcclusionJob:
    """Occlusion drops of every class, image and window of a grid."""

    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        *,
        window: Window,
        stride: int | tuple[int, int],
        fill: float | Tensor | Fill | Callable = 0.0,
        overhang: str = "none",
        engine: str = "auto",
        precision: str = "float32",
        wanted: Tensor | None = None,
    ) -> None:
        """Prepare; nothing is computed yet but the plan.

        Arguments as in `occlusion.occlusion_drops`, and
            wanted: (B, rows, columns), the windows to compute of each image; None: all. Some that lie between
                them may be computed too; `known` says which drops hold.
        """
        check_request(images, engine, precision)
        self.network, self.images = network, images.detach().contiguous()  # one layout, see `check_images`
        self.grid = window_grid((images.shape[-2], images.shape[-1]), window, stride, overhang)
        self.fill = as_fill(fill)
        self._own_replacement: Tensor | None = None  # (B, C, H, W), where every image has one
        if isinstance(fill, Tensor) and fill.ndim == 4 and len(fill) == len(images) > 1:
            self._own_replacement = fill
        # on a GPU what was chosen around the job is the windows' precision, too, unless it has its own
        chosen = precision_now() if images.device.type == "cuda" and engine != "dense" else "float32"
        self.precision = chosen if precision == "float32" else precision
        everywhere = len(images), len(self.grid.row_starts), len(self.grid.column_starts)
        if wanted is not None and (wanted.dtype != torch.bool or tuple(wanted.shape) != everywhere):
            raise ValueError(f"wanted must be boolean {everywhere}, got {wanted.dtype} {tuple(wanted.shape)}")
        self.wanted = wanted
        self.known = torch.zeros(everywhere, dtype=torch.bool)
        self.done = 0  # batches finished
        with torch.no_grad(), checked_evaluation(network, self.images), PlainWork(network) as work:
            logits = torch.cat([logits_of(network, part.clone()) for part in self.images.split(32)])
        self.logits = check_logits(logits, len(images))
        self.drops = self.logits.new_zeros(*self.logits.shape, *everywhere[1:])
        self._requested = engine
        self._incremental: Engine | None = None
        with torch.no_grad(), activations.evaluation_mode(network):
            if engine != "dense" and not (engine == "auto" and self._is_light(work)):
                self._prepare()

    @property
    def engine(self) -> str:
        """The engine that runs: "incremental", "one_batch" or "dense"."""
        return "dense" if self._incremental is None else self._incremental.name

    @property
    def _windows_per_image(self) -> float:
        return len(self.grid) if self.wanted is None else float(self.wanted.sum()) / len(self.images)

    def cost(self) -> OcclusionCost:
        """What the run will take; times one forward pass."""
        windows = round(self._windows_per_image)
        draws = self.fill.samples * len(self.images)
        passes = round(draws * self._windows_per_image)
        some = self.images[:1].expand(4, -1, -1, -1).contiguous()
        with activations.evaluation_mode(self.network), torch.no_grad():
            logits_of(self.network, some)
            start = time.perf_counter()
            logits_of(self.network, some)
            seconds = (time.perf_counter() - start) / len(some)
        if self._incremental is None:
            return OcclusionCost(windows, passes, None, None, passes * seconds, "dense")
        products = round(self._incremental.products() * passes / len(self.grid))
        equivalents = products / multiply_adds_per_pass(self._incremental)
        return OcclusionCost(windows, passes, equivalents, products, equivalents * seconds, self.engine)

    def run(self) -> Iterator[Progress]:
        """Compute batch after batch, from where the job stands."""
        start, begun = time.perf_counter(), self.done
        unfinished = True
        while unfinished:
            unfinished, parts = False, self._parts()
            total = sum(len(batches) for _, batches in parts) * self.fill.samples
            for images, batches in parts:
                try:
                    for _ in self._run_part(images, batches, parts):
                        yield Progress(self.done - begun, total - begun, time.perf_counter() - start)
                except (
                    Exception
                ) as reason:  # of the engine; nothing else can be tried where a plain pass fails
                    self._go_on_plainly(images, reason)
                    begun, unfinished = min(begun, self.done), True
                    break

    def _run_part(self, images: range, batches: list, parts: list) -> Iterator[None]:
        """Compute the batches of some images that are not done yet."""
        before = sum(len(each) for some, each in parts if some.start < images.start) * self.fill.samples
        if self.done >= before + len(batches) * self.fill.samples:
            return
        # that the network answers for each image alone was watched when its logits were computed
        with self._computing():
            clean = None if self._incremental is None else self._clean(self._incremental, images)
        for sample in range(self.fill.samples):
            with self._computing():
                occluders = self._occluders(images, sample)
            last = sample == self.fill.samples - 1
            for number, batch in enumerate(batches, before + sample * len(batches) + 1):
                if number <= self.done:
                    continue
                # not around the yield, which is the caller's
                with self._computing(), self._own_precision():
                    self._add(batch, images, occluders, clean, last=last)
                    finished = last and number == before + len(batches) * (sample + 1)
                    if finished and self._incremental is not None:
                        self._check(self._incremental, images)
                self.done = number
                yield

    def _go_on_plainly(self, images: range, reason: Exception) -> None:
        """Compute these images, and those after them, by plain passes; what came before them was checked."""
        if self._incremental is None or is_full_memory(reason):
            raise reason
        self._refuse(reason)
        some = slice(images.start, None)
        self.drops[some], self.known[some] = 0.0, False
        before = [len(batches) for part, batches in self._parts() if part.start < images.start]
        self.done = sum(before) * self.fill.samples

    def _refuse(self, reason: Exception) -> None:
        """No engine of our own, for this reason: one log line, or a ValueError where it was asked for."""
        if self._requested != "auto":
            raise ValueError(f"network cannot be occluded incrementally: {in_words(reason)}") from reason
        logger.warning("occlusion: one forward pass per window, because %s", in_words(reason))
        self._incremental = None

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with activations.evaluation_mode(self.network), torch.no_grad():
            yield

    def state_dict(self) -> dict:
        """What `load_state_dict` needs to go on from here."""
        return {
            "drops": self.drops.clone(),
            "known": self.known.clone(),
            "done": self.done,
            "engine": self.engine,
            "logits": self.logits,
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on where another job of the same network, images and options stopped.

        Raises:
            ValueError: the state is that of other images, another network or another engine.
        """
        if state["engine"] == "dense" and self._requested == "auto":
            self._incremental = None  # as the other job found out
        same = state["drops"].shape == self.drops.shape and state["engine"] == self.engine
        if not same or not torch.allclose(state["logits"].to(self.logits), self.logits, rtol=1e-3, atol=1e-4):
            raise ValueError("state must come from a job with the same network, images and options")
        self.drops, self.done = state["drops"].to(self.drops).clone(), state["done"]
        self.known = state["known"].clone()

    def _prepare(self) -> None:
        """Make the engine that works on frames, or refuse it where the plain method is to be used."""
        try:
            dtype = PRECISIONS[self.precision] or self.images.dtype
            made = engine_for(
                self.network,
                self.grid,
                self.images,
                engine=self._requested,
                logits=self.logits,
                dtype=dtype,
            )
            pays = self._requested != "auto" or made.pays
            if pays and self._requested == "auto" and isinstance(made, OneBatchOcclusion):
                with self._own_precision():
                    pays = faster_than_plain(made, self.network, self._occluders(range(1), 0))
        except Exception as reason:  # the network's own code runs in there, in ways it was not written for
            if is_full_memory(reason):
                raise
            self._refuse(reason)
        else:
            self._incremental = made if pays else None

    def _is_light(self, work: PlainWork) -> bool:
        """True if the plain method is done before a plan is made."""
        if self.images.device.type == "cuda":
            windows = round(self._windows_per_image * len(self.images) * self.fill.samples)
            return plain_seconds(self.network, self.images, max(windows, 1)) < PLANNING
        return work.nanoseconds * self._windows_per_image < WORTHWHILE

    def _own_precision(self) -> AbstractContextManager:
        """Of the windows' passes; clean images always go in the precision that was chosen around the job."""
        if self.precision == "tf32":
            return precision_of("tf32")
        bfloat16_frames = self.precision == "bfloat16" and self._incremental is not None
        return precision_of("float32") if bfloat16_frames else nullcontext()

    def _check(self, engine: Engine, images: range) -> None:
        """Hold some windows of these images against plain passes.

        Raises:
            Unfaithful: one came out differently.
        """
        some = slice(images.start, images.stop)
        changes = self._occluders(images, 0).strengths() * self.known[some]
        passes = engine.products() / multiply_adds_per_pass(engine)  # for all windows
        work = passes * float((changes > 0).sum()) / len(self.grid) * self.fill.samples
        windows = windows_to_check(engine.groups, changes, work, images.start)
        if not windows:
            return
        clean, chosen = self._plain_clean(some), [image for image, _, _ in windows]
        draws = [self._occluders(images, sample) for sample in range(self.fill.samples)]
        plain = plain_logits(self.network, draws, windows)
        drops = torch.stack([self.drops[some][image, :, row, column] for image, row, column in windows])
        kind = "tf32" if self.precision == "tf32" else str(engine.dtype).removeprefix("torch.")
        compare(drops, clean[chosen] - plain, windows, clean, kind)

    def _clean(self, engine: Engine, images: range) -> CleanLogits:
        some = slice(images.start, images.stop)
        first, engine.first_clean = engine.first_clean, None
        if images == range(1) and first is not None:
            return first
        clean = engine.clean(self.images[some])
        allowed = max(1e-3, 32 * rounding(self.logits.dtype)) * self.logits[some].abs().max().clamp(min=1e-6)
        if not bool(((clean.logits - self.logits[some]).abs() <= allowed).all()):
            raise Unfaithful("its traced graph gives other logits than the network itself")
        return clean

    def _parts(self) -> list[tuple[range, list]]:
        """Images whose clean maps are kept together, with their batches."""
        together = 1
        if self._incremental is not None and self.wanted is None:
            together = self._incremental.images_together(self.images.device)
        count = len(self.images)
        parts = [range(first, min(first + together, count)) for first in range(0, count, together)]
        return [(images, self._batches(images)) for images in parts]

    def _batches(self, images: range) -> list:
        wanted = None if self.wanted is None else self.wanted[images.start].cpu().numpy()
        if self._incremental is not None:
            return self._incremental.work(len(images), self.images.device, wanted)
        chosen = np.ones(self.known.shape[1:], dtype=bool) if wanted is None else wanted
        windows = [(int(row), int(column)) for row, column in np.argwhere(chosen)]
        size = dense_batch(self.images)
        return [windows[first : first + size] for first in range(0, len(windows), size)]

    def _occluders(self, images: range, sample: int) -> Occluders:
        some = slice(images.start, images.stop)
        fill = self.fill if self._own_replacement is None else as_fill(self._own_replacement[some])
        return Occluders(self.images[some], self.grid, fill, sample)

    def _add(
        self, batch, images: range, occluders: Occluders, clean: CleanLogits | None, *, last: bool
    ) -> None:
        """Compute one batch of windows and add their drops."""
        if self._incremental is None:
            rows, columns = (torch.tensor(numbers) for numbers in zip(*batch, strict=True))
            occluded = logits_of(self.network, occluders.occluded(0, batch))  # (windows, K)
            drops = self._plain_clean(slice(images.start, images.start + 1)) - occluded
            self.drops[images.start][:, rows, columns] += drops.T / self.fill.samples
            self.known[images.start][rows, columns] = last
            return
        for part in self._incremental.drops(clean, batch, self._incremental.changes_of(occluders)):
            here = slice(images.start + part.images.start, images.start + part.images.stop)
            rows, columns = part.index()
            if isinstance(part, WindowDrops) and bool(part.undecided.any()):
                known = self._plain_clean(here)
                part.drops = decided_plainly(self.network, part, known, occluders, dense_batch(self.images))
            self.drops[here, :, rows, columns] += part.drops / self.fill.samples
            self.known[here, rows, columns] = last

    def _plain_clean(self, some: slice) -> Tensor:
        """(I, K) logits from which those of plain passes are subtracted: they carry the same rounding."""
        if self.precision != "tf32":
            return self.logits[some]
        return logits_of(self.network, self.images[some].clone())
