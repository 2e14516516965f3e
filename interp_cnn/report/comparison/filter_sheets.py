"""The pictures of a report: drawn by `figures`, saved as PNG beside the pages, known to them as
`Picture`s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp_cnn import figures
from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.figures.colours import Rgb
from interp_cnn.report.album import SIDE, places, within

CELL = 72  # pixels of one patch in a sheet
COLUMNS = 3
BLANK = np.full((CELL, CELL, 3), 128, dtype=np.uint8)


def patch_sheet(exemplars: Exemplars, number: int) -> Rgb:
    """A filter's strongest images in a square, cut out around the peak, its receptive field outlined."""
    cells = []
    for image_number, box in zip(exemplars.image_numbers[number], exemplars.boxes[number], strict=True):
        if image_number >= 0:
            cells.append(_patch(figures.to_rgb(exemplars.images[int(image_number)]), box.numpy()))
    return _sheet(cells, len(exemplars.image_numbers[number]))


def lit_sheet(exemplars: Exemplars, number: int) -> Rgb:
    """The surroundings of each peak, half as wide as the image, lit where the filter fires at half of its peak or
    more.
    """
    highest = float(exemplars.maps[number].max())
    rows = (exemplars.image_numbers[number], exemplars.maps[number], exemplars.boxes[number])
    cells = []
    for image_number, values, box in zip(*rows, strict=True):
        if image_number >= 0:
            image = figures.to_rgb(exemplars.images[int(image_number)])
            large = within(image, 2 * CELL)
            left, top, right, bottom = (box.double() * len(large) / len(image)).tolist()
            column, row = (left + right) / 2, (top + bottom) / 2
            around = [column - CELL / 2, row - CELL / 2, column + CELL / 2, row + CELL / 2]
            piece, _ = figures.crop_around(
                figures.lit(large, values.numpy(), highest=highest), around, context=1.0
            )
            cells.append(piece)
    return _sheet(cells, len(exemplars.maps[number]))


def activation_sheet(exemplars: Exemplars, number: int) -> Rgb:
    """The same images whole, with the filter's map laid over each, all on one scale from 0 to the filter's
    peak.
    """
    maps = exemplars.maps[number].numpy()
    limits = figures.common_limits([np.maximum(maps, 0)])
    cells = []
    for image_number, values in zip(exemplars.image_numbers[number], maps, strict=True):
        if image_number >= 0:
            image = within(figures.to_rgb(exemplars.images[int(image_number)]), CELL)
            cells.append(figures.overlay(image, values, limits=limits))
    return _sheet(cells, len(maps))


def mask_sheet(exemplars: Exemplars, masks: np.ndarray, number: int) -> Rgb:
    """The same images whole, lit by the filter's mask (N, h, w): what it lets through is bright."""
    cells = []
    for image_number, mask in zip(exemplars.image_numbers[number], masks, strict=True):
        if image_number >= 0:
            image = within(figures.to_rgb(exemplars.images[int(image_number)]), CELL)
            light = figures.resize_map(mask, image.shape[:2])[..., None]
            cells.append((image * (0.15 + 0.85 * light)).astype(np.uint8))
    return _sheet(cells, len(masks))


def strongest_image(exemplars: Exemplars, number: int) -> Rgb:
    """The image on which a filter fires most, as large as a picture."""
    return within(figures.to_rgb(exemplars.images[int(exemplars.image_numbers[number, 0])]), SIDE)


def occlusion_picture(
    exemplars: Exemplars, values: np.ndarray, number: int
) -> tuple[Rgb, tuple[float, float]]:
    """What a filter needs of its strongest image: the fall of its peak (h, w) over the image, and the scale's ends."""
    limits = figures.common_limits([values], colours="green-red")
    image = strongest_image(exemplars, number)
    return figures.overlay(image, values, limits=limits, colours="green-red"), limits


def mean_map(values: np.ndarray) -> Rgb:
    """A filter's mean map, each cell a square, dark at 0 and light at its own maximum."""
    factor = max(1, -(-96 // max(values.shape)))
    return figures.enlarge(
        figures.colour_of(values, limits=figures.common_limits([np.maximum(values, 0)])), factor
    )


def peak_places(exemplars: Exemplars, number: int) -> Rgb:
    """Where a filter's peaks lie, over all images: discs on the mean image, their area the number of
    images.
    """
    field = exemplars.field
    counts = exemplars.peak_counts[number].flatten()
    return places(exemplars.mean_image, field.cell_centres(), counts, spacing=min(field.stride))


def _patch(image: Rgb, box: np.ndarray) -> Rgb:
    piece, inner = figures.crop_around(image, box)
    scale = CELL / len(piece)
    left, top, right, bottom = inner
    piece = figures.resize(piece, (CELL, CELL))
    piece = figures.draw_boxes(figures.spotlight(piece, inner, scale=scale), inner, thickness=2, scale=scale)
    if (right - left) * (bottom - top) * scale**2 > 0.7 * CELL**2:  # the outline alone no longer says where
        middle = [(top + bottom - 1) / 2, (left + right - 1) / 2]
        piece = figures.draw_positions(piece, [middle], radius=3.5, scale=scale)
    return piece


def _sheet(cells: Sequence[Rgb], count: int) -> Rgb:
    """Cells in a square sheet with room for `count`, blank where there are fewer."""
    return figures.montage([*cells, *[BLANK] * (count - len(cells))], columns=min(COLUMNS, count), gap=2)
