"""What the grid study found: answer, figures and tables from its shares."""

from __future__ import annotations

from functools import partial

import pandas as pd

from interp_cnn import figures
from interp_cnn.figures.colours import Rgb, Theme
from interp_cnn.studies.findings import FILTER_NOTE, Averages, Figure, Findings, GridSettings, bracketed
from interp_cnn.studies.grids import Layout
from interp_cnn.studies.parts import Arrays
from interp_cnn.studies.ranking import Ranking


class GridFindings:
    """Tables of shares by layout, and what is told and drawn from them."""

    def __init__(self, study: GridSettings, arrays: Arrays, once: dict, kinds: tuple[str, ...]) -> None:
        self.arrays, self.once, self.kinds = arrays, once, kinds
        networks = (*kinds, "untrained")[: arrays["shares"].shape[1]]
        self.layouts: list[tuple[int, Layout]] = [
            (number, layout)
            for number, layout in enumerate(study.layouts)
            if (arrays["layout"] == number).any()
        ]
        self.averages, self.rankings = {}, {}
        for number, _ in self.layouts:
            of_layout = arrays["layout"] == number
            self.averages[number] = Averages(int(of_layout.sum()), resamples=study.resamples, seed=study.seed)
            scores = arrays["shares"][of_layout]
            self.rankings[number] = Ranking(scores, networks, study.methods, self.averages[number])

    def findings(self, facts: dict[str, str]) -> Findings:
        """Everything that the page says."""
        shown = {f"{self._title(n, layout)}": self._shown(n, layout) for n, layout in self.layouts}
        return Findings(
            "Grid study: is the evidence for a class in the tile that shows it?",
            "Images of different classes are put together into one picture. Which share of the positive evidence for a "
            "class lies in the tile that shows it?",
            self._answer(),
            {**facts, "tiles told": self._told()},
            self._figures(),
            self._tables(),
            shown,
            [
                "Share of a map's positive part in the tile of its class (GridPG: Boehle, Fritz, Schiele, CVPR 2021; "
                "Focus: Arias-Duart et al. 2022, two tiles of the class and two others), mean over the classes of a "
                "grid, then over the grids; every image is in one grid of a layout at most. Brackets: 95 % intervals "
                "over the grids; q: of the interval of the difference, adjusted after Benjamini and Hochberg over the "
                "table. A map that does not know its class gets chance, a map without positive evidence 0.",
                FILTER_NOTE,
                "A masked filter answers in one place of the whole grid: a part of this concentration is made by the "
                "masks.",
                *self.once["left out"],
            ],
        )

    def _title(self, number: int, layout: Layout) -> str:
        count = int((self.arrays["layout"] == number).sum())
        return f"{layout.name}: share in the right {'tiles' if layout.focus else 'tile'}, {count} grids"

    def _answer(self) -> str:
        texts = []
        for number, layout in self.layouts:
            ranking = self.rankings[number]
            text = []
            for kind in self.kinds:
                best = ranking.best(kind)
                share = bracketed(100 * best.value, 100 * best.low, 100 * best.high, "{:.0f}")
                text.append(f"{share} % of the {kind} network's ({best.method})")
            words = f"{layout.name} (chance {layout.chance:.0%}): at best {' and '.join(text)}"
            if "untrained" in ranking.networks:
                words += f", {ranking.best('untrained').value:.0%} untrained"
            if ranking.pair:
                ahead, behind = (len(names) for names in ranking.ahead())
                of = f"of {len(ranking.methods)} maps"
                words += f"; {self.kinds[0]} is surely ahead with {ahead} and behind with {behind} {of}"
            texts.append(words)
        return "Of the positive evidence, in the right tile: " + ". ".join(texts) + "."

    def _shown(self, number: int, layout: Layout) -> pd.DataFrame:
        estimate = self.averages[number].of(self.arrays["random"][self.arrays["layout"] == number])
        controls = {
            "random map": bracketed(estimate.value, estimate.low, estimate.high, "{:.3f}"),
            "even map": f"{layout.chance:.3f}",
            "all inside the tile": "1.000",
        }
        return self.rankings[number].shown(controls)

    def _told(self) -> str:
        """How often the classes of a grid are among its highest logits, as many as it shows classes."""
        texts = []
        for number, layout in self.layouts:
            shares = self.arrays["told"][self.arrays["layout"] == number].mean(0)
            rows = zip(self.kinds, shares, strict=False)
            texts.append(f"{layout.name}: " + ", ".join(f"{kind} {share:.0%}" for kind, share in rows))
        return "the class asked about is among a grid's highest logits: " + "; ".join(texts)

    def _tables(self) -> dict[str, pd.DataFrame]:
        grids, apart = [], []
        for number, layout in self.layouts:
            ranking = self.rankings[number]
            grids.append(ranking.table.assign(layout=layout.name, chance=layout.chance))
            apart.append(ranking.differences.assign(layout=layout.name))
        tables = {"grids": pd.concat(grids)}
        if self.rankings[self.layouts[0][0]].pair:
            tables["differences"] = pd.concat(apart)
        return tables

    def _figures(self) -> list[Figure]:
        drawn = [
            Figure(
                f"shares-{layout.name.replace(' ', '').lower()}",
                partial(
                    self.rankings[number].bars,
                    f"share of positive evidence in the right {'tiles' if layout.focus else 'tile'} (chance: "
                    f"{layout.chance:.3g})",
                ),
                f"{self._title(number, layout)}; lines: 95 % intervals over the grids; chance is {layout.chance:.3g}.",
                "Bars, one a network, in a group a method.",
            )
            for number, layout in self.layouts
        ]
        drawn.append(
            Figure(
                "maps",
                self._draw_maps,
                "A grid of each layout and maps for the class of one tile, each on its own scale: green speaks for the "
                "class, red against it; in grey, light supports and dark speaks against.",
                "Rows of pictures: a grid, then its maps by some methods and every network.",
                scale=1,
            )
        )
        return drawn

    def _draw_maps(self, theme: Theme) -> Rgb:
        rows = self.once["pictures"]
        return figures.contact_sheet(*zip(*rows, strict=True), columns=self.once["columns"], theme=theme)
