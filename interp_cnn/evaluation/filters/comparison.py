"""Any number of networks side by side, with baselines and paired differences.

    measures = [measure_network(network, loader, layer=..., name=..., ...) for network in networks]
    comparison = compare(measures)
    comparison.table()

Networks measured on the same images with the same seed share their resamplings, so that differences are taken
in pairs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas
import torch
from scipy.stats import norm

from interp_cnn.evaluation.filters.baselines import Row, baselines, judged_row, shuffled_images
from interp_cnn.evaluation.filters.measure_network import NetworkMeasures, measure_network
from interp_cnn.evaluation.statistics import Estimate, paired_share_difference
from interp_cnn.storage.brief import Brief
from interp_cnn.storage.files import write_text

__all__ = ["Comparison", "Difference", "Estimate", "NetworkMeasures", "compare", "measure_network"]


@dataclass(frozen=True)
class Difference:
    """`first` minus `second` in one measure, with interval.

    Attributes:
        p: two-sided p-value of no difference, below .05 where the interval leaves out zero.
        test: what gave both: "bootstrap over images", "jackknife over images" or "McNemar's exact test".
        paired: whether both networks answered the same images under the same resampling.
        bounded: whether p is an upper bound, the least that so many draws can tell.
        note: why an interval has no width, where something is known of it.
    """

    measure: str
    first: str
    second: str
    value: float
    low: float
    high: float
    n: int
    p: float
    test: str
    paired: bool
    bounded: bool = False
    note: str = ""


@dataclass(frozen=True, repr=False)
class Comparison(Brief):
    """Networks, baselines and paired differences."""

    networks: list[NetworkMeasures]
    baselines: dict[str, Row]
    differences: list[Difference]

    def _repr_html_(self) -> str:
        """A row for every measure, a column for every network and baseline, as a notebook shows it."""
        from interp_cnn.figures.notebook import table_html

        columns: dict[str, Mapping[str, Estimate]] = {one.name: one.summary for one in self.networks}
        columns |= {name.replace("_", " "): row for name, row in self.baselines.items()}
        measures = dict.fromkeys(name for row in columns.values() for name in row)
        rows = [
            [name.replace("_", " "), *(str(row[name]) if name in row else "" for row in columns.values())]
            for name in measures
        ]
        return table_html(rows, ["", *columns])

    def table(self) -> pandas.DataFrame:
        """One row per network, then one per baseline; every measure with the ends of its interval and its
        n.
        """
        rows = [_table_row(network.name, network.kind, network.summary) for network in self.networks]
        rows += [_table_row(name, "baseline", row) for name, row in self.baselines.items()]
        return pandas.DataFrame(rows)

    def differences_table(self) -> pandas.DataFrame:
        """One row per measure and pair of networks."""
        return pandas.DataFrame([asdict(difference) for difference in self.differences])

    def differences_of(self, first: str, second: str) -> dict[str, Difference]:
        """Measure to difference `first` minus `second`, as they stand in the list of networks."""
        return {
            difference.measure: difference
            for difference in self.differences
            if (difference.first, difference.second) == (first, second)
        }

    def to_json(self, path: str | Path) -> None:
        """Networks (without single filters), baselines and differences."""
        content = {
            "networks": [
                {
                    "name": network.name,
                    "kind": network.kind,
                    "layer": network.layer,
                    "measures": {key: asdict(value) for key, value in network.summary.items()},
                    "filters_per_part": network.coverage,
                }
                for network in self.networks
            ],
            "baselines": {
                name: {key: asdict(value) for key, value in row.items()}
                for name, row in self.baselines.items()
            },
            "differences": [asdict(difference) for difference in self.differences],
        }
        write_text(Path(path), json.dumps(_finite(content), indent=2) + "\n")

    def to_csv(self, folder: str | Path) -> None:
        """summary.csv, filters.csv (every filter of every network) and differences.csv."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        filters = [
            network.filters.assign(network=network.name, kind=network.kind) for network in self.networks
        ]
        write_text(folder / "summary.csv", self.table().to_csv(index=False))
        write_text(folder / "filters.csv", pandas.concat(filters).to_csv(index=False))
        write_text(folder / "differences.csv", self.differences_table().to_csv(index=False))


