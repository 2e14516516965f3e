"""Tables for the terminal."""

from collections.abc import Mapping

from rich.table import Table

from interp_cnn.evaluation.filters.comparison import Comparison, Estimate


def summary_table(comparison: Comparison) -> Table:
    """The few numbers that are printed at the end, with 95 % intervals and the images behind them; fits 80
    columns.
    """
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", max_width=17, overflow="fold")
    for name, width in (("accuracy", 16), ("location instability", 16), ("tracking gain", 19), ("images", 7)):
        table.add_column(name, justify="right", width=width, overflow="fold")
    for one in comparison.networks:
        table.add_row(one.name, *_cells(one.summary), style="bold")
    for name, row in comparison.baselines.items():
        if not name.startswith("shuffled"):
            table.add_row(name.replace("_", " "), *_cells(row))
    return table


def _cells(row: Mapping[str, Estimate]) -> list[str]:
    """Three figures, and the numbers of images behind accuracy and positions, where they differ both."""
    measures = {"accuracy": ".3f", "location_instability": ".3f", "tracking_gain": ".2f"}
    counts = dict.fromkeys(str(row[key].n) for key in measures if key in row)
    return [_cell(row[key], style) if key in row else "" for key, style in measures.items()] + [
        "/".join(counts)
    ]


def _cell(estimate: Estimate, style: str) -> str:
    numbers = (estimate.value, estimate.low, estimate.high)
    value, low, high = (format(number, style).replace("0.", ".", 1) for number in numbers)
    return value if low == "nan" else f"{value} [{low} {high}]"
