"""How few filters carry a decision, and whether their shares tell what happens without them.

For every image the logit of the class that the network says is shared out among the filters of the layer
(`filter_contributions`: exactly where the head is linear, else by DeepLIFT, else by LRP).

    decision_filters    filters that carry 90 % of what speaks for the class; the median over the images
    removal_gap         area between the logit's curves when filters are switched off least and most relevant first,
                        over their span: 0 for shares that tell nothing, negative for wrong ones
    share_fidelity      Spearman's correlation of a filter's share with what the logit loses without it alone, over at
                        most 64 filters from the most to the least relevant; 1 by construction where the head is linear
    object_evidence     part of what speaks for the class that lies on the object, where its masks (or its parts') are
                        known; a cell counts with the object's part of the square that it stands for
    object_evidence_null    the same for evidence spread evenly over the image

A fixed spot or a random cell has no shares: there is nothing to compare with but other networks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.filters.passes import Reader
from interp_cnn.evaluation.statistics import Resampling, Sampled, rank_correlation, weighted_mean
from interp_cnn.explanation.decisions.class_filters import by_first_that_works, pieces
from interp_cnn.explanation.decisions.removal import filters_for, removal
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.explanation.receptive_field.field import ReceptiveField

ASKED = 400  # images whose decisions are shared out, spread over all
TESTED = 48  # images whose filters are switched off
ALONE = 64  # filters that are switched off alone, for the correlation


def decision_figures(
    reader: Reader, draws: Resampling, *, asked: int = ASKED, tested: int = TESTED, alone: int = ALONE
) -> dict[str, Sampled]:
    """The measures; none for a network that no method shares out, or images that can be read once only.

    Args:
        reader: of network, layer and images.
        draws: resampling of the images.
        asked: images whose decisions are shared out, spread over all.
        tested: those of them whose filters are switched off.
        alone: filters that are switched off alone.
    """
    needed, gaps, fidelities, placed = [], [], [], []
    shared = _spread(draws.images, asked)
    numbers = {shared[place] for place in _spread(len(shared), tested)}
    begun = seen = 0
    for batch, images in reader.batches():
        places = [number - begun for number in shared if begun <= number < begun + len(images)]
        begun += len(images)
        if not places:
            continue
        images, masks = images[places], object_masks(batch)
        masks = None if masks is None else masks[places]
        targets = reader.answers(images)[1].argmax(1)
        for part in pieces(images):
            try:
                contributions = by_first_that_works(
                    reader.network, images[part], targets[part], layer=reader.layer
                )
            except (Refusal, ValueError):
                return {}
            needed.append(filters_for(contributions.shares).double().cpu())
            if masks is not None:
                field = reader.field(images.shape[1])
                evidence = contributions.maps.clamp(min=0).sum(1).cpu()
                placed.append(torch.stack(on_object(evidence, masks[part].cpu(), field), 1))
            for place in range(len(contributions.targets)):
                if shared[seen + place] in numbers:
                    without = removal(
                        reader.network,
                        images[part][place],
                        contributions,
                        number=place,
                        orders=0,
                        alone=alone,
                    )
                    gaps.append(without.area)
                    shares = contributions.shares[place][without.tried.to(contributions.shares.device)]
                    fidelities.append(float(rank_correlation(shares[None], without.drops[None])))
            seen += len(contributions.targets)
    if not needed:  # images that can be read once only
        return {}
    counts = torch.cat(needed).where(torch.cat(needed) > 0, torch.nan)
    of_all, rows = draws.rows[:, shared], draws.rows[:, sorted(numbers)]
    figures = {}
    if placed:
        values = torch.cat(placed)
        for name, column in zip(("object_evidence", "object_evidence_null"), values.T, strict=True):
            figures[name] = Sampled.from_rows(weighted_mean(column, of_all), draws, len(column))
    return {
        **figures,
        "decision_filters": Sampled.from_rows(weighted_median(counts, of_all), draws, len(counts)),
        "removal_gap": Sampled.from_rows(weighted_mean(torch.tensor(gaps), rows), draws, len(gaps)),
        "share_fidelity": Sampled.from_rows(
            weighted_mean(torch.tensor(fidelities), rows), draws, len(fidelities)
        ),
    }


def _spread(images: int, most: int) -> list[int]:
    """At most `most` image numbers, evenly from the first to the last."""
    return torch.linspace(0, images - 1, min(most, images)).round().long().tolist()


def object_masks(batch: PartBatch) -> Tensor | None:
    """(B, H, W) bool, the objects' pixels, else those of all their parts; None where nobody drew them."""
    if batch.object_masks is not None:
        return batch.object_masks
    return None if batch.part_masks is None else batch.part_masks.any(1)


def on_object(evidence: Tensor, masks: Tensor, field: ReceptiveField) -> tuple[Tensor, Tensor]:
    """Part of the evidence that lies on objects, and the part that an even spread would have.

    Args:
        evidence: (B, h, w), not negative.
        masks: (B, H, W) bool.
        field: of the cells; each stands for the square of a stride around its centre.

    Returns:
        Two of (B,); NaN for an image without evidence, or without an object.
    """
    rows, columns = (_squares(field, axis) for axis in (0, 1))
    covered = rows @ masks.double() @ columns.T  # (B, h, w)
    values = evidence.double()
    seen = masks.any(2).any(1)
    part = (values * covered).sum((1, 2)) / values.sum((1, 2))
    return part.where(seen, torch.nan), covered.mean((1, 2)).where(seen, torch.nan)


def _squares(field: ReceptiveField, axis: int) -> Tensor:
    """(cells, pixels): what a cell stands for along an axis, in parts that sum to 1; outside the image the nearest."""
    pixels = torch.arange(field.image_size[axis], dtype=torch.float64)
    centres = field.start[axis] + field.stride[axis] * torch.arange(field.grid[axis], dtype=torch.float64)
    away = pixels - centres.clamp(0, float(pixels[-1]))[:, None]
    inside = (away >= -field.stride[axis] / 2) & (away < field.stride[axis] / 2)
    inside |= away.abs() == away.abs().amin(1, keepdim=True)
    return inside.double() / inside.sum(1, keepdim=True)


def weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """(R,) lower median of `values` (N,) under `weights` (R, N); values that are NaN take no part.

    Example:
        >>> weighted_median(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([[1, 1, 1], [5, 1, 1]]))
        tensor([2., 3.], dtype=torch.float64)
    """
    known = values.isfinite()
    if not known.any():
        return torch.full((len(weights),), torch.nan, dtype=torch.float64)
    order = values[known].argsort(stable=True)
    ordered, drawn = values[known][order].double(), weights[:, known][:, order].double().cumsum(1)
    half = drawn[:, -1:] / 2
    return torch.where(half[:, 0] > 0, ordered[(drawn >= half).to(torch.int8).argmax(1)], torch.nan)
