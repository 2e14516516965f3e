"""Does the evidence for a class lie in the tile that shows it? The grid pointing game and Focus for every method.

No annotation is needed: images of different classes are put together, and the class of a tile tells where evidence
should lie (`evaluation.maps.grid_pointing`). Besides the methods, what the filters of the interpretable layer bring to
the logit is measured (`explanation.decisions.evidence`). Controls: the untrained network, and a random map; an even
map gets exactly chance, a map inside the tile everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from interp_cnn import figures
from interp_cnn.evaluation.maps.grid_pointing import grid_pointing, mosaic
from interp_cnn.explanation.network.placement import beside
from interp_cnn.studies.findings import Findings
from interp_cnn.studies.grid_findings import GridFindings
from interp_cnn.studies.grids import Grid, Layout, grids_of
from interp_cnn.studies.judged import ImageStudy, Judged, Parts
from interp_cnn.studies.parts import Arrays
from interp_cnn.studies.shared import (
    FILTER_MAPS,
    answers,
    check_methods,
    check_share,
    check_whole_numbers,
    maps_of_classes,
)

SHOWN = 168  # pixels that a grid takes on the page
PICTURES = ("filter_evidence", "grad_cam", "lrp", "occlusion")


@dataclass(frozen=True)
class GridStudy(ImageStudy):
    """Settings, see conf/experiment/grid_study.yaml."""

    methods: tuple[str, ...]
    sides: tuple[int, ...]
    focus: bool
    confidence: float
    most: int
    seed: int
    resamples: int
    kinds = ("interpretable", "plain")
    needs_untrained = True

    def __post_init__(self) -> None:
        check_methods(self.methods, more=FILTER_MAPS)
        check_share(confidence=self.confidence)
        check_whole_numbers(2, most=self.most)
        if self.sides or not self.focus:
            check_whole_numbers(2, sides=self.sides)

    @property
    def layouts(self) -> list[Layout]:
        """The grids with a class for every tile, then Focus."""
        return [*map(Layout, self.sides), *([Layout(2, focus=True)] if self.focus else [])]

    def parts(self, judged: Judged, together: int) -> Parts:
        """Some grids of one layout each."""
        work: Parts = {}
        shrunk = _takes_one_size(judged, max(layout.side for layout in self.layouts))
        for number, layout in enumerate(self.layouts):
            grids, step = self._grids(judged)[number], max(1, together // layout.side**2)
            for first in range(0, len(grids), step):
                some = tuple(grids[first : first + step])
                name = f"grids-{layout.name.replace(' ', '')}-{first:05d}"
                work[name] = partial(self._shares, judged, number, some, first, bool(shrunk))
        return work

    def once(self, judged: Judged) -> dict:
        """Pictures of a grid of each layout with its maps, and facts in words."""
        usable = _confident(judged, self.confidence)
        shrunk = _takes_one_size(judged, max(layout.side for layout in self.layouts))
        height, width = judged.images.image_size
        names = [name for name in PICTURES if name in self.methods][:3] or list(self.methods[:3])
        rows, number = [], 0
        for number, layout in enumerate(self.layouts):
            for grid in self._grids(judged)[number][:1]:
                picture, classes = _asked(judged, (grid,), bool(shrunk))[:2]
                drawn = figures.resize(figures.to_rgb(picture[0]), (SHOWN, SHOWN))
                tile = grid.right[0].index(True)
                class_name = judged.images.classes[grid.classes[0]]
                words = f"{layout.name}: {class_name}, row {tile // layout.side + 1}, column {tile % layout.side + 1}"
                rows.append((drawn, words[:40]))
                for kind, network in judged.networks.items():
                    for name in names:
                        values = maps_of_classes(name, network, picture, classes[:, :1])[0, 0]
                        overlaid = figures.overlay(drawn, values, colours="green-red", smooth=False)
                        rows.append((overlaid, f"{kind[:8]}., {name}"))
        right = f"{int((usable >= 0).sum())} of {judged.count} are told rightly"
        sentence = f"{right} with {self.confidence:.0%} or more by "
        facts = {
            "tiles": f"{sentence}{'every network' if len(judged.networks) > 1 else 'the network'}; "
            + (
                shrunk
                or f"each tile keeps its {height} x {width} pixels, so that grids are larger than images"
            ),
        }
        return {
            "pictures": rows,
            "columns": 1 + len(names) * len(judged.networks),
            "facts": facts,
            "left out": [*self._left_out(judged).values()],
        }

    def findings(self, arrays: Arrays, once: dict, facts: dict[str, str], kinds: tuple[str, ...]) -> Findings:
        """The answer with its figures and tables; `kinds` names the networks in their order."""
        return GridFindings(self, arrays, once, kinds).findings({**facts, **once["facts"]})

    @cache  # noqa: B019 - one study a process
    def _grids(self, judged: Judged) -> list[list[Grid]]:
        """Of each layout; none where fewer than two can be made.

        Raises:
            ValueError: no layout has two.
        """
        usable = _confident(judged, self.confidence)
        made = []
        for number, layout in enumerate(self.layouts):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            background = judged.images.background
            grids = grids_of(layout, usable, background=background, most=self.most, generator=generator)
            made.append(grids if len(grids) > 1 else [])
        if not any(made):
            raise ValueError(
                f"no two grids can be made of the {int((usable >= 0).sum())} images of {judged.count} that every "
                f"network tells rightly with study.confidence={self.confidence} or more; lower it, or give more images"
            )
        return made

    def _left_out(self, judged: Judged) -> dict[str, str]:
        """Layouts of which there are no grids, and why."""
        classes = len(set(_confident(judged, self.confidence).tolist()) - {-1})
        return {
            layout.name: f"{layout.name} is left out: it takes {layout.classes} classes, images of {classes} can be "
            "used, too few for two grids."
            for layout, grids in zip(self.layouts, self._grids(judged), strict=True)
            if not grids
        }

    def _shares(
        self, judged: Judged, number: int, grids: tuple[Grid, ...], first: int, shrunk: bool
    ) -> Arrays:
        """Of each grid: which layout, the mean share of evidence in right tiles (G, networks, methods), the same of a
        random map, and of each network the share of the classes asked about that are among its highest logits.
        """
        pictures, classes, right, counts = _asked(judged, grids, shrunk)
        flat = right.flatten(0, 1)

        def mean(values: Tensor) -> Tensor:
            """Over the classes asked about, (G, T) or flat -> (G,)."""
            return (values.view(classes.shape).double() * counts).sum(1) / counts.sum(1)

        shares, among_highest = [], []
        for network in judged.with_untrained.values():
            row = []
            for name in self.methods:
                maps = maps_of_classes(name, network, pictures, classes)
                row.append(mean(grid_pointing(maps.flatten(0, 1), flat)))
            shares.append(torch.stack(row, 1))
            logits = answers(network, pictures)
            highest = logits.topk(min(self.layouts[number].shown, logits.shape[1]), 1).indices
            among_highest.append(mean((classes[:, :, None] == highest[:, None]).any(2)))
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) * 1_009 + first)
        noise = torch.randn(len(flat), *pictures.shape[2:], generator=generator)
        return {
            "layout": np.full(len(grids), number),
            "shares": torch.stack(shares, 1).numpy(),
            "random": mean(grid_pointing(noise, flat)).numpy(),
            "told": torch.stack(among_highest, 1).numpy(),
        }


def _asked(judged: Judged, grids: tuple[Grid, ...], shrunk: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures (G, C, H, W), classes (G, T), their tiles (G, T, n^2), and which of them count (G, T): a grid with the
    background in it has a class less, and its first one fills the row.
    """
    images = torch.stack([judged.batch(grid.images).images for grid in grids])
    pictures = mosaic(images)
    if shrunk:
        pictures = functional.interpolate(pictures, images.shape[3:], mode="bilinear", antialias=True)
    most = max(len(grid.classes) for grid in grids)
    lacking = [most - len(grid.classes) for grid in grids]
    rows = list(zip(grids, lacking, strict=True))
    classes = torch.tensor([[*grid.classes, *grid.classes[:1] * less] for grid, less in rows])
    right = torch.tensor([[*grid.right, *grid.right[:1] * less] for grid, less in rows])
    counts = torch.arange(most) < most - torch.tensor(lacking)[:, None]
    return pictures, classes, right, counts


@cache
def _confident(judged: Judged, confidence: float) -> Tensor:
    """(N,) the class of each image that every network tells rightly and with this probability or more, else -1."""
    labels = torch.as_tensor(judged.images.labels)[: judged.count].clone()
    for first in range(0, judged.count, 64):
        batch = judged.batch(range(first, min(first + 64, judged.count)))
        for network in judged.networks.values():
            chances = answers(network, batch.images).softmax(1)
            sure = (chances.argmax(1) == batch.labels) & (chances.amax(1) >= confidence)
            labels[first : first + len(batch)][~sure] = -1
    return labels


@cache
def _takes_one_size(judged: Judged, side: int) -> str:
    """Why tiles are shrunk, in words: a network refuses a picture of `side` images; empty where none does."""
    height, width = judged.images.image_size
    picture = torch.zeros(1, judged.images.channels, side * height, side * width)
    for name, network in judged.with_untrained.items():
        try:
            answers(network, beside(network, picture))
        except (ValueError, RuntimeError):
            return (
                f"tiles are shrunk so that a grid has {height} x {width} pixels, since the {name} network takes no "
                "other size"
            )
    return ""
