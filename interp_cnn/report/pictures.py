"""The pictures of a report: drawn by `figures`, saved as PNG beside the pages, known to them as
`Picture`s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from interp_cnn import figures
from interp_cnn.explanation.exemplars import Exemplars
from interp_cnn.figures.colours import Rgb
from interp_cnn.report.contents import SampleImage
from interp_cnn.report.writing import save_png

CELL = 72  # pixels of one patch in a sheet
COLUMNS = 3
SIDE = 216  # pixels of one large picture: a sheet of three cells
BLANK = np.full((CELL, CELL, 3), 128, dtype=np.uint8)


@dataclass(frozen=True)
class Picture:
    """An image file as a page shows it: its place from the report's folder, display size in pixels, and what
    it shows.
    """

    source: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Chart:
    """A chart in both themes; a page shows the one that fits."""

    light: Picture
    dark: Picture


class Album:
    """Where pictures are saved: `figures/` inside a report's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def picture(
        self,
        name: str,
        rgb: Rgb,
        alt: str,
        *,
        scale: float = 1,
        colours: int | None = None,
        photograph: bool = True,
    ) -> Picture:
        """Save a picture under a name without extension, see `png_bytes`; it is shown at 1/`scale` of its pixels."""
        source = f"figures/{name}.png"
        save_png(self.folder / source, rgb, colours=colours, photograph=photograph)
        return Picture(source, round(rgb.shape[1] / scale), round(rgb.shape[0] / scale), alt)

    def chart(self, name: str, draw: Callable[[figures.Theme], Rgb], alt: str, *, scale: int = 2) -> Chart:
        """Draw a chart in both themes; charts are drawn at twice their display size, sheets of pictures once."""
        themes = (("light", figures.LIGHT), ("dark", figures.DARK))
        pair = (self.picture(f"{name}-{word}", draw(theme), alt, scale=scale) for word, theme in themes)
        return Chart(*pair)


def patch_sheet(exemplars: Exemplars, number: int) -> Rgb:
    """A filter's strongest images in a square, cut out around the peak, its receptive field outlined."""
    cells = []
    for image_number, box in zip(exemplars.image_numbers[number], exemplars.boxes[number], strict=True):
        if image_number >= 0:
            cells.append(_patch(figures.to_rgb(exemplars.images[int(image_number)]), box.numpy()))
    return _sheet(cells, len(exemplars.image_numbers[number]))


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


def places(
    mean_image: ArrayLike, centres: ArrayLike, counts: ArrayLike, *, spacing: float, side: int = SIDE
) -> Rgb:
    """Centres (N, 2) in pixels, `spacing` apart, on the mean image (C, H, W), as discs whose area is `counts` (N,)."""
    mean = figures.to_rgb(mean_image)
    enlarged = within(mean, side)
    scale = len(enlarged) / len(mean)
    return figures.draw_positions(
        enlarged,
        centres,
        counts=counts,
        radius=min(max(3.0, 0.62 * spacing * scale), side / 10),
        scale=scale,
    )


def sample_picture(sample: SampleImage, side: int = SIDE) -> Rgb:
    """A sample image as large as a picture."""
    return within(figures.to_rgb(sample.image), side)


def map_picture(image: Rgb, values: np.ndarray, limits: tuple[float, float], colours: str) -> Rgb:
    """A pixel map over a sample's picture, each of its values a flat rectangle."""
    return figures.overlay(image, values, limits=limits, colours=colours, smooth=False)


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


def within(image: Rgb, side: int) -> Rgb:
    """An image whose longer side is `side` pixels."""
    scale = side / max(image.shape[:2])
    return figures.resize(
        image, (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale)))
    )
