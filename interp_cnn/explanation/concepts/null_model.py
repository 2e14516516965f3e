"""How many frequent sets chance alone would make: swap randomisation.

Two transactions exchange one item each where neither has the other's already. The number of items of every
transaction and the number of transactions of every item stay what they were; which items come together becomes
random (Gionis, Mannila, Mielikainen, Tsaparas, "Assessing Data Mining Results via Swap Randomization", ACM TKDD
2007). All transactions are paired at random in a round, so a round is a few numpy calls.
"""

from __future__ import annotations

import numpy as np

from interp_cnn.explanation.concepts.itemsets import frequent_itemsets

ROUNDS_PER_ITEM = 5  # rounds of swaps, for each item of a transaction


def swap_randomised(transactions: np.ndarray, *, generator: np.random.Generator) -> np.ndarray:
    """A random table with the same margins.

    Args:
        transactions: (N, k) distinct items per row, -1 for none.
        generator: of the swaps.

    Returns:
        (N, k), a new array.
    """
    swapped = np.array(transactions)
    count, width = swapped.shape
    half = count // 2
    for _ in range(ROUNDS_PER_ITEM * width):
        order = generator.permutation(count)
        first, second = order[:half], order[half : 2 * half]
        columns = generator.integers(width, size=(2, half))
        here, there = swapped[first, columns[0]], swapped[second, columns[1]]
        possible = (here >= 0) & (there >= 0)
        possible &= (swapped[second] != here[:, None]).all(axis=1)
        possible &= (swapped[first] != there[:, None]).all(axis=1)
        swapped[first[possible], columns[0, possible]] = there[possible]
        swapped[second[possible], columns[1, possible]] = here[possible]
    return swapped


def expected_sets(
    transactions: np.ndarray,
    *,
    min_support: int,
    lengths: tuple[int, int],
    draws: int,
    generator: np.random.Generator,
) -> float:
    """Mean number of frequent sets with a length in [shortest, longest] over swapped tables."""
    numbers = []
    for _ in range(draws):
        swapped = swap_randomised(transactions, generator=generator)
        sets = frequent_itemsets(swapped, min_support=min_support, max_length=lengths[1])
        numbers.append(sum(len(items) >= lengths[0] for items, _ in sets))
    return float(np.mean(numbers))
