"""Where sets of items occur: rows of bits over positions, grouped by image.

    occurrences({a, b, c}) = positions(a) & positions(b) & positions(c)

Each image's positions fill whole 64-bit words, so the same bits give the number of positions (count the ones)
and of images (any word of the image is not zero). Sets are joined a few hundred at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

CHUNK_WORDS = 1 << 18  # words of joined bits at a time: 2 MB
BLOCK_CELLS = 1 << 26  # items x positions that are spread out as bytes before they are packed


class ItemBits:
    """Positions of items as bits.

    Args:
        items: (N, h, w, k), -1 for none.
        wanted: the items that sets will be made of.
    """

    def __init__(self, items: Tensor, wanted: Sequence[int]):
        self.images, self.height, self.width = items.shape[:3]
        self.row_of = {item: row for row, item in enumerate(wanted)}
        cells = self.height * self.width
        self.words = -(-cells // 64)
        flat = items.numpy().reshape(self.images, cells, -1)
        table = np.full(max(int(flat.max(initial=-1)), *wanted, 0) + 2, len(wanted), dtype=np.int64)
        table[list(wanted)] = np.arange(len(wanted))  # the last entry, -1, is no item
        self.bits = np.empty((len(wanted), self.images, self.words), dtype=np.uint64)
        block = max(1, BLOCK_CELLS // (64 * self.words * (len(wanted) + 1)))
        for start in range(0, self.images, block):
            rows = table[flat[start : start + block]]  # (b, cells, k)
            spread = np.zeros((len(wanted) + 1, len(rows), 64 * self.words), dtype=bool)
            spread[rows, np.arange(len(rows))[:, None, None], np.arange(cells)[:, None]] = True
            packed = np.packbits(spread[:-1], axis=2, bitorder="little")
            self.bits[:, start : start + block] = packed.view(np.uint64)

    def joined(self, sets: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, np.ndarray]]:
        """Bits (n, N, words) of pieces of the sets, each with the number of its first set."""
        step = max(1, CHUNK_WORDS // max(1, self.images * self.words))
        for start in range(0, len(sets), step):
            piece = sets[start : start + step]
            longest = max(map(len, piece))
            rows = [
                [self.row_of[item] for item in (*items, *[items[0]] * (longest - len(items)))]
                for items in piece
            ]
            bits = self.bits[[row[0] for row in rows]]
            for column in list(zip(*rows, strict=True))[1:]:
                bits &= self.bits[list(column)]
            yield start, bits

    def counts(self, sets: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
        """Occurrences of every set: positions (n, N) int32 in each image, and images (n, N) bool."""
        positions = np.zeros((len(sets), self.images), dtype=np.int32)
        for start, bits in self.joined(sets):
            positions[start : start + len(bits)] = np.bitwise_count(bits).sum(axis=2, dtype=np.int32)
        return positions, positions > 0

    def places(self, items: tuple[int, ...]) -> np.ndarray:
        """Occurrences (n, 3) of one set: image, row, column, in that order."""
        ((_, bits),) = self.joined([items])
        cells = np.unpackbits(bits[0].view(np.uint8), axis=1, bitorder="little")[
            :, : self.height * self.width
        ]
        image, cell = np.nonzero(cells)
        return np.column_stack((image, cell // self.width, cell % self.width)).astype(np.int64)


def jaccard(bits: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Overlap |A and B| / |A or B| of one set's bits (N, words) with others' (n, N, words); 0 where both are
    empty.
    """
    both = np.bitwise_count(others & bits).sum(axis=(1, 2), dtype=np.int64)
    either = np.bitwise_count(others | bits).sum(axis=(1, 2), dtype=np.int64)
    return both / np.maximum(either, 1)
