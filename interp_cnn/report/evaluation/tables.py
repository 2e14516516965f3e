"""Measured networks as files without pages: tables (CSV, JSON, Markdown) and figures.

filters.csv, summary.csv, differences.csv, summary.json, summary.md
figures/MEASURE.png          every filter of every network, with the baselines
figures/parts.png            how many filters follow which part
figures/positions-NAME.png   where a network's filters look, over the mean image
figures/part-interpretability-settings.png, part_interpretability_settings.csv   over radii and tails, if asked for
figures/filters-NAME.png     its best, middle and worst filters on their strongest images
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from interp_cnn import figures
from interp_cnn.evaluation.filters.comparison import Comparison, Estimate, NetworkMeasures
from interp_cnn.figures.colours import Rgb
from interp_cnn.figures.png import save_png
from interp_cnn.report.album import places
from interp_cnn.report.baselines import baseline
from interp_cnn.report.evaluation.ranked_filters import ranked_filters
from interp_cnn.report.evaluation.region_settings import (
    settings_figure,
    settings_line,
    settings_of,
    settings_table,
)
from interp_cnn.report.measures import MEASURES, known_in, measure, shown_in
from interp_cnn.report.numbers import p_value
from interp_cnn.storage.files import write_text

SHOWN = 24  # filters on a sheet of positions
SIDE = 180  # pixels of one of its pictures


def write_measures(
    comparison: Comparison,
    folder: Path,
    images: Mapping[str, Callable[[int], Tensor]] | None = None,
) -> None:
    """All tables and figures.

    Args:
        comparison: the measured networks.
        folder: what is written into.
        images: by network, number of an image in the measured order to its pixels; None: no pictures of filters.
    """
    comparison.to_csv(folder)
    comparison.to_json(folder / "summary.json")
    write_text(folder / "summary.md", markdown(comparison))
    if settings_of(comparison):
        content = settings_table(comparison).to_csv(index=False)
        write_text(folder / "part_interpretability_settings.csv", content)
    for name, picture in measure_figures(comparison):
        save_png(folder / "figures" / f"{name}.png", picture)
    if not images:
        return
    for network in comparison.networks:
        picture = ranked_filters(network, images[network.name])
        if picture is not None:
            save_png(folder / "figures" / f"filters-{_file_name(network.name)}.png", picture, colours=256)


def markdown(comparison: Comparison) -> str:
    """The table of networks and baselines, and the differences; every figure with its interval and n."""
    columns = known_in("table", [network.summary for network in comparison.networks], len(MEASURES))
    lines = ["| | " + " | ".join(measure(name).heading for name in columns) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    rows = [(network.name, network.summary) for network in comparison.networks]
    rows += [(baseline(name), row) for name, row in comparison.baselines.items()]
    for name, row in rows:
        cells = [_figure(row[column]) if column in row else "" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    notes = ["", "95 % intervals by resampling the n images; ↑ higher, ↓ lower is better.", ""]
    notes += [f"- {it.name}: {coverage_line(it)}" for it in comparison.networks if it.coverage]
    for difference in comparison.differences:
        p = p_value(difference).replace("\u00a0", " ")
        interval = f"[{difference.low:.3f}, {difference.high:.3f}], n = {difference.n}"
        size = f"{difference.value:+.3f} {interval}, {p or 'p unknown'} ({difference.test})"
        note = f"; {difference.note}" if difference.note else ""
        notes.append(
            f"- {measure(difference.measure).title}: {difference.first} - {difference.second} = {size}{note}"
        )
    if settings_of(comparison):
        notes.append(f"- {settings_line(comparison)}")
    return "\n".join(lines + notes) + "\n"


def coverage_line(network: NetworkMeasures) -> str:
    """How many filters cover how many parts."""
    tracking, parts = sum(network.coverage.values()), len(network.coverage)
    covered = sum(count > 0 for count in network.coverage.values())
    return (
        f"{tracking} of {len(network.filters)} filters follow a part; they cover {covered} of {parts} parts"
    )


def measure_figures(comparison: Comparison) -> Iterator[tuple[str, Rgb]]:
    """Names and pictures of all figures that these networks have numbers for."""
    for name in shown_in("spread"):
        values = {
            network.name: network.filters[name].to_numpy()
            for network in comparison.networks
            if name in network.filters.columns
        }
        if any(np.isfinite(numbers).any() for numbers in values.values()):
            how = measure(name)
            lines = {
                baseline(key): row[name].value
                for key, row in comparison.baselines.items()
                if name in row and not key.startswith("shuffled")
            }
            label = f"{how.title.lower()}, {how.direction}"
            yield name, figures.distributions(values, label=label, baselines=lines)
    covered = {f"{it.name}: {coverage_line(it)}": it.coverage for it in comparison.networks if it.coverage}
    if covered:
        yield "parts", figures.bars(covered, label="filters that follow the part (false-discovery rate 5 %)")
    if settings_of(comparison):
        yield "part-interpretability-settings", settings_figure(comparison)
    for network in comparison.networks:
        picture = positions_sheet(network)
        if picture is not None:
            yield f"positions-{_file_name(network.name)}", picture


def positions_sheet(network: NetworkMeasures) -> Rgb | None:
    """Where filters look on the images of their class, over the mean of all images: from the best tracking gain to
    the worst (without landmarks, from the strongest peak), evenly picked; None if no filter fires.
    """
    observed, table = network.observations, network.filters
    ranking = table["tracking_gain"] if table["tracking_gain"].notna().any() else table["score"]
    ranked = ranking[table["category"].notna()].dropna().sort_values(ascending=False, kind="stable")
    if ranked.empty:
        return None
    picked = np.unique(np.linspace(0, len(ranked) - 1, SHOWN).round().astype(int))
    centres, spacing = observed.field.cell_centres(), min(observed.field.stride)
    how, pictures, captions = measure(str(ranking.name)), [], []
    for number, value in zip(ranked.index[picked].tolist(), ranked.iloc[picked].tolist(), strict=True):
        cells, scores = (values.squeeze(1) for values in observed.answers.block(torch.tensor([number])))
        of_category = (observed.labels == network.categories[number]) & (scores > 0)
        counts = torch.bincount(cells[of_category].long(), minlength=len(centres))
        pictures.append(places(network.mean_image, centres, counts, spacing=spacing, side=SIDE))
        captions.append(f"filter {number}, {table['category'][number]}: {how.write(value)}")
    title = f"{network.name}: where filters look (number, class: {how.title.lower()})"
    return figures.contact_sheet(pictures, captions, columns=min(6, len(pictures)), title=title)


def _file_name(name: str) -> str:
    return re.sub("[^A-Za-z0-9_.]+", "-", name).strip("-")


def _figure(estimate: Estimate) -> str:
    """`0.404 [0.352, 0.446], n = 359`; without an interval where there is none."""
    ends = f" [{estimate.low:.3f}, {estimate.high:.3f}]" if math.isfinite(estimate.low) else ""
    return f"{estimate.value:.3f}{ends}, n = {estimate.n}"
