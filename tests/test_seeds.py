import math
from types import SimpleNamespace

import pytest

from interp_cnn.evaluation.filters.seeds import seed_markdown, seed_table
from interp_cnn.evaluation.statistics import Estimate


def network(kind, accuracy):
    return SimpleNamespace(kind=kind, summary={"accuracy": Estimate(accuracy, 0, 1, 100)})


NETWORKS = [network("plain", 0.5), network("plain", 0.7), network("mask", 0.6), network("mask", 0.8)]


def test_means_and_paired_differences_over_seeds():
    table = seed_table(NETWORKS, [0, 1, 0, 1]).set_index("kind")
    assert table.loc["plain", "mean"] == pytest.approx(0.6)
    assert table.loc["mask", "mean"] == pytest.approx(0.7)
    assert table.loc["mask", "seeds"] == 2
    assert table.loc["mask", "difference"] == pytest.approx(0.1)
    assert table.loc["mask", "difference_high"] == pytest.approx(0.1)  # the same in both pairs: no spread
    assert math.isnan(table.loc["plain", "difference"])
    # Student's t with one degree of freedom: 12.706 standard errors of 0.1
    assert table.loc["plain", "high"] == pytest.approx(0.6 + 12.706 * 0.1, rel=1e-3)


def test_a_seed_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match="two plain networks have seed 3"):
        seed_table(NETWORKS[:2], [3, 3])


def test_the_markdown_has_a_row_per_kind():
    text = seed_markdown(seed_table(NETWORKS, [0, 1, 0, 1]), ["accuracy"])
    assert text.count("\n| ") == 2
    assert "; +0.100 [" in text
