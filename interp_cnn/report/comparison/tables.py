"""The numbers of a report as CSV and JSON, for those who go on calculating."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.figures.colours import as_array
from interp_cnn.report.comparison.contents import Contents
from interp_cnn.report.comparison.filters import class_name, filter_measures
from interp_cnn.report.decisions.class_tables import class_tables
from interp_cnn.report.numbers import p_of, value_of
from interp_cnn.storage.files import save_json, write_text


def write_tables(folder: Path, contents: Contents, slugs: list[str]) -> list[str]:
    """Write all tables into `folder/data`; returns their places from `folder`."""
    files = {"measures": measures_table(contents)}
    for network, slug in zip(contents.networks, slugs, strict=True):
        filters = filter_measures(network)
        filters.insert(0, "filter", network.filters["filter"].to_numpy())
        if "category" in network.filters.columns:
            categories = [class_name(category, contents.classes) for category in network.filters["category"]]
            filters.insert(1, "category", categories)
        files[f"filters-{slug}"] = filters
        if network.exemplars is not None:
            files[f"exemplars-{slug}"] = exemplar_table(
                network.exemplars, network.filters["filter"], contents.classes
            )
        if network.confusion is not None:
            counts = pd.DataFrame(as_array(network.confusion), columns=list(contents.classes))
            counts.insert(0, "class", list(contents.classes))
            files[f"answers-{slug}"] = counts
    if contents.curves is not None:
        files["curves"] = contents.curves
    files |= {name.removesuffix(".csv"): table for name, table in class_tables(contents.readings)}
    for name, table in files.items():
        write_text(folder / f"data/{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    save_json(folder / "data/measures.json", _nested(contents))
    save_json(folder / "data/reproduction.json", contents.reproduction)
    configurations = {
        f"data/config-{slug}.yaml": network.configuration
        for network, slug in zip(contents.networks, slugs, strict=True)
        if network.configuration
    }
    for place, text in configurations.items():
        write_text(folder / place, text)
    tables = [f"data/{name}.csv" for name in files]
    return [*tables, "data/measures.json", "data/reproduction.json", *configurations]


def measures_table(contents: Contents) -> pd.DataFrame:
    """One row per number: kind (network, baseline, difference), name, measure, value, low, high, n, p."""
    rows = []
    for network in contents.networks:
        rows += [("network", network.name, name, estimate) for name, estimate in network.summary.items()]
    for key, estimates in contents.baselines.items():
        rows += [("baseline", key, name, estimate) for name, estimate in estimates.items()]
    pair = " minus ".join(network.name for network in contents.networks[:2])
    rows += [("difference", pair, name, difference) for name, difference in contents.differences.items()]
    return pd.DataFrame(
        [
            {"kind": kind, "name": key, "measure": name, **_numbers(estimate)}
            for kind, key, name, estimate in rows
        ],
        columns=["kind", "name", "measure", "value", "low", "high", "n", "p"],
    )


def _nested(contents: Contents) -> dict[str, object]:
    """The same numbers as `measures_table`, by kind, name and measure."""
    nested: dict[str, dict[str, dict[str, object]]] = {}
    for row in measures_table(contents).to_dict("records"):
        kind, name, measure = (row.pop(key) for key in ("kind", "name", "measure"))
        nested.setdefault(f"{kind}s", {}).setdefault(name, {})[measure] = row
    return {"title": contents.title, "facts": contents.facts, "classes": list(contents.classes), **nested}


def _numbers(estimate: object) -> dict[str, float]:
    ends = {key: value_of(getattr(estimate, key, None)) for key in ("low", "high", "n")}
    return {"value": value_of(estimate), **ends, "p": p_of(estimate)}


def exemplar_table(exemplars: Exemplars, filters: Iterable[int], classes: Sequence[str]) -> pd.DataFrame:
    """One row per filter and exemplar: image, label, peak, receptive-field box."""
    boxes = exemplars.boxes
    rows = []
    for index, number in enumerate(filters):
        for rank, image in enumerate(exemplars.image_numbers[index].tolist()):
            if image < 0:
                continue
            row, column = exemplars.positions[index, rank].tolist()
            place = dict(zip(("left", "top", "right", "bottom"), boxes[index, rank].tolist(), strict=True))
            label = class_name(exemplars.labels[index, rank].item(), classes)
            entry = {"filter": number, "rank": rank + 1, "image": exemplars.names[image], "label": label}
            score = exemplars.scores[index, rank].item()
            rows.append({**entry, "score": score, "row": row, "column": column, **place})
    return pd.DataFrame(rows)
