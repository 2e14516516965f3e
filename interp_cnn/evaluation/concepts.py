"""What concepts (mined patterns, filters, nodes of a graph) say about images, a row of numbers each.

support             share of all cells at which the concept fires, on an image of its category
confidence          share of the cells at which it fires that lie on images of its category
lift                confidence over the category's share of the images
coverage            share of the category's images on which it fires
purity              share of its firings next to one part, the part that it is next to most often: the nearest landmark
                    and within `radius`; of the firings on the category's images with a landmark
purity by chance    the same with the landmarks of the category's next image
instability, gain   location instability and tracking gain of its strongest cell (`location_instability`, `tracking`),
                    on the category's images on which it fires
concentration       share of its map's mass within a template's width of the peak

Whether a concept was chosen on the same images is the caller's business: figures of mined patterns are honest on
images that took no part in the mining only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.filters.location_instability import location_instability
from interp_cnn.evaluation.filters.passes import TEMPLATE_WIDTH
from interp_cnn.evaluation.filters.selectivity import concentration
from interp_cnn.evaluation.filters.tracking import tracking_gain
from interp_cnn.explanation.concepts.concepts import Concept, FiringRule, concept_maps
from interp_cnn.explanation.network.feature_maps import peaks
from interp_cnn.explanation.receptive_field.field import ReceptiveField


def concept_measures(
    network: nn.Module,
    loader: Iterable[PartBatch],
    concepts: Sequence[Concept],
    *,
    layer: str,
    rule: FiringRule,
    field: ReceptiveField,
    parts: Sequence[str],
    radius: float,
) -> tuple[pd.DataFrame, Tensor]:
    """The measures of every concept over the images of a loader, in one pass.

    Args:
        network: any classifier; keeps its mode.
        loader: of images with labels and landmarks.
        concepts: each with a category.
        layer: dotted module name.
        rule: when a concept fires.
        field: receptive field of the layer.
        parts: names of the landmarks.
        radius: pixels within which a landmark counts as beside a cell's centre.

    Returns:
        A row per concept, NaN where nothing was there to measure; mean strength (Q, h, w) over the images of the
        concept's category.
    """
    categories = torch.tensor([concept.category for concept in concepts])
    records: dict[str, list[Tensor]] = {}
    maps_sum = torch.zeros(len(concepts), *field.grid, dtype=torch.float64)
    for batch, strengths, fires in concept_maps(network, loader, concepts, layer=layer, rule=rule):
        labels, landmarks = batch.labels.cpu(), batch.landmarks.cpu()
        of_category = labels[:, None] == categories  # (B, Q)
        cells, scores = peaks(strengths)
        shares, _ = concentration(strengths, width=TEMPLATE_WIDTH * max(strengths.shape[2:]))
        shares = shares.where(fires.any(dim=(2, 3)) & of_category, torch.nan)
        row = {
            "labels": labels,
            "landmarks": landmarks,
            "fires": fires.sum(dim=(2, 3)),
            "beside": firings_beside_parts(fires, landmarks, field, radius=radius),
            "chance": firings_beside_parts(fires, _of_next(landmarks, labels), field, radius=radius),
            "positions": field.centres(cells),
            "scores": scores,
            "concentration": shares,
        }
        for name, values in row.items():
            records.setdefault(name, []).append(values)
        maps_sum += torch.einsum("bqhw,bq->qhw", strengths.double(), of_category.double())
    columns = {name: torch.cat(values) for name, values in records.items()}
    rows = [_row(number, concept, columns, field, list(parts)) for number, concept in enumerate(concepts)]
    images = (columns["labels"][:, None] == categories).sum(dim=0).clamp(min=1)
    return pd.DataFrame(rows), (maps_sum / images[:, None, None]).float()


def firings_beside_parts(fires: Tensor, landmarks: Tensor, field: ReceptiveField, *, radius: float) -> Tensor:
    """(B, Q, P + 1): how many of the cells where concepts fire, (B, Q, h, w) bool, have landmark p of (B, P, 2) as the
    nearest one, within `radius` pixels; the last column: none. All zero on an image without a landmark.
    """
    distances = torch.cdist(field.cell_centres().double(), landmarks.double())  # (B, h*w, P)
    bound = distances.new_full((*distances.shape[:2], 1), radius)
    nearest = torch.cat((distances.nan_to_num(nan=torch.inf), bound), dim=2).argmin(
        dim=2
    )  # the first among equals
    known = landmarks.isfinite().all(dim=2).any(dim=1)  # (B,)
    places = nn.functional.one_hot(nearest, landmarks.shape[1] + 1).double() * known[:, None, None]
    return fires.flatten(2).double() @ places


def _of_next(landmarks: Tensor, labels: Tensor) -> Tensor:
    """For every image the landmarks of the next one of its class in the batch, of the last one those of the first."""
    moved = landmarks.clone()
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        moved[members] = landmarks[members.roll(-1)] if len(members) > 1 else torch.nan
    return moved


def _row(
    number: int, concept: Concept, columns: dict[str, Tensor], field: ReceptiveField, parts: list[str]
) -> dict:
    of_category = columns["labels"] == concept.category
    fires = columns["fires"][:, number].double()
    cells = len(fires) * field.grid[0] * field.grid[1]
    at_parts, chance = (
        columns[name][of_category, number].sum(dim=0) for name in ("beside", "chance")
    )  # (P + 1,)
    near, total = at_parts[:-1], float(at_parts.sum())
    part = int(near.argmax()) if len(near) and near.sum() > 0 else -1
    everywhere = float(fires.sum())
    confidence = float(fires[of_category].sum()) / everywhere if everywhere else 0.0
    there = of_category & (fires > 0)
    chosen = (columns["positions"][there, number, None], columns["scores"][there, number, None])
    options = {
        "landmarks": columns["landmarks"][there],
        "diagonal": float(torch.tensor(field.image_size).double().norm()),
    }
    instability = gain = torch.tensor([torch.nan])
    if len(parts) and int(there.sum()) > 1:
        instability = location_instability(*chosen, **options)
        gain = tracking_gain(*chosen, cells=field.cell_centres(), **options)
    chances = float(chance.sum())
    return {
        "support": float(fires[of_category].sum()) / cells,
        "confidence": confidence,
        "lift": confidence / max(float(of_category.double().mean()), 1e-12),
        "coverage": float((fires[of_category] > 0).double().mean()),
        "part": parts[part] if part >= 0 else "",
        "purity": float(near[part]) / total if part >= 0 else (0.0 if total else torch.nan),
        "purity_by_chance": float(chance[:-1].max()) / chances if chances and len(near) else torch.nan,
        "location_instability": float(instability),
        "tracking_gain": float(gain),
        "concentration": float(columns["concentration"][of_category, number].nanmean()),
        **{
            f"beside_{name}": float(count) / total if total else torch.nan
            for name, count in zip([*parts, "none"], at_parts, strict=True)
        },
    }
