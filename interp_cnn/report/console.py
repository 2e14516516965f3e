"""Tables for the terminal."""

from collections.abc import Mapping

from rich.table import Table

from interp_cnn.evaluation.filters.comparison import Comparison, Estimate
from interp_cnn.report.baselines import baseline
from interp_cnn.report.measures import known_in, measure

COLUMNS = 3  # of figures with their intervals fit 80 letters


def summary_table(comparison: Comparison) -> Table:
    """The few numbers that are printed at the end, with 95 % intervals and the images behind them. Three of them fit
    80 columns; with more, figures are folded before names are.
    """
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", min_width=8, max_width=17, overflow="fold")
    names = known_in("terminal", [network.summary for network in comparison.networks], COLUMNS)
    for name in names:
        table.add_column(
            measure(name).heading, justify="right", width=19 if measure(name).signed else 16, overflow="fold"
        )
    table.add_column("images", justify="right", width=7, overflow="fold")
    for network in comparison.networks:
        table.add_row(network.name, *_cells(network.summary, names), style="bold")
    for name, row in comparison.baselines.items():
        if not name.startswith("shuffled") and any(column in row for column in names):
            table.add_row(baseline(name), *_cells(row, names))
    return table


def _cells(row: Mapping[str, Estimate], names: list[str]) -> list[str]:
    """A figure per measure, and the numbers of images behind them, where they differ all of them."""
    counts = dict.fromkeys(str(row[name].n) for name in names if name in row)
    figures = [
        _cell(row[name], ".2f" if measure(name).signed else ".3f") if name in row else "" for name in names
    ]
    return [*figures, "/".join(counts)]


def _cell(estimate: Estimate, style: str) -> str:
    numbers = (estimate.value, estimate.low, estimate.high)
    value, low, high = (format(number, style).replace("0.", ".", 1) for number in numbers)
    return value if low == "nan" else f"{value} [{low} {high}]"
