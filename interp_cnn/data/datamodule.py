"""Loaders of any data set, in an order that depends on nothing but the seed and the epoch.

`PartDataModule(DigitsParts, batch_size=64, distractors=3)` builds the training and the validation set from
one class and its options. Training order, placement and augmentation are functions of (seed, epoch, index):
a training that was killed and resumed, or that uses more workers, sees the same pixels in the same order.
Validation goes through the images in order, in their fixed views.

Across processes (torch.distributed) each rank takes every world-size-th image; the last round is padded so that
all ranks make the same number of steps, and in validation the sampler's `own` tells how many images count. The
trainer must therefore run with `use_distributed_sampler=False`.
"""

from __future__ import annotations

import csv
import difflib
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from interp_cnn.data.augmentation import Augmentation
from interp_cnn.data.parts import Draw, PartSet, collate
from interp_cnn.storage.files import replacing

log = logging.getLogger(__name__)


class EpochSampler(Sampler[Draw]):
    """A new order in every epoch, drawn from (seed, epoch); hands each image's `Draw` to the data set.

    Lightning calls `set_epoch` before each training epoch.

    Args:
        labels: (N,) class indices.
        seed: of orders and views.
        balance: give every class an equal share of an epoch of N images: images of a small class come
            round several times, of a large class some wait for another epoch.
        rank: this process among `world_size`; both default to torch.distributed's, else to 0 of 1.
        world_size: number of processes that share an epoch.
    """

    def __init__(
        self,
        labels: Tensor,
        *,
        seed: int,
        balance: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.labels = labels
        self.seed = seed
        self.balance = balance
        self.rank, self.world_size = shard(rank, world_size)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.labels) // self.world_size)

    def __iter__(self) -> Iterator[Draw]:
        beyond = len(self.labels)  # no image has this index: the order's stream is nobody's view
        order = self._order(Draw(self.seed, self.epoch, beyond).generator())
        order += order[: len(self) * self.world_size - len(order)]
        for index in order[self.rank :: self.world_size]:
            yield Draw(self.seed, self.epoch, index)

    def _order(self, generator: torch.Generator) -> list[int]:
        count = len(self.labels)
        if not self.balance:
            return torch.randperm(count, generator=generator).tolist()
        classes = self.labels.unique()
        chosen = []
        for place, label in enumerate(classes):
            members = (self.labels == label).nonzero().flatten()
            share = count // len(classes) + (place < count % len(classes))
            rounds = [
                members[torch.randperm(len(members), generator=generator)]
                for _ in range(-(-share // len(members)))
            ]
            chosen.append(torch.cat(rounds)[:share])
        mixed = torch.cat(chosen)
        return mixed[torch.randperm(count, generator=generator)].tolist()


class OrderedSampler(Sampler[int]):
    """Every image once, in order, in its fixed view; a rank takes every world-size-th of them.

    A rank with an image fewer than the first repeats one at its end: ranks that wait for each other in every batch
    need the same number of batches. `own` is the number without it.
    """

    def __init__(self, count: int, *, rank: int | None = None, world_size: int | None = None) -> None:
        self.count = count
        self.rank, self.world_size = shard(rank, world_size)
        self.own = len(range(self.rank, count, self.world_size))

    def __len__(self) -> int:
        return -(-self.count // self.world_size)

    def __iter__(self) -> Iterator[int]:
        yield from range(self.rank, self.count, self.world_size)
        if self.own < len(self):
            yield self.count - 1


def shard(rank: int | None = None, world_size: int | None = None) -> tuple[int, int]:
    """(rank, world size): the given ones, else torch.distributed's when it runs, else (0, 1)."""
    if rank is None and world_size is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1
    if rank is None or world_size is None or not 0 <= rank < world_size:
        raise ValueError(f"rank={rank}, world_size={world_size}: expected 0 <= rank < world_size, or neither")
    return rank, world_size


class PartDataModule(LightningDataModule):
    """Training and validation loaders of one data set; they yield `PartBatch`es.

    After `setup()`: `train_set`, `val_set`, and from the training set `classes`, `parts`, `background`,
    `channels`, `image_size`, `mean`, `std`.

    Args:
        dataset: a data set class (or a function): called with "train" and with "val" and the options.
        batch_size: images per step and process. An incomplete last batch of an epoch is left out of training.
        workers: processes that prepare batches; 0: the training process itself.
        pin_memory: page-locked batches, for copies to a GPU.
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
        workers: int = 0,
        pin_memory: bool = False,
        seed: int = 0,
        augmentation: Augmentation | Mapping[str, Any] | None = None,
        balance: bool = False,
        quarantine: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected 1 or more")
        if workers < 0:
            raise ValueError(f"workers={workers}: expected 0 or more")
        if seed < 0:
            raise ValueError(f"seed={seed}: expected 0 or more")
        known = [name for name in inspect.signature(dataset).parameters if name != "split"]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 3, 0.5) or known
                raise ValueError(f"{name}: the data set has no such option; nearest: {', '.join(near)}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.workers = workers
        self.pin_memory = pin_memory
        self.seed = seed
        self.augmentation = Augmentation.of(augmentation)
        self.balance = balance
        self.quarantine = quarantine
        self.options = options
        self.train_set: PartSet | None = None
        self.val_set: PartSet | None = None

    def setup(self, stage: str | None = None) -> None:
        """Builds both sets, once."""
        if self.train_set is not None:
            return
        train_set, val_set = (self.dataset(split, **self.options) for split in ("train", "val"))
        for split, part_set in (("train", train_set), ("val", val_set)):
            if len(part_set) == 0:
                raise ValueError(f"split {split!r} has no image; both training and validation need some")
        for label, count in enumerate(train_set.labels.bincount(minlength=len(train_set.classes)).tolist()):
            if count == 0:
                raise ValueError(
                    f"no training image of class {train_set.classes[label]!r}; every class needs some"
                )
        train_set.augmentation = self.augmentation
        self.train_set, self.val_set = train_set, val_set
        self._report_skipped()

    def train_dataloader(self) -> DataLoader:
        """Random views in the order of (seed, epoch); batches are all of `batch_size`."""
        sampler = EpochSampler(self._set("train_set").labels, seed=self.seed, balance=self.balance)
        return self._loader(self.train_set, sampler, drop_last=len(sampler) >= self.batch_size)

    def val_dataloader(self) -> DataLoader:
        """Fixed views in order, every image once."""
        return self._loader(self._set("val_set"), OrderedSampler(len(self._set("val_set"))))

    def test_dataloader(self) -> DataLoader:
        """The validation images: these data sets have one held-out side."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader:
        """The validation images."""
        return self.val_dataloader()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self._set("train_set").classes

    @property
    def parts(self) -> tuple[str, ...]:
        """Part names."""
        return self._set("train_set").parts

    @property
    def background(self) -> int | None:
        """Index of the class that gets no filters, or None."""
        return self._set("train_set").background

    @property
    def channels(self) -> int:
        """C, 1 or 3."""
        return self._set("train_set").channels

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W)."""
        return self._set("train_set").image_size

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel of training images."""
        return self._set("train_set").mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel of training images."""
        return self._set("train_set").std

    def _set(self, name: str) -> PartSet:
        part_set = getattr(self, name)
        if part_set is None:
            raise RuntimeError("the data module has no images before setup()")
        return part_set

    def _loader(self, part_set: PartSet, sampler: Sampler, drop_last: bool = False) -> DataLoader:
        return DataLoader(
            part_set,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=self.pin_memory,
            drop_last=drop_last,
            persistent_workers=self.workers > 0,
            # its own generator: starting a pass over the data must not move the global random state,
            # or a dropout after a resumed epoch would differ
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _report_skipped(self) -> None:
        skipped = [
            bad for part_set in (self.train_set, self.val_set) for bad in getattr(part_set, "skipped", ())
        ]
        if not skipped:
            return
        log.warning("%d images left out, the first: %s", len(skipped), skipped[0].reason)
        if self.quarantine is None:
            return
        with (
            replacing(Path(self.quarantine)) as draft,
            draft.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["file", "reason"])
            writer.writerows((bad.path, bad.reason) for bad in skipped)
