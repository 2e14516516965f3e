"""From what was found out to pages: real images, boxes and pictures of every unit, and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.discovery.images import spread_images
from interp_cnn.discovery.settings import Mining
from interp_cnn.discovery.tables import summary_table, units_table
from interp_cnn.discovery.verification import REACH, VerifiedConcepts
from interp_cnn.explanation.receptive_field.field import ReceptiveField
from interp_cnn.report.concepts.cards import Unit
from interp_cnn.report.concepts.pages import Gallery, GalleryAbout, write_gallery


def show(
    folder: Path,
    verified: Sequence[VerifiedConcepts],
    data: PartDataModule,
    mining: Mining,
    *,
    command: str,
    first: str,
) -> Path:
    """Write pages and tables into a folder and return the first page.

    Args:
        folder: of the site.
        verified: every source and kind.
        data: whose images were asked.
        mining: how.
        command: that makes the same again.
        first: name of the first page.
    """
    images = spread_images(data, mining.images)
    table = units_table(verified, data.classes)
    galleries = []
    for concepts in verified:
        rows = table[(table.source == concepts.source.name) & (table.kind == concepts.units.kind)].to_dict(
            "records"
        )
        units = []
        for number, (concept, values) in enumerate(zip(concepts.units.concepts, rows, strict=True)):
            numbers = concept.occurrences[:, 0].tolist()
            units.append(
                Unit(
                    number,
                    concept.name,
                    data.classes[concept.category],
                    torch.stack([images[place].image for place in numbers]).numpy()
                    if numbers
                    else np.empty(0),
                    window_boxes(concepts.source.field, concept.occurrences[:, 1:]).numpy(),
                    {
                        mode: arrays["pictures"][arrays["concepts"] == number]
                        for mode, arrays in concepts.pictures.items()
                    },
                    concepts.mean_maps[number].numpy(),
                    {str(measure): value for measure, value in values.items()},
                    data.parts,
                )
            )
        source = concepts.source
        galleries.append(Gallery(source.name, source.layer, concepts.units.kind, source.slug, units))
    about = GalleryAbout("What layers stand for", _facts(verified, mining, len(images)), command)
    return write_gallery(folder, galleries, (summary_table(verified, table), table), about, first=first)


def _facts(verified: Sequence[VerifiedConcepts], mining: Mining, images: int) -> dict[str, str]:
    shortest, longest = mining.lengths
    return {
        "networks": " and ".join(dict.fromkeys(concepts.source.subject for concepts in verified)),
        "images": f"{images} validation images: half of each class proposed, the other half judged",
        "mined": f"of the {mining.top} strongest channels of a cell, sets of {shortest} to {longest} that fire "
        f"at {100 * mining.min_support:g} % of a class's cells; {mining.quota} proposed per class and kind",
    }


def window_boxes(field: ReceptiveField, cells: Tensor) -> Tensor:
    """The cells (n, 2) and those within reach as boxes (n, 4) of pixels, cut at the image's border."""
    centres = field.centres(cells)
    half = (REACH + 0.5) * torch.tensor(field.stride)
    limit = torch.tensor(field.image_size).float()
    top_left = (centres - half + 0.5).clamp(min=0)
    bottom_right = (centres + half + 0.5).minimum(limit)
    return torch.cat((top_left.flip(-1), bottom_right.flip(-1)), dim=-1)
