"""Loaders of any data set, in an order that depends on nothing but the seed and the epoch.

`PartDataModule(DigitsParts, batch_size=64, distractors=3)` builds the training and the validation set from
one class and its options. Training order, placement and augmentation are functions of (seed, epoch, index):
a training that was killed and resumed, or that uses more workers, sees the same pixels in the same order.
Validation goes through the images in order, in their fixed views.

In a training on a GPU the training batches are finished there: bytes travel, from page-locked memory, and become
numbers and are augmented on the device. On the CPU the same lines run in the loader, with the same bits as ever.

Across processes (torch.distributed) each rank takes every world-size-th image; the last round is padded so that
all ranks make the same number of steps, and in validation the sampler's `own` tells how many images count. The
trainer must therefore run with `use_distributed_sampler=False`.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from interp_cnn.data.augmentation import Augmentation
from interp_cnn.data.image_files import write_skipped
from interp_cnn.data.parts import PartBatch, PartSet, RawBatch, collate
from interp_cnn.data.samplers import EpochSampler, OrderedSampler
from interp_cnn.data.selection import Selection, without_copies
from interp_cnn.data.split_record import Differences, SplitRecord, followed
from interp_cnn.hardware.memory import at_most_the_cores, check_memory, cores

log = logging.getLogger(__name__)
MOST_WORKERS = 16  # that `auto` takes: more of them wait for each other
BATCHES_AHEAD = 2  # that a worker prepares


class PartDataModule(LightningDataModule):
    """Training and validation loaders of one data set; they yield `PartBatch`es.

    After `setup()`: `train_set`, `val_set`, and from the training set `classes`, `parts`, `background`,
    `channels`, `image_size`, `mean`, `std`.

    Args:
        dataset: a data set class (or a function): called with "train" and with "val" and the options.
        batch_size: images per step and process. An incomplete last batch of an epoch is left out of training.
        workers: processes that prepare batches, at most one for each core; 0: the training process itself; "auto":
            none where the images lie in memory, else one for each core that a training on a GPU leaves free.
        pin_memory: page-locked batches, for copies to a GPU; "auto": in a training on a CUDA device.
        seed: of the training's order, placements and augmentations.
        augmentation: what training does to an image, an `Augmentation` or its arguments; None: nothing.
        balance: every class equally often in a training epoch; see `EpochSampler`.
        quarantine: CSV file that lists the images left out with `on_error="skip"`; None: only logged.
        options: arguments of `dataset`.
    """

    def __init__(
        self,
        dataset: Callable[..., PartSet],
        *,
        batch_size: int = 64,
        workers: int | str = "auto",
        pin_memory: bool | str = "auto",
        seed: int = 0,
        augmentation: Augmentation | Mapping[str, Any] | None = None,
        balance: bool = False,
        quarantine: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected 1 or more")
        if workers != "auto" and (type(workers) is not int or workers < 0):
            raise ValueError(f"workers={workers}: expected auto, or 0 or more")
        if pin_memory not in ("auto", True, False):
            raise ValueError(f"pin_memory={pin_memory}: expected auto, true or false")
        if seed < 0:
            raise ValueError(f"seed={seed}: expected 0 or more")
        known = [name for name in inspect.signature(dataset).parameters if name != "split"]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 3, 0.5) or known
                raise ValueError(f"{name}: the data set has no such option; nearest: {', '.join(near)}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.workers = at_most_the_cores(workers) if isinstance(workers, int) else workers
        self.pin_memory = pin_memory if pin_memory == "auto" else bool(pin_memory)
        self.seed = seed
        self.augmentation = Augmentation.of(augmentation)
        self.balance = balance
        self.quarantine = quarantine
        self.options = options
        self.views: int | None = None  # of each training image; None: a new one in every epoch
        self._train_set: PartSet | None = None
        self._val_set: PartSet | None = None
        self.record: SplitRecord | None = None
        self.differences: Differences | None = None

    def follow(self, record: SplitRecord, trained_in: str) -> None:
        """Takes the sides of an earlier training, called `trained_in`, in place of the data set's own.

        One line says what is new, missing or changed since then. To be called before `setup`.
        """
        self.record, self._trained_in = record, trained_in

    def setup(self, stage: str | None = None) -> None:
        """Builds both sets, once."""
        if self._train_set is not None:
            return
        train_set, val_set = self._own_sets() if self.record is None else self._followed_sets(self.record)
        train_set.augmentation = self.augmentation
        self._train_set, self._val_set = train_set, val_set
        self._check_memory()
        self._report_skipped()

    @property
    def train_set(self) -> PartSet:
        """Training images."""
        return _built(self._train_set)

    @property
    def val_set(self) -> PartSet:
        """Validation images."""
        return _built(self._val_set)

    def split_record(self) -> SplitRecord:
        """Both sides as they are, to be kept with what is trained on them."""
        return SplitRecord.of(self.train_set, self.val_set)

    def judge_by(self, places: Sequence[int]) -> None:
        """Keeps only these of the validation images, in this order."""
        images = self.val_set
        labels = images.labels.tolist()
        chosen = [(images, place, labels[place]) for place in places]
        self._val_set = Selection(chosen, images.classes, like=images)

    def _own_sets(self) -> tuple[PartSet, PartSet]:
        train_set, val_set = self._sets(self.options)
        train_set = without_copies(train_set, val_set)
        for split, part_set in (("train", train_set), ("val", val_set)):
            if len(part_set) == 0:
                raise ValueError(f"split {split!r} has no image; both training and validation need some")
        for label, count in enumerate(train_set.labels.bincount(minlength=len(train_set.classes)).tolist()):
            if count == 0:
                raise ValueError(
                    f"no training image of class {train_set.classes[label]!r}; every class needs some"
                )
        return train_set, val_set

    def _sets(self, options: Mapping[str, Any]) -> tuple[PartSet, PartSet]:
        train_set, val_set = (self.dataset(split, **options) for split in ("train", "val"))
        self._skipped = [*getattr(train_set, "skipped", ()), *getattr(val_set, "skipped", ())]
        return train_set, val_set

    def _followed_sets(self, record: SplitRecord) -> tuple[PartSet, PartSet]:
        try:
            sets = self._sets_there(record)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"{error}; {self._trained_in} needs its images: put them back, remove single files that are damaged, "
                "or take other images with data.root=..."
            ) from error
        train_set, val_set, differences = followed(record, *sets)
        self.differences = differences
        if differences is None:
            log.warning(
                "none of the images of %s is there: the data are taken as another set, split in its own way",
                self._trained_in,
            )
            return train_set, val_set
        for side, images, known in (
            ("validation", val_set, record.val),
            ("training", train_set, record.train),
        ):
            if len(images) == 0:
                raise ValueError(
                    f"none of the {len(known.names):,} {side} images of {self._trained_in} is there; "
                    "put them back, or take other images with data.root=..."
                )
        if differences:
            log.warning("the images are not those of %s: %s", self._trained_in, differences)
        return train_set, val_set

    def _sets_there(self, record: SplitRecord) -> tuple[PartSet, PartSet]:
        """The images that are there; a bad file among those that are not in the record does no harm."""
        try:
            return self._sets(self.options)
        except (ValueError, OSError):
            if self.options.get("on_error") != "raise":
                raise
        sets = self._sets({**self.options, "on_error": "skip"})
        known = {*record.train.names, *record.val.names}
        for bad in self._skipped:
            if any(bad.path.endswith(f"/{name}") for name in known):
                raise ValueError(bad.reason)
        return sets

    def train_dataloader(self) -> DataLoader:
        """Random views in the order of (seed, epoch); batches are all of `batch_size`."""
        train_set = self.train_set
        sampler = EpochSampler(train_set.labels, seed=self.seed, balance=self.balance, views=self.views)
        return self._loader(
            train_set,
            sampler,
            drop_last=len(sampler) >= self.batch_size,
            finish=collate if self._device().type == "cpu" else _as_it_is,
        )

    def val_dataloader(self) -> DataLoader:
        """Fixed views in order, every image once."""
        return self._loader(self.val_set, OrderedSampler(len(self.val_set)))

    def test_dataloader(self) -> DataLoader:
        """The validation images: these data sets have one held-out side."""
        return self.val_dataloader()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Copies that the processor does not wait for."""
        if isinstance(batch, PartBatch | RawBatch):
            return batch.to(device, non_blocking=True)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Finishes what the loader left to the device."""
        return batch.finished() if isinstance(batch, RawBatch) else batch

    def predict_dataloader(self) -> DataLoader:
        """The validation images."""
        return self.val_dataloader()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.train_set.classes

    @property
    def parts(self) -> tuple[str, ...]:
        """Part names."""
        return self.train_set.parts

    @property
    def background(self) -> int | None:
        """Index of the class that gets no filters, or None."""
        return self.train_set.background

    @property
    def channels(self) -> int:
        """C, 1 or 3."""
        return self.train_set.channels

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.train_set.image_size

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel of training images."""
        return self.train_set.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel of training images."""
        return self.train_set.std

    def _device(self) -> torch.device:
        """Where a training that this module is part of computes; without one, the CPU."""
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _workers(self, part_set: PartSet) -> int:
        if isinstance(self.workers, int):
            return self.workers
        if part_set.in_memory or self._device().type == "cpu":
            return 0
        return min(max(cores() - 1, 1), MOST_WORKERS)

    def _loader(
        self,
        part_set: PartSet,
        sampler: Sampler,
        *,
        drop_last: bool = False,
        finish: Callable[[Any], PartBatch | RawBatch] = collate,
    ) -> DataLoader:
        workers = self._workers(part_set)
        return DataLoader(
            part_set,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=workers,
            prefetch_factor=BATCHES_AHEAD if workers else None,
            collate_fn=finish,
            pin_memory=self.pin_memory
            if isinstance(self.pin_memory, bool)
            else self._device().type == "cuda",
            drop_last=drop_last,
            persistent_workers=workers > 0,
            # its own generator: starting a pass over the data must not move the global random state,
            # or a dropout after a resumed epoch would differ
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _check_memory(self) -> None:
        height, width = self.image_size
        images = min(self.batch_size, len(self.train_set))
        batches = 1 + self._workers(self.train_set) * BATCHES_AHEAD
        check_memory(
            batches * images * self.channels * height * width * 4,
            f"data.batch_size={self.batch_size} images of {height} x {width} pixels, {batches} batches at a time,",
        )

    def _report_skipped(self) -> None:
        if self._skipped:
            log.warning("%d images left out, the first: %s", len(self._skipped), self._skipped[0].reason)
            if self.quarantine is not None:
                write_skipped(Path(self.quarantine).expanduser(), self._skipped)


def _as_it_is(batch: RawBatch) -> RawBatch:
    """Left to be finished on the device."""
    return batch


def _built(part_set: PartSet | None) -> PartSet:
    if part_set is None:
        raise RuntimeError("the data module has no images before setup()")
    return part_set
