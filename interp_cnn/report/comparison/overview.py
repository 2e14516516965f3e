"""What the first page shows: the table of measures, how they spread over the filters, and how to get the
same again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp_cnn import figures
from interp_cnn.report.album import Album, Chart
from interp_cnn.report.baselines import IN_THE_TABLE, baseline, baseline_meaning
from interp_cnn.report.comparison.contents import Contents
from interp_cnn.report.comparison.filters import filter_measures
from interp_cnn.report.comparison.verdict import significance
from interp_cnn.report.measures import Measure, in_order, known_in, measure, shown_in
from interp_cnn.report.numbers import duration, is_known, number, p_value, value_of

LINES = ("random_cell", "centre", "best_constant", "oracle")
FRONT = 6  # measures on the first page
MOST_QUANTITIES = 4  # of the training, with their last values


@dataclass(frozen=True)
class Cell:
    """A number, its interval and, for a difference, its p-value and outcome: good, bad or open."""

    value: str
    interval: str = ""
    p: str = ""
    outcome: str = ""


@dataclass(frozen=True)
class TableRow:
    """One network (with its place among the series), the difference, or one baseline."""

    name: str
    meaning: str
    cells: list[Cell]
    place: int | None = None


@dataclass(frozen=True)
class MeasureTable:
    """Networks above, what it takes no network to reach below; one column per measure."""

    measures: list[Measure]
    networks: list[TableRow]
    difference: TableRow | None
    baselines: list[TableRow]
    more_baselines: list[TableRow]
    tests: str
    images: str


@dataclass(frozen=True)
class MoreRow:
    """One of the other measures: a number per network and their difference."""

    measure: Measure
    networks: list[Cell]
    difference: Cell | None


def measure_table(contents: Contents) -> MeasureTable | None:
    """The first page's measures that some network knows; None where there is none."""
    names = _front(contents)
    if not names:
        return None

    def cells(estimates: Mapping[str, Any]) -> list[Cell]:
        pairs = [(measure(name), estimates.get(name)) for name in names]
        return [
            Cell("" if it is None else how.write(value_of(it)), how.write_interval(it)) for how, it in pairs
        ]

    baselines = {
        key: TableRow(baseline(key), baseline_meaning(key), cells(estimates))
        for key, estimates in contents.baselines.items()
        if any(is_known(value_of(estimates.get(name))) for name in names)
    }
    networks = [
        TableRow(network.name, network.description, cells(network.summary), place)
        for place, network in enumerate(contents.networks)
    ]
    differences = [contents.differences.get(name) for name in names]
    difference = None
    if any(it is not None for it in differences):
        pair = [_difference_cell(measure(name), it) for name, it in zip(names, differences, strict=True)]
        formula = " − ".join(network.name for network in contents.networks[:2])
        difference = TableRow("Difference", formula, pair)
    named = (getattr(it, "test", "") for it in differences)
    tests = " or ".join(dict.fromkeys(test for test in named if test))
    return MeasureTable(
        [measure(name) for name in names],
        networks,
        difference,
        [row for key, row in baselines.items() if key in IN_THE_TABLE],
        [row for key, row in baselines.items() if key not in IN_THE_TABLE],
        tests,
        _images_behind(contents, names),
    )


def _front(contents: Contents) -> list[str]:
    return known_in("front", [network.summary for network in contents.networks], FRONT)


def _images_behind(contents: Contents, names: list[str]) -> str:
    """How many images the first network's numbers rest on, measures with as many together; empty if
    unknown.
    """
    counts: dict[int, list[str]] = {}
    for name in names:
        count = getattr(contents.networks[0].summary.get(name), "n", 0)
        if is_known(count) and count:
            counts.setdefault(int(count), []).append(measure(name).title.lower())
    return "; ".join(f"{', '.join(titles)}: {count:,}" for count, titles in counts.items())


def more_measures(contents: Contents) -> list[MoreRow]:
    """All other measures that some network knows, one row each."""
    rows, front = [], _front(contents)
    for name in _known_measures(contents):
        how = measure(name)
        if name not in front:
            estimates = [network.summary.get(name) for network in contents.networks]
            cells = [Cell(how.write(value_of(it)), how.write_interval(it)) for it in estimates]
            difference = contents.differences.get(name)
            rows.append(
                MoreRow(how, cells, None if difference is None else _difference_cell(how, difference))
            )
    return rows


def parts_tracked(contents: Contents) -> list[tuple[int, str, str]]:
    """Per network its place, its name and how many filters track which part, where images say where parts are."""
    rows = []
    for place, network in enumerate(contents.networks):
        table = network.filters
        if {"part", "tracks"} <= set(table.columns) and table["part"].notna().any():
            counts = table.loc[table["tracks"].astype(bool), "part"].value_counts()
            words = ", ".join(f"{part} {count}" for part, count in counts.items()) or "none"
            rows.append((place, network.name, f"{words} (of {len(table)} filters)"))
    return rows


def _known_measures(contents: Contents) -> list[str]:
    """Measures of which some network has a number; those of parts have none where no image says where parts are."""
    known = (
        name
        for network in contents.networks
        for name, estimate in network.summary.items()
        if is_known(value_of(estimate))
    )
    return in_order(list(dict.fromkeys(known)))


