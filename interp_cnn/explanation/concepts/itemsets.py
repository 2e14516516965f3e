"""Frequent itemsets: which sets of items (channels) occur together in at least so many transactions.

Depth-first Eclat on bitsets (Zaki, "Scalable Algorithms for Association Mining", IEEE TKDE 2000): the
occurrences of a set are a row of bits, one per transaction, and

    occurrences(P + {a, b}) = occurrences(P + {a}) & occurrences(P + {b})        support = number of bits

Items are ordered from rare to frequent and every set is found under its rarest item, within the transactions
that hold that item only (projection), so rows are short. What remains is done for thousands of candidates per
numpy call: siblings are paired, pairs that already fail with the rarest item are left out, rows are taken,
joined and counted (`np.bitwise_count`) in pieces that stay in the cache. Memory is bounded by the depth times
one batch of rows, beside the transactions (about 10 bytes per item of a transaction) and the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

Itemset = tuple[tuple[int, ...], int]

BATCH_WORDS = 1 << 20  # rows of bits that one step of the search may hold: 8 MB
CACHE_WORDS = 1 << 14  # words that are joined and counted at a time
BLOCK_ENTRIES = 1 << 20  # items of transactions that lie together: a few MB
PAIR_COUNTS = 1 << 22  # counts of pairs that are held at a time: 32 MB
MOST_DIRECT_ITEMS = 1 << 22  # up to this item number a table finds an item's rank


def frequent_itemsets(
    transactions: Sequence[Sequence[int]] | np.ndarray, *, min_support: int, max_length: int
) -> list[Itemset]:
    """All non-empty sets of at most `max_length` items that occur in at least `min_support` transactions.

    Args:
        transactions: sequences of non-negative integers; an item that comes twice in one transaction counts
            once, empty transactions are allowed. Or an integer array (N, k), one transaction per row, where
            -1 means "no item"; this needs no Python lists and is read several times as fast.
        min_support: number of transactions, at least 1.
        max_length: items in the largest sets, at least 1.

    Returns:
        (items in ascending order, support), by length and then by items.

    Raises:
        ValueError: a negative or fractional item, or a bound below 1.
    """
    for name, bound in (("min_support", min_support), ("max_length", max_length)):
        if isinstance(bound, bool) or not isinstance(bound, int | np.integer) or bound < 1:
            raise ValueError(f"{name} is {bound!r}; expected an integer of at least 1")
    table = _Table.read(transactions, int(min_support))
    frequent = np.arange(len(table.items))
    itemsets: list[tuple[np.ndarray, np.ndarray]] = [
        (frequent[:, None], table.supports)  # ranks (n, length), supports (n,)
    ]
    step = max(1, PAIR_COUNTS // max(1, len(frequent)))
    for start in range(0, len(frequent) if max_length > 1 else 0, step):
        firsts = frequent[start : start + step]
        for first, counts in zip(firsts.tolist(), _pair_counts(table, firsts), strict=True):
            itemsets += _sets_below(table, first, counts, int(min_support), int(max_length))
    return _in_order(itemsets, table.items)


class _Block(NamedTuple):
    """Transactions of about the same length, few enough for the cache.

    `rows` (b, width): frequent items as ranks, F where there is none; `owners`: the transactions of rank 0, then
    those of rank 1, ...; those of rank r start at starts[r].
    """

    rows: np.ndarray
    owners: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, items: int) -> _Block:
        owners = np.argsort(rows.ravel(), kind="stable") // rows.shape[1]  # 16 bits are sorted by radix
        starts = np.concatenate(([0], np.cumsum(np.bincount(rows.ravel(), minlength=items))))
        return cls(rows, owners.astype(np.int32), starts)

    def having(self, rank: int) -> np.ndarray:
        """Those transactions (n, width) that have an item."""
        owners = self.owners[self.starts[rank] : self.starts[rank + 1]]
        return self.rows.take(owners.astype(np.intp), axis=0)  # with 64 bits numpy copies whole rows


class _Table(NamedTuple):
    """Frequent items (F,) and their supports (F,) by rank, rarest first, and the transactions."""

    items: np.ndarray
    supports: np.ndarray
    blocks: list[_Block]

    @classmethod
    def read(cls, transactions: Sequence[Sequence[int]] | np.ndarray, min_support: int) -> _Table:
        numbers, lengths, known = _read(transactions)
        counts = np.bincount(numbers, minlength=len(known))
        order = np.argsort(counts, kind="stable")
        order = order[counts[order] >= min_support]
        rank_of = np.full(len(known), len(order), dtype=np.uint16 if len(order) < 1 << 16 else np.int32)
        rank_of[order] = np.arange(len(order), dtype=rank_of.dtype)
        starts = np.cumsum(lengths) - lengths
        blocks = []
        width_class = np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int8)  # at most twice too wide
        for size in np.unique(width_class[lengths > 0]).tolist():
            members = np.flatnonzero((width_class == size) & (lengths > 0))
            step = max(64, BLOCK_ENTRIES >> size)
            for part in np.split(members, range(step, len(members), step)):
                filled = np.arange(lengths[part].max()) < lengths[part, None]
                rows = np.full(filled.shape, len(order), dtype=rank_of.dtype)
                rows[filled] = rank_of[numbers[_ranges(starts[part], lengths[part])]]
                blocks.append(_Block.of(rows, len(order)))
        return cls(known[order], counts[order], blocks)


def _pair_counts(table: _Table, firsts: np.ndarray) -> np.ndarray:
    """In how many transactions each item comes with each of `firsts` (n, F); 0 for one that is no more frequent."""
    counts = np.zeros((len(firsts), len(table.items) + 1), dtype=np.int64)
    for block in table.blocks:
        for row, first in zip(counts, firsts.tolist(), strict=True):
            row += np.bincount(block.having(first).ravel(), minlength=len(row))
    return np.where(np.arange(len(table.items)) > firsts[:, None], counts[:, :-1], 0)


def _read(transactions: Sequence[Sequence[int]] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct items of every transaction, one after the other, as places in `known`; lengths; `known`."""
    if isinstance(transactions, np.ndarray):
        return _read_array(transactions)
    lengths = np.fromiter(map(len, transactions), dtype=np.int64)
    flat = list(chain.from_iterable(transactions))
    items = np.array(flat) if flat else np.zeros(0, dtype=np.int64)
    if items.ndim != 1 or items.dtype.kind not in "iu" or (items.dtype.kind == "i" and (items < 0).any()):
        wrong = next((item for item in flat if not isinstance(item, int | np.integer) or item < 0), flat[0])
        raise ValueError(f"transactions hold the item {wrong!r}; expected non-negative integers")
    known, numbers = np.unique(items, return_inverse=True)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    distinct = np.unique(owners * max(len(known), 1) + numbers)
    owners, numbers = np.divmod(distinct, max(len(known), 1))
    return numbers, np.bincount(owners, minlength=len(lengths)), known


