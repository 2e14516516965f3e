"""A matrix of numbers between -1 and 1 between things with names, each cell with its number."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from interp_cnn.figures.colours import LIGHT, Rgb, Theme, as_array, colour_of
from interp_cnn.figures.style import new_figure, plain, rgb_of, style

LETTERS = 22


def matrix(values: ArrayLike, names: Sequence[str], *, label: str, theme: Theme = LIGHT) -> Rgb:
    """Likeness of N things, (N, N) in [-1, 1]: dark blue to light orange, and in every cell its number.

    Args:
        values: (N, N).
        names: of rows and columns.
        label: what a cell says.
        theme: light or dark.
    """
    values, names = as_array(values), [plain(name, LETTERS) for name in names]
    figure = new_figure(760, 32 * len(names) + 150, theme)
    axes = style(figure.add_subplot(), theme)
    colours = colour_of(values, limits=(-1, 1), colours="orange-blue")
    axes.imshow(colours, aspect="auto", interpolation="nearest")
    for row, column in ((i, j) for i in range(len(names)) for j in range(len(names))):
        dark = colours[row, column] @ (0.299, 0.587, 0.114) < 120
        axes.text(
            column,
            row,
            f"{values[row, column]:z.2f}".replace("-", "−"),
            ha="center",
            va="center",
            color="#ffffff" if dark else "#000000",
            fontsize=9,
        )
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=9, labelcolor=theme.ink)
    axes.set_title(plain(label, 100), color=theme.ink, fontsize=10, loc="left")
    return rgb_of(figure)