def without_parts(contents: Contents) -> bool:
    """Whether parts were asked about, and no image says where they are."""
    name = "location_instability"
    summaries = [network.summary for network in contents.networks if name in network.summary]
    return bool(summaries) and not any(is_known(value_of(summary[name])) for summary in summaries)


def spread_charts(contents: Contents, album: Album) -> list[Chart]:
    """One chart per measure of the filters: every filter of every network, baselines as lines."""
    tables = {network.name: filter_measures(network) for network in contents.networks}
    charts = []
    for name in shown_in("spread"):
        values = {
            network_name: table[name].to_numpy()
            for network_name, table in tables.items()
            if name in table.columns
        }
        if not any(np.isfinite(numbers).any() for numbers in values.values()):
            continue
        lines = {key: value_of(contents.baselines.get(key, {}).get(name)) for key in LINES}
        lines = {baseline(key): value for key, value in lines.items() if is_known(value)}
        how = measure(name)
        label = f"{how.title.lower()}, {how.direction}"
        medians = [
            f"{network_name} {how.write(float(np.nanmedian(v)))}"
            for network_name, v in values.items()
            if np.isfinite(v).any()
        ]
        alt = f"{how.title} of every filter; medians: {', '.join(medians)}"
        charts.append(
            album.chart(
                f"spread-{name}",
                lambda theme, v=values, t=label, b=lines: figures.distributions(
                    v, label=t, baselines=b, width=550, theme=theme
                ),
                alt,
            )
        )
    return charts


def curve_chart(contents: Contents, album: Album) -> Chart | None:
    """Training curves of all networks."""
    curves = contents.curves
    if curves is None or curves.empty:
        return None
    quantities = ", ".join(dict.fromkeys(map(str, curves["quantity"])))
    return album.chart(
        "training",
        lambda theme: figures.training_curves(curves, width=560, columns=2, theme=theme),
        f"Training curves by epoch: {quantities}",
    )


@dataclass(frozen=True)
class TrainingTable:
    """What the training of each network came to: the last epoch's values, training and validation."""

    quantities: list[str]
    rows: list[tuple[int, str, str, str, list[str]]]  # place, name, epochs, time, values


def training_table(contents: Contents) -> TrainingTable | None:
    """The last values of what all networks have on validation images; None without training."""
    if contents.curves is None or contents.curves.empty:
        return None
    by_epoch = contents.curves.sort_values("epoch", kind="stable")
    latest = by_epoch.groupby(["network", "split", "quantity"])["value"].last().to_dict()
    validated = contents.curves[contents.curves["split"] == "val"]
    common = validated.groupby("quantity")["network"].nunique()
    names = [str(name) for name in common.index[common == len(contents.networks)]]
    names.sort(key=lambda name: ("accuracy" not in name, "loss" not in name))
    names = names[:MOST_QUANTITIES]
    seconds = contents.reproduction.get("seconds", {})
    rows = []
    for place, network in enumerate(contents.networks):
        curves = contents.curves[contents.curves["network"] == network.name]
        if curves.empty:
            continue
        values = [
            " / ".join(
                number(float(latest[key])) if (key := (network.name, split, name)) in latest else "–"
                for split in ("train", "val")
            )
            for name in names
        ]
        took = duration(seconds[network.name]) if network.name in seconds else "–"
        rows.append((place, network.name, str(int(curves["epoch"].max()) + 1), took, values))
    return TrainingTable(names, rows)


def facts(contents: Contents) -> dict[str, str]:
    """What was trained, with a line on each network."""
    networks = {
        network.name: f"{network.parameters:,} parameters, {len(network.filters)} filters in layer {network.layer}"
        + (f"; {network.description}" if network.description else "")
        for network in contents.networks
    }
    return {**{name: str(text) for name, text in contents.facts.items()}, **networks}


def reproduction_rows(reproduction: Mapping[str, Any]) -> list[tuple[str, str | list[tuple[str, str]]]]:
    """Name and text, or name and rows of a small table; the command itself stands elsewhere."""
    rows: list[tuple[str, str | list[tuple[str, str]]]] = []
    for name, value in reproduction.items():
        if name == "command":
            continue
        in_seconds = "duration" in name or "seconds" in name
        if isinstance(value, Mapping):
            rows.append((_words(name), [(_words(key), _text(it, in_seconds)) for key, it in value.items()]))
        else:
            rows.append((_words(name), _text(value, in_seconds)))
    return rows


def _difference_cell(how: Measure, difference: Any) -> Cell:
    outcome = "open"
    if how.better and significance(difference):
        outcome = "good" if (value_of(difference) > 0) == (how.better == "higher") else "bad"
    interval = how.write_interval(difference)
    return Cell(how.write_difference(value_of(difference)), interval, p_value(difference), outcome)


def _words(name: str) -> str:
    return "training took" if name == "seconds" else str(name).replace("_", " ")


def _text(value: Any, in_seconds: bool) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, float | int) and in_seconds:
        return duration(value)
    return number(value) if isinstance(value, float) else str(value)
