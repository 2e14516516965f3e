"""A request: which maps of which images by which networks, checked and typed, made once from a configuration."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from interp_cnn.explanation.methods.options import Options
from interp_cnn.report.maps.records import Look
from interp_cnn.runs.inputs import InputPicture, Subject

SCALES = {
    "none": "one per method and image",
    "images": "one per method over all images",
    "methods": "one per unit and image",
    "all": "one per unit over all images",
}


@dataclass(frozen=True)
class MapSettings:
    """What the maps depend on beside networks and images.

    Attributes:
        methods: names.
        options: of the methods.
        target: `predicted`, `true`, or a class's name or number.
        against_runner_up: whether the best other class's logit is taken off.
        tolerant: whether an image may go without a map that a method refuses.
        grain: side in pixels of the cells that are drawn; None: about 40 cells along the image's longer side.
    """

    methods: tuple[str, ...]
    options: Options
    target: str = "predicted"
    against_runner_up: bool = False
    tolerant: bool = False
    grain: int | None = None


@dataclass(frozen=True)
class MapRequest:
    """Maps to make, draw and show.

    Attributes:
        networks: with names for their classes.
        images: to explain, in order.
        settings: what the maps depend on.
        look: how they are drawn.
        device: where the networks compute.
        batch_size: images in one pass; None: as many as fit into memory.
        skip_bad: leave out images that cannot be read.
        share: (k, n) to explain every n-th block of images from the k-th on, and write no pages; None: all of them.
        draw: whether pictures are drawn.
        shared_scale: which maps share a scale, of `SCALES`.
        image_size: (H, W) of the images; None: each has its own.
        weights: of the networks, in words for the pages; empty: not worth a word.
        source: of the images, in words.
        configuration: of the call, kept beside the maps.
        beside: further pages of the site, title -> address.
    """

    networks: Sequence[Subject]
    images: Sequence[InputPicture]
    settings: MapSettings
    look: Look = field(default_factory=Look)
    device: torch.device | str = "cpu"
    batch_size: int | None = None
    skip_bad: bool = False
    share: tuple[int, int] | None = None
    draw: bool = True
    shared_scale: str = "none"
    image_size: tuple[int, int] | None = None
    weights: str = ""
    source: str = "validation data"
    configuration: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)

    @property
    def one_scale_over_images(self) -> bool:
        """Whether colours can be told only when all maps are there."""
        return self.shared_scale in ("images", "all")


def share_of(shard: str | None) -> tuple[int, int] | None:
    """(k, n) of `k/n`."""
    if shard is None:
        return None
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", str(shard))
    if not match or not int(match[1]) < int(match[2]):
        raise ValueError(f"shard={shard}: expected K/N with K from 0 to N-1, such as 0/4, 1/4, 2/4 and 3/4")
    return int(match[1]), int(match[2])
