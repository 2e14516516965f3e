"""A network's best, middle and worst filters in one picture: not the best ones alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from interp_cnn import figures
from interp_cnn.evaluation.filters.comparison import NetworkMeasures
from interp_cnn.figures.colours import Rgb
from interp_cnn.report.measures import measure

SIDE = 108  # pixels of one image
IMAGES = 8  # of each filter
PLACES = (("best", 0.0), ("upper quarter", 0.25), ("middle", 0.5), ("lower quarter", 0.75), ("worst", 1.0))
BOX = 0.06  # half the side of the box around an annotated part, as a share of the image's


def ranked_filters(network: NetworkMeasures, image_of: Callable[[int], Tensor]) -> Rgb | None:
    """Filters at five places of the ranking by offset gain, a row each, on the strongest images of their category.

    The offset gain is that of the part that a filter follows best. A disc shows where the filter looks, boxes stand
    around the annotated parts. Images without an annotated part are left out, as in the measure.

    Args:
        network: the measured network.
        image_of: number of an image in the measured order to its pixels (C, H, W) in [0, 1].

    Returns:
        The picture, or None where no filter has an offset gain.
    """
    ranking = network.filters["offset_gain"].dropna().sort_values(ascending=False, kind="stable")
    if ranking.empty:
        return None
    observed, how = network.observations, measure("offset_gain")
    known = observed.landmarks.isfinite().all(dim=2).any(dim=1)
    pictures, captions = [], []
    for place, share in PLACES:
        number = int(ranking.index[round(share * (len(ranking) - 1))])
        of_category = ((observed.labels == network.categories[number]) & known).nonzero().flatten()
        peaks = observed.block(torch.tensor([number]))
        order = peaks.scores[of_category, 0].argsort(descending=True, stable=True)[:IMAGES]
        strongest = of_category[order].tolist()
        caption = (
            f"{place}: filter {number}, {network.filters['category'][number]}, {how.write(ranking[number])}"
        )
        for rank in range(IMAGES):
            if rank < len(strongest):
                index = strongest[rank]
                pictures.append(
                    _marked(image_of(index), observed.landmarks[index], peaks.positions[index, 0])
                )
            else:
                pictures.append(np.full((SIDE, SIDE, 3), 128, dtype=np.uint8))
            captions.append(caption if rank == IMAGES // 2 else "")
    title = (
        f"{network.name}: filters by {how.title.lower()}. Disc: where the filter looks; box: annotated part"
    )
    return figures.contact_sheet(pictures, captions, columns=IMAGES, title=title)


def _marked(image: Tensor, landmarks: Tensor, position: Tensor) -> Rgb:
    height, width = image.shape[1:]
    scale = SIDE / max(height, width)
    picture = figures.resize(figures.to_rgb(image), (round(height * scale), round(width * scale)))
    known = landmarks[landmarks.isfinite().all(dim=1)].numpy()  # (n, 2) row, column
    half = BOX * max(height, width)
    boxes = np.stack(
        [known[:, 1] - half, known[:, 0] - half, known[:, 1] + half, known[:, 0] + half],
        axis=1,
    )
    picture = figures.draw_boxes(picture, boxes, colour=(255, 255, 255), thickness=2, scale=scale)
    return figures.draw_positions(picture, position.numpy(), radius=7, scale=scale)
