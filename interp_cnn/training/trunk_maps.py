"""The maps of a trunk that never changes, computed once for each picture and kept, in memory or on disk.

A frozen trunk in evaluation mode gives the same maps for the same pixels, in every epoch and to both twins. Maps are
kept by a hash of the pixels that the trunk is sent, so nobody has to say which picture, view or network it is. A
training that uses them repeats a few views of each image in turn; else no picture would ever come twice.
"""

import hashlib
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

CACHES = ("none", "auto", "memory", "disk")


class TrunkMaps:
    """Maps by the pixels that they are of.

    Args:
        most: maps that are kept at most; later ones are computed each time.
        folder: where they lie, in a file that goes with this object; None: in memory.
        views: how many views of each image come round in turn.

    Example:
        >>> store, trunk = TrunkMaps(4), nn.Conv2d(3, 2, 1)
        >>> images = torch.rand(2, 3, 4, 4)
        >>> torch.equal(store.maps(trunk, images), store.maps(trunk, images)), len(store)
        (True, 2)
    """

    def __init__(self, most: int, folder: Path | None = None, *, views: int = 1) -> None:
        self.most, self.views = most, views
        self._file = None if folder is None else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as this lives
        if self._file is not None:
            weakref.finalize(self, self._file.close)
        self._kept: dict[bytes, Tensor | int] = {}
        self._like = torch.empty(0)

    def __len__(self) -> int:
        return len(self._kept)

    @torch.no_grad()
    def maps(self, trunk: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """What the trunk gives for images (B, C, H, W): maps (B, D, h, w), computed for those that are new.

        Args:
            trunk: frozen, in evaluation mode; always the same one, by its weights.
            images: that it is sent.
        """
        keys = [_digest(image) for image in images.detach().cpu()]
        new = {key: place for place, key in enumerate(keys) if key not in self._kept}
        computed: dict[bytes, Tensor] = {}
        if new:
            chosen = images[list(new.values())].contiguous(memory_format=torch.channels_last)  # half the time
            computed = dict(zip(new, trunk(chosen), strict=True))
            for key, maps in computed.items():
                if len(self._kept) < self.most:
                    self._keep(key, maps)
        rows = [computed[key] if key in computed else self._read(key).to(images.device) for key in keys]
        return torch.stack(rows)

    @contextmanager
    def instead_of(self, trunk: nn.Module) -> Iterator[None]:
        """While it lasts, calls of the trunk are answered from here."""
        forward = trunk.forward
        trunk.forward = lambda images: self.maps(forward, images)
        try:
            yield
        finally:
            del trunk.forward  # the class's own one is back

    def _keep(self, key: bytes, maps: Tensor) -> None:
        maps = maps.detach().cpu().contiguous()
        if self._file is None:
            self._kept[key] = maps.clone()
            return
        self._like = torch.empty_like(maps)
        self._kept[key] = self._file.seek(0, 2)
        self._file.write(maps.numpy().tobytes())

    def _read(self, key: bytes) -> Tensor:
        kept = self._kept[key]
        if isinstance(kept, Tensor):
            return kept
        assert self._file is not None  # where else a number would lead to
        self._file.seek(kept)
        content = self._file.read(self._like.numel() * self._like.element_size())
        return torch.from_numpy(np.frombuffer(bytearray(content), self._like.numpy().dtype)).view_as(
            self._like
        )


def own_generators(images: Tensor, turn: int) -> list[torch.Generator]:
    """A generator for each image (B, C, H, W), whose stream depends on its pixels and on `turn` only."""
    seeds = (int.from_bytes(_digest(image)[:7], "big") + turn for image in images.detach().cpu())
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _digest(image: Tensor) -> bytes:
    pixels = image.permute(1, 2, 0).contiguous()  # without a copy where channels come last
    return hashlib.blake2b(pixels.numpy().data, digest_size=16).digest()
