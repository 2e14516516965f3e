"""Questions that tell whether a filter can be told from others by eye: real patches, three candidates, which belongs?

The patches are cut around the peaks of a filter's strongest images, one of which is held back: it is a candidate beside
patches of two other filters, where possible of such that fire for the same class, so that the class gives nothing away.
Exemplars let people predict a unit better than drawings do (Borowski et al., ICLR 2021); here nothing but exemplars is
shown, and the same questions can be put to a simulated answerer, who takes the candidate most like the patches shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp_cnn.explanation.filters.exemplars import Exemplars

SHOWN, CANDIDATES = 6, 3
PATCH = 0.4  # of the image's shorter side


@dataclass(frozen=True)
class NamingTask:
    """One question.

    Attributes:
        filter: that is asked about.
        shown: ranks of its exemplars that are shown.
        candidates: (filter, rank) of each candidate.
        answer: which of them is the filter's own.
    """

    filter: int
    shown: tuple[int, ...]
    candidates: tuple[tuple[int, int], ...]
    answer: int


def naming_tasks(strongest: Exemplars, generator: torch.Generator) -> list[NamingTask]:
    """A question about every filter that fires on enough images, in random order.

    Args:
        strongest: with at least 7 exemplars of each filter.
        generator: of all that is drawn.

    Returns:
        As many as there are filters with a full row of exemplars; none where fewer than three have one.

    Example:
        >>> from types import SimpleNamespace
        >>> from interp_cnn.explanation.filters.exemplars import exemplars
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Sigmoid())
        >>> images, labels = torch.rand(9, 1, 8, 8), torch.zeros(9).long()
        >>> batch = SimpleNamespace(images=images, labels=labels, names=list("abcdefghi"))
        >>> tasks = naming_tasks(exemplars(network, [batch], layer="1"), torch.Generator().manual_seed(0))
        >>> len(tasks), all(task.candidates[task.answer][0] == task.filter for task in tasks)
        (4, True)
    """
    full = [number for number in range(len(strongest)) if bool((strongest.image_numbers[number] >= 0).all())]
    if strongest.image_numbers.shape[1] <= SHOWN or len(full) < CANDIDATES:
        return []
    classes = strongest.labels.mode(1).values.tolist()
    order = [full[place] for place in torch.randperm(len(full), generator=generator).tolist()]
    return [_task(strongest, number, full, classes, generator) for number in order]


def _task(
    strongest: Exemplars, number: int, full: Sequence[int], classes: Sequence[int], generator: torch.Generator
) -> NamingTask:
    def drawn(values: Sequence[int]) -> list[int]:
        return [values[place] for place in torch.randperm(len(values), generator=generator).tolist()]

    ranks = drawn(range(strongest.image_numbers.shape[1]))
    shown, held_back = sorted(ranks[:SHOWN]), ranks[SHOWN]
    others = drawn([it for it in full if it != number])
    others.sort(
        key=lambda it: classes[it] != classes[number]
    )  # those of the same class first, in their random order
    seen = {int(strongest.image_numbers[number, rank]) for rank in ranks[: SHOWN + 1]}
    candidates = [(number, held_back)]
    for other in others[: CANDIDATES - 1]:
        free = [
            rank for rank in drawn(range(len(ranks))) if int(strongest.image_numbers[other, rank]) not in seen
        ]
        rank = free[0] if free else ranks[0]
        seen.add(int(strongest.image_numbers[other, rank]))
        candidates.append((other, rank))
    places = drawn(range(CANDIDATES))
    return NamingTask(number, tuple(shown), tuple(candidates[it] for it in places), places.index(0))


def peak_patch(strongest: Exemplars, number: int, rank: int, *, side: int | None = None) -> Tensor:
    """A square of an exemplar around the filter's peak, moved inward at the border: (C, side, side) uint8.

    Args:
        strongest: whose exemplar it is.
        number: of the filter.
        rank: of the exemplar.
        side: of the square, in pixels, at most the image's; None: `PATCH` of the image's shorter side.
    """
    image = strongest.images[int(strongest.image_numbers[number, rank])]
    height, width = image.shape[1:]
    side = max(1, round(PATCH * min(height, width))) if side is None else side
    row, column = strongest.field.centres(strongest.positions[number, rank]).tolist()
    top = min(max(round(row + 0.5 - side / 2), 0), height - side)
    left = min(max(round(column + 0.5 - side / 2), 0), width - side)
    return image[:, top : top + side, left : left + side]


def simulated_answers(
    strongest: Exemplars, tasks: Sequence[NamingTask], features: Callable[[Tensor], Tensor]
) -> list[int]:
    """Which candidate is most like the patches that are shown (cosine with their mean), for every question.

    Args:
        strongest: that the questions are about.
        tasks: the questions.
        features: patches (N, C, side, side) in [0, 1] -> (N, F).
    """
    keys = sorted(
        {(task.filter, rank) for task in tasks for rank in task.shown}
        | {pair for task in tasks for pair in task.candidates}
    )
    if not keys:
        return []
    patches = torch.stack([peak_patch(strongest, *key) for key in keys]).float() / 255
    vectors = torch.nn.functional.normalize(torch.cat([features(some) for some in patches.split(64)]), dim=1)
    row = {key: place for place, key in enumerate(keys)}
    answers = []
    for task in tasks:
        mean = vectors[[row[task.filter, rank] for rank in task.shown]].mean(0)
        answers.append(int((vectors[[row[pair] for pair in task.candidates]] @ mean).argmax()))
    return answers


def pixel_features(patches: Tensor) -> Tensor:
    """Patches (N, C, h, w) as they are, their mean taken off: what likeness of pixels alone can tell."""
    flat = patches.flatten(1)
    return flat - flat.mean(1, keepdim=True)
