"""Where every filter's peak lies and how high it is, for any number of images: on the disk, not in memory.

Judging ranks a filter's images anew for every resampling and so needs all of its peaks, but those of a few filters
at a time. Images come batch by batch; each record of `RECORD` images is written filter after filter, so that one
filter is read without the others. The file has no name (under Windows one that the system removes), lies where
TMPDIR says, and is gone with the process, however that ends.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

RECORD = 256
VALUE = 4  # bytes of a cell and of a score


class AnswerFile:
    """Cells and scores of D filters on N images.

    Attributes:
        filters: D.
        images: N, those that were appended until now.
        heights: (D,) float32, each filter's highest score.
    """

    def __init__(self, filters: int) -> None:
        self.filters, self.images = filters, 0
        self.heights = torch.full((filters,), -torch.inf)
        self._records: list[tuple[int, int]] = []  # place in the file, images
        self._waiting: list[Tensor] = []
        self._size = 0
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - read as long as this lives
        weakref.finalize(self, self._file.close)

    def append(self, cells: Tensor, scores: Tensor) -> None:
        """Add a batch: row-major cells (B, D) and scores (B, D).

        Raises:
            ValueError: the disk is full.
        """
        scores = scores.detach().float().cpu()
        self.heights = torch.maximum(self.heights, scores.amax(dim=0))
        self._waiting += torch.stack((cells.int().cpu(), scores.view(torch.int32)), dim=2)  # B times (D, 2)
        self.images += len(scores)
        while len(self._waiting) >= RECORD:
            self._write(RECORD)

    def block(self, filters: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (N, d) int32 and scores (N, d) float32 of some `filters` (d,) on all images."""
        answers = np.empty((2, len(filters), self.images), dtype=np.int32)
        done = 0
        for place, images in self._written():
            pair = np.empty((2, images), dtype=np.int32)
            for number, filter_number in enumerate(filters.tolist()):
                self._read(pair, place + filter_number * pair.nbytes)
                answers[:, number, done : done + images] = pair
            done += images
        cells, scores = torch.from_numpy(answers).transpose(1, 2).contiguous()
        return cells, scores.view(torch.float32)

    def chunks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Images in turn: which, and the cells and scores (b, D) of all filters."""
        done = 0
        for place, images in self._written():
            record = np.empty((self.filters, 2, images), dtype=np.int32)
            self._read(record, place)
            cells, scores = torch.from_numpy(record).permute(1, 2, 0).contiguous()
            yield slice(done, done + images), cells, scores.view(torch.float32)
            done += images

    def _written(self) -> list[tuple[int, int]]:
        if self._waiting:
            self._write(len(self._waiting))
        return self._records

    def _write(self, images: int) -> None:
        record = torch.stack(self._waiting[:images], dim=2)  # (D, 2, b)
        content = memoryview(record.numpy().tobytes())
        self._file.seek(self._size)
        while content:
            try:
                content = content[self._file.write(content) :]
            except OSError as error:
                raise ValueError(
                    f"{tempfile.gettempdir()}: {error.strerror} while {self.images} images' positions were kept there; "
                    f"expected room for {2 * VALUE * self.filters} bytes per image and copy: make some, or set TMPDIR "
                    "to a folder with more"
                ) from error
        self._records.append((self._size, images))
        self._size += record.nbytes
        del self._waiting[:images]

    def _read(self, array: np.ndarray, place: int) -> None:
        self._file.seek(place)
        view = array.reshape(-1).view(np.uint8).data
        while view:
            count = self._file.readinto(view)
            assert count, "the file is shorter than what was written to it"
            view = view[count:]
