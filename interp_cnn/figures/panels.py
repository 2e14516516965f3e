"""Panels: maps with their colour bar, alone or side by side on one scale, and contact sheets with
captions.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from interp_cnn.figures.colours import LIGHT, Rgb, Theme, as_array, colour_of, colour_table, common_limits
from interp_cnn.figures.pictures import overlay
from interp_cnn.figures.style import DOTS, new_figure, plain, rgb_of, style

LETTER = 6.3  # pixels of a caption's letter, on average


def side_by_side(
    maps: Sequence[ArrayLike],
    titles: Sequence[str],
    *,
    unit: str,
    limits: tuple[float, float] | None = None,
    colours: str = "heat",
    images: Sequence[Rgb] | None = None,
    width: int = 760,
    theme: Theme = LIGHT,
) -> Rgb:
    """Maps (h, w) in one row on one scale with one colour bar, so that their colours can be compared.

    Args:
        maps: the maps, of one or several sizes.
        titles: one per map.
        unit: written along the colour bar.
        limits: of the colour scale; `common_limits` of all maps when left out.
        colours: `heat`, `green-red` or `orange-blue`.
        images: RGB images to lay the maps over.
        width: of the figure in display pixels.
        theme: light or dark.
    """
    if not len(maps) or len(titles) != len(maps):
        raise ValueError(
            f"titles: {len(titles)} for {len(maps)} maps; expected at least one map, one title for each"
        )
    limits = limits or common_limits(list(maps), colours=colours)
    rows, columns = (as_array(maps[0]) if images is None else images[0]).shape[:2]
    panel = (width - 80) / len(maps)
    figure = new_figure(width, int(panel * rows / columns + (32 if any(titles) else 14)), theme)
    grid = figure.add_gridspec(1, len(maps) + 1, width_ratios=[panel] * len(maps) + [14], wspace=0.02)
    for number, (values, title) in enumerate(zip(maps, titles, strict=True)):
        axes = figure.add_subplot(grid[number])
        if images is None:
            axes.imshow(
                colour_of(values, limits=limits, colours=colours), interpolation="nearest", aspect="auto"
            )
        else:
            picture = overlay(images[number], values, limits=limits, colours=colours)
            axes.imshow(picture, interpolation="nearest", aspect="auto")
        axes.set_title(plain(title), color=theme.ink, fontsize=10)
        axes.set_axis_off()
    bar = style(figure.add_subplot(grid[-1]), theme)
    bar.imshow(colour_table(colours)[:, None], origin="lower", aspect="auto", extent=(0, 1, *limits))
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.yaxis.set_label_position("right")
    bar.yaxis.set_major_locator(MaxNLocator(5))
    bar.set_ylabel(plain(unit), color=theme.ink, fontsize=9)
    return rgb_of(figure)


def contact_sheet(
    images: Sequence[Rgb],
    captions: Sequence[str],
    *,
    columns: int | None = None,
    title: str = "",
    theme: Theme = LIGHT,
) -> Rgb:
    """Pictures in a grid, each drawn pixel for pixel with its caption below it, in as many lines as it needs."""
    if not len(images) or len(captions) != len(images):
        raise ValueError(
            f"captions: {len(captions)} for {len(images)} images; expected one for each, at least one"
        )
    columns = columns or int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    height, width = max(len(image) for image in images), max(image.shape[1] for image in images)
    wrapped = [textwrap.wrap(str(caption), max(8, int(width / LETTER))) or [""] for caption in captions]
    gap, head = 10, 34 if title else 0
    line = 20 + 13 * (max(map(len, wrapped)) - 1)
    size = (rows * (height + line + gap) + gap + head, columns * (width + gap) + gap)
    sheet = np.empty((*size, 3), dtype=np.uint8)
    sheet[:] = [int(theme.paper[i : i + 2], 16) for i in (1, 3, 5)]
    figure = Figure(figsize=(size[1] / DOTS, size[0] / DOTS), dpi=DOTS)
    for number, (image, lines) in enumerate(zip(images, wrapped, strict=True)):
        top = head + gap + number // columns * (height + line + gap)
        left = gap + number % columns * (width + gap)
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
        place = ((left + width / 2) / size[1], 1 - (top + height + line / 2) / size[0])
        words = "\n".join(plain(text, len(text)) for text in lines)
        figure.text(*place, words, ha="center", va="center", color=theme.ink, fontsize=8.5, linespacing=1.1)
    if title:
        figure.text(
            gap / size[1], 1 - 20 / size[0], plain(title, 160), va="center", color=theme.ink, fontsize=12
        )
    figure.figimage(sheet, 0, 0, origin="upper")
    return rgb_of(figure)
