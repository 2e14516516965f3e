"""Iterative distortion along LRP, sensitivity analysis (SA) and their combinations.

After Rosenlew and Ljungdahl, "Using LRP and Sensitivity Analysis heatmaps" (KTH 2019). Square regions are replaced one
after another in the order of LRP, of SA, of each of the four combinations (high or low in each: the smaller of the two
rank shares decides), and at random. Expected from the report: distorting what LRP calls essential lowers the score,
distorting what LRP and SA agree to be inessential raises it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from interp_cnn import figures
from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.maps.pixel_flipping import (
    Regions,
    most_relevant_first,
    random_order,
    replaced_shares,
    score_curves,
)
from interp_cnn.evaluation.statistics import benjamini_hochberg, paired_permutation_p_value
from interp_cnn.explanation.methods.options import Options
from interp_cnn.figures.curves import Curve, curve_panels
from interp_cnn.studies.findings import Averages, Figure, Findings, bracketed, rows_of
from interp_cnn.studies.judged import ImageStudy, Judged
from interp_cnn.studies.shared import (
    answers,
    check_fills,
    check_methods,
    check_share,
    check_whole_numbers,
    fill_named,
    map_of,
)

COMBINATIONS = tuple(f"LRP {a}, SA {b}" for a, b in product(("high", "low"), repeat=2))
ORDERS = (*COMBINATIONS, "LRP high", "LRP low", "SA high", "SA low", "random")
RANDOM_REPEATS = 3


@dataclass(frozen=True)
class DistortionStudy(ImageStudy):
    """Settings, see conf/experiment/distortion_study.yaml."""

    region: int
    steps: int
    early: float
    fills: tuple[str, ...]
    lrp: str
    seed: int
    resamples: int
    kinds = ("plain",)

    def __post_init__(self) -> None:
        check_methods((self.lrp,))
        check_fills(self.fills)
        check_whole_numbers(region=self.region)
        check_whole_numbers(2, steps=self.steps)
        check_share(early=self.early)

    def measured(self, judged: Judged, batch: PartBatch, first: int) -> dict[str, np.ndarray]:
        """Curves of one part: logit and probability (B, fills, orders, steps + 1), and which answers are right."""
        network = judged.first
        logits = answers(network, batch.images)
        targets = logits.argmax(1)
        orders = self._orders(network, batch.images, targets, first)
        columns: dict[str, list] = {"logit": [], "probability": []}
        for fill in self.fills:
            rows = [self._curves(network, batch.images, targets, order, fill) for order in orders.values()]
            for place, name in enumerate(columns):
                columns[name].append(torch.stack([curves[place] for curves in rows], 1))
        arrays = {name: torch.stack(curves, 1).float().numpy() for name, curves in columns.items()}
        return {**arrays, "correct": (targets == batch.labels).numpy()}

    def once(self, judged: Judged) -> list:
        """Per-step pictures of the first image: one row an order."""
        network = judged.first
        image = judged.batch(range(1)).images
        targets = answers(network, image).argmax(1)
        regions, fill = self._regions(image), fill_named(self.fills[min(1, len(self.fills) - 1)], self.seed)
        shares = replaced_shares(self.steps)[:: max(1, self.steps // 7)]
        rows = []
        for name, (order, *_) in self._orders(network, image, targets, 0).items():  # the first of each
            place = torch.empty_like(order).scatter_(1, order, torch.arange(regions.count)[None])
            rank = place[:, regions.of_pixel]
            for share in shares:
                hidden = (rank < round(float(share) * regions.count))[:, None]
                shown = fill(image, hidden)
                chance = answers(network, shown).softmax(1)[0, targets[0]]
                picture = figures.enlarge(figures.to_rgb(shown[0]), -(-112 // image.shape[-1]))
                words = name if share == 0 else f"{float(share):.0%}: p = {chance:.2f}"
                rows.append((picture, words))
        return [rows, len(shares), fill.name]

    def findings(
        self, arrays: dict[str, np.ndarray], once: list, facts: dict[str, str], kinds: tuple[str, ...]
    ) -> Findings:
        """The answer with its figures and tables; `kinds` names the networks in their order."""
        averages = Averages(len(arrays["correct"]), resamples=self.resamples, seed=self.seed)
        table = self._table(arrays, averages)
        curves = self._curve_table(arrays, averages)
        shares = replaced_shares(self.steps).numpy()

        def panels(names: tuple[str, ...]) -> dict:
            return {
                fill: {
                    name: Curve(
                        shares, *averages.band(arrays["logit"][:, i, ORDERS.index(name)]), name == "random"
                    )
                    for name in names
                }
                for i, fill in enumerate(self.fills)
            }

        drawn = [
            Figure(
                f"curves-{word}",
                lambda theme, names=names: curve_panels(
                    panels(names),
                    across="share of the regions distorted",
                    up="logit of the predicted class",
                    shared=True,
                    theme=theme,
                ),
                f"Mean logit while regions are distorted in the order of {what}; bands: 95 % of the bootstrap.",
                "A chart a replacement, a curve an order: logit against the share of the regions distorted.",
            )
            for word, what, names in (
                ("combined", "the four combinations of LRP and SA", (*COMBINATIONS, "random")),
                ("single", "LRP or SA alone", (*ORDERS[4:8], "random")),
            )
        ]
        pictures, columns, fill = once
        drawn.append(
            Figure(
                "steps",
                lambda theme: figures.contact_sheet(
                    *zip(*pictures, strict=True), columns=columns, theme=theme
                ),
                f"The first image step by step, one row an order, replacement: {fill}.",
                "Pictures of the image, the probability of the predicted class below each.",
                scale=1,
            )
        )
        lowers = _where(
            table, "LRP high", lambda row: row.high < 0 and row.against_high < 0 and row.q_random < 0.05
        )
        raises, alone = (
            _where(table, order, lambda row: row.low > 0 and row.q_start < 0.05)
            for order in ("LRP low, SA low", "LRP low")
        )
        answer = (
            f"Distorting what LRP calls essential lowers the score, below the random control, with {_listed(lowers)} "
            f"of {len(self.fills)} replacements; distorting what LRP and SA agree to be inessential raises it with "
            f"{_listed(raises)}; distorting what LRP alone calls inessential raises it with {_listed(alone)}."
        )
        facts = {
            **facts,
            "distortion": f"{self.region}x{self.region} pixels, {self.steps} steps, LRP by {self.lrp}",
        }
        shown = pd.DataFrame(
            {
                "replacement": row.replacement,
                "order": row.order,
                "change": bracketed(row.change, row.low, row.high, "{:+z.2f}"),
                "q": f"{row.q_start:.4f}",
                "against random": bracketed(
                    row.against_random, row.against_low, row.against_high, "{:+z.2f}"
                ),
                "q ": f"{row.q_random:.4f}",
                "raised": f"{row.raised:.0%}",
                "probability": f"{row.probability:+z.3f}",
            }
            for row in rows_of(table)
        )
        return Findings(
            "Distortion study: LRP, sensitivity analysis and their combinations",
            "Does distorting the regions that LRP calls essential lower the score, and does distorting those that LRP "
            "and sensitivity analysis agree to be inessential raise it?",
            answer,
            facts,
            drawn,
            {"distortion": table, "curves": curves},
            {"The first regions that are distorted": shown},
            [
                f"change: mean change of the predicted class's logit over the first "
                f"{self._last / self.steps:.0%} of the regions, with its 95 % interval over the images; against "
                "random: the same minus the random order's, paired; q: p-values of paired sign-flip permutation tests, "
                "adjusted after Benjamini and Hochberg over the table; raised: share of the images whose logit rises; "
                "probability: mean change of the predicted class's probability."
            ],
        )

    @property
    def _last(self) -> int:
        """Step up to which scores are compared."""
        return max(1, round(self.early * self.steps))

    def _table(self, arrays: dict[str, np.ndarray], averages: Averages) -> pd.DataFrame:
        early, chances = (
            arrays[score][..., 1 : self._last + 1].mean(-1) - arrays[score][..., 0]  # (N, fills, orders)
            for score in ("logit", "probability")
        )
        rows = []
        for i, fill in enumerate(self.fills):
            control = early[:, i, ORDERS.index("random")]
            for j, order in enumerate(ORDERS):
                changes = early[:, i, j]
                change, against = averages.of(changes), averages.of(changes - control)
                rows.append(
                    {
                        "replacement": fill,
                        "order": order,
                        "change": change.value,
                        "low": change.low,
                        "high": change.high,
                        "q_start": paired_permutation_p_value(torch.from_numpy(changes), seed=self.seed),
                        "against_random": against.value,
                        "against_low": against.low,
                        "against_high": against.high,
                        "q_random": paired_permutation_p_value(
                            torch.from_numpy(changes - control), seed=self.seed
                        ),
                        "raised": float((changes > 0).mean()),
                        "probability": averages.of(chances[:, i, j]).value,
                    }
                )
        table = pd.DataFrame(rows)
        for column in ("q_start", "q_random"):
            table[column] = benjamini_hochberg(torch.tensor(table[column].to_numpy())).numpy()
        return table

    def _curve_table(self, arrays: dict[str, np.ndarray], averages: Averages) -> pd.DataFrame:
        rows = []
        for (i, fill), (j, order), score in product(
            enumerate(self.fills), enumerate(ORDERS), ("logit", "probability")
        ):
            ends = averages.band(arrays[score][:, i, j])
            for share, value, low, high in zip(replaced_shares(self.steps).tolist(), *ends, strict=True):
                rows.append((fill, order, score, share, value, low, high))
        return pd.DataFrame(rows, columns=["replacement", "order", "score", "share", "value", "low", "high"])

    def _regions(self, images: Tensor) -> Regions:
        return Regions((images.shape[2], images.shape[3]), self.region)

    def _orders(self, network: nn.Module, images: Tensor, targets: Tensor, first: int) -> dict[str, Tensor]:
        """(n, B, regions) orders of the regions by each rule: n > 1 for ties and for the random control."""
        regions = self._regions(images)
        ranks = {}
        for word, name in (("LRP", self.lrp), ("SA", "sensitivity_analysis")):
            maps = map_of(name, network, images, targets, Options()).maps
            places = (
                torch.from_numpy(rankdata(regions.means(maps).cpu(), axis=1)) - 1
            )  # from 0, ties share theirs
            ranks[word] = places.to(maps.device) / (regions.count - 1)
        sides = {
            (word, side): rank if side == "high" else 1 - rank
            for word, rank in ranks.items()
            for side in ("high", "low")
        }
        values = {
            f"LRP {a}, SA {b}": torch.minimum(sides["LRP", a], sides["SA", b])
            for a, b in product(("high", "low"), repeat=2)
        }
        values |= {f"{word} {side}": rank for (word, side), rank in sides.items()}
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + first)
        control = [random_order(len(images), regions.count, generator) for _ in range(RANDOM_REPEATS)]
        return {
            **{name: most_relevant_first(it) for name, it in values.items()},
            "random": torch.stack(control),
        }

    def _curves(self, network: nn.Module, images: Tensor, targets: Tensor, order: Tensor, fill: str):
        return score_curves(
            network,
            images,
            targets,
            order,
            regions=self._regions(images),
            shares=replaced_shares(self.steps),
            fill=fill_named(fill, self.seed),
        )


def _where(table: pd.DataFrame, order: str, good: Callable) -> list[str]:
    """Replacements with which the row of an order is so."""
    return [row.replacement for row in rows_of(table[table.order == order]) if good(row)]


def _listed(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"
