"""Digits with distractor strokes: where does relevance lie, and does removing the red pixels raise the certainty?

The strokes are ink that says nothing about the class, and the masks of digit and strokes are known to the pixel. Shares
of the positive relevance on digit, strokes and paper are compared with those of two controls that ask no network: even
relevance, and the ink itself. Then the most negative ("red") pixels are painted over with the paper's colour, against
as many pixels of the ink at random, and against the strokes themselves. Certainty is log p/(1-p) of the predicted
class, which does not saturate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from interp_cnn import figures
from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.maps.localisation import pointing_game, rank_accuracy, shares
from interp_cnn.evaluation.maps.pixel_flipping import most_relevant_first
from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.methods.registry import METHODS
from interp_cnn.studies.distractor_findings import DistractorFindings
from interp_cnn.studies.findings import Findings
from interp_cnn.studies.judged import ImageStudy, Judged
from interp_cnn.studies.shared import answers, check_methods, check_share, log_odds, map_of, paper


@dataclass(frozen=True)
class DistractorStudy(ImageStudy):
    """Settings, see conf/experiment/distractor_study.yaml."""

    methods: tuple[str, ...]
    removed: float
    seed: int
    resamples: int
    kinds = ("interpretable", "plain")

    def __post_init__(self) -> None:
        check_methods(self.methods)
        check_share(removed=self.removed)

    @property
    def signed(self) -> list[str]:
        """Methods with red pixels."""
        return [name for name in self.methods if METHODS[name].signed]

    def measured(self, judged: Judged, batch: PartBatch, first: int) -> dict[str, np.ndarray]:
        """Per network and method: shares (B, 3), pointing, rank; certainty gained by removals; digit drawn or not."""
        if batch.distractor_masks is None or batch.object_masks is None:
            raise ValueError(
                "data has no distractor strokes; take data=digits or data=mnist_strokes data.root=FOLDER"
            )
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + first)
        keys = torch.rand(len(batch), *batch.images.shape[2:], generator=generator)
        ink = batch.object_masks | batch.distractor_masks
        names = ("shares", "red", "hits", "gains", "controls", "correct")
        columns: dict[str, list] = {name: [] for name in names}
        for network in judged.networks.values():
            logits = answers(network, batch.images)
            targets = logits.argmax(1)
            columns["correct"].append(targets == batch.labels)
            maps = {
                name: map_of(name, network, batch.images, targets, Options()).maps for name in self.methods
            }
            everything = {
                **maps,
                "even": torch.ones_like(keys),
                "ink": batch.images.sum(1) - self._ground(batch),
            }
            columns["shares"].append(
                torch.stack([self._shares(values, batch) for values in everything.values()], 1)
            )
            red = [self._shares(-maps[name], batch) for name in self.signed]
            columns["red"].append(torch.stack(red, 1))
            hits = [
                torch.stack([rule(values, batch.object_masks) for rule in (pointing_game, rank_accuracy)], 1)
                for values in everything.values()
            ]
            columns["hits"].append(torch.stack(hits, 1))
            gains = [self._removed(network, batch, targets, logits, -maps[name]) for name in self.signed]
            columns["gains"].append(torch.stack(gains, 1))
            random_ink = self._removed(network, batch, targets, logits, keys + ink)
            anywhere = self._removed(network, batch, targets, logits, keys)
            strokes = self._painted(network, batch, targets, logits, batch.distractor_masks)
            columns["controls"].append(torch.stack([random_ink, anywhere, strokes], 1))
        return {name: torch.stack(values, 1).numpy() for name, values in columns.items()}

    def once(self, judged: Judged) -> list:
        """Maps of four images by some methods and every network, over the image."""
        batch = judged.batch(range(min(4, judged.count)))
        rows = []
        for index in range(len(batch)):
            image = batch.images[index : index + 1]
            factor = max(1, 120 // image.shape[-1])
            picture = figures.enlarge(figures.to_rgb(image[0]), factor)
            rows.append((picture, f"class {int(batch.labels[index])}"))
            for kind, network in judged.networks.items():
                targets = answers(network, image).argmax(1)
                for name in self.methods[:1] + tuple(n for n in self.methods if n in ("lrp", "deeplift")):
                    values = map_of(name, network, image, targets, Options()).maps[0]
                    drawn = figures.overlay(picture, values, colours="green-red", smooth=False)
                    rows.append((drawn, f"{kind[:8]}., {name}"))
        return [rows, len(rows) // len(batch)]

    def findings(
        self, arrays: dict[str, np.ndarray], once: list, facts: dict[str, str], kinds: tuple[str, ...]
    ) -> Findings:
        """The answer with its figures and tables; `kinds` names the networks in their order."""
        facts = {
            **facts,
            "removal": f"the most negative {self.removed:.0%} of the pixels, painted like paper",
        }
        return DistractorFindings(self, arrays, once, kinds).findings(facts)

    def _ground(self, batch: PartBatch) -> Tensor:
        return paper().replace(batch.images, None, 0).sum(1)

    def _shares(self, maps: Tensor, batch: PartBatch) -> Tensor:
        objects, distractors = batch.object_masks, batch.distractor_masks
        if objects is None or distractors is None:
            raise ValueError(
                "data has no masks of objects and distractors; expected a set with distractors drawn"
            )
        masks = torch.stack([objects, distractors], 1)
        return shares(maps, torch.cat([masks, ~masks.any(1, keepdim=True)], 1))

    def _removed(
        self, network: nn.Module, batch: PartBatch, targets: Tensor, logits: Tensor, keys: Tensor
    ) -> Tensor:
        """Gain when the pixels with the largest keys are painted over; equal keys share their fate."""
        flat = keys.flatten(1)
        count = max(1, round(self.removed * flat.shape[1]))
        gains = []
        for order in most_relevant_first(flat):
            hidden = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order[:, :count], True)
            gains.append(self._painted(network, batch, targets, logits, hidden.view_as(keys)))
        return torch.stack(gains).mean(0)

    def _painted(
        self, network: nn.Module, batch: PartBatch, targets: Tensor, logits: Tensor, hidden: Tensor
    ) -> Tensor:
        painted = answers(network, paper()(batch.images, hidden[:, None]))
        return (log_odds(painted, targets) - log_odds(logits, targets)).double()
