"""Part interpretability: in how many images does a filter's region cover one and the same part?

A cell is valid where  x > T_f  with  p(x > T_f) = 0.005  over all cells of all maps. The region S_f of an
image is the union of the receptive fields of its valid cells: round ones of a stated radius (the paper's
choice, default), or the exact boxes. Image I is a hit for part k where  IoU(S_f, mask_k) > 0.2 ; an image
without a valid cell is a miss. Over the images of the filter's category that show part k,  P_fk = mean hit,
P_f = max_k P_fk,  and the network's figure is the mean over filters (Zhang, Wu, Zhu, CVPR 2018, section 4.2;
no released code computes it).

The null pairs every region with the masks of the previous image of the same category: what regions of this
size and usual place would hit without looking; a region that never moves is harder to beat (`fixed_regions`).

Counts are kept per group of images, at most 100, so that memory does not grow; the bootstrap draws groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interp_cnn.evaluation.filters.regions import Regions
from interp_cnn.evaluation.statistics import Resampling

GROUPS = 100
IOU = 0.2  # of a region and a part's mask, above which it covers the part


@dataclass(frozen=True)
class PartHits:
    """Hits of D filters on P parts, over G groups of images.

    Attributes:
        hits: (G, D, P) images of the filter's category in which its region covers the part.
        images: (G, D, P) images of the filter's category that show the part.
    """

    hits: Tensor
    images: Tensor

    def shares(self, weights: Tensor | None = None) -> Tensor:
        """(R, D, P) share of hits under group weights (R, G); NaN where no image shows the part."""
        weights = torch.ones(1, len(self.hits)) if weights is None else weights
        hits, images = (
            torch.einsum("rg,gdp->rdp", weights.double(), counts.double())
            for counts in (self.hits, self.images)
        )
        return hits / images

    def best(self, draws: Resampling) -> tuple[Tensor, Tensor]:
        """P_f under the rows of `draws`, (R, D), for each filter's best part, (D,), -1 for a filter without
        images.
        """
        shares = self.shares(draws.rows)
        first = shares[0].nan_to_num(nan=-1.0)
        part = first.argmax(dim=1)
        rows = shares.gather(2, part.reshape(1, -1, 1).expand(len(shares), -1, 1)).squeeze(2)
        return rows, part.where(first.amax(dim=1) >= 0, -1)


@dataclass(frozen=True)
class FilterRegions:
    """What each of D filters was judged by, to look at single images.

    Attributes:
        thresholds: (D,) T_f.
        part: (D,) each filter's best part, -1 for a filter without images.
        region: from valid cells to pixels.
        iou: above which a region covers a part.
    """

    thresholds: Tensor
    part: Tensor
    region: Regions
    iou: float

    def look(self, maps: Tensor, part_masks: Tensor, number: int) -> tuple[Tensor, list[float | None]]:
        """One filter's regions (N, H, W) bool on its maps (N, h, w), and each one's IoU with the filter's part, whose
        masks are among `part_masks` (N, P, H, W); None where the image does not show it.
        """
        pieces = self.region.pieces(maps > self.thresholds[number].to(maps))
        counts = self.region.counts(part_masks[:, self.part[number]].to(maps.device))
        overlaps = intersection_over_union(pieces, counts, self.region.sizes.to(pieces)).diagonal()
        known = zip(overlaps.tolist(), counts.any(dim=1).tolist(), strict=True)
        seen = pieces[:, self.region.piece_of.to(maps.device)] > 0
        return seen, [overlap if shown else None for overlap, shown in known]


class PartInterpretability:
    """Second pass over the images, with the thresholds of the first; counts where the thresholds lie."""

    def __init__(
        self, thresholds: Tensor, categories: Tensor, parts: int, *, region: Regions, iou: float = IOU
    ) -> None:
        filters = len(thresholds)
        self.thresholds, self.categories, self.region, self.iou = thresholds, categories, region, iou
        self.hits = torch.zeros(GROUPS, filters, parts, dtype=torch.int32, device=thresholds.device)
        self.images = torch.zeros_like(self.hits)
        self.null_hits, self.null_images = self.hits.clone(), self.hits.clone()
        self.seen = 0
        self.previous: dict[int, Tensor] = {}  # pixels of the last image's masks in each piece

    def update(self, maps: Tensor, labels: Tensor, part_masks: Tensor) -> None:
        """Add a batch: maps (B, D, h, w), labels (B,), part_masks (B, P, H, W) bool, empty where a part is
        not shown.
        """
        thresholds = self.thresholds.reshape(-1, 1, 1)
        filters_by_label = {
            label: (self.categories == label).nonzero().flatten() for label in set(labels.tolist())
        }
        filters_by_label = {label: filters.to(maps.device) for label, filters in filters_by_label.items()}
        for image, label, masks in zip(maps, labels.tolist(), part_masks, strict=True):
            group, self.seen = self.seen % GROUPS, self.seen + 1
            class_filters = filters_by_label[label]
            if len(class_filters) == 0:
                continue
            valid = image[class_filters] > thresholds[class_filters]
            active = valid.flatten(1).any(dim=1)
            pieces = self.region.pieces(valid[active])
            counts = self.region.counts(masks.to(maps.device, non_blocking=True))
            self._count(self.hits, self.images, group, (class_filters, active), pieces, counts)
            if label in self.previous:
                previous = self.previous[label]
                self._count(
                    self.null_hits, self.null_images, group, (class_filters, active), pieces, previous
                )
            self.previous[label] = counts

    def result(self) -> PartHits:
        return PartHits(self.hits[: self.seen].cpu(), self.images[: self.seen].cpu())

    def regions(self) -> FilterRegions:
        """What the filters were judged by."""
        shares = self.result().shares()[0].nan_to_num(nan=-1.0)
        part = shares.argmax(dim=1).where(shares.amax(dim=1) >= 0, -1)
        return FilterRegions(self.thresholds, part, self.region, self.iou)

    def null(self) -> PartHits:
        """The same regions with the masks of the previous image of the category."""
        return PartHits(self.null_hits[: self.seen].cpu(), self.null_images[: self.seen].cpu())

    def _count(
        self,
        hits: Tensor,
        images: Tensor,
        group: int,
        filters: tuple[Tensor, Tensor],
        pieces: Tensor,
        counts: Tensor,
    ) -> None:
        class_filters, active = filters
        overlaps = intersection_over_union(pieces, counts, self.region.sizes.to(pieces))  # (M, P)
        shown = counts.any(dim=1)  # (P,)
        hits[group, class_filters[active]] += ((overlaps > self.iou) & shown).int()
        images[group, class_filters] += shown.int()


def intersection_over_union(pieces: Tensor, counts: Tensor, sizes: Tensor) -> Tensor:
    """(M, P) IoU of regions and masks; 0 where both are empty.

    Args:
        pieces: (M, S) 1 where a piece is in the region.
        counts: (P, S) pixels of the mask in each piece.
        sizes: (S,) pixels of each piece.
    """
    inside = pieces @ counts.T
    union = (pieces @ sizes).unsqueeze(1) + counts.sum(dim=1) - inside
    return inside / union.clamp(min=1)
