"""Who is mistaken for whom: a confusion matrix with the names of its classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from interp_cnn.figures.colours import LIGHT, Rgb, Theme, as_array, colour_of
from interp_cnn.figures.style import new_figure, plain, rgb_of, style

WRITTEN = 30  # classes: in a larger matrix no number can be read
CELL = 26  # display pixels of one cell, where its number is written
LETTERS = 18


def confusion_matrix(counts: ArrayLike, classes: Sequence[str], *, theme: Theme = LIGHT) -> Rgb:
    """Counts (K, K), rows the images' classes, columns the answers; colours are shares of a row.

    Up to 30 classes every cell has its number and every row and column its name; beyond that some names stand for all.
    """
    counts = as_array(counts)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(
            f"counts: shape {counts.shape}; expected {len(classes)} x {len(classes)}, one per class"
        )
    many = len(classes) > WRITTEN
    names = [plain(name, LETTERS) for name in classes]
    side = max(160, CELL * min(len(classes), WRITTEN))
    room = 30 + 7 * max(map(len, names))
    figure = new_figure(side + room, side + room, theme)
    axes = style(figure.add_subplot(), theme)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(colour_of(shares, limits=(0, 1)), interpolation="nearest")
    if not many:
        for row, column in np.argwhere(counts).tolist():
            ink = "#000000" if shares[row, column] > 0.55 else "#ffffff"
            axes.text(
                column, row, str(int(counts[row, column])), ha="center", va="center", color=ink, fontsize=8
            )
    places = range(0, len(classes), -(-len(classes) // WRITTEN))
    upright = max(map(len, names)) > 3
    axes.set_xticks(places, [names[place] for place in places], rotation=90 if upright else 0)
    axes.set_yticks(places, [names[place] for place in places])
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0, labelsize=8.5, labelcolor=theme.ink)
    axes.set_xlabel("answer", color=theme.ink, fontsize=9.5)
    axes.set_ylabel("class", color=theme.ink, fontsize=9.5)
    return rgb_of(figure)
