"""Image files become RGB pixels, or a sentence that says which file is bad and why.

One door for every picture that comes from disk: greyscale, palette, CMYK, 16-bit and transparent images all
become 8-bit RGB, the camera's EXIF rotation is applied, and what cannot be trusted is refused before its
pixels are decoded (a "decompression bomb") or while they are (corrupt, truncated, not a number).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from interp_cnn.storage.names import printable

# the formats that carry pictures and nothing else; EPS, for one, would start an interpreter
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".apng",
    ".bmp",
    ".dib",
    ".gif",
    ".tif",
    ".tiff",
    ".webp",
)
SUFFIXES += (".ppm", ".pgm", ".pbm", ".pnm")
if find_spec("PIL._avif") is not None:  # Pillow 11.3 and later, where they were built with it
    FORMATS += ("AVIF",)
    SUFFIXES += (".avif", ".avifs")
MAX_PIXELS = 50_000_000
Box = tuple[int, int, int, int]  # (left, top, right, bottom) in pixels, inside the picture
ORIENTATION = 0x0112  # the EXIF tag that says how the camera was held
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    path: str | os.PathLike[str], size: tuple[int, int] | None = None, *, crop: bool = False
) -> Tensor:
    """An image file as RGB.

    Args:
        path: of the file.
        size: (H, W) to resize to, bilinear with antialiasing; None: as it is.
        crop: keep the proportions and cut out the largest middle part of this shape; else the whole is squeezed.

    Returns:
        (3, H, W) float32 in [0, 1].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an image that can be read in full; the message names the file.
    """
    return torch.from_numpy(read_rgb(path, size, crop=crop)).permute(2, 0, 1).float() / 255


def read_rgb(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    *,
    crop: bool = False,
    box: Box | None = None,
) -> NDArray[np.uint8]:
    """The same pixels as (H, W, 3) uint8; see `read_image`. A `box` is cut out first."""
    with _without_warnings():
        return decoded_rgb(path, size, crop=crop, box=box)


def decoded_rgb(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    *,
    crop: bool = False,
    box: Box | None = None,
) -> NDArray[np.uint8]:
    """`read_rgb` for threads: they share their warnings, so whoever starts them silences Pillow's."""
    with _opened(path) as image:
        image.load()
        rgb = _rgb(image, printable(os.fspath(path)))
        if box is not None:
            rgb = rgb.crop(box)
        if size is not None and rgb.size != (size[1], size[0]):
            resized = ImageOps.fit if crop else Image.Image.resize
            rgb = resized(rgb, (size[1], size[0]), Image.Resampling.BILINEAR)
        return np.array(rgb)  # a writable copy


def read_ids(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """A mask file whose pixel values are part numbers, as (H, W) uint8.

    When it is resized, a pixel gets the number that covers most of its area: taking the nearest pixel would
    move every mask by a quarter pixel at half the size.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read in full or is not a one-channel 8-bit image.
    """
    with _without_warnings(), _opened(path) as image:
        if image.mode not in ("L", "P", "1"):
            raise _Refused(
                f"{printable(os.fspath(path))}: a mask has one 8-bit channel of part numbers, this is {image.mode}"
            )
        ids = np.array(image).astype(np.uint8)
        if size is None or ids.shape == size:
            return ids
        numbers = np.unique(ids)
        covered = [
            np.asarray(
                Image.fromarray(np.where(ids == number, np.uint8(255), np.uint8(0))).resize(
                    (size[1], size[0]), Image.Resampling.BOX
                )
            )
            for number in numbers
        ]
        return numbers[np.argmax(covered, axis=0)]


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) as the picture is seen, EXIF rotation applied, from the file's header."""
    with _without_warnings(), _opened(path) as image:
        width, height = image.size
        turned = _orientation(image) in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Pillow warns of odd metadata; what matters to the pixels raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """An image whose header is sound; whatever the decoder raises inside becomes one ValueError."""
    file, path = Path(path), printable(os.fspath(path))
    if not file.exists():
        raise FileNotFoundError(f"{path}: no such image file")
    if not file.is_file():
        raise ValueError(f"{path}: expected an image file, this is a folder or a device")
    if file.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes)")
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width == 0 or height == 0:
                raise _Refused(f"{path}: the image has no pixel ({width}x{height})")
            if width * height > MAX_PIXELS:
                raise _Refused(
                    f"{path}: {width}x{height} pixels is more than the limit of {MAX_PIXELS:,}; "
                    "such files are refused before decoding because they can fill the memory"
                )
            yield image
    except _Refused:
        raise
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image in a known format ({', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: refused before decoding, {error}") from error
    except Exception as error:  # decoders raise nearly every built-in exception on damaged files
        raise ValueError(
            f"{path}: the image is corrupt or truncated ({error or type(error).__name__})"
        ) from error


class _Refused(ValueError):
    """A finished sentence, as opposed to a decoder's own ValueError."""


def _rgb(image: Image.Image, path: str) -> Image.Image:
    turn = TURNS.get(_orientation(image))
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bit(image, path).convert("RGB")
    if image.has_transparency_data:
        # what lies under a transparent pixel was never meant to be seen: put the picture on white
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """How the camera was held, 1 to 8; 1, upright, where the metadata does not say or is damaged."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # what a decoder raises on damaged metadata is nothing that the pixels depend on
        return 1
    return value if isinstance(value, int) else 1


def _eight_bit(image: Image.Image, path: str) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise _Refused(f"{path}: the image has NaN or infinite pixels")
    top = 1.0 if image.mode == "F" else 65535.0
    if values.min() < 0 or values.max() > top:
        raise _Refused(
            f"{path}: pixels between {values.min():g} and {values.max():g}; "
            f"an image of mode {image.mode} is read as [0, {top:g}]"
        )
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


def square(size: int) -> tuple[int, int]:
    """(H, W) of a data set's option `image_size`."""
    if size < 1:
        raise ValueError(f"image_size={size}: expected 1 pixel or more")
    if size * size > MAX_PIXELS:
        raise ValueError(f"image_size={size}: expected at most {int(MAX_PIXELS**0.5):,} pixels")
    return size, size
