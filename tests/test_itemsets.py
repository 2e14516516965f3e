"""Frequent itemsets against brute force, against mlxtend, and by hand."""

import warnings
from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_cnn.explanation.concepts import itemsets
from interp_cnn.explanation.concepts.itemsets import frequent_itemsets

TRANSACTIONS = st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=25)


def counted_one_by_one(transactions, min_support, max_length):
    """Every subset of every transaction, counted."""
    counts = Counter()
    for transaction in transactions:
        items = sorted(set(transaction))
        for length in range(1, max_length + 1):
            counts.update(combinations(items, length))
    frequent = [(items, count) for items, count in counts.items() if count >= min_support]
    return sorted(frequent, key=lambda found: (len(found[0]), found[0]))


def as_array(transactions, width=8):
    return np.array([[*row, *[-1] * (width - len(row))] for row in transactions], dtype=int).reshape(
        -1, width
    )


@settings(deadline=None, max_examples=150)
@given(TRANSACTIONS, st.integers(1, 6), st.integers(1, 6))
def test_equal_to_brute_force_from_lists_and_from_an_array(transactions, min_support, max_length):
    expected = counted_one_by_one(transactions, min_support, max_length)
    bounds = {"min_support": min_support, "max_length": max_length}
    assert frequent_itemsets(transactions, **bounds) == expected
    assert frequent_itemsets(as_array(transactions), **bounds) == expected
    assert frequent_itemsets(as_array(transactions).astype(np.int16)[:, ::-1], **bounds) == expected


@settings(deadline=None, max_examples=40)
@given(TRANSACTIONS, st.integers(1, 4))
def test_tiny_batches_and_pieces_change_nothing(transactions, min_support):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(itemsets, "BATCH_WORDS", 3)
        patch.setattr(itemsets, "CACHE_WORDS", 2)
        patch.setattr(itemsets, "BLOCK_ENTRIES", 20)
        patch.setattr(itemsets, "PAIR_COUNTS", 5)
        found = frequent_itemsets(transactions * 4, min_support=min_support, max_length=5)
    assert found == counted_one_by_one(transactions * 4, min_support, 5)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.sampled_from([0, 1, 5_000_000, 2**40, 2**62]), max_size=5), max_size=12))
def test_large_item_numbers_and_transactions_of_unequal_length(transactions):
    transactions = [*transactions, list(range(100, 1300))]
    expected = counted_one_by_one(transactions[:-1], 2, 3)
    assert frequent_itemsets(transactions, min_support=2, max_length=3) == expected
    array = as_array(transactions[:-1], width=5)
    assert frequent_itemsets(array, min_support=2, max_length=3) == expected


@pytest.fixture(scope="module")
def correlated():
    """3,000 transactions of 12 of 40 items; the items of a topic like to come together."""
    generator = np.random.default_rng(0)
    topics = generator.gamma(0.15, size=(12, 40)) + 0.01
    weights = np.log(topics[generator.integers(12, size=3000)])
    return (weights + generator.gumbel(size=weights.shape)).argsort(axis=1)[:, -12:]


def test_equal_to_mlxtend_on_correlated_transactions(correlated):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from mlxtend.frequent_patterns import fpgrowth

        table = pd.DataFrame([[item in row for item in range(40)] for row in correlated.tolist()])
        theirs = fpgrowth(table, min_support=90 / 3000, max_len=5)
    expected = sorted(
        ((tuple(sorted(items)), round(support * 3000)) for support, items in theirs.values.tolist()),
        key=lambda found: (len(found[0]), found[0]),
    )
    assert len(expected) > 3000
    assert frequent_itemsets(correlated, min_support=90, max_length=5) == expected


def test_by_hand():
    transactions = [[1, 2, 3], [2, 1], [2, 2, 2], [], [7, 1, 2]]
    assert frequent_itemsets(transactions, min_support=2, max_length=3) == [((1,), 3), ((2,), 4), ((1, 2), 3)]


def test_nothing_to_find():
    assert frequent_itemsets([], min_support=1, max_length=3) == []
    assert frequent_itemsets([[], []], min_support=1, max_length=3) == []
    assert frequent_itemsets(np.empty((0, 4), dtype=int), min_support=1, max_length=3) == []
    assert frequent_itemsets(np.full((3, 4), -1), min_support=1, max_length=3) == []
    assert frequent_itemsets([[1], [2]], min_support=2, max_length=3) == []


def test_the_order_of_transactions_and_the_names_of_items_do_not_matter(correlated):
    generator = np.random.default_rng(1)
    names = generator.permutation(1000)[:40]
    expected = frequent_itemsets(correlated, min_support=200, max_length=4)
    renamed = frequent_itemsets(
        names[generator.permutation(correlated)][:, ::-1], min_support=200, max_length=4
    )
    back = {name: item for item, name in enumerate(names.tolist())}
    assert {(frozenset(back[name] for name in items), n) for items, n in renamed} == {
        (frozenset(items), n) for items, n in expected
    }


def test_results_are_plain_integers(correlated):
    items, support = frequent_itemsets(correlated, min_support=300, max_length=2)[-1]
    assert type(support) is int and all(type(item) is int for item in items)


@pytest.mark.parametrize(
    ("transactions", "bounds", "sentence"),
    [
        ([[1, -2]], {}, "item -2; expected non-negative"),
        ([[1, -1]], {}, "item -1; expected non-negative"),
        ([[1, 2.5]], {}, "item 2.5; expected non-negative"),
        ([["a"]], {}, "item 'a'; expected non-negative"),
        ([[2**70]], {}, "item 1180591620717411303424; expected non-negative"),
        (np.array([[1, -2]]), {}, "item -2; expected non-negative"),
        (np.array([[1.0, 2.0]]), {}, "float64; expected an integer array"),
        (np.array([1, 2]), {}, r"shape \(2,\)"),
        ([[1]], {"min_support": 0}, "min_support is 0; expected"),
        ([[1]], {"min_support": 0.5}, "min_support is 0.5; expected"),
        ([[1]], {"max_length": 0}, "max_length is 0; expected"),
    ],
)
def test_wrong_arguments_are_named(transactions, bounds, sentence):
    with pytest.raises(ValueError, match=sentence):
        frequent_itemsets(transactions, **{"min_support": 1, "max_length": 3, **bounds})
