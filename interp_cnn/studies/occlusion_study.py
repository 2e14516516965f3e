"""Occluder size x stride x number x replacement: completeness, faithfulness and cost of occlusion maps.

After T. Eriksson, "Occlusion method to obtain saliency maps for CNN" (Lund 2020): high completeness, high cost. Every
cell of the grid makes one map per image; the same measures judge DeepLIFT, LRP, gradients and two controls.

Several occluders at once: the windows are shuffled and dealt into groups of m, each group is hidden together, and its
windows share its drop in proportion to their area; a map then takes 1/m of the forward passes. Completeness: the map's
sum against f(x) - f(everything replaced). Faithfulness: sensitivity-n on random sets of pixels, and SRG from region
perturbation, both with the paper's colour as replacement.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.completeness import completeness, random_pixels, removals, sensitivity_n
from interp_cnn.evaluation.perturbation import (
    Regions,
    most_relevant_first,
    replaced_shares,
    score_curves,
    symmetric_relevance_gain,
)
from interp_cnn.explanation.logits import scores
from interp_cnn.explanation.occlusion_job import OcclusionJob
from interp_cnn.explanation.options import Options
from interp_cnn.explanation.windows import map_of_drops, window_grid
from interp_cnn.figures.curves import Curve, curve_panels
from interp_cnn.studies.asking import answers, check_methods, fill_named, map_of, paper
from interp_cnn.studies.findings import Averages, Figure, Findings
from interp_cnn.studies.occluder_groups import cost_wall, dealt, map_of_groups

CONTROLS = ("random map", "edges")
MEASURES = ("completeness_error", "ratio", "sensitivity_n", "srg", "passes", "seconds")
SUBSETS, SUBSET_SHARE, STEPS, REGION = 40, 0.1, 6, 2


@dataclass(frozen=True)
class OcclusionStudy:
    """Settings, see conf/experiment/occlusion_study.yaml."""

    windows: tuple[int, ...]
    strides: tuple[int, ...]
    occluders: tuple[int, ...]
    fills: tuple[str, ...]
    methods: tuple[str, ...]
    many: int
    few: int
    sides: tuple[int, ...]
    seed: int
    resamples: int
    kinds = ("plain",)

    def __post_init__(self) -> None:
        check_methods(self.methods)
        for name in self.fills:
            fill_named(name, self.seed)

    @property
    def cells(self) -> list[tuple[int, int, int, str]]:
        """(window, stride, occluders, fill), a stride not longer than its window."""
        grid = product(self.windows, self.strides, self.occluders, self.fills)
        return [cell for cell in grid if cell[1] <= cell[0]]

    def measured(self, networks: dict[str, nn.Module], batch: PartBatch, first: int) -> dict[str, np.ndarray]:
        """(B, cells + methods + controls, measures); NaN where a cell was not measured on these images."""
        (network,) = list(networks.values())[:1]
        images, size = batch.images, tuple(batch.images.shape[2:])
        logits = answers(network, images)
        targets = logits.argmax(1)
        generator = torch.Generator().manual_seed(self.seed)
        count = max(1, round(SUBSET_SHARE * size[0] * size[1]))
        subsets = random_pixels(size, count, SUBSETS, generator)
        judge = removals(network, images, targets, subsets, fill=paper())
        rows = []
        for window, stride, occluders, fill in self.cells:
            grid = window_grid(size, window, stride, "end")
            if len(grid) > self.many and first >= self.few:
                rows.append(torch.full((len(images), len(MEASURES)), torch.nan, dtype=torch.float64))
                continue
            start = time.perf_counter()
            if occluders == 1:
                replaced = fill_named(fill, self.seed)
                job = OcclusionJob(
                    network, images, window=window, stride=stride, fill=replaced, overhang="end"
                )
                for _ in job.run():
                    pass
                own = job.drops[torch.arange(len(images)), targets]
                maps, passes = map_of_drops(grid, own, "contribution"), len(grid) * replaced.samples
            else:
                replaced = fill_named(fill, self.seed)
                groups = dealt(len(grid), occluders, torch.Generator().manual_seed(self.seed))
                maps = map_of_groups(network, images, targets, grid=grid, groups=groups, fill=replaced)
                passes = len(groups) * replaced.samples
            seconds = (time.perf_counter() - start) / len(images)
            fill_all = fill_named(fill, self.seed)
            hidden = torch.ones_like(images[:, :1], dtype=torch.bool)
            after = [scores(network, fill_all(images, hidden, s), targets) for s in range(fill_all.samples)]
            expected = scores(network, images, targets) - torch.stack(after).mean(0)
            rows.append(self._judged(network, images, targets, maps, judge, (passes, seconds), expected))
        for name in self.methods:
            found = map_of(name, network, images, targets, Options())
            cost = (found.forward_passes / len(images), found.seconds / len(images))
            rows.append(self._judged(network, images, targets, found.maps, judge, cost, found.expected))
        noise = torch.Generator().manual_seed(self.seed * 1_000_003 + first)
        edges = (images - images.roll(1, -1)).abs() + (images - images.roll(1, -2)).abs()
        for maps in (torch.rand(len(images), *size, generator=noise), edges.sum(1)):
            rows.append(self._judged(network, images, targets, maps, judge, (0.0, 0.0), None))
        return {"measures": torch.stack(rows, 1).numpy(), "correct": (targets == batch.labels).numpy()}

    def once(self, networks: dict[str, nn.Module], batch: PartBatch) -> list:
        """The cost of all windows of the first image on growing canvases."""
        (network,) = list(networks.values())[:1]
        return cost_wall(network, batch.images[:1], self.sides)

    def findings(
        self, found: dict[str, np.ndarray], once: list, facts: dict[str, str], kinds: tuple[str, ...]
    ) -> Findings:
        """The answer with its figures and tables; `kinds` names the networks in their order."""
        averages = Averages(len(found["correct"]), resamples=self.resamples, seed=self.seed)
        table, wall = self._table(found["measures"], averages), pd.DataFrame(once)
        cells = table[table.kind == "occlusion"]
        panels = {}
        for measure, title in (("sensitivity_n", "sensitivity-n"), ("srg", "SRG (logit)")):
            panels[title] = {
                f"{m} occluder{'s' if m > 1 else ''}": Curve(
                    one.passes.to_numpy(), one[measure].to_numpy(), points=True
                )
                for m in self.occluders
                for one in [cells[cells.occluders == m]]
            } | {
                name: Curve(row.passes.to_numpy().clip(1), row[measure].to_numpy(), points=True)
                for name, row in table[table.kind == "method"].groupby("name", sort=False)
            }
        fills = {
            f"replacement {fill}": {
                f"window {window}": Curve(one.stride.to_numpy(), one.completeness_error.to_numpy())
                for window in self.windows
                for one in [cells[(cells.fill == fill) & (cells.window == window) & (cells.occluders == 1)]]
            }
            for fill in self.fills
        }
        lines = {
            title: {
                name: Curve(wall.side.to_numpy(), wall[f"{word}_{column}"].to_numpy())
                for name, word in (("plain: a pass per window", "plain"), ("incremental engine", "engine"))
            }
            for title, column in (
                ("multiply-adds of one image", "multiply_adds"),
                ("seconds of one image", "seconds"),
            )
        }
        drawn = [
            Figure(
                "faithfulness",
                lambda theme: curve_panels(
                    panels,
                    across="forward passes per image",
                    up="faithfulness",
                    logarithmic=(True, False),
                    theme=theme,
                ),
                "Every cell of the grid and every other method: faithfulness against forward passes.",
            ),
            Figure(
                "completeness",
                lambda theme: curve_panels(
                    fills,
                    across="stride",
                    up="completeness error",
                    logarithmic=(False, True),
                    columns=3,
                    theme=theme,
                ),
                "Median relative completeness error of one occluder by size, stride and replacement.",
            ),
            Figure(
                "wall",
                lambda theme: curve_panels(
                    lines, across="side of the image", up="cost", logarithmic=(True, True), theme=theme
                ),
                "The cost wall: all windows (a sixth of the side, stride 1) of one image on larger canvases. "
                "Plain seconds are windows times one timed pass; the engine's are those of a whole run.",
            ),
        ]
        facts = {
            **facts,
            "grid": f"{len(self.cells)} cells; those of more than {self.many} windows on {self.few} images",
        }
        shown = table.copy()
        for name in ("completeness_error", "ratio", "sensitivity_n", "srg", "seconds"):
            shown[name] = [f"{v:.3g}" if np.isfinite(v) else "" for v in shown[name]]
        columns = [
            "name",
            "completeness_error",
            "ratio",
            "sensitivity_n",
            "srg",
            "passes",
            "seconds",
            "images",
        ]
        return Findings(
            "Occlusion study: size, stride, number and replacement of occluders",
            "How complete, how faithful and how dear are occlusion maps, and how do they compare with DeepLIFT and "
            "others?",
            self._answer(table, wall),
            facts,
            drawn,
            {"cells": table, "wall": wall},
            shown[columns],
            [
                "completeness_error: |sum - expected| / |expected|, median over the images, ratio: sum / expected, "
                f"median; sensitivity_n: correlation over {SUBSETS} random sets of {SUBSET_SHARE:.0%} of the pixels; "
                f"srg: area between the LeRF and MoRF curves of the logit, regions of {REGION}x{REGION} pixels; passes "
                "and seconds per image (whatever engine was faster). 95 % intervals stand in cells.csv."
            ],
        )

    def _answer(self, table: pd.DataFrame, wall: pd.DataFrame) -> str:
        cells = table[(table.kind == "occlusion")]
        best = cells.loc[cells.sensitivity_n.idxmax()]
        rest = table[table.kind == "method"]
        other = rest.loc[rest.sensitivity_n.idxmax()]
        closest = cells.loc[cells.completeness_error.idxmin()]
        last = wall.iloc[-1]
        return (
            f"The most faithful occlusion map ({best['name']}) reaches sensitivity-n {best.sensitivity_n:.2f} in "
            f"{best.passes:.0f} forward passes, the best other method ({other['name']}) {other.sensitivity_n:.2f} in "
            f"{max(other.passes, 1):.0f}; the median completeness error is "
            f"{cells.completeness_error.min():.0%} at best ({closest['name']}) and "
            f"{cells.completeness_error.median():.0%} over the grid; at {last.side:.0f} pixels the incremental engine "
            "needs 1/"
            f"{last.plain_multiply_adds / last.engine_multiply_adds:.0f} of the multiply-adds and 1/"
            f"{last.plain_seconds / last.engine_seconds:.0f} of the time of a pass per window."
        )

    def _table(self, measures: np.ndarray, averages: Averages) -> pd.DataFrame:
        heads = [
            {
                "kind": "occlusion",
                "name": f"window {w}, stride {s}, {m} at once, {fill}",
                **{"window": w, "stride": s, "occluders": m, "fill": fill},
            }
            for w, s, m, fill in self.cells
        ]
        heads += [{"kind": "method", "name": name} for name in self.methods]
        heads += [{"kind": "control", "name": name} for name in CONTROLS]
        rows = []
        for place, head in enumerate(heads):
            own = dict(zip(MEASURES, measures[:, place].T, strict=True))
            row = {**head, "images": int(np.isfinite(own["passes"]).sum())}
            for name, values in own.items():
                if name in ("completeness_error", "ratio"):
                    row[name] = (
                        float(np.median(values[np.isfinite(values)])) if np.isfinite(values).any() else np.nan
                    )
                    continue
                one = averages.of(values)
                row[name] = one.value
                if name in ("sensitivity_n", "srg"):
                    row |= {f"{name}_low": one.low, f"{name}_high": one.high}
            rows.append(row)
        return pd.DataFrame(rows)

    def _judged(self, network, images, targets, maps, judge, cost, expected) -> Tensor:
        """(B, measures) of one kind of map."""
        regions = Regions(tuple(images.shape[2:]), REGION)
        values, shares = regions.means(maps), replaced_shares(STEPS)
        curves = [
            score_curves(
                network, images, targets, most_relevant_first(v), regions=regions, shares=shares, fill=paper()
            ).logit
            for v in (-values, values)
        ]
        nothing = torch.full((len(images),), torch.nan, dtype=torch.float64)
        whole = None if expected is None else completeness(maps.double().sum((1, 2)), expected.double())
        columns = [
            nothing if whole is None else whole.error,
            nothing if whole is None else whole.ratio,
            sensitivity_n(maps, judge),
            symmetric_relevance_gain(*curves),
            *(torch.full_like(nothing, float(value)) for value in cost),
        ]
        return torch.stack(columns, 1)
