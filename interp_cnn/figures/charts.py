"""Charts: distributions over filters, training curves, bars.

Series differ in colour *and* marker or line style, and every baseline carries its name and value beside its
line.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from interp_cnn.figures.colours import LIGHT, Rgb, Theme, as_array
from interp_cnn.figures.style import new_figure, plain, rgb_of, series, style

LABELS = 150  # display pixels that the row names take
ROW_LETTERS = 20
DASHES = (0, (4, 2.5))


def distributions(
    values: Mapping[str, ArrayLike],
    *,
    label: str,
    baselines: Mapping[str, float] | None = None,
    width: int = 760,
    theme: Theme = LIGHT,
) -> Rgb:
    """A measure over the filters of each network: every filter a dot, stacked where they crowd, median as a
    bar.

    Args:
        values: network -> one value per filter; those that are not finite are left out and counted in the
            row's name.
        label: of the axis, with unit and direction ("location instability, lower is better").
        baselines: drawn as labelled vertical lines through all rows.
        width: in display pixels.
        theme: light or dark.
    """
    samples = {name: as_array(numbers).astype(float) for name, numbers in values.items()}
    known = {name: numbers[np.isfinite(numbers)] for name, numbers in samples.items()}
    lines = _Baselines(baselines or {}, list(known.values()), width)
    figure = new_figure(width, 92 * len(samples) + lines.height + 58, theme)
    axes = style(figure.add_subplot(), theme)
    axes.set(xlim=(lines.low, lines.high), ylim=(len(samples) - 0.45, -0.55))
    axes.grid(axis="x", color=theme.grid, linewidth=0.7)
    for row, numbers in enumerate(known.values()):
        colour, marker = series(theme, row)
        places, heights = _stacked(numbers, lines.low, lines.high, bins=(width - LABELS) // 6)
        axes.scatter(
            places, row + heights, s=13, color=colour, marker=marker, alpha=0.8, linewidths=0, zorder=3
        )
        if len(numbers):
            middle = float(np.median(numbers))
            axes.plot([middle, middle], [row - 0.43, row + 0.43], color=theme.ink, linewidth=2, zorder=4)
    axes.set_yticks(range(len(samples)), [_row_name(name, samples[name]) for name in samples])
    axes.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=theme.ink)
    axes.set_xlabel(f"{plain(label)}   (dot: one filter, bar: median)", color=theme.ink, fontsize=9.5)
    lines.draw(axes, theme)
    return rgb_of(figure)


def bars(
    values: Mapping[str, Mapping[str, float]],
    *,
    label: str,
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    theme: Theme = LIGHT,
) -> Rgb:
    """Horizontal bars from zero, each with its number: a row per name, in it one bar per series.

    Args:
        values: series -> name -> value; rows in the order of the names' largest values.
        label: of the axis.
        intervals: series -> name -> (low, high), drawn as lines; the number then stands beyond the line.
        theme: light or dark.
    """
    intervals = intervals or {}
    largest = {
        name: max(numbers.get(name, -np.inf) for numbers in values.values())
        for series_ in values.values()
        for name in series_
    }
    names = sorted(largest, key=lambda name: largest[name], reverse=True)
    ends = [0.0, *(value for numbers in values.values() for value in numbers.values())]
    ends += [end for pairs in intervals.values() for pair in pairs.values() for end in pair]
    low, high = min(ends), max(ends) or (1.0 if min(ends) == 0 else 0.0)
    room = 0.08 * (high - low or 1)
    figure = new_figure(760, len(names) * (14 * len(values) + 10) + 22 * len(values) + 62, theme)
    axes = style(figure.add_subplot(), theme)
    axes.set(xlim=(low - room if low < 0 else 0, high + room), ylim=(len(names) - 0.5, -0.5))
    axes.grid(axis="x", color=theme.grid, linewidth=0.7)
    thickness = 0.8 / max(1, len(values))
    for number, (series_name, numbers) in enumerate(values.items()):
        rows = np.arange(len(names)) + (number - (len(values) - 1) / 2) * thickness
        lengths = [numbers.get(name, 0.0) for name in names]
        axes.barh(
            rows,
            lengths,
            height=0.9 * thickness,
            color=series(theme, number)[0],
            zorder=2,
            label=plain(series_name, 100),
        )
        for row, length, name in zip(rows, lengths, names, strict=True):
            pair = intervals.get(series_name, {}).get(name, (length, length))
            if pair != (length, length):
                axes.plot(pair, [row, row], color=theme.ink, linewidth=1.4, zorder=4)
            axes.annotate(
                f"{length:.3g}",
                (max(length, 0.0, *pair), row),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color=theme.ink,
                fontsize=8.5,
            )
    axes.set_yticks(range(len(names)), [plain(name, ROW_LETTERS) for name in names])
    axes.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=theme.ink)
    axes.axvline(0, color=theme.faint, linewidth=0.8, zorder=3)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=all(float(end).is_integer() for end in ends)))
    axes.set_xlabel(plain(label, 90), color=theme.ink, fontsize=9.5)
    figure.legend(loc="outside upper left", frameon=False, fontsize=9.5, labelcolor=theme.ink)
    return rgb_of(figure)


def training_curves(curves: pd.DataFrame, *, width: int = 760, columns: int = 3, theme: Theme = LIGHT) -> Rgb:
    """Small multiples, one per quantity: the colour is the network, dashed lines are training, full ones
    validation.

    Args:
        curves: columns epoch, split, quantity, value, network; panels and series in order of appearance.
        width: in display pixels.
        columns: panels per row.
        theme: light or dark.
    """
    missing = {"epoch", "split", "quantity", "value", "network"} - set(curves.columns)
    if missing or curves.empty:
        given = f"columns {', '.join(map(str, curves.columns))}, {len(curves)} rows"
        raise ValueError(
            f"curves: {given}; expected epoch, split, quantity, value, network and at least one row"
        )
    quantities, networks = list(dict.fromkeys(curves.quantity)), list(dict.fromkeys(curves.network))
    columns = max(1, min(columns, len(quantities)))
    rows = -(-len(quantities) // columns)
    figure = new_figure(width, 185 * rows + 30, theme)
    grid = figure.add_gridspec(rows, columns)
    legend: dict[str, Line2D] = {}
    for number, quantity in enumerate(quantities):
        axes = style(figure.add_subplot(grid[number // columns, number % columns]), theme)
        axes.grid(color=theme.grid, linewidth=0.7)
        for (network, split), line in curves[curves.quantity == quantity].groupby(
            ["network", "split"], sort=False
        ):
            line = line.sort_values("epoch")
            colour, marker = series(theme, networks.index(network))
            dashes = DASHES if split == "train" else "-"
            dot = marker if len(line) < 3 else None
            drawn = axes.plot(
                line.epoch, line.value, color=colour, linestyle=dashes, linewidth=1.6, marker=dot, ms=4
            )
            legend.setdefault(f"{plain(network, ROW_LETTERS)}, {plain(split)}", drawn[0])
        axes.set_title(plain(quantity, 30), color=theme.ink, fontsize=10, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.02)
        if number + columns >= len(quantities):
            axes.set_xlabel("epoch", color=theme.faint, fontsize=9)
    style_of_words = {"frameon": False, "fontsize": 9.5, "labelcolor": theme.ink}
    ncols = 4 if 13 * sum(map(len, legend)) <= width else 2  # or its last words would be cut
    figure.legend(legend.values(), legend.keys(), loc="outside upper left", ncols=ncols, **style_of_words)
    return rgb_of(figure)


class _Baselines:
    """Labelled vertical lines, their words stacked in as many levels as they need, and the range of the
    axis.
    """

    def __init__(self, lines: Mapping[str, float], samples: Sequence[NDArray], width: int) -> None:
        self.lines = {name: float(value) for name, value in lines.items() if np.isfinite(value)}
        everything = (
            np.concatenate([*samples, list(self.lines.values())]) if samples or self.lines else np.zeros(0)
        )
        low, high = (everything.min(), everything.max()) if everything.size else (0.0, 1.0)
        margin = 0.04 * (high - low) or 0.5
        self.low, self.high = float(low - margin), float(high + margin)
        self.levels = self._free_levels(width - LABELS)
        self.height = 17 * (1 + max(self.levels.values(), default=-1))

    def words(self, name: str) -> str:
        return plain(f"{name} {self.lines[name]:.3f}".replace("-", "−"))

    def leftward(self, name: str) -> bool:
        return self.lines[name] > (self.low + self.high) / 2

    def _free_levels(self, pixels: int) -> dict[str, int]:
        """The lowest level for each label at which it meets no other label; 6.4 pixels a letter at 9
        points.
        """
        taken: list[list[tuple[float, float]]] = []
        levels = {}
        for name in sorted(self.lines, key=lambda name: self.lines[name]):
            place, length = (
                (self.lines[name] - self.low) / (self.high - self.low),
                6.4 * len(self.words(name)) / pixels,
            )
            start, end = (place - length, place) if self.leftward(name) else (place, place + length)
            free = (n for n, row in enumerate(taken) if all(end < a or start > b for a, b in row))
            levels[name] = level = next(free, len(taken))
            if level == len(taken):
                taken.append([])
            taken[level].append((start, end))
        return levels

    def draw(self, axes: Axes, theme: Theme) -> None:
        for name, value in self.lines.items():
            axes.axvline(value, color=theme.faint, linewidth=1.1, linestyle=DASHES, zorder=2)
            axes.annotate(
                self.words(name),
                (value, 1),
                xycoords=axes.get_xaxis_transform(),
                xytext=(0, 4 + 12.5 * self.levels[name]),
                textcoords="offset points",
                ha="right" if self.leftward(name) else "left",
                color=theme.faint,
                fontsize=9,
            )


def _row_name(name: str, numbers: NDArray) -> str:
    """A network's name, its number of filters, and how many of them have no value."""
    silent = int((~np.isfinite(numbers)).sum())
    return (
        plain(name, ROW_LETTERS)
        + f"\n{len(numbers) - silent} filters"
        + (f"\n{silent} without value" if silent else "")
    )


def _stacked(numbers: NDArray, low: float, high: float, *, bins: int) -> tuple[NDArray, NDArray]:
    """Dots of a strip chart: the values, and heights that stack those of one bin around 0, within +-0.42."""
    numbers = np.sort(numbers)
    bin_of = np.clip(((numbers - low) / (high - low) * bins).astype(int), 0, bins - 1)
    rank = np.arange(len(numbers)) - np.searchsorted(bin_of, bin_of)  # 0, 1, 2, ... within its bin
    side = np.where(rank % 2 == 0, -1, 1) * ((rank + 1) // 2)  # 0, 1, -1, 2, -2, ...
    return numbers, side * min(0.09, 0.42 / max(1, np.abs(side).max(initial=0)))
