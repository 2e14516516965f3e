"""Of many nearly equal sets one each: the medoid of a cluster, which lies most nearly where all of the cluster lie.

Frequent sets come in families that differ by a channel and occur at nearly the same cells. The first of a family by its
rank is a matter of chance: other images name another one. The medoid of the family comes back more often
(docs/patterns.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform


def pairwise_overlaps(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """(n, n) Jaccard overlap |A and B| / |A or B| of sets given by their bits (n, N, words); 0 where both are empty."""
    counts = np.bitwise_count(bits).sum(axis=(1, 2), dtype=np.int64)
    both = np.zeros((len(bits), len(bits)), dtype=np.int64)
    for row in range(len(bits)):
        both[row, row:] = np.bitwise_count(bits[row:] & bits[row]).sum(axis=(1, 2), dtype=np.int64)
    both = np.maximum(both, both.T)
    return both / np.maximum(counts[:, None] + counts - both, 1)


def medoids(overlaps: NDArray[np.float64], least: float) -> list[int]:
    """The medoid of every cluster of average linkage, in the order of their first members.

    Args:
        overlaps: (n, n) symmetric, 1 on the diagonal of sets that are not empty.
        least: clusters are joined while the mean overlap of their members is at least this much.

    Returns:
        For each cluster the member with the largest mean overlap with all of it; the first of equal ones.

    Example:
        >>> medoids(np.array([[1, 0.9, 0.6, 0], [0.9, 1, 0.9, 0], [0.6, 0.9, 1, 0], [0, 0, 0, 1]]), 0.5)
        [1, 3]
    """
    if len(overlaps) < 2:
        return list(range(len(overlaps)))
    distances = squareform(np.clip(1 - overlaps, 0, 1), checks=False)
    labels = fcluster(linkage(distances, "average"), 1 - least, "distance")
    found = []
    for label in dict.fromkeys(labels.tolist()):
        members = np.flatnonzero(labels == label)
        means = overlaps[np.ix_(members, members)].mean(axis=1)
        found.append(int(members[np.flatnonzero(means >= means.max() - 1e-12)[0]]))
    return found
