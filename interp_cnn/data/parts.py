"""The one sample type: an image, its label, and where its parts are.

Every data set of this package hands out `PartSample`s and every loader hands out `PartBatch`es, whatever
is known about the images: what is not annotated is NaN (a landmark), all False (one part's mask) or None
(a kind of annotation that the set does not have at all). Landmarks are (row, column) in pixels, 0-based
pixel centres: (0, 0) is the centre of the top left pixel.

A data set is indexed in two ways:

- `dataset[3]`: the *fixed* view of image 3, always the same;
- `dataset[Draw(seed, epoch, 3)]`: a *random* view (placement, augmentation) that depends on nothing but
  these three numbers. A training sampler hands out draws, so a training sees the same pixels whichever
  worker, rank or resumed process reads them.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from interp_cnn.storage.brief import Brief


class Draw(NamedTuple):
    """A random view of one image: the key that a training sampler hands to the data set."""

    seed: int
    epoch: int
    index: int

    def generator(self) -> torch.Generator:
        """A fresh generator whose stream depends on seed, epoch and index only."""
        state = np.random.SeedSequence(list(self)).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(state) & 0x7FFFFFFFFFFFFFFF)


@dataclass(frozen=True, eq=False, repr=False)
class PartSample(Brief):
    """One image with what is known about it.

    Attributes:
        image: (C, H, W) float32 in [0, 1].
        label: index into the data set's `classes`.
        landmarks: (P, 2) float32, (row, column) pixels, NaN where unknown.
        part_masks: (P, H, W) bool, all False for a part that is not annotated here; None: the set has none.
        object_mask: (H, W) bool, the object's pixels; None: the set does not know them.
        distractor_mask: (H, W) bool, pixels drawn on top that say nothing about the label; None: none drawn.
        name: what a person would call the image: a file or a scan number.
    """

    image: Tensor
    label: int
    landmarks: Tensor
    part_masks: Tensor | None = None
    object_mask: Tensor | None = None
    distractor_mask: Tensor | None = None
    name: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class PartBatch(Brief):
    """B samples of one data set, stacked; the plural of every field of `PartSample`.

    Attributes:
        images: (B, C, H, W) float32 in [0, 1].
        labels: (B,) int64.
        landmarks: (B, P, 2) float32, NaN where unknown.
        part_masks: (B, P, H, W) bool or None.
        object_masks: (B, H, W) bool or None.
        distractor_masks: (B, H, W) bool or None.
        names: B names.
    """

    images: Tensor
    labels: Tensor
    landmarks: Tensor
    part_masks: Tensor | None
    object_masks: Tensor | None
    distractor_masks: Tensor | None
    names: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> PartSample:
        """One of the samples."""
        return PartSample(
            image=self.images[index],
            label=int(self.labels[index]),
            landmarks=self.landmarks[index],
            part_masks=None if self.part_masks is None else self.part_masks[index],
            object_mask=None if self.object_masks is None else self.object_masks[index],
            distractor_mask=None if self.distractor_masks is None else self.distractor_masks[index],
            name=self.names[index],
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PartBatch:
        """The same batch with every tensor on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PartBatch:
        """The same batch in page-locked memory (a `DataLoader` with `pin_memory=True` calls this)."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> PartBatch:
        return changed_tensors(self, change)


class BatchChanges(Protocol):
    """What augmentation has yet to do to the images and masks of a batch; see `augmentation.Changes`."""

    def __call__(self, batch: PartBatch) -> PartBatch: ...
    def to(self, device: torch.device | str, non_blocking: bool = False) -> BatchChanges: ...
    def pin_memory(self) -> BatchChanges: ...


class BatchAugmentation(Protocol):
    """Draws changes for every image of a batch; see `augmentation.Augmentation`."""

    def __call__(
        self,
        batch: PartBatch,
        generators: Sequence[torch.Generator],
        mirrored_parts: tuple[int, ...] | None = None,
    ) -> tuple[PartBatch, BatchChanges]: ...


@dataclass(frozen=True, eq=False, repr=False)
class RawBatch(Brief):
    """A batch as it lies in memory: pixels as bytes, and the changes that a training makes to them still to come.

    It is a quarter of the size of the finished batch, and is finished where the images are needed, on a GPU for one.

    Attributes:
        batch: images (B, C, H, W) uint8, 255ths; or float32 in [0, 1].
        changes: what augmentation does to it; None: nothing.
    """

    batch: PartBatch
    changes: BatchChanges | None = None

    def __len__(self) -> int:
        return len(self.batch)

    def finished(self) -> PartBatch:
        """The batch with images float32 in [0, 1], augmented."""
        images = self.batch.images
        if images.dtype == torch.uint8:
            # by a tensor: CUDA multiplies by the rounded reciprocal of a number, other bits than a division
            images = images.float().div_(torch.full((), 255.0, device=images.device))
        batch = replace(self.batch, images=images)
        return batch if self.changes is None else self.changes(batch)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RawBatch:
        """The same with every tensor on `device`."""
        return self._each(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> RawBatch:
        """The same in page-locked memory."""
        return self._each(lambda part: part.pin_memory())

    def _each(self, change: Callable) -> RawBatch:
        return RawBatch(change(self.batch), None if self.changes is None else change(self.changes))


def changed_tensors(record, change: Callable[[Tensor], Tensor]):
    """A dataclass with every field that is a tensor changed."""
    tensors = {field.name: getattr(record, field.name) for field in fields(record)}
    return replace(record, **{k: change(v) for k, v in tensors.items() if isinstance(v, Tensor)})


def collate(samples: Sequence[PartSample] | RawBatch) -> PartBatch:
    """Stacks samples of one data set, or finishes the batch that the set itself has made of them.

    Raises:
        ValueError: if one sample has a kind of mask that another one lacks.
    """
    return samples.finished() if isinstance(samples, RawBatch) else stacked(samples)


def stacked(samples: Sequence[PartSample]) -> PartBatch:
    """Samples, stacked as they are; see `collate`."""

    def masks_of(kind: str) -> Tensor | None:
        masks = [getattr(sample, kind) for sample in samples]
        given = [mask for mask in masks if mask is not None]
        if given and len(given) < len(masks):
            lacking = samples[[mask is None for mask in masks].index(True)]
            raise ValueError(
                f"{kind}: sample {lacking.name!r} has none, others of the batch do; "
                "a data set gives a kind of mask for all of its images or for none"
            )
        return torch.stack(given) if given else None

    return PartBatch(
        images=torch.stack([sample.image for sample in samples]),
        labels=torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        landmarks=torch.stack([sample.landmarks for sample in samples]),
        part_masks=masks_of("part_masks"),
        object_masks=masks_of("object_mask"),
        distractor_masks=masks_of("distractor_mask"),
        names=[sample.name for sample in samples],
    )


class PartSet(Dataset, ABC):
    """What every data set here offers; a subclass sets the attributes and writes `view`.

    Attributes:
        classes: class names; a label is an index into them.
        parts: part names, in the order of landmarks and part masks.
        background: index of the "negative" class, which gets no filters; None: every class is an object.
        channels: C, 1 or 3.
        image_size: (H, W).
        labels: (N,) int64, known without reading an image.
        mirrored_parts: for each part, the part that it becomes in a mirror image (left and right swap).
        names: N names, each one once.
        augmentation: applied to random views (see `Draw`), never to fixed ones.
        in_memory: whether a view costs no more than copying its pixels: then worker processes do not pay.
    """

    classes: tuple[str, ...]
    parts: tuple[str, ...]
    background: int | None = None
    channels: int
    image_size: tuple[int, int]
    labels: Tensor
    names: Sequence[str]
    mirrored_parts: tuple[int, ...] | None = None
    augmentation: BatchAugmentation | None = None
    in_memory: bool = False

    @abstractmethod
    def view(self, index: int, generator: torch.Generator | None) -> PartSample:
        """Image `index`: the fixed view without a generator, a random one with it.

        Its pixels may be uint8, 255ths, instead of float32 in [0, 1]; indexing hands out float32.
        """

    def contents(self) -> list[str]:
        """For each image a hash of what it is made of, "" where nobody knows; see `split_record`."""
        return [""] * len(self)

    def shown(self) -> list[str]:
        """For each image a hash of its pixels, the same for copies in other formats; "" where they are not at hand."""
        return [""] * len(self)

    def looks(self) -> list[str]:
        """For each image its coarse look (`looks.look_of`); "" where its pixels are not at hand."""
        return [""] * len(self)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | Draw) -> PartSample:
        return self.__getitems__([key]).finished()[0]

    def __getitems__(self, keys: Sequence[int | Draw]) -> RawBatch:
        """The images of several keys at once; a `DataLoader` asks for its batches like this."""
        samples, generators = [], []
        for key in keys:
            random = isinstance(key, Draw)
            # negative indices count from the end, others raise IndexError
            index = key.index if random else range(len(self))[key]
            generators.append(key.generator() if random else None)
            samples.append(self.view(index, generators[-1]))
        batch = stacked(samples)
        if self.augmentation is None or None in generators:
            return RawBatch(batch)
        return RawBatch(*self.augmentation(batch, generators, self.mirrored_parts))

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel over at most 512 evenly spaced fixed views."""
        return self._moments[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel over the same views, at least 0.01."""
        return self._moments[1]

    @functools.cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        chosen = np.unique(np.linspace(0, len(self) - 1, min(len(self), 512)).round().astype(int))
        images = torch.stack([self[int(index)].image for index in chosen]).double()  # (n, C, H, W)
        mean = images.mean(dim=(0, 2, 3))
        std = images.std(dim=(0, 2, 3), correction=0).clamp(min=0.01)
        return tuple(mean.tolist()), tuple(std.tolist())
