"""Is a patch worth what the map says? The in-domain single-deletion score for every method and network.

Patches of 4 x 4 are deleted one by one (`evaluation.maps.single_deletion`); the engine of occlusion gives the drops of
the logit. With networks that were trained on images with deleted patches (`training.deleted_patches`) the deletions are
in their domain, and networks can be compared. Controls: the untrained network, a random map, and the edges of the
image, which ask no network; an even map gets 0, the drops themselves 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from interp_cnn import figures
from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.maps.single_deletion import PATCHES, patch_drops, patch_sums, single_deletion
from interp_cnn.explanation.network.placement import beside
from interp_cnn.explanation.occlusion.fills import dataset_mean
from interp_cnn.studies.findings import Findings
from interp_cnn.studies.judged import ImageStudy, Judged
from interp_cnn.studies.map_measures import edges
from interp_cnn.studies.parts import Arrays
from interp_cnn.studies.shared import FILTER_MAPS, answers, check_methods, maps_of_classes
from interp_cnn.studies.single_deletion_findings import SingleDeletionFindings


@dataclass(frozen=True)
class SingleDeletionStudy(ImageStudy):
    """Settings, see conf/experiment/single_deletion_study.yaml."""

    methods: tuple[str, ...]
    seed: int
    resamples: int
    kinds = ("interpretable", "plain")
    needs_untrained = True

    def __post_init__(self) -> None:
        check_methods(self.methods, more=FILTER_MAPS)

    def measured(self, judged: Judged, batch: PartBatch, first: int) -> Arrays:
        """Per image: scores (B, networks, methods), those of a random map and of the image's edges (B, networks, 2),
        and which answers are right (B, trained networks).
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + first)
        noise = torch.randn(len(batch), *batch.images.shape[2:], generator=generator)
        columns: dict[str, list] = {"scores": [], "controls": [], "correct": []}
        for kind, network in judged.with_untrained.items():
            images = beside(network, batch.images)
            drops = patch_drops(network, images, batch.labels, fill=dataset_mean(judged.mean))
            row = []
            for name in self.methods:
                maps = maps_of_classes(name, network, batch.images, batch.labels[:, None])[:, 0]
                row.append(single_deletion(maps, drops))
            columns["scores"].append(torch.stack(row, 1))
            blind = (noise, edges(batch.images))
            columns["controls"].append(torch.stack([single_deletion(maps, drops) for maps in blind], 1))
            if kind in judged.networks:
                columns["correct"].append(answers(network, batch.images).argmax(1) == batch.labels)
        return {name: torch.stack(values, 1).cpu().numpy() for name, values in columns.items()}

    def once(self, judged: Judged) -> dict:
        """Drops of the patches of two images beside the relevance in them, and who was trained with deleted patches."""
        batch = judged.batch(range(min(2, judged.count)))
        names = [name for name in ("deeplift", "lrp", "grad_cam", "filter_evidence") if name in self.methods][
            :2
        ]
        names = names or list(self.methods[:2])
        rows = []
        for index in range(len(batch)):
            image, label = batch.images[index : index + 1], batch.labels[index : index + 1]
            drawn = figures.enlarge(figures.to_rgb(image[0]), max(1, 120 // image.shape[-1]))
            rows.append((drawn, f"class {judged.images.classes[int(label)]}"[:40]))
            for kind, network in judged.networks.items():
                drops = patch_drops(network, beside(network, image), label, fill=dataset_mean(judged.mean))
                cells = {"drops": drops.view(PATCHES, PATCHES)}
                for name in names:
                    maps = maps_of_classes(name, network, image, label[:, None])[0]
                    cells[name] = patch_sums(maps).view(PATCHES, PATCHES)
                for name, values in cells.items():
                    overlaid = figures.overlay(drawn, values, colours="green-red", smooth=False)
                    rows.append((overlaid, f"{kind[:8]}., {name}"))
        return {
            "pictures": rows,
            "columns": len(rows) // len(batch),
            "deleted": dict(judged.deleted_patches),
        }

    def findings(self, arrays: Arrays, once: dict, facts: dict[str, str], kinds: tuple[str, ...]) -> Findings:
        """The answer with its figures and tables; `kinds` names the networks in their order."""
        return SingleDeletionFindings(self, arrays, once, kinds).findings(facts)
