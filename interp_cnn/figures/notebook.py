"""What values show of themselves in a notebook: a picture or a small table, whole in itself, nothing fetched.

The one module of this room that rooms below the reports use, from `_repr_png_` and `_repr_html_` alone.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import ArrayLike

from interp_cnn.figures.colours import Rgb, as_array, common_limits
from interp_cnn.figures.map_sheet import shown
from interp_cnn.figures.panels import contact_sheet
from interp_cnn.figures.pictures import overlay, to_rgb
from interp_cnn.figures.png import png_bytes

SIDE = 160  # pixels of a small map
TILES = 48  # pictures of one sheet


def map_png(values: ArrayLike) -> bytes:
    """A map (H, W) alone: green speaks for, red against; from dark to light where no value is below zero."""
    values = as_array(values)
    grey = np.full((*values.shape, 3), 255, dtype=np.uint8)
    return png_bytes(_tile(grey, values))


def maps_html(image: ArrayLike, maps: Mapping[str, ArrayLike], notes: Sequence[str]) -> str:
    """An image (C, H, W) in [0, 1] and its maps (H, W), each on a scale of its own, side by side.

    Args:
        image: as the network saw it.
        maps: by their names.
        notes: one for each map; empty for none.
    """
    rgb = to_rgb(image)
    tiles = [shown(rgb), *(_tile(rgb, as_array(values)) for values in maps.values())]
    captions = ["image", *(f"{name}, {_ends(as_array(values))}" for name, values in maps.items())]
    lines = [f"{name}: {note}" for name, note in zip(maps, notes, strict=True) if note]
    text = "".join(f"<div><small>{escape(line)}</small></div>" for line in lines)
    return f"<div>{sheet_html(tiles, captions)}{text}</div>"


def sheet_html(pictures: Sequence[Rgb], captions: Sequence[str], *, columns: int | None = None) -> str:
    """Pictures with captions, the first of them where there are many."""
    sheet = contact_sheet(list(pictures)[:TILES], list(captions)[:TILES], columns=columns)
    data = base64.b64encode(png_bytes(sheet)).decode()
    alt = escape(", ".join(captions[:TILES]), quote=True)
    return f'<img alt="{alt}" style="max-width:100%" src="data:image/png;base64,{data}">'


def table_html(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """A table of texts."""
    first = f"<thead><tr>{''.join(f'<th>{escape(it)}</th>' for it in head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{escape(it)}</td>' for it in row)}</tr>" for row in rows)
    return f"<table>{first}<tbody>{body}</tbody></table>"


def photograph(image: ArrayLike) -> Rgb:
    """An image (C, H, W) in [0, 1] or uint8 as a tile of a sheet."""
    return shown(to_rgb(image))


def _colours(values: np.ndarray) -> str:
    return "green-red" if (values < 0).any() else "heat"


def _ends(values: np.ndarray) -> str:
    low, high = common_limits([values], colours=_colours(values))
    return f"±{high:.2g}" if low < 0 else f"0 to {high:.2g}"


def _tile(rgb: Rgb, values: np.ndarray) -> Rgb:
    large, colours = shown(rgb), _colours(values)
    limits = common_limits([values], colours=colours)
    return overlay(large, values, limits=limits, colours=colours, smooth=False)
