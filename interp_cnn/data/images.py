"""Image files become RGB pixels, or a sentence that says which file is bad and why.

One door for every picture that comes from disk: greyscale, palette, CMYK, 16-bit and transparent images all
become 8-bit RGB, the camera's EXIF rotation is applied, and what cannot be trusted is refused before its
pixels are decoded (a "decompression bomb") or while they are (corrupt, truncated, not a number).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

# the formats that carry pictures and nothing else; EPS, for one, would start an interpreter
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")
MAX_PIXELS = 50_000_000
CACHE_BYTES = 1 << 30

T = TypeVar("T")


class Skipped(NamedTuple):
    """A file that was left out, and the sentence that says why."""

    path: str
    reason: str


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
    path: str | os.PathLike[str], size: tuple[int, int] | None = None, *, crop: bool = False
) -> NDArray[np.uint8]:
    """The same pixels as (H, W, 3) uint8; see `read_image`."""
    with _opened(path) as image:
        rgb = _rgb(image, path)
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
    with _opened(path) as image:
        if image.mode not in ("L", "P", "1"):
            raise ValueError(f"{path}: a mask has one 8-bit channel of part numbers, this is {image.mode}")
        ids = np.array(image).astype(np.uint8)
        if size is None or ids.shape == size:
            return ids
        numbers = np.unique(ids)
        covered = [
            Image.fromarray(np.where(ids == number, np.uint8(255), np.uint8(0))).resize(
                (size[1], size[0]), Image.Resampling.BOX
            )
            for number in numbers
        ]
        return numbers[np.argmax(covered, axis=0)]


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) as the picture is seen, EXIF rotation applied, from the file's header."""
    with _opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112) in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """An image whose header is sound; whatever the decoder raises inside becomes one ValueError."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such image file")
    if not path.is_file():
        raise ValueError(f"{path}: expected an image file, this is a folder or a device")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes)")
    with warnings.catch_warnings():
        # Pillow warns of odd metadata; what matters to the pixels raises
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=FORMATS) as image:
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


def _rgb(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bit(image, path).convert("RGB")
    if image.has_transparency_data:
        # what lies under a transparent pixel was never meant to be seen: put the picture on white
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
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


class ImageFiles:
    """N image files as RGB pixels of one size, decoded once and kept when they fit into 1 GiB.

    Args:
        paths: of the files.
        size: (H, W).
        where: for each file the place that names it ("annotations.csv, line 12"), for error messages.
        skip_bad: leave bad files out and list them in `skipped`, instead of raising.

    Attributes:
        kept: indices of the files that are not left out.
        skipped: what was left out.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: tuple[int, int],
        *,
        where: Sequence[str] | None = None,
        skip_bad: bool = False,
    ) -> None:
        self.size = size
        self.paths = list(paths)
        self.where = list(where) if where is not None else None
        self.kept = list(range(len(paths)))
        self.skipped: list[Skipped] = []
        self.pixels: list[NDArray[np.uint8]] | None = None
        fits = len(paths) * size[0] * size[1] * 3 <= CACHE_BYTES
        if fits or skip_bad:
            read = self._decoded if fits else self._checked
            pixels, self.kept, self.skipped = good(read, range(len(paths)), self.paths, skip_bad)
            self.paths = [self.paths[index] for index in self.kept]
            if self.where is not None:
                self.where = [self.where[index] for index in self.kept]
            self.pixels = pixels if fits else None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """(3, H, W) float32 in [0, 1]."""
        pixels = self._decoded(index) if self.pixels is None else self.pixels[index]
        return torch.from_numpy(pixels).permute(2, 0, 1).float().div_(255)

    def _checked(self, index: int) -> None:
        self._decoded(index)

    def _decoded(self, index: int) -> NDArray[np.uint8]:
        try:
            return read_rgb(self.paths[index], self.size)
        except (ValueError, OSError) as error:
            if self.where is None:
                raise
            raise type(error)(f"{self.where[index]}: {error}") from error


def good(
    read: Callable[[int], T], indices: Sequence[int], paths: Sequence[Path], skip_bad: bool
) -> tuple[list[T], list[int], list[Skipped]]:
    """What can be read, at which indices, and what was left out (only with `skip_bad`)."""
    values, kept, skipped = [], [], []
    for index in indices:
        try:
            values.append(read(index))
            kept.append(index)
        except (ValueError, OSError) as error:
            if not skip_bad:
                raise
            skipped.append(Skipped(str(paths[index]), str(error)))
    return values, kept, skipped


def skips(on_error: str) -> bool:
    """Whether bad files are left out; the option `on_error` of every data set made of files."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r}: expected 'raise' or 'skip'")
    return on_error == "skip"


def square(size: int) -> tuple[int, int]:
    """(H, W) of a data set's option `image_size`."""
    if size < 1:
        raise ValueError(f"image_size={size}: expected 1 pixel or more")
    return size, size
