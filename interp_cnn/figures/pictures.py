"""Pictures made of pixels: images, overlays, outlines, montages. Plain numpy, fast enough for thousands of
filters.

Positions are (row, column) with 0-based pixel centres. A box (left, top, right, bottom) names the first pixel
inside and the first one beyond, so `image[top:bottom, left:right]` is what it holds. Drawing on small images
looks coarse, so draw on `enlarge(image, factor)` and pass `scale=factor` to the drawing function.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from interp_cnn.figures.colours import Rgb, as_array, colour_of

Colour = tuple[int, int, int]
ACCENT: Colour = (255, 214, 10)
PART: Colour = (86, 180, 233)  # of what people annotated


def to_rgb(image: ArrayLike) -> Rgb:
    """An image (C, H, W) or (H, W) with C in {1, 3}, float in [0, 1] or uint8, as RGB; floats are clipped."""
    image = as_array(image)
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(
            f"image: shape {image.shape} is not an image; expected (H, W), (1, H, W) or (3, H, W)"
        )
    if image.dtype != np.uint8:
        image = np.round(np.clip(np.nan_to_num(image.astype(float)), 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(image.transpose(1, 2, 0), (*image.shape[1:], 3)))


def enlarge(image: Rgb, factor: int) -> Rgb:
    """Each pixel as a square of `factor` x `factor` pixels."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def resize(image: Rgb, size: tuple[int, int]) -> Rgb:
    """An image at the size (H, W), smooth in both directions."""
    kind = Image.Resampling.BICUBIC if size[0] >= len(image) else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), kind))


def resize_map(values: ArrayLike, size: tuple[int, int], *, smooth: bool = True) -> NDArray[np.float32]:
    """A map (h, w) at the size (H, W) of an image: bilinear, or each cell as a flat rectangle."""
    values = np.ascontiguousarray(as_array(values), dtype=np.float32)
    if values.ndim != 2:
        raise ValueError(f"values: shape {values.shape} is not a map; expected (h, w)")
    kind = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(values).resize((size[1], size[0]), kind))


