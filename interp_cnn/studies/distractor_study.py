"""Digits with distractor strokes: where does relevance lie, and does removing the red pixels raise the certainty?

The strokes are ink that says nothing about the class, and the masks of digit and strokes are known to the pixel. Shares
of the positive relevance on digit, strokes and paper are compared with those of two controls that ask no network: even
relevance, and the ink itself. Then the most negative ("red") pixels are painted over with the paper's colour, against
as many pixels of the ink at random, and against the strokes themselves. Certainty is log p/(1-p) of the predicted
class, which does not saturate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from interp_cnn import figures
from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.localisation import pointing_game, rank_accuracy, shares
from interp_cnn.evaluation.statistics import benjamini_hochberg, paired_permutation_p_value
from interp_cnn.explanation.methods import METHODS
from interp_cnn.explanation.options import Options
from interp_cnn.studies.asking import answers, check_methods, log_odds, map_of, paper
from interp_cnn.studies.findings import Averages, Figure, Findings

PLACES = ("digit", "strokes", "paper")
CONTROLS = ("even", "ink")


@dataclass(frozen=True)
class DistractorStudy:
    """Settings, see conf/experiment/distractor_study.yaml."""

    methods: tuple[str, ...]
    removed: float
    seed: int
    resamples: int
    kinds = ("interpretable", "plain")

    def __post_init__(self) -> None:
        check_methods(self.methods)
        if not 0 < self.removed < 1:
            raise ValueError(f"study.removed={self.removed}: expected a share of the pixels, between 0 and 1")

    @property
    def signed(self) -> list[str]:
        """Methods with red pixels."""
        return [name for name in self.methods if METHODS[name].signed]

    def measured(self, networks: dict[str, nn.Module], batch: PartBatch, first: int) -> dict[str, np.ndarray]:
        """Per network and method: shares (B, 3), pointing, rank; certainty gained by removals; digit drawn or not."""
        if batch.distractor_masks is None or batch.object_masks is None:
            raise ValueError(
                "data has no distractor strokes; take data=digits or data=mnist_strokes data.root=FOLDER"
            )
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + first)
        keys = torch.rand(len(batch), *batch.images.shape[2:], generator=generator)
        ink = batch.object_masks | batch.distractor_masks
        found: dict[str, list] = {"shares": [], "hits": [], "gains": [], "controls": [], "correct": []}
        for network in networks.values():
            logits = answers(network, batch.images)
            targets = logits.argmax(1)
            found["correct"].append(targets == batch.labels)
            maps = {
                name: map_of(name, network, batch.images, targets, Options()).maps for name in self.methods
            }
            everything = {
                **maps,
                "even": torch.ones_like(keys),
                "ink": batch.images.sum(1) - self._ground(batch),
            }
            found["shares"].append(torch.stack([self._shares(one, batch) for one in everything.values()], 1))
            hits = [
                torch.stack([rule(one, batch.object_masks) for rule in (pointing_game, rank_accuracy)], 1)
                for one in everything.values()
            ]
            found["hits"].append(torch.stack(hits, 1))
            red = [self._removed(network, batch, targets, logits, -maps[name]) for name in self.signed]
            found["gains"].append(torch.stack(red, 1))
            random_ink = self._removed(network, batch, targets, logits, keys + ink)
            anywhere = self._removed(network, batch, targets, logits, keys)
            strokes = self._painted(network, batch, targets, logits, batch.distractor_masks)
            found["controls"].append(torch.stack([random_ink, anywhere, strokes], 1))
        return {name: torch.stack(values, 1).numpy() for name, values in found.items()}

    def once(self, networks: dict[str, nn.Module], batch: PartBatch) -> list:
        """Maps of four images by some methods and every network, over the image."""
        rows = []
        for index in range(min(4, len(batch))):
            image = batch.images[index : index + 1]
            factor = max(1, 120 // image.shape[-1])
            picture = figures.enlarge(figures.to_rgb(image[0]), factor)
            rows.append((picture, f"class {int(batch.labels[index])}"))
            for kind, network in networks.items():
                targets = answers(network, image).argmax(1)
                for name in self.methods[:1] + tuple(n for n in self.methods if n in ("lrp", "deeplift")):
                    values = map_of(name, network, image, targets, Options()).maps[0]
                    drawn = figures.overlay(picture, values, colours="green-red", smooth=False)
                    rows.append((drawn, f"{kind[:8]}., {name}"))
        return [rows, len(rows) // min(4, len(batch))]

    def findings(
        self, found: dict[str, np.ndarray], once: list, facts: dict[str, str], kinds: tuple[str, ...]
    ) -> Findings:
        """The answer with its figures and tables; `kinds` names the networks in their order."""
        averages = Averages(len(found["correct"]), resamples=self.resamples, seed=self.seed)
        where, gains = self._where(found, kinds, averages), self._gains(found, kinds, averages)
        facts = {
            **facts,
            "removal": f"the most negative {self.removed:.0%} of the pixels, painted like paper",
        }
        figures_ = [
            Figure(
                place,
                partial(
                    _bars,
                    where.rename(columns={place: "value", f"{place}_low": "low", f"{place}_high": "high"}),
                    "method",
                    f"share of positive relevance on the {place}",
                ),
                f"Share of the positive relevance on the {place}; lines: 95 % intervals. "
                "even: every pixel alike; ink: the brightness itself.",
            )
            for place in ("digit", "strokes")
        ]
        figures_.append(
            Figure(
                "gain",
                partial(
                    _bars,
                    gains.rename(columns={"gain": "value"}),
                    "removed",
                    "gain in log p/(1-p) by removal",
                ),
                "What painting pixels over does to the certainty; lines: 95 % intervals.",
            )
        )
        pictures, columns = once
        figures_.append(
            Figure(
                "maps",
                lambda theme: figures.contact_sheet(
                    *zip(*pictures, strict=True), columns=columns, theme=theme
                ),
                "Maps of four images: green pixels support the predicted class, red ones speak against it.",
            )
        )
        return Findings(
            "Distractor study: digits beside strokes that mean nothing",
            "Which share of the relevance lies on the digit, on distractor strokes and on empty paper, and does "
            "removing the red pixels raise the certainty?",
            self._answer(where, gains, kinds),
            facts,
            figures_,
            {"shares": where, "removal": gains},
            self._shown(where, gains),
            [
                "digit, strokes, paper: shares of positive relevance; pointing: the maximum lies on the digit; rank: "
                "of the most relevant pixels, as many as the digit has, the share on it; red removed: mean gain in "
                "log p/(1-p) of the predicted class with its 95 % interval; raised: share of the images in which "
                "certainty rises; q: paired permutation test against painting as many random ink pixels, adjusted "
                "after Benjamini and Hochberg."
            ],
        )

    def _answer(self, where: pd.DataFrame, gains: pd.DataFrame, kinds: tuple[str, ...]) -> str:
        texts = []
        for kind in kinds:
            rows = where[(where.network == kind) & ~where.method.isin(CONTROLS)]
            ink = where[(where.network == kind) & (where.method == "ink")].iloc[0]
            best = rows.loc[rows.digit.idxmax()]
            own = gains[(gains.network == kind) & gains.removed.isin(self.signed)]
            up = own[own.low > 0]
            texts.append(
                f"in the {kind} network {best.method} puts most on the digit ({best.digit:.0%}, strokes "
                f"{best.strokes:.0%}; the ink itself: {ink.digit:.0%} and {ink.strokes:.0%}) and removing red pixels "
                f"raises the certainty with {len(up)} of {len(own)} methods"
            )
        return ("; ".join(texts) + ".").capitalize()

    def _where(
        self, found: dict[str, np.ndarray], kinds: tuple[str, ...], averages: Averages
    ) -> pd.DataFrame:
        rows = []
        for i, kind in enumerate(kinds):
            for j, method in enumerate((*self.methods, *CONTROLS)):
                row = {"network": kind, "method": method}
                for k, place in enumerate(PLACES):
                    one = averages.of(found["shares"][:, i, j, k])
                    row |= {place: one.value, f"{place}_low": one.low, f"{place}_high": one.high}
                for k, rule in enumerate(("pointing", "rank")):
                    row[rule] = averages.of(found["hits"][:, i, j, k]).value
                rows.append(row)
        return pd.DataFrame(rows)

    def _gains(
        self, found: dict[str, np.ndarray], kinds: tuple[str, ...], averages: Averages
    ) -> pd.DataFrame:
        rows = []
        for i, kind in enumerate(kinds):
            controls = dict(
                zip(("random ink", "random pixels", "the strokes"), found["controls"][:, i].T, strict=True)
            )
            own = dict(zip(self.signed, found["gains"][:, i].T, strict=True))
            for name, values in {**own, **controls}.items():
                one = averages.of(values)
                against = torch.from_numpy(values - controls["random ink"])
                rows.append(
                    {
                        "network": kind,
                        "removed": name,
                        "gain": one.value,
                        "low": one.low,
                        "high": one.high,
                        "raised": float((values > 0).mean()),
                        "q": paired_permutation_p_value(against, seed=self.seed),
                    }
                )
        table = pd.DataFrame(rows)
        table["q"] = benjamini_hochberg(torch.tensor(table.q.to_numpy())).numpy()
        return table

    def _shown(self, where: pd.DataFrame, gains: pd.DataFrame) -> pd.DataFrame:
        removed = gains.rename(columns={"removed": "method"})
        table = where.merge(removed, on=["network", "method"], how="outer", sort=False)
        names = ["digit", "strokes", "paper", "pointing", "rank", "raised"]
        shown = table[["network", "method"]].copy()
        for name in names:
            shown[name] = [f"{value:.3f}" if np.isfinite(value) else "" for value in table[name]]
        shown["red removed"] = [
            f"{r.gain:+.2f} [{r.low:+.2f}, {r.high:+.2f}]" if np.isfinite(r.gain) else ""
            for r in table.itertuples()
        ]
        shown["q"] = [f"{value:.4f}" if np.isfinite(value) else "" for value in table.q]
        return shown

    def _ground(self, batch: PartBatch) -> Tensor:
        return paper().replace(batch.images, None, 0).sum(1)

    def _shares(self, maps: Tensor, batch: PartBatch) -> Tensor:
        masks = torch.stack([batch.object_masks, batch.distractor_masks], 1)
        return shares(maps, torch.cat([masks, ~masks.any(1, keepdim=True)], 1))

    def _removed(
        self, network: nn.Module, batch: PartBatch, targets: Tensor, logits: Tensor, keys: Tensor
    ) -> Tensor:
        """Gain when the pixels with the largest keys are painted over."""
        flat = keys.flatten(1)
        count = max(1, round(self.removed * flat.shape[1]))
        chosen = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
        hidden = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, True).view_as(keys)
        return self._painted(network, batch, targets, logits, hidden)

    def _painted(
        self, network: nn.Module, batch: PartBatch, targets: Tensor, logits: Tensor, hidden: Tensor
    ) -> Tensor:
        painted = answers(network, paper()(batch.images, hidden[:, None]))
        return (log_odds(painted, targets) - log_odds(logits, targets)).double()


def _bars(table: pd.DataFrame, names: str, label: str, theme: figures.Theme):
    """A bar for every row of a table with columns network, value, low and high."""
    values, intervals = {}, {}
    for kind, rows in table.groupby("network", sort=False):
        values[kind] = dict(zip(rows[names], rows.value, strict=True))
        pairs = zip(rows.low, rows.high, strict=True)
        intervals[kind] = dict(zip(rows[names], pairs, strict=True))
    return figures.bars(values, label=label, intervals=intervals, theme=theme)
