"""Replication: does a pattern come out again when the images that proposed and those that judged change places?

    replication of a pattern  =  largest Jaccard overlap of its occurrences, on all images, with those of a pattern of
                                 its category from the other mining

Occurrences, not channels, are compared: two sets of channels that fire at the same cells are one finding.
"""

from __future__ import annotations

from collections.abc import Sequence

from interp_cnn.explanation.concepts.occurrences import ItemBits, jaccard
from interp_cnn.explanation.concepts.patterns import Pattern
from interp_cnn.explanation.concepts.transactions import OFFSETS, Transactions


def replications(
    transactions: Transactions, patterns: Sequence[Pattern], others: Sequence[Pattern]
) -> list[float]:
    """Replication in [0, 1] of each of `patterns` among `others`; 0 where these have none of its category.

    Args:
        transactions: of all images, of the layer that both were mined from.
        patterns: of one mining.
        others: of the other.
    """
    sets = [pattern_items(pattern, transactions.channels) for pattern in (*patterns, *others)]
    if not sets:
        return []
    bits = ItemBits(transactions.items, sorted({item for items in sets for item in items}))
    scores = []
    for pattern, items in zip(patterns, sets, strict=False):
        rivals = [
            number
            for number, other in enumerate(others, start=len(patterns))
            if other.category == pattern.category
        ]
        ((_, pattern_bits),) = bits.joined([items])
        overlaps = [
            jaccard(pattern_bits[0], joined).max()
            for _, joined in bits.joined([sets[number] for number in rivals])
        ]
        scores.append(float(max(overlaps, default=0.0)))
    return scores


def pattern_items(pattern: Pattern, channels: int) -> tuple[int, ...]:
    """The items of a pattern, from a layer of so many channels."""
    places = (OFFSETS.index(offset) for offset in pattern.offsets)
    return tuple(channel + channels * place for channel, place in zip(pattern.channels, places, strict=True))