def _read_array(transactions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if transactions.ndim != 2 or transactions.dtype.kind not in "iu":
        layout = f"the shape {transactions.shape} and the type {transactions.dtype}"
        raise ValueError(f"transactions has {layout}; expected an integer array (N, k)")
    rows = np.sort(transactions, axis=1)  # (N, k)
    if rows.size and rows.dtype.kind == "i" and rows.min() < -1:
        raise ValueError(
            f"transactions hold the item {rows.min()}; expected non-negative integers, -1 for none"
        )
    distinct = rows >= 0
    distinct[:, 1:] &= rows[:, 1:] != rows[:, :-1]
    items = rows[distinct]
    if items.size and items.max() < MOST_DIRECT_ITEMS:
        known = np.arange(int(items.max()) + 1)
    else:
        known, items = np.unique(items, return_inverse=True)
    return items, distinct.sum(axis=1), known


def _sets_below(
    table: _Table, first: int, counts: np.ndarray, min_support: int, max_length: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frequent sets of two and more items whose rarest item is `first`: ranks (n, length), supports (n,)."""
    partners = np.flatnonzero(counts >= min_support)  # (m,)
    yield np.column_stack((np.full_like(partners, first), partners)), counts[partners]
    if max_length < 3 or len(partners) < 2:
        return
    row_of = np.full(len(table.items) + 1, len(partners), dtype=np.int32)
    row_of[partners] = np.arange(len(partners), dtype=np.int32)
    pieces = [_packed(row_of[block.having(first)], len(partners)) for block in table.blocks]
    bits = np.concatenate(pieces, axis=1)  # (m, words)
    root = _Batch(np.arange(len(partners))[:, None], bits, np.array([len(partners)]))
    allowed = np.ones((len(partners), len(partners)), dtype=bool)
    for sets, supports in _extensions(root, allowed, min_support, max_length - 1):
        yield np.column_stack((np.full(len(sets), first), partners[sets])), supports


def _packed(rows: np.ndarray, height: int) -> np.ndarray:
    """Bits (height, words): which of the rows each of the transactions (n, width) holds; row `height` is none."""
    cells = np.zeros((height, -(-len(rows) // 64) * 64), dtype=bool)
    kept = np.flatnonzero(rows.ravel() < height)
    cells[rows.ravel()[kept], kept // rows.shape[1]] = True
    return np.packbits(cells, axis=1).view(np.uint64)


class _Batch(NamedTuple):
    """Siblings: sets (n, length) of rows of the projection, their bits (n, words), and where every family of
    sets that differ in the last item only ends (families,).
    """

    sets: np.ndarray
    bits: np.ndarray
    family_ends: np.ndarray


def _extensions(
    batch: _Batch, allowed: np.ndarray, min_support: int, max_length: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All frequent sets below a batch. `allowed` (m, m): pairs that are frequent together with the first item;
    filled while pairs are counted, asked from then on.
    """
    length, words = batch.sets.shape[1] + 1, batch.bits.shape[1]
    ends = np.repeat(batch.family_ends, np.diff(batch.family_ends, prepend=0))
    partners = ends - np.arange(len(ends)) - 1  # (n,) younger siblings
    last = batch.sets[:, -1]
    if length == 2:
        allowed[:] = False
    pending: list[_Batch] = []
    for start, stop in _pieces(partners, BATCH_WORDS // words):
        elder = np.repeat(np.arange(start, stop), partners[start:stop])
        younger = _ranges(np.arange(start, stop) + 1, partners[start:stop])
        if length > 2:
            possible = allowed[last[elder], last[younger]]
            elder, younger = elder[possible], younger[possible]
        deeper = length < max_length
        supports, bits = _joined(batch.bits, elder, younger, min_support, keep=deeper)
        frequent = supports >= min_support
        elder, younger = elder[frequent], younger[frequent]
        if not len(elder):
            continue
        if length == 2:
            allowed[last[elder], last[younger]] = True
        sets = np.column_stack((batch.sets[elder], last[younger]))
        yield sets, supports[frequent]
        if deeper:
            family_ends = np.append(np.flatnonzero(np.diff(elder)) + 1, len(elder))
            child = _Batch(sets, bits, family_ends)
            if length == 2:  # all pairs must be known before anything is built on them
                pending.append(child)
            else:
                yield from _extensions(child, allowed, min_support, max_length)
    for child in pending:
        yield from _extensions(child, allowed, min_support, max_length)


def _joined(
    bits: np.ndarray, elder: np.ndarray, younger: np.ndarray, min_support: int, *, keep: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Supports (n,) of pairs of rows, and the joined bits of the frequent pairs."""
    words = bits.shape[1]
    step = max(1, CACHE_WORDS // words)
    supports = np.empty(len(elder), dtype=np.int64)
    kept = [np.empty((0, words), dtype=bits.dtype)]
    for start in range(0, len(elder), step):
        joined = bits[elder[start : start + step]]
        joined &= bits[younger[start : start + step]]
        counts = np.bitwise_count(joined).sum(axis=1, dtype=np.int64)
        supports[start : start + step] = counts
        if keep:
            kept.append(joined[counts >= min_support])
    return supports, np.concatenate(kept)


def _pieces(sizes: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of sizes whose sum is at most `most`, or of one size that is larger."""
    sums = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = sums[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(sums, before + most, side="right")))
        yield start, stop
        start = stop


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The integers start, ..., start + length - 1 of every pair, one range after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def _in_order(itemsets: list[tuple[np.ndarray, np.ndarray]], items: np.ndarray) -> list[Itemset]:
    """Sets by length, then by items."""
    result: list[Itemset] = []
    for length in sorted({sets.shape[1] for sets, _ in itemsets}):
        same = [(sets, supports) for sets, supports in itemsets if sets.shape[1] == length]
        sets = np.sort(items[np.concatenate([sets for sets, _ in same])], axis=1)  # (n, length)
        supports = np.concatenate([supports for _, supports in same])
        order = np.lexsort(sets.T[::-1])
        result += zip(map(tuple, sets[order].tolist()), supports[order].tolist(), strict=True)
    return result
