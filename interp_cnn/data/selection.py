"""Some images of several data sets, as one data set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from interp_cnn.data.parts import PartSample, PartSet

log = logging.getLogger(__name__)


class Selection(PartSet):
    """Images of several sets that belong together, in a given order.

    Args:
        sources: for each image its set, the index in it, and its label now.
        classes: names that the labels are indices into.
        like: a set that has the same parts, channels and sizes.
    """

    def __init__(
        self, sources: Sequence[tuple[PartSet, int, int]], classes: Sequence[str], *, like: PartSet
    ) -> None:
        self.sources = [(images, index) for images, index, _ in sources]
        self.classes = tuple(classes)
        self.parts, self.channels, self.image_size = like.parts, like.channels, like.image_size
        self.mirrored_parts, self.in_memory = like.mirrored_parts, like.in_memory
        background = None if like.background is None else like.classes[like.background]
        self.background = self.classes.index(background) if background in self.classes else None
        self.names = [images.names[index] for images, index in self.sources]
        self.labels = torch.tensor([label for _, _, label in sources], dtype=torch.int64)

    def view(self, index: int, generator: torch.Generator | None) -> PartSample:
        """The image's own view, with the label's new number."""
        images, place = self.sources[index]
        return replace(images.view(place, generator), label=int(self.labels[index]))

    def contents(self) -> list[str]:
        """The contents of the chosen images."""
        known = {id(images): images.contents() for images, _ in self.sources}
        return [known[id(images)][index] for images, index in self.sources]

    def shown(self) -> list[str]:
        """What the chosen images show."""
        known = {id(images): images.shown() for images, _ in self.sources}
        return [known[id(images)][index] for images, index in self.sources]

    def looks(self) -> list[str]:
        """The coarse looks of the chosen images."""
        known = {id(images): images.looks() for images, _ in self.sources}
        return [known[id(images)][index] for images, index in self.sources]


def without_copies(train_set: PartSet, val_set: PartSet) -> PartSet:
    """The training images that do not have a validation image's very pixels, in whatever file."""
    judging, shown = {*val_set.shown()} - {""}, train_set.shown()
    copies = [place for place, pixels in enumerate(shown) if pixels in judging]
    if not copies:
        return train_set
    log.warning(
        "%d training images have the pixels of validation images and are left out of training, such as %s",
        len(copies),
        train_set.names[copies[0]],
    )
    labels = train_set.labels.tolist()
    kept = [(train_set, place, labels[place]) for place in range(len(shown)) if shown[place] not in judging]
    return Selection(kept, train_set.classes, like=train_set)
