"""What the single-deletion study found: answer, figures and tables from its rank correlations."""

from __future__ import annotations

from functools import partial
from itertools import product

import pandas as pd

from interp_cnn import figures
from interp_cnn.figures.colours import Rgb, Theme
from interp_cnn.studies.findings import FILTER_NOTE, Averages, DeletionSettings, Figure, Findings, bracketed
from interp_cnn.studies.parts import Arrays
from interp_cnn.studies.ranking import Ranking

CONTROLS = ("random map", "edges of the image")  # that ask no network


class SingleDeletionFindings:
    """Tables of the scores, and what is told and drawn from them."""

    def __init__(self, study: DeletionSettings, arrays: Arrays, once: dict, kinds: tuple[str, ...]) -> None:
        self.arrays, self.once, self.kinds = arrays, once, kinds
        networks = (*kinds, "untrained")[: arrays["scores"].shape[1]]
        self.averages = Averages(len(arrays["scores"]), resamples=study.resamples, seed=study.seed)
        self.ranking = Ranking(arrays["scores"], networks, study.methods, self.averages)

    def findings(self, facts: dict[str, str]) -> Findings:
        """Everything that the page says."""
        tables = {"scores": self.ranking.table}
        if self.ranking.pair:
            tables["differences"] = self.ranking.differences
        return Findings(
            "Single deletion: is a patch worth what the map says?",
            "One of 4 x 4 patches after the other is deleted. Does the logit fall, in rank, as far as the relevance in "
            "the patch says?",
            self._answer(),
            {**facts, "trained with deleted patches": self._trained()},
            self._figures(),
            tables,
            {"Rank correlation of relevance and drop, mean over the images": self._shown()},
            [
                "IDSDS (Hesse, Schaub-Meyer, Roth, NeurIPS 2024): Spearman's correlation over the 16 patches of an "
                "image between the sum of a map in the patch and the drop of the logit of the image's own class when "
                "the patch becomes the mean colour of the training images, as in the released code. Brackets: 95 % "
                "intervals over the images; q: of the interval of the difference, adjusted after Benjamini and "
                "Hochberg over the table. even map: its patches are tied and share their fate, 0. The untrained "
                "network is judged by its own drops.",
                FILTER_NOTE,
                *self._doubts(),
            ],
        )

    def _answer(self) -> str:
        texts = []
        for kind in self.kinds:
            best = self.ranking.best(kind)
            score = bracketed(best.value, best.low, best.high, "{:.2f}")
            texts.append(f"in the {kind} network best by {best.method} ({score})")
        text = "Patches are ranked as the logit falls " + ", ".join(texts)
        if self.ranking.pair:
            ahead, behind = (len(names) for names in self.ranking.ahead())
            text += (
                f"; {self.kinds[0]} is surely ahead with {ahead} and behind with {behind} of "
                f"{len(self.ranking.methods)} maps"
            )
        return " ".join([f"{text}.", *self._doubts()])

    def _trained(self) -> str:
        return ", ".join(f"{kind}: {share:.0%} of the images" for kind, share in self.once["deleted"].items())

    def _doubts(self) -> list[str]:
        """One sentence where a network has not seen deleted patches."""
        without = [kind for kind, share in self.once["deleted"].items() if not share]
        if not without:
            return []
        sentence = (
            f"{' and '.join(without)} {'was' if len(without) == 1 else 'were'} trained on whole images only "
            "(training.deleted_patches=0.5 is what the score asks for): the deletions are out of domain, so that "
            "networks cannot be compared by it."
        )
        return [sentence[:1].upper() + sentence[1:]]

    def _shown(self) -> pd.DataFrame:
        fixed = {"even map": "0.000", "the drops themselves": "1.000"}
        shown = self.ranking.shown({**dict.fromkeys(CONTROLS, ""), **fixed})
        for (i, network), (j, name) in product(enumerate(self.ranking.networks), enumerate(CONTROLS)):
            estimate = self.averages.of(self.arrays["controls"][:, i, j])
            shown.loc[shown.method == name, network] = bracketed(
                estimate.value, estimate.low, estimate.high, "{:z.3f}"
            )
        return shown

    def _figures(self) -> list[Figure]:
        return [
            Figure(
                "scores",
                partial(self.ranking.bars, "rank correlation of relevance and drop over 4 x 4 patches"),
                "Mean over the images; lines: 95 % intervals. A random or even map has 0, the drops themselves 1.",
                "Bars, one a network, in a group a method.",
            ),
            Figure(
                "patches",
                self._draw_patches,
                "Two images; the drop of the logit when each patch is deleted, and the relevance in the patch, each on "
                "its own scale: green speaks for the class, red against it; in grey, light supports and dark speaks "
                "against.",
                "Rows of pictures: an image, then the 4 x 4 patches of drops and maps for every network.",
                scale=1,
            ),
        ]

    def _draw_patches(self, theme: Theme) -> Rgb:
        rows = self.once["pictures"]
        return figures.contact_sheet(*zip(*rows, strict=True), columns=self.once["columns"], theme=theme)
