"""Which images are put together into grids, and for which classes: the grid pointing game and Focus.

Images count that every compared network tells rightly and confidently, so that all networks are judged by the same
grids (S. Rao et al., CVPR 2022); each is in one grid of a layout at most, so that grids are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How tiles are filled.

    Attributes:
        side: tiles along each side.
        focus: two tiles of one class and two of others (Focus), instead of a class for every tile.
    """

    side: int
    focus: bool = False

    @property
    def name(self) -> str:
        """In words."""
        return "Focus" if self.focus else f"{self.side} x {self.side}"

    @property
    def chance(self) -> float:
        """What a map gets on average that does not know the class."""
        return 0.5 if self.focus else 1 / self.side**2

    @property
    def classes(self) -> int:
        """How many classes it takes."""
        return 2 if self.focus else self.side**2

    @property
    def shown(self) -> int:
        """How many classes a grid shows, where there are so many."""
        return 3 if self.focus else self.side**2


@dataclass(frozen=True)
class Grid:
    """One picture of several images.

    Attributes:
        images: numbers of the images, row by row.
        classes: (T,) the classes asked about.
        right: for each of them the tiles that show it, row by row.
    """

    images: tuple[int, ...]
    classes: tuple[int, ...]
    right: tuple[tuple[bool, ...], ...]


def grids_of(
    layout: Layout, labels: Tensor, *, background: int | None, most: int, generator: torch.Generator
) -> list[Grid]:
    """Grids of images, drawn at random.

    Args:
        layout: how tiles are filled.
        labels: (N,) class of each image that may be used; -1: it may not.
        background: the class without objects, which fills tiles but is not asked about; None: there is none.
        most: grids.
        generator: on the CPU.
    """
    pools = {
        label: _shuffled((labels == label).nonzero().flatten().tolist(), generator)
        for label in sorted(set(labels.tolist()) - {-1})
    }
    grids: list[Grid] = []
    while len(grids) < most:
        drawn = _focus(pools, background, len(grids), generator) if layout.focus else None
        if not layout.focus:
            drawn = _all_different(pools, layout.side**2, background, generator)
        if drawn is None:
            break
        grids.append(drawn)
    return grids


def _all_different(
    pools: dict[int, list[int]], tiles: int, background: int | None, generator: torch.Generator
) -> Grid | None:
    left = [label for label, pool in pools.items() if pool]
    if len(left) < tiles:
        return None
    labels = _shuffled(left, generator)[:tiles]
    images = tuple(pools[label].pop() for label in labels)
    return _grid(images, labels, [label for label in labels if label != background])


def _focus(
    pools: dict[int, list[int]], background: int | None, number: int, generator: torch.Generator
) -> Grid | None:
    """Classes take turns; the other two images are of two classes where there are so many."""
    candidates = [label for label, pool in pools.items() if label != background and len(pool) >= 2]
    for turn in range(len(candidates)):
        label = candidates[(number + turn) % len(candidates)]
        others = _shuffled([other for other, pool in pools.items() if other != label and pool], generator)
        if len(others) == 1 and len(pools[others[0]]) >= 2:
            others *= 2
        if len(others) >= 2:
            labels = _shuffled([label, label, *others[:2]], generator)
            return _grid(tuple(pools[tile_label].pop() for tile_label in labels), labels, [label])
    return None


def _grid(images: tuple[int, ...], labels: Sequence[int], targets: Sequence[int]) -> Grid:
    return Grid(
        images, tuple(targets), tuple(tuple(label == target for label in labels) for target in targets)
    )


def _shuffled(values: list[int], generator: torch.Generator) -> list[int]:
    return [values[place] for place in torch.randperm(len(values), generator=generator).tolist()]
