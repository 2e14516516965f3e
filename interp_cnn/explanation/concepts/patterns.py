"""Patterns: sets of channels that fire together on one category, and on images that were not asked before.

Half of the images propose, the other half judges, so that no figure is flattered by the search:

    propose   frequent sets of channels at positions of the category's images (`itemsets`); ranked by how far the
              number of its images with the set exceeds chance; of families of sets that occur at nearly the same
              cells the middle one is taken (`medoids`); so many per category are kept
    judge     support, confidence, lift and coverage anew; Fisher's exact test over images (positions of one image
              are not independent); Benjamini-Hochberg over all that were proposed

Beside that stands what chance would make: the number of frequent sets after swap randomisation (`swap_null`).
After Li, Liu, Shen, van den Hengel, "Mid-level Deep Pattern Mining", CVPR 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import false_discovery_control, fisher_exact
from torch import Tensor

from interp_cnn.explanation.concepts.itemsets import frequent_itemsets
from interp_cnn.explanation.concepts.medoids import medoids, pairwise_overlaps
from interp_cnn.explanation.concepts.null_model import expected_sets
from interp_cnn.explanation.concepts.occurrences import ItemBits
from interp_cnn.explanation.concepts.transactions import OFFSETS, Transactions, item_name
from interp_cnn.storage.brief import Brief

LEADING = 600  # sets of a category that are grouped into families


@dataclass(frozen=True, eq=False, repr=False)
class Pattern(Brief):
    """A set of channels that speaks for a category; all figures from the judging half.

    Attributes:
        channels: ascending, except that those at the cell itself come before those around it.
        offsets: (row, column) of each channel's cell relative to the occurrence; (0, 0) without neighbours.
        category: index of the class.
        support: share of all positions where it occurs on an image of the category.
        confidence: share of its occurrences that lie on images of the category.
        lift: confidence over the category's share of the images' positions.
        coverage: share of the category's images on which it occurs.
        p_value: Fisher's exact test, one-sided, images with the pattern against category.
        q_value: the same, adjusted for all proposed patterns.
        occurrences: (n, 3) int64, image number, row, column; on any category.
        name: "3 & 17" or "3 & 17@-1,0".
    """

    channels: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    category: int
    support: float
    confidence: float
    lift: float
    coverage: float
    p_value: float
    q_value: float
    occurrences: Tensor
    name: str

    def __len__(self) -> int:
        return len(self.channels)


@dataclass(frozen=True, eq=False, repr=False)
class MinedPatterns(Brief):
    """What mining one layer gave.

    Attributes:
        patterns: by category, then by q-value, strongest first.
        proposed: how many patterns were judged, over all categories.
        frequent: category -> number of frequent sets on the proposing half.
        expected: category -> how many there are by chance; NaN where it was not asked for.
        judging: (N,) bool, the images on which patterns were judged.
    """

    patterns: tuple[Pattern, ...]
    proposed: int
    frequent: dict[int, int]
    expected: dict[int, float]
    judging: Tensor

    def of(self, category: int) -> list[Pattern]:
        """The patterns of one category."""
        return [pattern for pattern in self.patterns if pattern.category == category]


def mine_patterns(
    transactions: Transactions,
    *,
    generator: torch.Generator,
    min_support: float = 0.01,
    lengths: tuple[int, int] = (2, 4),
    quota: int = 20,
    most_overlap: float = 0.5,
    false_discovery_rate: float = 0.05,
    null_draws: int = 0,
    background: int | None = None,
    judging: Tensor | None = None,
) -> MinedPatterns:
    """Patterns of every category.

    Args:
        transactions: of one layer; see `position_transactions`.
        generator: of the halves and the swaps.
        min_support: share of a category's positions, on the proposing half, that a set must reach.
        lengths: shortest and longest patterns, in channels.
        quota: patterns proposed per category.
        most_overlap: largest Jaccard overlap of the occurrences of two patterns of a category.
        false_discovery_rate: largest share of false patterns among the result.
        null_draws: swap-randomised tables per category; 0: none.
        background: category without patterns.
        judging: (N,) bool, the images that judge; None: half of every category, drawn.

    Raises:
        ValueError: a bound out of its range, or a category with fewer than two images.
    """
    _check(min_support, lengths, quota, most_overlap)
    if judging is None:
        judging = split_in_halves(transactions.labels, generator=generator)
    swaps = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    proposing = transactions.of(~judging)
    categories = [label for label in transactions.labels.unique().tolist() if label != background]
    chosen: list[tuple[int, tuple[int, ...]]] = []
    frequent: dict[int, int] = {}
    expected: dict[int, float] = {}
    for category in categories:
        rows = proposing.of(proposing.labels == category).items.flatten(0, 2).numpy()
        count = max(2, math.ceil(min_support * len(rows)))
        sets = frequent_itemsets(rows, min_support=count, max_length=lengths[1])
        # A set without a channel at the cell itself is another one, seen from next door.
        sets = [items for items, _ in sets if len(items) >= lengths[0] and items[0] < transactions.channels]
        frequent[category] = len(sets)
        expected[category] = math.nan
        if null_draws:
            expected[category] = expected_sets(
                rows, min_support=count, lengths=lengths, draws=null_draws, generator=swaps
            )
        best = _propose(proposing, sets, category, quota, most_overlap)
        chosen += [(category, items) for items in best]
    numbers = judging.nonzero().flatten()
    patterns = _judge(transactions.of(judging), numbers, chosen) if chosen else []
    kept = [pattern for pattern in patterns if pattern.q_value <= false_discovery_rate]
    kept.sort(key=lambda pattern: (pattern.category, pattern.q_value, -pattern.confidence))
    return MinedPatterns(tuple(kept), len(chosen), frequent, expected, judging)


def split_in_halves(labels: Tensor, *, generator: torch.Generator) -> Tensor:
    """(N,) bool, half of the images of every label (the smaller half, if the number is odd)."""
    half = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        if len(members) < 2:
            raise ValueError(
                f"category {int(label)} has {len(members)} image; expected at least 2, one per half"
            )
        half[members[torch.randperm(len(members), generator=generator)[: len(members) // 2]]] = True
    return half


def _propose(
    transactions: Transactions, sets: list[tuple[int, ...]], category: int, quota: int, most_overlap: float
) -> list[tuple[int, ...]]:
    """Of the sets whose images exceed chance most one of each family, none nearly where a better one is."""
    if not sets:
        return []
    bits = ItemBits(transactions.items, sorted({item for items in sets for item in items}))
    inside = (transactions.labels == category).numpy()
    excess, confidence = np.empty(len(sets)), np.empty(len(sets))
    for start, joined in bits.joined(sets):
        positions = np.bitwise_count(joined).sum(axis=2, dtype=np.int64)  # (n, N)
        piece = slice(start, start + len(joined))
        excess[piece] = image_excess(positions > 0, inside)
        confidence[piece] = positions[:, inside].sum(axis=1) / positions.sum(axis=1)
    order = sorted(
        np.flatnonzero(excess > 0).tolist(),
        key=lambda number: (-excess[number], -confidence[number], -len(sets[number]), sets[number]),
    )
    leading = order[:LEADING]
    if not leading:
        return []
    overlaps = pairwise_overlaps(
        np.concatenate([joined for _, joined in bits.joined([sets[n] for n in leading])])
    )
    chosen: list[int] = []
    for place in sorted(medoids(overlaps, most_overlap)):  # in the order of their rank
        if not chosen or overlaps[place, chosen].max() <= most_overlap:
            chosen.append(place)
            if len(chosen) == quota:
                break
    return [sets[leading[place]] for place in chosen]


def image_excess(hits: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """By how many standard deviations of the hypergeometric law the category's images with a set exceed chance.

    Args:
        hits: (n, N) bool, images on which each set occurs.
        inside: (N,) bool, images of the category.
    """
    images, members = len(inside), inside.sum()
    total = hits.sum(axis=1)
    mean = total * members / images
    variance = mean * (images - members) / images * (images - total) / max(images - 1, 1)
    return (hits[:, inside].sum(axis=1) - mean) / np.sqrt(np.maximum(variance, 1e-12))


def _judge(
    transactions: Transactions, numbers: Tensor, chosen: list[tuple[int, tuple[int, ...]]]
) -> list[Pattern]:
    """Figures of the chosen (category, items) on images that took no part in the choice."""
    sets = [items for _, items in chosen]
    bits = ItemBits(transactions.items, sorted({item for items in sets for item in items}))
    positions, hits = bits.counts(sets)  # (n, N)
    cells = positions.shape[1] * bits.height * bits.width
    labels = transactions.labels.numpy()
    p_values = []
    for (category, _), images in zip(chosen, hits, strict=True):
        inside = labels == category
        table = [
            [images[inside].sum(), images[~inside].sum()],
            [(~images[inside]).sum(), (~images[~inside]).sum()],
        ]
        p_values.append(float(fisher_exact(np.array(table), alternative="greater").pvalue))
    q_values = false_discovery_control(p_values).tolist()
    patterns = []
    for number, (category, items) in enumerate(chosen):
        inside = labels == category
        here, everywhere = int(positions[number, inside].sum()), int(positions[number].sum())
        confidence = here / everywhere if everywhere else 0.0
        places = torch.from_numpy(bits.places(items))
        places[:, 0] = numbers[places[:, 0]]
        patterns.append(
            Pattern(
                channels=tuple(item % transactions.channels for item in items),
                offsets=tuple(OFFSETS[item // transactions.channels] for item in items),
                category=category,
                support=here / cells,
                confidence=confidence,
                lift=confidence / float(inside.mean()),
                coverage=float(hits[number, inside].mean()),
                p_value=p_values[number],
                q_value=q_values[number],
                occurrences=places,
                name=" & ".join(item_name(item, transactions.channels) for item in items),
            )
        )
    return patterns


def _check(min_support: float, lengths: tuple[int, int], quota: int, most_overlap: float) -> None:
    if not 0 < min_support <= 1:
        raise ValueError(f"min_support is {min_support}; expected a share in (0, 1]")
    if not 1 <= lengths[0] <= lengths[1]:
        raise ValueError(f"lengths is {lengths}; expected (shortest, longest) of at least 1")
    if quota < 1:
        raise ValueError(f"quota is {quota}; expected at least 1 pattern per category")
    if not 0 <= most_overlap <= 1:
        raise ValueError(f"most_overlap is {most_overlap}; expected a share in [0, 1]")
