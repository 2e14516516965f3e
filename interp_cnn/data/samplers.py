"""In which order a training and a validation go through a data set, alone or shared out over processes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from interp_cnn.data.parts import Draw


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
        views: how many different views an image has, which come round in turn; None: a new one in every epoch.
    """

    def __init__(
        self,
        labels: Tensor,
        *,
        seed: int,
        balance: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        views: int | None = None,
    ) -> None:
        if views is not None and views < 1:
            raise ValueError(f"views={views}: expected 1 or more, or None")
        self.views = views
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
        turn = self.epoch if self.views is None else self.epoch % self.views
        for index in order[self.rank :: self.world_size]:
            yield Draw(self.seed, turn, index)

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
