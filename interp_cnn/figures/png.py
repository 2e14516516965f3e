"""Pictures as PNG: bytes, or a file that is whole or not there."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path

from numpy.typing import NDArray
from PIL import Image

from interp_cnn.storage.files import write_bytes

CHOSEN_FROM = 2500  # pixels, of a large picture's palette: the median cut took half of a report's time


def save_png(path: Path, rgb: NDArray, *, colours: int | None = None, photograph: bool = True) -> None:
    """A picture as a PNG file, see `png_bytes`."""
    write_bytes(path, png_bytes(rgb, colours=colours, photograph=photograph))


def png_bytes(rgb: NDArray, *, colours: int | None = None, photograph: bool = True) -> bytes:
    """An (H, W, 3) uint8 picture as PNG; with `colours` (at most 256) reduced to a palette, a third of the
    size.

    Colours of a map come from one scale: an octree finds them three times as fast as the median cut, which photographs
    need.
    """
    image = Image.fromarray(rgb)
    if colours is not None and photograph:
        # A few thousand pixels are enough to choose the palette: no eye sees the difference.
        step = max(3, math.isqrt(image.width * image.height // CHOSEN_FROM))
        few = image.resize((-(-image.width // step), -(-image.height // step)), Image.Resampling.NEAREST)
        palette = few.quantize(colours, method=Image.Quantize.MEDIANCUT)
        image = image.quantize(palette=palette, dither=Image.Dither.NONE)
    elif colours is not None:
        image = image.quantize(colours, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


def png_size(path: Path) -> tuple[int, int]:
    """(width, height) of a PNG file in pixels; nothing but its head is read."""
    with Image.open(path) as image:
        return image.size
