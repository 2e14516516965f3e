"""The numbers of a gallery: a row per unit, and the sources side by side with bootstrap intervals over units.

Every figure of a unit is a mean over its pictures. Sources are compared by means over units; units, not pictures, are
drawn anew for the intervals, within their class. The two ratios are of means: window over ceiling, window over control.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
import torch

from interp_cnn.discovery.verification import VerifiedConcepts
from interp_cnn.evaluation.statistics import Estimate, Sampled, resampling, weighted_mean
from interp_cnn.report.concepts.measures import averaged_over_concepts

RESAMPLES = 1000


def units_table(verified: Sequence[VerifiedConcepts], classes: Sequence[str]) -> pd.DataFrame:
    """A row per unit of every source and kind."""
    rows = []
    for concepts in verified:
        for number, (concept, figures) in enumerate(
            zip(concepts.units.concepts, concepts.units.rows, strict=True)
        ):
            rows.append(
                {
                    "source": concepts.source.name,
                    "kind": concepts.units.kind,
                    "number": number,
                    "unit": concept.name,
                    "category": classes[concept.category],
                    **concepts.measures.iloc[number].to_dict(),
                    **figures,
                    "effect": float(concepts.effects[number, 0]),
                    "effect_of_others": float(concepts.effects[number, 1]),
                    **dict(_of_pictures(concepts, number)),
                }
            )
    return pd.DataFrame(rows)


def _of_pictures(concepts: VerifiedConcepts, number: int) -> Iterator[tuple[str, float]]:
    """Means over a unit's pictures, `window_reactivation` and so on."""
    for mode, arrays in concepts.pictures.items():
        rows = arrays["concepts"] == number
        for name, values in arrays.items():
            if name not in ("concepts", "pictures"):
                yield f"{mode}_{name}", float(torch.from_numpy(values[rows]).nanmean())


def summary_table(verified: Sequence[VerifiedConcepts], units: pd.DataFrame) -> pd.DataFrame:
    """Columns source, kind, measure, value, low, high, n: of units, and of each source's decoder (kind "decoder")."""
    rows = []
    for concepts in verified:
        selected = units[(units.source == concepts.source.name) & (units.kind == concepts.units.kind)]
        for measure, estimate in _estimates(selected).items():
            rows.append((concepts.source.name, concepts.units.kind, measure, estimate))
        facts = {**concepts.units.facts, "kept": len(selected)}
        rows += [
            (concepts.source.name, concepts.units.kind, name, Estimate(value))
            for name, value in facts.items()
        ]
    for name, quality in {concepts.source.name: concepts.quality for concepts in verified}.items():
        rows += [(name, "decoder", measure, estimate) for measure, estimate in quality.items()]
    columns = ["source", "kind", "measure", "value", "low", "high", "n"]
    return pd.DataFrame([(*start, e.value, e.low, e.high, e.n) for *start, e in rows], columns=columns)


def _estimates(units: pd.DataFrame) -> dict[str, Estimate]:
    if len(units) < 2:
        return {}
    strata = torch.from_numpy(units.category.astype("category").cat.codes.to_numpy().copy()).long()
    draws = resampling(len(units), resamples=RESAMPLES, strata=strata)
    names = [
        *averaged_over_concepts(),
        *(name for name in units.columns if name.endswith(_ENDINGS) or "_class_of." in name),
    ]
    means = {
        name: weighted_mean(torch.tensor(units[name].to_numpy(dtype=float)), draws.rows) for name in names
    }
    if "window_reactivation" in means:
        window = means["window_reactivation"]
        means["window_over_ceiling"] = window / means["full_reactivation"]
        means["window_over_control"] = window / means["window_control"]
    return {name: Sampled.from_rows(values, draws).estimate() for name, values in means.items()}


_ENDINGS = ("_reactivation", "_control", "_reciprocal_rank", "_own_class", "_witnessed")
