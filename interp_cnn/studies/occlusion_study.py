"""Occluder size x stride x number x replacement: completeness, faithfulness and cost of occlusion maps.

After T. Eriksson, "Occlusion method to obtain saliency maps for CNN" (Lund 2020): high completeness, high cost. Every
cell of the grid makes one map per image; the same measures judge DeepLIFT, LRP, gradients and two controls.

Several occluders at once: the windows are shuffled and dealt into groups of m, each group is hidden together, and its
windows share its drop in proportion to their area; a map then takes 1/m of the forward passes. Completeness: the map's
sum against f(x) - f(everything replaced). The methods are also asked how much they depend on the network, and how
alike their maps are.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.maps.completeness import completeness
from interp_cnn.evaluation.maps.randomisation import layers_from_the_top
from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.network.logits import scores
from interp_cnn.explanation.network.placement import beside
from interp_cnn.explanation.occlusion.job import OcclusionJob
from interp_cnn.explanation.occlusion.windows import map_of_drops, window_grid
from interp_cnn.studies.findings import Findings
from interp_cnn.studies.judged import ImageStudy, Judged
from interp_cnn.studies.map_measures import (
    MEASURES,
    Cost,
    MapJudge,
    agreement,
    edges,
    multiply_adds,
    randomised,
)
from interp_cnn.studies.occluder_groups import cost_wall, dealt, map_of_groups
from interp_cnn.studies.occlusion_findings import OcclusionFindings
from interp_cnn.studies.shared import (
    answers,
    check_fills,
    check_methods,
    check_whole_numbers,
    fill_named,
    map_of,
)

Cell = tuple[int, int, int, str]  # window, stride, occluders, fill


@dataclass(frozen=True)
class OcclusionStudy(ImageStudy):
    """Settings, see conf/experiment/occlusion_study.yaml."""

    windows: tuple[int, ...]
    strides: tuple[int, ...]
    occluders: tuple[int, ...]
    fills: tuple[str, ...]
    methods: tuple[str, ...]
    many: int
    few: int
    randomised: int
    sides: tuple[int, ...]
    seed: int
    resamples: int
    kinds = ("plain",)

    def __post_init__(self) -> None:
        check_methods(self.methods)
        check_fills(self.fills)
        numbers = ("windows", "strides", "occluders", "sides", "many", "few", "randomised")
        check_whole_numbers(**{name: getattr(self, name) for name in numbers})
        if not self.cells:
            raise ValueError("study.strides: expected one that is no longer than a window of study.windows")

    @property
    def cells(self) -> list[Cell]:
        """The grid, without strides longer than their window."""
        grid = product(self.windows, self.strides, self.occluders, self.fills)
        return [cell for cell in grid if cell[1] <= cell[0]]

    def measured(self, judged: Judged, batch: PartBatch, first: int) -> dict[str, np.ndarray]:
        """Measures (B, cells + methods + controls, measures), likeness of the kinds (see `agreement`) and to maps of
        shuffled networks (see `randomised`); NaN where these images were not asked.
        """
        network = judged.first
        images, size = batch.images, (batch.images.shape[2], batch.images.shape[3])
        targets = answers(network, images).argmax(1)
        judge = MapJudge(network, images, targets, seed=self.seed)
        nothing = torch.full((len(images), len(MEASURES)), torch.nan, dtype=torch.float64)
        rows = []
        for cell in self.cells:
            dear = len(window_grid(size, *cell[:2], "end")) > self.many
            rows.append(nothing if dear and first >= self.few else self._cell(judge, cell))
        kinds = []
        for name in self.methods:
            result = map_of(name, network, images, targets, Options())
            work = multiply_adds(lambda name=name: map_of(name, network, images[:1], targets[:1], Options()))
            cost = Cost(result.forward_passes / len(images), work, result.seconds / len(images))
            total = None if result.expected is None else completeness(result.sums, result.expected.double())
            rows.append(judge.measures(result.maps, cost, total=total, pixelwise=True))
            kinds.append(result.maps)
        noise = torch.Generator().manual_seed(self.seed * 1_000_003 + first)
        for maps in (torch.rand(len(images), *size, generator=noise), edges(images)):
            rows.append(judge.measures(maps, Cost(0.0, 0.0, 0.0), pixelwise=True))
            kinds.append(maps)
        some = slice(0, max(0, min(len(images), self.randomised - first)))
        layers = len(layers_from_the_top(network))
        shuffled = torch.full((len(images), 2, layers, len(self.methods) + 1, 2), torch.nan).double()
        if some.stop:
            shuffled[some] = randomised(network, images[some], targets[some], self.methods, seed=self.seed)
        return {
            "measures": torch.stack(rows, 1).numpy(),
            "agreement": agreement(kinds).numpy(),
            "randomised": shuffled.numpy(),
            "correct": (targets == batch.labels).numpy(),
        }

    def once(self, judged: Judged) -> dict[str, list]:
        """Cost of all windows of the first image on growing canvases; layers from the top, which of them multiply."""
        network = judged.first
        layers = layers_from_the_top(network)
        return {
            "wall": cost_wall(network, judged.batch(range(1)).images, self.sides),
            "layers": layers,
            "multiply": [
                any(parameter.dim() > 1 for parameter in network.get_submodule(name).parameters(False))
                for name in layers
            ],
        }

    def findings(
        self,
        arrays: dict[str, np.ndarray],
        once: dict[str, list],
        facts: dict[str, str],
        kinds: tuple[str, ...],
    ) -> Findings:
        """The answer with its figures and tables; `kinds` names the networks in their order."""
        facts = {
            **facts,
            "grid": f"{len(self.cells)} cells; those of more than {self.many} windows are measured on the first "
            f"{self.few} images only",
        }
        return OcclusionFindings(self, arrays, once).findings(facts)

    def _cell(self, judge: MapJudge, cell: Cell) -> Tensor:
        """(B, measures) of one cell of the grid."""
        window, stride, occluders, fill = cell
        network, images, targets, one_pass = judge.network, judge.images, judge.targets, judge.one_pass
        grid, replaced = (
            window_grid((images.shape[2], images.shape[3]), window, stride, "end"),
            fill_named(fill, self.seed),
        )
        start = time.perf_counter()
        if occluders == 1:
            pixels = beside(network, images)
            job = OcclusionJob(network, pixels, window=window, stride=stride, fill=replaced, overhang="end")
            for _ in job.run():
                pass
            target_drops = job.drops.cpu()[torch.arange(len(images)), targets]
            maps, questions = map_of_drops(grid, target_drops, "contribution"), len(grid)
        else:
            groups = dealt(len(grid), occluders, torch.Generator().manual_seed(self.seed))
            maps = map_of_groups(network, images, targets, grid=grid, groups=groups, fill=replaced)
            questions = len(groups)
        seconds = (time.perf_counter() - start) / len(images)
        passes = questions * replaced.samples
        plain, work = passes * one_pass.multiply_adds, None
        if occluders == 1 and job.engine == "incremental":
            work = (job.cost().multiply_adds or 0) / len(images)
        hidden, fill_all = torch.ones_like(images[:, :1], dtype=torch.bool), fill_named(fill, self.seed)
        after = [scores(network, fill_all(images, hidden, s), targets) for s in range(fill_all.samples)]
        total = completeness(
            maps.double().sum((1, 2)),
            (scores(network, images, targets) - torch.stack(after).mean(0)).double(),
        )
        cost = Cost(passes, plain if work is None else work, seconds, plain, passes * one_pass.seconds)
        return judge.measures(maps, cost, total=total)
