"""What the distractor study found: answer, figures and tables from its measures."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from interp_cnn import figures
from interp_cnn.evaluation.statistics import benjamini_hochberg, paired_permutation_p_value
from interp_cnn.figures.colours import Rgb, Theme
from interp_cnn.studies.findings import Averages, DistractorSettings, Figure, Findings, bracketed, number

PLACES = ("digit", "strokes", "paper")
CONTROLS = ("even", "ink")
REMOVALS = ("random ink", "random pixels", "the strokes")


class DistractorFindings:
    """Tables of a study's measures, and what is told and drawn from them."""

    def __init__(
        self, study: DistractorSettings, arrays: dict[str, NDArray], once: list, kinds: tuple[str, ...]
    ) -> None:
        self.study, self.arrays, self.once, self.kinds = study, arrays, once, kinds
        self.averages = Averages(len(arrays["correct"]), resamples=study.resamples, seed=study.seed)
        self.where, self.gains, self.between = self._where(), self._gains(), self._between()

    def findings(self, facts: dict[str, str]) -> Findings:
        """Everything that the page says."""
        shown = {"Where relevance lies, and what removing red pixels does": self._shown()}
        tables = {"shares": self.where, "removal": self.gains}
        if len(self.between):
            shown[f"{self.kinds[0]} minus {self.kinds[1]}, the same images"] = self._shown_between()
            tables["differences"] = self.between
        return Findings(
            "Distractor study: digits beside strokes that mean nothing",
            "Which share of the relevance lies on the digit, on distractor strokes and on empty paper, and does "
            "removing the red pixels raise the certainty?",
            self._answer(),
            facts,
            self._figures(),
            tables,
            shown,
            [
                "digit, strokes, paper: shares of positive relevance; red on strokes: share of the negative relevance; "
                "pointing: the maximum lies on the digit; rank: of the most relevant pixels, as many as the digit has, "
                "the share on it; red removed: mean gain in log p/(1-p) of the predicted class; raised: share of the "
                "images in which certainty rises; q: paired permutation test against painting as many random ink "
                "pixels (second table: against no difference), adjusted after Benjamini and Hochberg over the table. "
                "even: every pixel alike; ink: the brightness itself; random ink, random pixels, the strokes: painted "
                "over instead of red pixels. Brackets: 95 % intervals over the images."
            ],
        )

    def _where(self) -> pd.DataFrame:
        rows = []
        for i, kind in enumerate(self.kinds):
            for j, method in enumerate((*self.study.methods, *CONTROLS)):
                row: dict[str, str | float] = {"network": kind, "method": method}
                for k, place in enumerate(PLACES):
                    estimate = self.averages.of(self.arrays["shares"][:, i, j, k])
                    row |= {
                        place: estimate.value,
                        f"{place}_low": estimate.low,
                        f"{place}_high": estimate.high,
                    }
                for k, rule in enumerate(("pointing", "rank")):
                    row[rule] = self.averages.of(self.arrays["hits"][:, i, j, k]).value
                if method in self.study.signed:
                    red = self.arrays["red"][:, i, self.study.signed.index(method)]
                    row |= {
                        f"red_{place}": self.averages.of(red[:, k]).value for k, place in enumerate(PLACES)
                    }
                rows.append(row)
        return pd.DataFrame(rows)

    def _gains(self) -> pd.DataFrame:
        rows = []
        for i, kind in enumerate(self.kinds):
            controls = dict(zip(REMOVALS, self.arrays["controls"][:, i].T, strict=True))
            by_method = dict(zip(self.study.signed, self.arrays["gains"][:, i].T, strict=True))
            for name, values in {**by_method, **controls}.items():
                estimate = self.averages.of(values)
                rows.append(
                    {
                        "network": kind,
                        "removed": name,
                        "gain": estimate.value,
                        "low": estimate.low,
                        "high": estimate.high,
                        "raised": float((values > 0).mean()),
                        "q": self._p(values - controls["random ink"]),
                    }
                )
        return _adjusted(pd.DataFrame(rows))

    def _between(self) -> pd.DataFrame:
        """First minus second network on the same images; empty where there is one network only."""
        if len(self.kinds) < 2:
            return pd.DataFrame()
        pairs = [
            (method, place, self.arrays["shares"][:, :2, j, k])
            for j, method in enumerate(self.study.methods)
            for k, place in enumerate(PLACES[:2])
        ]
        pairs += [(name, "gain", self.arrays["gains"][:, :2, j]) for j, name in enumerate(self.study.signed)]
        rows = []
        for method, measure, values in pairs:
            differences = values[:, 0] - values[:, 1]
            estimate = self.averages.of(differences)
            head = {"method": method, "measure": measure, "images": estimate.n}
            ends = {"difference": estimate.value, "low": estimate.low, "high": estimate.high}
            rows.append(head | ends | {"q": self._p(differences[np.isfinite(differences)])})
        return _adjusted(pd.DataFrame(rows))

    def _p(self, differences: NDArray) -> float:
        return paired_permutation_p_value(torch.from_numpy(differences), seed=self.study.seed)

    def _answer(self) -> str:
        texts = []
        for kind in self.kinds:
            rows = self.where[(self.where.network == kind) & ~self.where.method.isin(CONTROLS)]
            ink = self.where[(self.where.network == kind) & (self.where.method == "ink")].iloc[0]
            best = rows.iloc[rows.digit.argmax()]
            signed = self.gains[(self.gains.network == kind) & self.gains.removed.isin(self.study.signed)]
            up = signed[signed.low > 0]
            texts.append(
                f"in the {kind} network {best.method} puts most on the digit ({best.digit:.0%}, strokes "
                f"{best.strokes:.0%}; the ink itself: {ink.digit:.0%} and {ink.strokes:.0%}) and removing red pixels "
                f"raises the certainty with {len(up)} of {len(signed)} methods"
            )
        text = "; ".join(texts) + "."
        return text[:1].upper() + text[1:]

    def _shown(self) -> pd.DataFrame:
        removed = self.gains.rename(columns={"removed": "method"})
        table = self.where.merge(removed, on=["network", "method"], how="outer", sort=False)
        order = {name: n for n, name in enumerate((*self.study.methods, *CONTROLS, *REMOVALS))}
        table = table.sort_values("method", key=lambda names: names.map(order), kind="stable")
        table = table.sort_values("network", key=lambda names: names.map(self.kinds.index), kind="stable")
        shown = table[["network", "method"]].copy()
        for name in PLACES[:2]:
            shown[name] = _bracketed(table[name], table[f"{name}_low"], table[f"{name}_high"], "{:.3f}")
        for name in ("paper", "pointing", "rank", "red_strokes"):
            shown[{"red_strokes": "red on strokes"}.get(name, name)] = _numbers(table[name], "{:.3f}")
        shown["red removed"] = _bracketed(table.gain, table.low, table.high, "{:+z.2f}")
        shown["raised"], shown["q"] = _numbers(table.raised, "{:.0%}"), _numbers(table.q, "{:.4f}")
        return shown

    def _shown_between(self) -> pd.DataFrame:
        table = self.between
        shown = table[["method", "measure"]].copy()
        shown["measure"] = shown.measure.map(
            {"digit": "share on the digit", "strokes": "share on strokes", "gain": "gain by removing red"}
        )
        shown["difference"] = _bracketed(table.difference, table.low, table.high, "{:+z.3f}")
        shown["q"] = _numbers(table.q, "{:.4f}")
        return shown

    def _figures(self) -> list[Figure]:
        drawn = [
            Figure(
                place,
                partial(self._draw_place, place),
                f"Share of the positive relevance on the {place}; lines: 95 % intervals. "
                "even: every pixel alike; ink: the brightness itself.",
                "Bars, one a method and control, in a group a network.",
            )
            for place in PLACES[:2]
        ]
        gains = self.gains.rename(columns={"gain": "value"})
        drawn.append(
            Figure(
                "gain",
                partial(_bars, gains, "removed", "gain in log p/(1-p) by removal"),
                "What painting pixels over does to the certainty; lines: 95 % intervals.",
                "Bars, one a removal, in a group a network.",
            )
        )
        drawn.append(
            Figure(
                "maps",
                self._draw_maps,
                "Maps of four images, each on its own scale: green pixels support the predicted class, red ones speak "
                "against it; in grey, light supports and dark speaks against.",
                "Rows of pictures: an image, then its maps by some methods and every network.",
                scale=1,
            )
        )
        return drawn

    def _draw_place(self, place: str, theme: Theme) -> Rgb:
        names = {place: "value", f"{place}_low": "low", f"{place}_high": "high"}
        return _bars(
            self.where.rename(columns=names), "method", f"share of positive relevance on the {place}", theme
        )

    def _draw_maps(self, theme: Theme) -> Rgb:
        pictures, columns = self.once
        return figures.contact_sheet(*zip(*pictures, strict=True), columns=columns, theme=theme)


def _adjusted(table: pd.DataFrame) -> pd.DataFrame:
    table["q"] = benjamini_hochberg(torch.tensor(table.q.to_numpy())).numpy()
    return table


def _numbers(values: pd.Series, form: str) -> list[str]:
    return [number(value, form) for value in values]


def _bracketed(values: pd.Series, low: pd.Series, high: pd.Series, form: str) -> list[str]:
    rows = zip(values, low, high, strict=True)
    return [bracketed(*row, form) if np.isfinite(row[0]) else "" for row in rows]


def _bars(table: pd.DataFrame, names: str, label: str, theme: Theme) -> Rgb:
    """A bar for every row of a table with columns network, value, low and high."""
    values, intervals = {}, {}
    for kind, rows in table.groupby("network", sort=False):
        values[kind] = dict(zip(rows[names], rows.value, strict=True))
        pairs = zip(rows.low, rows.high, strict=True)
        intervals[kind] = dict(zip(rows[names], pairs, strict=True))
    return figures.bars(values, label=label, intervals=intervals, theme=theme)