def compare(
    measures: list[NetworkMeasures], *, seed: int = 0, untrained: NetworkMeasures | None = None
) -> Comparison:
    """Networks side by side, with baselines on the first network's images and cells, and all paired
    differences.

    Args:
        measures: at least one network.
        seed: of the random baselines.
        untrained: a network as it was before training, shown among the baselines.
    """
    if not measures:
        raise ValueError("measures is empty; expected at least one network")
    generator = torch.Generator().manual_seed(seed)
    first = measures[0]
    rows = baselines(first.judge, first.draws, generator)
    for network in measures:
        name = "shuffled_images" if len(measures) == 1 else f"shuffled_images ({network.name})"
        rows[name] = _shuffled(network, generator)
    if fixed := _fixed_regions(measures):
        rows["best_constant"] = rows.get("best_constant", {}) | fixed
    if untrained is not None:
        rows["untrained"] = untrained.summary
    differences = [
        _difference(measure, network, other)
        for network, other in combinations(measures, 2)
        for measure in network.samples
        if measure in other.samples
    ]
    return Comparison(list(measures), rows, differences)


# What a filter's region or peak reaches that never moves: measure to the column that has it for each filter's category.
FIXED = {"part_interpretability": "fixed_region", "peak_on_part": "spot_on_part"}


def _fixed_regions(measures: Sequence[NetworkMeasures]) -> Row:
    """Means over the categories that any network has filters for; nothing where parts have no masks. Their intervals
    are those of shares of independent images, with the region that was best on all of them.
    """
    filters = pandas.concat([network.filters for network in measures])
    by_category = filters.dropna(subset="category").drop_duplicates("category")
    known = {name: by_category.dropna(subset=it) for name, it in FIXED.items() if it in by_category}
    rows = {}
    for name, table in known.items():
        shares, images = table[FIXED[name]].to_numpy(), table["n"].clip(lower=1).to_numpy()
        if len(shares):
            value = float(shares.mean())
            half = float(norm.ppf(0.975) * np.sqrt((shares * (1 - shares) / images).sum()) / len(shares))
            rows[name] = Estimate(value, max(0.0, value - half), min(1.0, value + half), int(images.sum()))
    return rows


def _shuffled(network: NetworkMeasures, generator: torch.Generator) -> Row:
    dealt = shuffled_images(network.observations.labels, generator)
    judgement = network.judge.measure_network(
        network.observations, network.categories, network.draws.rows, dealt=dealt
    )
    return judged_row(judgement, network.judge, network.draws)


def _difference(measure: str, first: NetworkMeasures, second: NetworkMeasures) -> Difference:
    names = (measure, first.name, second.name)
    paired = first.draws.key == second.draws.key and first.observations.names == second.observations.names
    if paired and measure == "accuracy":
        return _accuracy_difference(first, second)
    difference = first.samples[measure] - second.samples[measure]
    estimate, p = difference.estimate(), difference.p_value()
    test = "bootstrap over images" if len(difference.bootstrap) else "jackknife over images"
    interval = (estimate.value, estimate.low, estimate.high, estimate.n)
    note = "the same difference in every draw of the images" if estimate.low == estimate.high else ""
    return Difference(*names, *interval, p, test, paired, p == difference.bound, note)


def _accuracy_difference(first: NetworkMeasures, second: NetworkMeasures) -> Difference:
    hits = [network.observations.correct for network in (first, second)]
    known = hits[0].isfinite() & hits[1].isfinite()
    first_correct, second_correct = (correct[known].bool() for correct in hits)
    estimate, p = paired_share_difference(first_correct, second_correct)
    interval = (estimate.value, estimate.low, estimate.high, estimate.n)
    note, wrong = "", int((~first_correct).sum())
    if len(first_correct) and torch.equal(first_correct, second_correct):
        note = f"both err on the same {wrong} images" if wrong > 1 else "both err on the same image"
        note = note if wrong else "neither errs on any image"
    test = "McNemar's exact test"
    return Difference("accuracy", first.name, second.name, *interval, p, test, True, False, note)


def _table_row(name: str, kind: str, measures: Mapping[str, Estimate]) -> dict[str, object]:
    row: dict[str, object] = {"name": name, "kind": kind}
    for measure, estimate in measures.items():
        row |= {
            measure: estimate.value,
            f"{measure}_low": estimate.low,
            f"{measure}_high": estimate.high,
            f"{measure}_n": estimate.n,
        }
    return row


def _finite(content: object) -> object:
    """JSON knows no NaN: unknown numbers become null."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
