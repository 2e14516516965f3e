"""What a study judges, and a study that looks at one validation image after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from interp_cnn.data.parts import PartBatch, PartSet, collate
from interp_cnn.studies.parts import Arrays

Parts = dict[str, Callable[[], Arrays]]


@dataclass(frozen=True, eq=False)
class Judged:
    """Networks and the validation images by which they are judged.

    Attributes:
        networks: by what they are called: their kind, with a number where there are several of one.
        images: validation images.
        count: how many of them, the first, are judged.
        mean: of the training images, one value a channel.
        deleted_patches: for each network the share of its training images that had lost a patch.
        untrained: the first network's layers with random weights and without masks; None where a study needs none.
    """

    networks: Mapping[str, nn.Module]
    images: PartSet
    count: int
    mean: tuple[float, ...]
    deleted_patches: Mapping[str, float]
    untrained: nn.Module | None = None

    @property
    def first(self) -> nn.Module:
        """The first network."""
        return next(iter(self.networks.values()))

    @property
    def with_untrained(self) -> dict[str, nn.Module]:
        """All networks, the untrained one behind them."""
        return {**self.networks, **({} if self.untrained is None else {"untrained": self.untrained})}

    def batch(self, indices: Sequence[int]) -> PartBatch:
        """Some of the images."""
        return collate([self.images[index] for index in indices])


class ImageStudy:
    """A study of single images: its parts are batches of them.

    Attributes:
        kinds: of the networks that are trained where none is given.
        needs_untrained: whether a network with random weights is judged beside the others.
    """

    kinds: tuple[str, ...] = ("plain",)
    needs_untrained = False

    def measured(self, judged: Judged, batch: PartBatch, first: int) -> Arrays:
        """What is measured of a batch that begins with image number `first`: arrays with a row an image."""
        raise NotImplementedError

    def parts(self, judged: Judged, together: int) -> Parts:
        """The work in parts of at most so many images."""
        starts = range(0, judged.count, together)
        return {
            f"images-{first:05d}": partial(
                self._measured_of, judged, range(first, min(first + together, judged.count))
            )
            for first in starts
        }

    def _measured_of(self, judged: Judged, indices: range) -> Arrays:
        return self.measured(judged, judged.batch(indices), indices.start)
