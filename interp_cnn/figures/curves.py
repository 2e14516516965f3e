"""Curves with bands, in small multiples: what a score does while something grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from interp_cnn.figures.colours import LIGHT, Rgb, Theme
from interp_cnn.figures.style import new_figure, plain, rgb_of, series, style

STYLES = (
    "-",
    (0, (5, 1.5)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (2.5, 1)),
)  # turn by turn: a curve is known in grey too
CONTROL = (0, (1, 1.5))


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
        x: (S,).
        y: (S,).
        low: (S,) lower end of the band, or None.
        high: (S,) upper end.
        control: drawn in grey, as what the others are compared with.
        points: markers without a line.
    """

    x: NDArray
    y: NDArray
    low: NDArray | None = None
    high: NDArray | None = None
    control: bool = False
    points: bool = False


def curve_panels(
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    across: str,
    up: str,
    logarithmic: tuple[bool, bool] = (False, False),
    columns: int = 2,
    shared: bool = False,
    places: Sequence[str] | None = None,
    width: int = 760,
    theme: Theme = LIGHT,
) -> Rgb:
    """Panels of curves by name; a name has the same colour and dashes in every panel.

    Args:
        panels: title -> name -> curve.
        across: what x is.
        up: what y is.
        logarithmic: scale of (x, y).
        columns: panels in a row.
        shared: one scale of y for all panels.
        places: names of x = 0, 1, 2, ...
        width: in display pixels.
        theme: light or dark.
    """
    columns = max(1, min(columns, len(panels)))
    rows = -(-len(panels) // columns)
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    figure = new_figure(width, 250 * rows + 22 * -(-len(names) // 3) + 14, theme)
    grid = figure.add_gridspec(rows, columns)
    legend: dict[str, Line2D] = {}
    first = None
    for number, (title, curves) in enumerate(panels.items()):
        cell = grid[number // columns, number % columns]
        axes = style(figure.add_subplot(cell, sharey=first if shared else None), theme)
        first = first or axes
        axes.grid(color=theme.grid, linewidth=0.7)
        for name, curve in curves.items():
            place = names.index(name)
            colour, marker = series(theme, place)
            dashes = STYLES[(place + place // 4) % len(STYLES)]
            if curve.control:
                colour, dashes = theme.faint, CONTROL
            how = {"color": colour, "zorder": 3, "linewidth": 1.7, "linestyle": dashes}
            if curve.points:
                how |= {"linestyle": "none", "marker": marker, "ms": 5 + 1.5 * (place // 4)}
                how["fillstyle"] = ("full", "none", "left")[place // 4 % 3]
            drawn = axes.plot(curve.x, curve.y, **how)
            if curve.low is not None and curve.high is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0)
            legend.setdefault(plain(name), drawn[0])
        axes.set_title(plain(title), color=theme.ink, fontsize=10, loc="left")
        axes.margins(x=0.03)
        for letter in (letter for letter, chosen in zip("xy", logarithmic, strict=True) if chosen):
            getattr(axes, f"set_{letter}scale")("log")
            values = np.concatenate(
                [getattr(curve, letter) for panel in panels.values() for curve in panel.values()]
            )
            _logarithmic(getattr(axes, f"{letter}axis"), values[values > 0])
        if places is not None:
            axes.set_xticks(range(len(places)), [plain(name, 12) for name in places], rotation=45, ha="right")
        if number + columns >= len(panels):
            axes.set_xlabel(plain(across, 80), color=theme.faint, fontsize=9)
        if number % columns == 0:
            axes.set_ylabel(plain(up, 60), color=theme.faint, fontsize=9)
    words = {"frameon": False, "fontsize": 9, "labelcolor": theme.ink}
    figure.legend(legend.values(), legend.keys(), loc="outside upper left", ncols=3, **words)
    return rgb_of(figure)


def _logarithmic(axis: Axis, values: NDArray) -> None:
    """A logarithmic axis with plain numbers where its values span less than three powers of ten."""
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", length=0)
    if len(values) and values.max() < 1000 * values.min():
        near = values.max() < 100 * values.min()
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if near else (1, 3)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
