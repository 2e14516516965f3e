"""What an answer cannot be trusted for, said in one line each before it is given."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.stats import binomtest
from torch import Tensor

from interp_cnn.model.bodies import named

log = logging.getLogger(__name__)

LOOKED_AT = 8  # pictures
COLOUR = 0.1  # between two channels of a pixel; what JPEG makes of grey stays below
SURE = 0.01  # p of an accuracy that a guess would have


def say_colour(name: str, pictures: Sequence[Tensor], of: int) -> None:
    """A network of grey images is shown photographs in colour.

    Args:
        name: of the network.
        pictures: some (3, H, W) of them.
        of: how many there are.
    """
    colourful = sum(
        bool(((picture.amax(0) - picture.amin(0)) > COLOUR).float().mean() > 0.01) for picture in pictures
    )
    if colourful:
        log.warning(
            "%s was trained on grey images; %d of the first %d of %d pictures are in colour and shown to it without: "
            "what it says of them may mean nothing",
            name,
            colourful,
            len(pictures),
            of,
        )


def say_random_weights(name: str, weights: str | None) -> None:
    """A network of a library's without weights; what a factory built is its own affair."""
    if weights is not None or named(name).kind == "factory":
        return
    log.warning(
        "%s: no weights were given, so they are random, and nothing here was learnt; weights=FILE, or weights=DEFAULT "
        "to download torchvision's",
        name,
    )


def say_guessing(name: str, correct: Iterable[bool], labels: Sequence[str]) -> None:
    """A network that is no more often right than somebody who always says the most frequent class.

    Args:
        name: of the network.
        correct: for every image whether it is right.
        labels: the images' classes.
    """
    right = list(map(bool, correct))
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    guess = float(counts.max() / counts.sum())
    if binomtest(sum(right), len(right), min(guess, 1 - 1e-9), alternative="greater").pvalue > SURE:
        log.warning(
            "%s is right on %.0f %% of %d images, no more than a guess would be (%.0f %%): its maps explain no skill",
            name,
            100 * sum(right) / len(right),
            len(right),
            100 * guess,
        )