def overlay(
    image: Rgb,
    values: ArrayLike,
    *,
    limits: tuple[float, float] | None = None,
    colours: str = "heat",
    opacity: float = 0.72,
    smooth: bool = True,
) -> Rgb:
    """A map (h, w) in colours over the grey version of an image, so that every hue belongs to the map."""
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity: {opacity} is outside [0, 1]")
    grey = (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    values = resize_map(values, image.shape[:2], smooth=smooth)
    mixed = opacity * colour_of(values, limits=limits, colours=colours) + (1 - opacity) * grey
    return np.round(mixed).astype(np.uint8)


def lit(image: Rgb, values: ArrayLike, *, highest: float, share: float = 0.5, keep: float = 0.72) -> Rgb:
    """An image whose places with a high map keep their colours and are outlined; the others are faded to grey.

    Args:
        image: RGB.
        values: (h, w), the map.
        highest: what counts as the map's full height, e.g. its maximum over several images.
        share: of `highest` from which a place is lit.
        keep: of the contrast of the places that are not.
    """
    inside = resize_map(values, image.shape[:2]) >= share * highest if highest > 0 else None
    grey = (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    faded = np.repeat(np.round(keep * grey + (1 - keep) * 118), 3, axis=-1).astype(np.uint8)
    if inside is None or not inside.any():
        return faded
    return outline(np.where(inside[..., None], image, faded), inside, thickness=2)


def region_and_part(image: Rgb, region: ArrayLike, part: ArrayLike, *, keep: float = 0.72) -> Rgb:
    """An image with a filter's region outlined in yellow and kept in its colours, a part of it outlined in blue.

    Args:
        image: RGB.
        region: (h, w) bool, enlarged to the image.
        part: (h, w) bool, likewise.
        keep: of the contrast of places outside the region.
    """
    size = image.shape[0], image.shape[1]
    inside, around = (resize_map(as_array(it).astype(np.float32), size) >= 0.5 for it in (region, part))
    grey = (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    faded = np.repeat(np.round(keep * grey + (1 - keep) * 118), 3, axis=-1).astype(np.uint8)
    drawn = np.where(inside[..., None], image, faded)
    return outline(outline(drawn, around, colour=PART, thickness=2), inside, thickness=2)


def draw_boxes(
    image: Rgb, boxes: ArrayLike, *, colour: Colour = ACCENT, thickness: int = 1, scale: float = 1
) -> Rgb:
    """Outlines of boxes (N, 4) on a copy of an image; a box that leaves the image is drawn along its border.

    Args:
        image: RGB, already enlarged by `scale`.
        boxes: (left, top, right, bottom) in pixels of the image before it was enlarged.
        colour: of the lines; a dark line inside keeps them visible on bright ground.
        thickness: of the lines, in pixels of `image`.
        scale: how many times `image` was enlarged.
    """
    image = image.copy()
    for box in as_array(boxes).reshape(-1, 4):
        left, top, right, bottom = _corners(box, image.shape[:2], scale)
        for inset, ink in ((thickness, (0, 0, 0)), (0, colour)):
            width = thickness if inset == 0 else 1
            a, b, c, d = left + inset, top + inset, right - inset, bottom - inset
            if c - a < 1 or d - b < 1:
                continue
            image[b : b + width, a:c] = ink
            image[d - width : d, a:c] = ink
            image[b:d, a : a + width] = ink
            image[b:d, c - width : c] = ink
    return image


def spotlight(image: Rgb, box: ArrayLike, *, scale: float = 1, keep: float = 0.55) -> Rgb:
    """An image faded towards grey outside one box, so that the eye finds what a filter saw without losing
    where.
    """
    left, top, right, bottom = _corners(as_array(box), image.shape[:2], scale)
    faded = (keep * image + (1 - keep) * 118).astype(np.uint8)
    faded[top:bottom, left:right] = image[top:bottom, left:right]
    return faded


def outline(image: Rgb, mask: ArrayLike, *, colour: Colour = ACCENT, thickness: int = 1) -> Rgb:
    """The inner border of a mask (H, W) on a copy of an image."""
    mask = as_array(mask).astype(bool)
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask: shape {mask.shape} does not fit the image {image.shape[:2]}")
    inner = mask
    for _ in range(thickness):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    image = image.copy()
    image[mask & ~inner] = colour
    return image


def draw_positions(
    image: Rgb,
    positions: ArrayLike,
    *,
    counts: ArrayLike | None = None,
    radius: float = 4.0,
    scale: float = 1,
) -> Rgb:
    """Positions (N, 2), (row, column) pixels, as translucent discs on a copy of an image (say the mean
    image).

    With `counts` (N,) the area of a disc is proportional to its count and the largest has the given radius.
    """
    positions = as_array(positions).reshape(-1, 2).astype(float)
    counts = np.ones(len(positions)) if counts is None else as_array(counts).astype(float)
    canvas = image.astype(float)
    largest = counts.max(initial=0) or 1.0
    for (row, column), count in zip((positions + 0.5) * scale - 0.5, counts, strict=True):
        if not (count > 0 and np.isfinite(row + column)):
            continue
        size = radius * np.sqrt(count / largest)
        top, left = max(0, int(row - size - 2)), max(0, int(column - size - 2))
        window = canvas[top : max(0, int(row + size + 3)), left : max(0, int(column + size + 3))]
        rows, columns = np.mgrid[: window.shape[0], : window.shape[1]]
        distance = np.hypot(rows + top - row, columns + left - column)
        for grown, ink, strength in ((1.0, (0, 0, 0), 0.45), (0.0, ACCENT, 0.8)):
            share = strength * np.clip(size + grown - distance + 0.5, 0, 1)[..., None]
            window[:] = (1 - share) * window + share * np.array(ink, dtype=float)
    return np.round(canvas).astype(np.uint8)


def crop_around(image: Rgb, box: ArrayLike, *, context: float = 2.0) -> tuple[Rgb, NDArray[np.float64]]:
    """A square piece of an image around a box, and the box in the piece's own pixels.

    The piece is `context` times as wide as the box, but never wider than the image's shorter side, and it is
    moved rather than padded at the borders: what it shows is always image.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = (float(edge) for edge in as_array(box))
    side = int(np.ceil(context * max(right - left, bottom - top)))
    side = max(1, min(side, height, width))
    first_row = int(np.clip(round((top + bottom - side) / 2), 0, height - side))
    first_column = int(np.clip(round((left + right - side) / 2), 0, width - side))
    piece = image[first_row : first_row + side, first_column : first_column + side]
    shift = np.array([first_column, first_row, first_column, first_row], dtype=float)
    return piece, np.array([left, top, right, bottom]) - shift


def montage(
    images: Sequence[Rgb], *, columns: int | None = None, gap: int = 2, background: Colour = (128, 128, 128)
) -> Rgb:
    """Images in rows of `columns` (about square when left out), smaller ones centred in the largest one's
    cell.
    """
    if not len(images):
        raise ValueError("images: none given; expected at least one RGB image")
    columns = columns or int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    height, width = max(len(image) for image in images), max(image.shape[1] for image in images)
    sheet = np.empty((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), dtype=np.uint8)
    sheet[:] = background
    for number, image in enumerate(images):
        top = number // columns * (height + gap) + (height - image.shape[0]) // 2
        left = number % columns * (width + gap) + (width - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _corners(box: NDArray, size: tuple[int, int], scale: float) -> tuple[int, int, int, int]:
    """A box as whole pixels of the enlarged image, cut at its border, never empty."""
    edges = np.round(np.asarray(box, dtype=float) * scale).astype(int)
    left, right = (int(edge) for edge in np.clip(edges[[0, 2]], 0, size[1]))
    top, bottom = (int(edge) for edge in np.clip(edges[[1, 3]], 0, size[0]))
    left, top = min(left, size[1] - 1), min(top, size[0] - 1)
    return left, top, max(right, left + 1), max(bottom, top + 1)
