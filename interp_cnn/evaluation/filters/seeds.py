"""Several trainings of each kind of network: means over seeds, and differences paired by seed.

Intervals over images say how sure a figure is for one trained network; these say how sure it is for the recipe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from interp_cnn.evaluation.filters.measure_network import NetworkMeasures
from interp_cnn.evaluation.statistics import over_seeds

REFERENCE = "plain"


def seed_table(
    measures: Sequence[NetworkMeasures], seeds: Sequence[int], *, reference: str = REFERENCE
) -> pd.DataFrame:
    """Mean of every measure over the seeds of each kind, with Student's t interval.

    Args:
        measures: measured networks; those of one kind differ in their seed.
        seeds: the training seed of each.
        reference: kind whose figures are subtracted, seed by seed.

    Returns:
        One row per kind and measure: kind, measure, mean, low, high, seeds, and the same for the difference to the
        reference (difference, difference_low, difference_high; NaN for the reference itself).

    Raises:
        ValueError: two networks of one kind with the same seed, or lists of different length.
    """
    if len(measures) != len(seeds):
        raise ValueError(f"seeds has {len(seeds)} entries for {len(measures)} networks")
    figures: dict[tuple[str, int], dict[str, float]] = {}
    for network, seed in zip(measures, seeds, strict=True):
        if (network.kind, seed) in figures:
            raise ValueError(f"two {network.kind} networks have seed {seed}; expected one of each")
        figures[network.kind, seed] = {name: estimate.value for name, estimate in network.summary.items()}
    rows = []
    for kind in dict.fromkeys(network.kind for network in measures):
        of_kind = {seed: values for (name, seed), values in figures.items() if name == kind}
        of_reference = {seed: figures[reference, seed] for seed in of_kind if (reference, seed) in figures}
        for measure in next(iter(of_kind.values())):
            mean = over_seeds([values.get(measure, math.nan) for values in of_kind.values()])
            pairs = [
                of_kind[seed].get(measure, math.nan) - of_reference[seed].get(measure, math.nan)
                for seed in of_reference
            ]
            gap = over_seeds([] if kind == reference else pairs)
            rows.append(
                {
                    "kind": kind,
                    "measure": measure,
                    "mean": mean.value,
                    "low": mean.low,
                    "high": mean.high,
                    "seeds": mean.n,
                    "difference": gap.value,
                    "difference_low": gap.low,
                    "difference_high": gap.high,
                }
            )
    return pd.DataFrame(rows)


def seed_markdown(table: pd.DataFrame, measures: Sequence[str]) -> str:
    """The table with one row per kind: mean [interval over seeds], and the difference to the reference."""
    lines = ["| network | " + " | ".join(name.replace("_", " ") for name in measures) + " |"]
    lines.append("|---|" + "---|" * len(measures))
    for kind, group in table.groupby("kind", sort=False):
        cells = []
        for measure in measures:
            entry = group[group["measure"] == measure]
            cells.append(_cell(entry.iloc[0]) if len(entry) else "")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: pd.Series) -> str:
    text = f"{row['mean']:.3f}"
    if math.isfinite(row["low"]):  # one seed has no interval
        text += f" [{row['low']:.3f}, {row['high']:.3f}]"
    if math.isfinite(row["difference"]):
        text += f"; {row['difference']:+.3f}"
    if math.isfinite(row["difference_low"]):
        text += f" [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"
    return text
