"""One score for every image (or grid), network and method: as a table with intervals, and networks in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from numpy.typing import NDArray

from interp_cnn import figures
from interp_cnn.evaluation.statistics import Sampled, benjamini_hochberg, weighted_mean
from interp_cnn.figures.colours import Rgb, Theme
from interp_cnn.studies.findings import Averages, bracketed, number, rows_of

SURE = 0.05


class Ranking:
    """Mean scores of methods by network.

    Args:
        scores: (U, networks, methods), a row an image or a grid; NaN where there is none.
        networks: their names; the first two are compared in pairs, unless the second is the untrained one.
        methods: names.
        averages: of U rows.
    """

    def __init__(
        self, scores: NDArray, networks: Sequence[str], methods: Sequence[str], averages: Averages
    ) -> None:
        self.scores, self.networks, self.methods, self.averages = scores, networks, methods, averages
        self.pair = networks[:2] if len(networks) > 1 and networks[1] != "untrained" else ()
        self.table = self._table()
        self.differences = self._differences()

    def best(self, network: str) -> Any:
        """The row of the method with the highest score."""
        rows = rows_of(self.table[self.table.network == network])
        return max(rows, key=lambda row: row.value)

    def ahead(self) -> tuple[list[str], list[str]]:
        """Methods with which the first network of the pair is surely ahead of the second, and behind it."""
        sure = self.differences[self.differences.q < SURE] if self.pair else self.differences
        return [list(sure[sure.difference * sign > 0].method) if self.pair else [] for sign in (1, -1)]  # pyright: ignore

    def shown(self, controls: Mapping[str, str]) -> pd.DataFrame:
        """A row a method and control, a column a network, in words.

        Args:
            controls: name -> what stands in its row under every network.
        """
        rows = []
        entries = {(row.network, row.method): row for row in rows_of(self.table)}
        apart = {row.method: row for row in rows_of(self.differences)} if self.pair else {}
        for method in self.methods:
            row = {"method": method}
            for network in self.networks:
                entry = entries[network, method]
                row[network] = bracketed(entry.value, entry.low, entry.high, "{:.3f}")
            if self.pair:
                difference = apart[method]
                row[f"{self.pair[0]} - {self.pair[1]}"] = bracketed(
                    difference.difference, difference.low, difference.high, "{:+z.3f}"
                )
                row["q"] = "< 0.0001" if difference.q < 1e-4 else number(difference.q, "{:.4f}")
            rows.append(row)
        rows += [{"method": name, **dict.fromkeys(self.networks, text)} for name, text in controls.items()]
        return pd.DataFrame(rows).fillna("")

    def bars(self, label: str, theme: Theme) -> Rgb:
        """A bar a method and network."""
        values = {network: {} for network in self.networks}
        intervals = {network: {} for network in self.networks}
        for row in rows_of(self.table):
            values[row.network][row.method] = row.value
            intervals[row.network][row.method] = (row.low, row.high)
        return figures.bars(values, label=label, intervals=intervals, theme=theme)

    def _table(self) -> pd.DataFrame:
        rows = []
        for i, network in enumerate(self.networks):
            for j, method in enumerate(self.methods):
                estimate = self.averages.of(self.scores[:, i, j])
                ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
                rows.append({"network": network, "method": method, **ends})
        return pd.DataFrame(rows)

    def _differences(self) -> pd.DataFrame:
        """First minus second network on the same rows, each p-value that of its interval, adjusted over the table."""
        rows = []
        for j, method in enumerate(self.methods if self.pair else ()):
            values = torch.as_tensor(self.scores[:, 0, j] - self.scores[:, 1, j], dtype=torch.float64)
            sampled = Sampled.from_rows(weighted_mean(values, self.averages.draws.rows), self.averages.draws)
            estimate = sampled.estimate()
            ends = {
                "difference": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "p": sampled.p_value(),
            }
            rows.append({"method": method, **ends})
        table = pd.DataFrame(rows, columns=["method", "difference", "low", "high", "p"])
        table["q"] = benjamini_hochberg(torch.tensor(table.p.to_numpy(dtype=float))).numpy()
        return table
