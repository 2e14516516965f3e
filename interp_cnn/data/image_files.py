"""The pixels of many image files: decoded once and kept in memory where they fit, else decoded anew each time."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp_cnn.data.images import Box, decoded_rgb, read_rgb
from interp_cnn.data.looks import look_of
from interp_cnn.hardware.memory import cores, free_memory, in_words
from interp_cnn.storage.files import written_table
from interp_cnn.storage.names import printable

log = logging.getLogger(__name__)
CACHES = ("auto", "memory", "none")
SHARE_OF_MEMORY = 0.4  # what one side of a data set may take of the memory that is free
WORTH_A_WORD = 64 << 20  # bytes

T = TypeVar("T")


class Skipped(NamedTuple):
    """A file that was left out, and the sentence that says why."""

    path: str
    reason: str


class ImageFiles:
    """N image files as RGB pixels of one size.

    Args:
        paths: of the files.
        size: (H, W).
        where: for each file the place that names it ("annotations.csv, line 12"), for error messages.
        skip_bad: leave bad files out and list them in `skipped`, instead of raising.
        cache: "memory": all pixels stay in memory as bytes; "none": files are decoded whenever they are asked for;
            "auto": memory where they take at most 40 % of what is free.
        crop: keep the proportions and cut out the largest middle part; else the whole is squeezed.
        boxes: for each file what is cut out before; None: nothing.

    Attributes:
        kept: indices of the files that are not left out.
        skipped: what was left out.
        pixels: (N, H, W, 3) uint8 in memory, or None.

    Raises:
        ValueError: a bad file, or pixels that do not fit into memory with cache="memory".
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: tuple[int, int],
        *,
        where: Sequence[str] | None = None,
        skip_bad: bool = False,
        cache: str = "auto",
        crop: bool = False,
        boxes: Sequence[Box] | None = None,
    ) -> None:
        self.size, self.crop = size, crop
        self.boxes = list(boxes) if boxes is not None else None
        self.paths = list(paths)
        self.where = list(where) if where is not None else None
        self.kept = list(range(len(paths)))
        self.skipped: list[Skipped] = []
        fits = _fits(len(paths), size, cache)
        pixels = np.empty((len(paths), *size, 3), dtype=np.uint8) if fits else None

        def read(index: int) -> None:
            decoded = self._decoded(index, decoded_rgb)
            if pixels is not None:
                pixels[index] = decoded

        if fits or skip_bad:
            _, self.kept, self.skipped = good(read, range(len(paths)), self.paths, skip_bad)
            self.paths = [self.paths[index] for index in self.kept]
            if self.where is not None:
                self.where = [self.where[index] for index in self.kept]
            if self.boxes is not None:
                self.boxes = [self.boxes[index] for index in self.kept]
        whole = len(self.kept) == len(paths)
        self.pixels = pixels if pixels is None or whole else pixels[self.kept]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """(3, H, W) uint8."""
        pixels = self._decoded(index) if self.pixels is None else self.pixels[index].copy()
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def contents(self) -> list[str]:
        """A hash of every file's bytes; see `content_of`."""
        return [content_of(path) for path in self.paths]

    @cached_property
    def shown(self) -> list[str]:
        """A hash of every image's pixels; "" for pixels that are not in memory: decoding them anew takes too long."""
        if self.pixels is None:
            return [""] * len(self)
        return [hashlib.blake2b(image.data, digest_size=8).hexdigest() for image in self.pixels]

    @cached_property
    def looks(self) -> list[str]:
        """Every image's coarse look; "" likewise."""
        return [""] * len(self) if self.pixels is None else [look_of(image) for image in self.pixels]

    def _decoded(self, index: int, read: Callable[..., NDArray[np.uint8]] = read_rgb) -> NDArray[np.uint8]:
        box = None if self.boxes is None else self.boxes[index]
        try:
            return read(self.paths[index], self.size, crop=self.crop, box=box)
        except (ValueError, OSError) as error:
            if self.where is None:
                raise
            raise type(error)(f"{self.where[index]}: {error}") from error


def good(
    read: Callable[[int], T], indices: Sequence[int], paths: Sequence[Path], skip_bad: bool
) -> tuple[list[T], list[int], list[Skipped]]:
    """What can be read, at which indices, and what was left out (only with `skip_bad`).

    Files are read by as many threads as there are cores; decoders work beside each other.
    """
    values, kept, skipped = [], [], []
    for index, result in zip(indices, _read_all(read, indices), strict=False):
        if isinstance(result, Exception):
            if not skip_bad:
                raise result
            skipped.append(Skipped(printable(str(paths[index])), str(result)))
        else:
            values.append(result)
            kept.append(index)
    return values, kept, skipped


def write_skipped(path: Path, skipped: Iterable[Skipped]) -> None:
    """A CSV file of what was left out, and why."""
    with written_table(path) as table:
        table.writerow(["file", "reason"])
        table.writerows(skipped)


def content_of(path: str | os.PathLike[str]) -> str:
    """16 hexadecimal digits that are the same for files of the same bytes, and for no others that anybody has seen."""
    status = os.stat(path)
    place = status.st_dev, status.st_ino  # another file that took this one's name may have its size and time
    return _content(os.fspath(path), place, status.st_size, status.st_mtime_ns)


def skips(on_error: str) -> bool:
    """Whether bad files are left out; the option `on_error` of every data set made of files."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r}: expected 'raise' or 'skip'")
    return on_error == "skip"


def _fits(count: int, size: tuple[int, int], cache: str) -> bool:
    """Whether the pixels are kept in memory; large ones are announced."""
    if cache not in CACHES:
        raise ValueError(f"cache is {cache!r}; expected auto, memory or none")
    needed, free = count * size[0] * size[1] * 3, free_memory()
    fits = cache == "memory" or (cache == "auto" and needed <= SHARE_OF_MEMORY * free)
    images = f"{count:,} images of {size[0]} x {size[1]} pixels"
    if cache == "memory" and needed > free:
        raise ValueError(
            f"data.cache is memory, but {images} take {in_words(needed)} and {in_words(free)} are free; "
            "expected none, or a smaller data.image_size"
        )
    if fits and needed > WORTH_A_WORD:
        log.info("%s: %s kept in memory", images, in_words(needed))
    elif not fits and cache == "auto":
        log.info(
            "%s would take %s of %s: decoded anew in every epoch", images, in_words(needed), in_words(free)
        )
    return fits


def _read_all(read: Callable[[int], T], indices: Sequence[int]) -> Iterable[T | Exception]:
    """What `read` gives for every index, or the exception that it raised, in order."""

    def caught(index: int) -> T | Exception:
        try:
            return read(index)
        except (ValueError, OSError) as error:
            return error

    with warnings.catch_warnings():  # here for all threads: Pillow warns of odd metadata
        warnings.simplefilter("ignore")
        threads = ThreadPoolExecutor(max_workers=min(32, cores()))
        try:
            yield from threads.map(caught, indices)
        finally:  # at once after a bad file, not when all others are read
            threads.shutdown(cancel_futures=True)


@lru_cache(maxsize=1 << 20)  # both sides of a split and its record ask for the same files
def _content(path: str, place: tuple[int, int], size: int, changed: int) -> str:
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
