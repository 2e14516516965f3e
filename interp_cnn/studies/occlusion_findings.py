"""What the occlusion study found: answer, figures and tables from its measures."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interp_cnn.evaluation.maps.randomisation import STILL_ALIKE
from interp_cnn.figures.colours import Rgb, Theme
from interp_cnn.figures.curves import Curve, curve_panels
from interp_cnn.figures.matrices import matrix
from interp_cnn.studies.findings import (
    Averages,
    Figure,
    Findings,
    OcclusionSettings,
    interval,
    millions,
    number,
    rows_of,
)
from interp_cnn.studies.map_measures import MEASURES, REGION, SUBSET_SHARE, SUBSETS

CONTROLS = ("random map", "edges")
MEDIANS = ("completeness_error", "ratio")  # a few images without an expected sum would carry a mean away
WITH_INTERVALS = ("sensitivity_n", "infidelity", "srg", "deletion", "insertion")
SHUFFLES = {"all layers from the top": 0, "one layer alone": 1}


class OcclusionFindings:
    """Tables of a study's measures, and what is told and drawn from them."""

    def __init__(self, study: OcclusionSettings, arrays: dict[str, NDArray], once: dict[str, list]) -> None:
        self.study = study
        self.averages = Averages(len(arrays["correct"]), resamples=study.resamples, seed=study.seed)
        self.cells = self._cells(arrays["measures"])
        self.shuffled = self._shuffled(arrays["randomised"], once["layers"])
        self.multiply = [name for name, so in zip(once["layers"], once["multiply"], strict=True) if so]
        self.alike = np.nanmean(arrays["agreement"], axis=0)  # (kinds, kinds, 2)
        self.wall = pd.DataFrame(once["wall"])

    def findings(self, facts: dict[str, str]) -> Findings:
        """Everything that the page says."""
        kinds = [*self.study.methods, *CONTROLS]
        pairs = [(a, b, *self.alike[i, j]) for i, a in enumerate(kinds) for j, b in enumerate(kinds)]
        return Findings(
            "Occlusion study: size, stride, number and replacement of occluders",
            "How complete, how faithful and how dear are occlusion maps, and how do they compare with DeepLIFT and "
            "others?",
            self._answer(),
            facts,
            self._figures(),
            {
                "cells": self.cells,
                "wall": self.wall,
                "randomised": self.shuffled,
                "agreement": pd.DataFrame(pairs, columns=["first", "second", "rank", "ssim"]),
            },
            {
                "Methods and controls": self._shown_methods(),
                "Occlusion: every cell of the grid": self._shown_cells(),
                "The cost of every window of one image on larger canvases": self._shown_wall(),
            },
            [
                "error, ratio: |sum - expected| / |expected| and sum / expected, medians over the images. "
                f"sensitivity-n: correlation with the drop of the logit over {SUBSETS} random sets of "
                f"{SUBSET_SHARE:.0%} of the pixels. infidelity: share of the squared drop over {SUBSETS} random "
                "squares that the best multiple of the map leaves unexplained. SRG: area between the LeRF and MoRF "
                "curves of the logit, regions of "
                f"{REGION}x{REGION}. deletion (to black, lower is better), insertion (from blur, higher is better): "
                "area under the probability. shuffled: likeness to the map of the network whose layers are all "
                f"shuffled, first {self.study.randomised} images; a rank correlation above {STILL_ALIKE} does not "
                "depend on what was learned. Brackets: 95 % intervals over the images.",
                "passes, multiply-adds and seconds: per image. plain: a whole pass through the network per window and "
                "draw; run: as it was computed, one occluder by whichever engine pays, several by whole passes. Those "
                "of methods are counted in the operations that ran, backward passes among them.",
            ],
        )

    def _cells(self, measures: NDArray) -> pd.DataFrame:
        heads = [
            {
                "kind": "occlusion",
                "name": f"window {w}, stride {s}, {m} at once, {fill}",
                **{"window": w, "stride": s, "occluders": m, "fill": fill},
            }
            for w, s, m, fill in self.study.cells
        ]
        heads += [{"kind": "method", "name": name} for name in self.study.methods]
        heads += [{"kind": "control", "name": name} for name in CONTROLS]
        rows = []
        for place, head in enumerate(heads):
            by_measure = dict(zip(MEASURES, measures[:, place].T, strict=True))
            row = {**head, "images": int(np.isfinite(by_measure["passes"]).sum())}
            for name, values in by_measure.items():
                if name in MEDIANS:
                    known = values[np.isfinite(values)]
                    row[name] = float(np.median(known)) if len(known) else np.nan
                    continue
                estimate = self.averages.of(values)
                row[name] = estimate.value
                if name in WITH_INTERVALS:
                    row |= {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            rows.append(row)
        return pd.DataFrame(rows)

    def _shuffled(self, likeness: NDArray, layers: list[str]) -> pd.DataFrame:
        rows = []
        for words, mode in SHUFFLES.items():
            for j, layer in enumerate(layers):
                for k, name in enumerate([*self.study.methods, "edges"]):
                    ranks, structures = likeness[:, mode, j, k].T
                    ranks = np.where(
                        np.isfinite(structures), np.nan_to_num(ranks), np.nan
                    )  # a constant map ranks nothing
                    rank, ssim = self.averages.of(ranks), self.averages.of(structures)
                    rows.append((words, j, layer, name, rank.value, rank.low, rank.high, ssim.value))
        names = ["shuffled", "depth", "layer", "map", "rank", "low", "high", "ssim"]
        return pd.DataFrame(rows, columns=names)

    def _of(self, kind: str) -> pd.DataFrame:
        return self.cells[self.cells.kind == kind]

    def _last_shuffle(self) -> pd.DataFrame:
        """Every map when all layers are shuffled, by name."""
        all_layers = self.shuffled[self.shuffled.shuffled == next(iter(SHUFFLES))]
        return all_layers[all_layers.depth == all_layers.depth.max()].set_index("map")

    def _answer(self) -> str:
        cells, rest = self._of("occlusion"), self._of("method")
        rest = rest[rest.name != "occlusion"]
        best, other = cells.iloc[cells.sensitivity_n.argmax()], rest.iloc[rest.sensitivity_n.argmax()]
        closest, last = cells.iloc[cells.completeness_error.argmin()], self.wall.iloc[-1]
        return (
            f"The most faithful occlusion map ({best['name']}) reaches sensitivity-n {best.sensitivity_n:.2f} in "
            f"{best.passes:.0f} forward passes ({best.images:.0f} images), the best other method "
            f"({other['name']}) {other.sensitivity_n:.2f} for the multiply-adds of "
            f"{other.multiply_adds / best.plain_multiply_adds * best.passes:.0f}; the median completeness "
            f"error is {closest.completeness_error:.0%} at best ({closest['name']}) and "
            f"{cells.completeness_error.median():.0%} over the grid; at {last.side:.0f} pixels the incremental engine "
            f"needs 1/{last.plain_multiply_adds / last.engine_multiply_adds:.0f} of the multiply-adds and "
            f"1/{last.plain_seconds / last.engine_seconds:.1f} of the time of a pass per window."
        )

    def _shown_methods(self) -> pd.DataFrame:
        last, rows = self._last_shuffle(), []
        for row in rows_of(self.cells[self.cells.kind != "occlusion"]):
            words = {"map": row.name, "complete: error": number(row.completeness_error, "{:.1%}")}
            for name in WITH_INTERVALS:
                words[name.replace("_", "-")] = interval(row, name, "{:z.3f}")
            known = row.name in last.index
            words["shuffled: rank"] = f"{last['rank'][row.name]:+z.2f}" if known else ""
            words["shuffled: SSIM"] = f"{last.ssim[row.name]:+z.2f}" if known else ""
            words |= {"passes": f"{row.passes:.0f}", "multiply-adds": millions(row.multiply_adds)}
            rows.append(words | {"ms": f"{1000 * row.seconds:.2f}"})
        return pd.DataFrame(rows)

    def _shown_cells(self) -> pd.DataFrame:
        rows = [
            {
                "window": f"{row.window:.0f}",
                "stride": f"{row.stride:.0f}",
                "at once": f"{row.occluders:.0f}",
                "replacement": row.fill,
                "error": f"{row.completeness_error:.0%}",
                "ratio": f"{row.ratio:z.2f}",
                "sensitivity-n": interval(row, "sensitivity_n", "{:z.3f}"),
                "infidelity": f"{row.infidelity:.3f}",
                "SRG": interval(row, "srg", "{:z.2f}"),
                "passes": f"{row.passes:.0f}",
                "multiply-adds, plain": millions(row.plain_multiply_adds),
                "run": millions(row.multiply_adds),
                "ms, plain": f"{1000 * row.plain_seconds:.1f}",
                "run ": f"{1000 * row.seconds:.1f}",
                "images": row.images,
            }
            for row in rows_of(self._of("occlusion"))
        ]
        return pd.DataFrame(rows)

    def _shown_wall(self) -> pd.DataFrame:
        rows = [
            {
                "side": f"{row.side:.0f}",
                "window": f"{row.window:.0f}",
                "passes": f"{row.forward_passes:.0f}",
                "multiply-adds, plain": millions(row.plain_multiply_adds),
                "engine": millions(row.engine_multiply_adds),
                "times fewer": f"{row.plain_multiply_adds / row.engine_multiply_adds:.1f}",
                "seconds, plain": f"{row.plain_seconds:.2f}",
                "engine ": f"{row.engine_seconds:.2f}",
                "times faster": f"{row.plain_seconds / row.engine_seconds:.1f}",
            }
            for row in rows_of(self.wall)
        ]
        return pd.DataFrame(rows)

    def _figures(self) -> list[Figure]:
        return [
            Figure(
                "faithfulness",
                self._draw_faithfulness,
                "Every cell of the grid and every other method: faithfulness against the multiply-adds of one image as "
                "whole passes. Further left is cheaper, higher is more faithful.",
                "Two charts of points, a point a map: sensitivity-n and SRG over multiply-adds.",
            ),
            Figure(
                "completeness",
                self._draw_completeness,
                "What the maps of one occluder sum to, as a multiple of f(x) - f(everything replaced), median over the "
                "images, by size, stride and replacement; 1 is complete.",
                "A chart a replacement, a curve a window: sum over expected against the stride.",
            ),
            Figure(
                "wall",
                self._draw_wall,
                "The cost wall: all windows (a sixth of the side, stride 1) of one image on larger canvases. Plain "
                "seconds are windows times one timed pass; the engine's are those of a whole run.",
                "Two charts over the side of the image: multiply-adds and seconds, a pass per window and the engine.",
            ),
            Figure(
                "randomised",
                self._draw_shuffled,
                "Rank correlation with the map of a network whose layers are shuffled; bands: 95 % intervals. A map "
                "that stays near 1, like the edges, does not ask the network. Batch norms are in randomised.csv.",
                "Two charts over the layers, a curve a method: all layers shuffled from the top, one alone.",
            ),
            Figure(
                "agreement",
                self._draw_agreement,
                "How alike the maps of two methods are, rank correlation.",
                "A matrix of the methods and controls with a number in every cell.",
            ),
        ]

    def _draw_faithfulness(self, theme: Theme) -> Rgb:
        cells, panels = self._of("occlusion"), {}
        for measure, title in (("sensitivity_n", "sensitivity-n"), ("srg", "SRG (logit)")):
            panels[title] = {
                f"{m} occluder{'s' if m > 1 else ''}": Curve(
                    rows.plain_multiply_adds.to_numpy(), rows[measure].to_numpy(), points=True
                )
                for m in self.study.occluders
                for rows in [cells[cells.occluders == m]]
            } | {
                name: Curve(row.multiply_adds.to_numpy(), row[measure].to_numpy(), points=True)
                for name, row in self._of("method").groupby("name", sort=False)
            }
        return curve_panels(
            panels,
            across="multiply-adds per image",
            up="faithfulness",
            logarithmic=(True, False),
            theme=theme,
        )

    def _draw_completeness(self, theme: Theme) -> Rgb:
        cells = self._of("occlusion")
        alone = cells[cells.occluders == min(self.study.occluders)]
        panels = {
            f"replacement {fill}": {
                f"window {window}": Curve(rows.stride.to_numpy(), rows.ratio.to_numpy())
                for window in self.study.windows
                for rows in [alone[(alone.fill == fill) & (alone.window == window)]]
            }
            for fill in self.study.fills
        }
        across, up = "stride in pixels", "sum / expected"
        return curve_panels(panels, across=across, up=up, columns=3, shared=True, theme=theme)

    def _draw_wall(self, theme: Theme) -> Rgb:
        names = {"a pass per window": "plain", "incremental engine": "engine"}
        columns = {"multiply-adds of one image": "multiply_adds", "seconds of one image": "seconds"}
        panels = {
            title: {
                name: Curve(self.wall.side.to_numpy(), self.wall[f"{word}_{column}"].to_numpy())
                for name, word in names.items()
            }
            for title, column in columns.items()
        }
        return curve_panels(
            panels, across="side of the image in pixels", up="cost", logarithmic=(True, True), theme=theme
        )

    def _draw_shuffled(self, theme: Theme) -> Rgb:
        drawn = self.shuffled[self.shuffled.layer.isin(self.multiply)]
        steps = np.arange(len(self.multiply))
        panels = {
            str(words): {
                str(name): Curve(
                    steps,
                    group["rank"].to_numpy(),
                    group.low.to_numpy(),
                    group.high.to_numpy(),
                    name == "edges",
                )
                for name, group in rows.groupby("map", sort=False)
            }
            for words, rows in drawn.groupby("shuffled", sort=False)
        }
        across, up = "layer, from the top", "rank correlation"
        return curve_panels(panels, across=across, up=up, shared=True, places=self.multiply, theme=theme)

    def _draw_agreement(self, theme: Theme) -> Rgb:
        names = [*self.study.methods, *CONTROLS]
        return matrix(self.alike[..., 0], names, label="rank correlation over the pixels, mean", theme=theme)
