"""An engine held against plain passes, on the numbers that are handed out.

When the windows of some images are done, a few of them are computed by plain forward passes and compared. Which ones:
those of every run of window rows and of every run of columns in turn (windows of a run share their geometry, and so
their mistakes), each time the window and the image whose pixels change most. As many as cost 2 % of the job, and at
least three; further images go on with the runs that the first ones left out.

An error is judged against the largest drop that was seen, and by the number type of the frames; below that lies what
rounding does to a difference of two logits in the plain passes themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from interp_cnn.explanation.occlusion.costs import dense_batch
from interp_cnn.explanation.occlusion.incremental.engine import WindowDrops
from interp_cnn.explanation.occlusion.incremental.tracing import Untraceable
from interp_cnn.explanation.occlusion.occluders import Occluders

ENGINES = ("auto", "incremental", "one_batch", "dense")
PRECISIONS = {"float32": None, "tf32": None, "bfloat16": torch.bfloat16}  # None: the images' own type
TOLERANCES = {"float64": 1e-6, "float32": 1e-3, "tf32": 0.1, "bfloat16": 0.15, "float16": 0.05}
TF32 = 2.0**-11  # its rounding
ROUNDING = 64  # units in the last place of the largest logit
FEWEST, SHARE = 3, 0.02

Groups = tuple[list[tuple[int, ...]], list[tuple[int, ...]]]  # rows, and columns, of windows computed alike
Window = tuple[int, int, int]  # image, row and column in the grid


class Unfaithful(Exception):
    """The engine gives other numbers than the network; the message says where."""


def windows_to_check(groups: Groups, changes: Tensor, work: float, first: int = 0) -> list[Window]:
    """Windows to compute plainly.

    Args:
        groups: runs of window rows and of window columns.
        changes: (I, rows, columns), how much each window changes each image; 0: not asked for, or nothing.
        work: the whole job in forward passes.
        first: the run to begin with.
    """
    every = max(len(groups[0]), len(groups[1]))
    number = max(FEWEST, min(every, int(SHARE * work)))
    left, chosen = changes.double().clone(), []
    for turn in range(first, first + number):
        rows, columns = (torch.tensor(axis[turn % len(axis)]) for axis in groups)
        here = left[:, rows][:, :, columns]
        if not float(here.max()) > 0:
            continue
        image, row, column = (int(place) for place in torch.unravel_index(here.argmax(), here.shape))
        window = image, int(rows[row]), int(columns[column])
        chosen.append(window)
        left[:, window[1], window[2]] = 0  # another window next time
    return chosen


def plain_logits(network: nn.Module, draws: list[Occluders], windows: list[Window]) -> Tensor:
    """(N, K) logits with each of the windows hidden, by plain passes, averaged over the draws of a fill."""
    copies = [
        occluders.occluded(image, [(row, column)]) for image, row, column in windows for occluders in draws
    ]
    parts = torch.cat(copies).split(dense_batch(draws[0].images))
    return torch.cat([logits_of(network, some) for some in parts]).unflatten(0, (len(windows), -1)).mean(1)


def decided_plainly(
    network: nn.Module, part: WindowDrops, clean: Tensor, occluders: Occluders, batch: int
) -> Tensor:
    """A part's drops (I, K, A, B), by plain passes where they hang on rounding.

    Args:
        network: gives the logits.
        part: of the engine.
        clean: (I, K) logits of its images.
        occluders: the fill's.
        batch: windows of one pass.
    """
    drops, undecided = part.drops.clone(), part.undecided.cpu()
    for number, image in enumerate(part.images):
        places = undecided[number].nonzero()
        for some in places.split(batch) if len(places) else ():
            windows = [(part.rows[a], part.columns[b]) for a, b in some.tolist()]
            plain = logits_of(network, occluders.occluded(image, windows))
            drops[number][:, some[:, 0], some[:, 1]] = (clean[number] - plain).T
    return drops


def compare(drops: Tensor, expected: Tensor, windows: list[Window], logits: Tensor, kind: str) -> None:
    """Compare drops (N, K) of some windows with those of plain passes.

    Args:
        drops: the engine's.
        expected: by plain passes.
        windows: which they are.
        logits: of the clean images.
        kind: number type of the frames, a key of `TOLERANCES`.

    Raises:
        Unfaithful: one of them came out differently.
    """
    largest = float(expected.abs().max())
    rounding = 8 * TF32 if kind == "tf32" else ROUNDING * torch.finfo(expected.dtype).eps
    errors = (drops - expected).abs().amax(1)
    for error, (_, row, column) in zip(errors.tolist(), windows, strict=True):
        if not error <= TOLERANCES[kind] * largest + rounding * float(
            logits.abs().max()
        ):  # NaN is no answer either
            raise Unfaithful(
                f"window {row}, {column} came out differently in a plain forward pass, by {error:.2g} where the "
                f"largest drop is {largest:.2g}"
            )


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """(B, K) logits, or one sentence about what came instead."""
    logits = network(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        kind = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"network must return logits ({len(images)}, K), got {kind}")
    return logits


def in_words(reason: Exception) -> str:
    """Why an engine does not answer, in one line."""
    known = isinstance(reason, Untraceable | Unfaithful)
    return str(reason) if known else f"{type(reason).__name__}: {reason}".splitlines()[0]


def check_request(images: Tensor, engine: str, precision: str) -> None:
    """Refuse what is no batch of images, no engine or no precision.

    Raises:
        ValueError: one of them.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        kind = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a floating-point tensor (B, C, H, W), got {kind}")
    if len(images) == 0:
        raise ValueError("images must hold at least one image, got none")
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
