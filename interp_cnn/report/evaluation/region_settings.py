"""Part interpretability over radii and thresholds: a table, a figure, a sentence."""

from __future__ import annotations

import numpy as np
import pandas as pd

from interp_cnn.evaluation.filters.comparison import Comparison
from interp_cnn.evaluation.filters.region_settings import EXACT, higher_in
from interp_cnn.figures.colours import Rgb
from interp_cnn.figures.curves import Curve, curve_panels
from interp_cnn.report.measures import measure


def settings_of(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """By network, part interpretability over radii and tails, where it was asked for."""
    return {it.name: it.region_settings for it in comparison.networks if it.region_settings is not None}


def settings_table(comparison: Comparison) -> pd.DataFrame:
    """One row per network and setting."""
    return pd.concat([table.assign(network=name) for name, table in settings_of(comparison).items()])


def settings_by_kind(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """The same for every kind of network: mean over its networks, such as seeds; of several the band is their range."""
    tables: dict[str, list[pd.DataFrame]] = {}
    for network in comparison.networks:
        if network.region_settings is not None:
            tables.setdefault(network.kind, []).append(network.region_settings)
    means = {}
    for kind, some in tables.items():
        values = pd.concat([table["value"] for table in some], axis=1)
        mean = some[0].assign(value=values.mean(axis=1))
        mean["by_chance"] = sum(table["by_chance"] for table in some) / len(some)
        if len(some) > 1:
            mean = mean.assign(low=values.min(axis=1), high=values.max(axis=1))
        means[kind] = mean
    return means


def settings_figure(comparison: Comparison) -> Rgb:
    """A panel per tail: part interpretability over the discs' radius, whole receptive fields at the end."""
    panels: dict[str, dict[str, Curve]] = {}
    places: list[str] = []
    kinds = settings_by_kind(comparison)
    for kind, table in kinds.items():
        for tail, rows in table.groupby("tail"):
            cells = rows["cells"].tolist()
            places = [count if count == EXACT else f"{count} cell{'s' * (count > 1)}" for count in cells]
            x = np.arange(len(rows))
            y, low, high, chance = (
                rows[column].to_numpy() for column in ("value", "low", "high", "by_chance")
            )
            panel = panels.setdefault(f"{100 * float(str(tail)):g} % of the cells", {})
            panel[kind] = Curve(x, y, low, high)
            panel[f"{kind}, by chance"] = Curve(x, chance, control=True)
    panels = {  # networks first, for their colours; then chance
        title: {name: panel[name] for name in (*kinds, *(f"{kind}, by chance" for kind in kinds))}
        for title, panel in panels.items()
    }
    up = measure("part_interpretability").title.lower()
    return curve_panels(panels, across="radius of the regions", up=up, shared=True, places=places)


def settings_line(comparison: Comparison) -> str:
    """In how many settings each kind of network is the highest."""
    settings = settings_by_kind(comparison)
    counts = higher_in(list(settings.values()))
    wins = ", ".join(f"{kind} in {count}" for kind, count in zip(settings, counts, strict=True))
    return f"Part interpretability is highest, of {len(next(iter(settings.values())))} settings: {wins}"
