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
    return {one.name: one.region_settings for one in comparison.networks if one.region_settings is not None}


def settings_table(comparison: Comparison) -> pd.DataFrame:
    """One row per network and setting."""
    return pd.concat([table.assign(network=name) for name, table in settings_of(comparison).items()])


def settings_figure(comparison: Comparison) -> Rgb:
    """A panel per tail: part interpretability over the discs' radius, whole receptive fields at the end."""
    panels: dict[str, dict[str, Curve]] = {}
    places: list[str] = []
    for name, table in settings_of(comparison).items():
        for tail, rows in table.groupby("tail"):
            places = [f"{cells} cells" if cells != EXACT else EXACT for cells in rows["cells"]]
            x = np.arange(len(rows))
            y, low, high, chance = (
                rows[column].to_numpy() for column in ("value", "low", "high", "by_chance")
            )
            panel = panels.setdefault(f"{100 * float(str(tail)):g} % of the cells", {})
            panel[name] = Curve(x, y, low, high)
            panel[f"{name}, by chance"] = Curve(x, chance)
    up = measure("part_interpretability").title.lower()
    return curve_panels(panels, across="radius of the regions", up=up, shared=True, places=places)


def settings_line(comparison: Comparison) -> str:
    """In how many settings each network is the highest."""
    settings = settings_of(comparison)
    counts = higher_in(list(settings.values()))
    wins = ", ".join(f"{name} in {count}" for name, count in zip(settings, counts, strict=True))
    return f"Part interpretability is highest, of {len(next(iter(settings.values())))} settings: {wins}"
