"""The measures of one filter beside the others' of its network: value, interval, median, rank."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from interp_cnn.report.measures import measure
from interp_cnn.report.numbers import is_known


@dataclass(frozen=True)
class Row:
    """One measure of one filter beside the others."""

    title: str
    meaning: str
    way: str
    value: str
    interval: str
    median: str
    rank: str


def measure_rows(table: pd.DataFrame, ends: pd.DataFrame) -> list[list[Row]]:
    """For each filter its measures, with the interval that `ends` may give, the median and its rank, 1 the best."""
    columns = []
    for name in table.columns:
        how, values = measure(name), table[name]
        median = how.write(values.median())
        ranks, last = (values.rank(ascending=how.better == "lower", method=end) for end in ("min", "max"))
        known = int(values.notna().sum())
        nothing = [math.nan] * len(values)
        lows, highs = (ends.get(f"{name}_{end}", nothing) for end in ("low", "high"))
        columns.append(
            [
                Row(
                    title=how.title,
                    meaning=how.meaning,
                    way=how.direction,
                    value=how.write(value),
                    interval=how.write_ends(low, high),
                    median=median,
                    rank=_rank(rank, worst, known) if how.better else "–",
                )
                for value, low, high, rank, worst in zip(values, lows, highs, ranks, last, strict=True)
            ]
        )
    return [list(rows) for rows in zip(*columns, strict=True)] if columns else [[] for _ in table.index]


def _rank(first: float, last: float, known: int) -> str:
    """`3 of 128`, or `1 to 40 of 128` where equal values share these ranks."""
    if not is_known(first):
        return "–"
    return f"{int(first)} of {known}" if first == last else f"{int(first)} to {int(last)} of {known}"
