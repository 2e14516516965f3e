"""Plates: a map with its colour bar, and one sheet with all maps of an image, each group of maps on a scale of its own.

Drawn pixel by pixel with Pillow in matplotlib's own typeface: a plate takes milliseconds, so that thousands of images
can have theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from interp_cnn.figures.colours import (
    CLASSES,
    LIGHT,
    Rgb,
    Theme,
    as_array,
    class_colours,
    colour_of,
    colour_table,
    is_signed,
)
from interp_cnn.figures.lettering import drawable, font_file
from interp_cnn.figures.pictures import enlarge, outline, resize

SIDE = 240  # pixels of a small image's longer side on a plate
LARGEST = 480  # a larger image is shown at this size
GAP, LINE, SMALL_LINE = 14, 19, 16
BAR_HEIGHT = 12


@dataclass(frozen=True)
class ColourBar:
    """A colour map with the values at its two ends and what they measure.

    Attributes:
        colours: name of the colour map.
        limits: values at its ends.
        unit: of the values.
        classes: (value, name) of each class, where values are classes and have a colour each.
    """

    colours: str
    limits: tuple[float, float]
    unit: str
    classes: tuple[tuple[int, str], ...] = ()

    def key(self) -> list[tuple[tuple[int, int, int], str]]:
        """(colour, name) of each class."""
        return [(CLASSES[min(place, len(CLASSES) - 1)], name) for place, (_, name) in enumerate(self.classes)]

    def colour(self, values: ArrayLike) -> Rgb:
        """Values (...) as colours (..., 3)."""
        if self.classes:
            return class_colours(values, [value for value, _ in self.classes])
        return colour_of(values, limits=self.limits, colours=self.colours)


@dataclass(frozen=True)
class Group:
    """Pictures side by side under one title, and the scale they share.

    Attributes:
        title: above them.
        pictures: RGB, all of one size.
        captions: one below each; empty for none.
        bar: below; None: no scale.
        note: a last line of small print.
    """

    title: str
    pictures: Sequence[Rgb]
    captions: Sequence[str] = field(default=())
    bar: ColourBar | None = None
    note: str = ""


def shown(image: Rgb) -> Rgb:
    """An image at the size of a plate: small ones enlarged with square pixels, large ones reduced."""
    side = max(image.shape[:2])
    if side <= SIDE * 2 // 3:
        return enlarge(image, round(SIDE / side))
    if side <= LARGEST:
        return image
    scale = LARGEST / side
    return resize(image, (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))))


def veil(image: Rgb, values: ArrayLike, bar: ColourBar, *, contours: bool = False) -> Rgb:
    """A map laid over the grey image as a veil: clear where the map is neutral, thick where it is strong.

    Args:
        image: RGB of the map's size; drawn in the middle greys, so that what supports is lighter than any of its
            pixels and what opposes darker, printed in grey too.
        values: (H, W).
        bar: colours and limits.
        contours: a light line around what supports most, a dark one around what opposes most (half the limit or
            more, the map smoothed over a fortieth of its side).
    """
    values = as_array(values)
    low, high = bar.limits
    strength = np.clip(np.abs(values) / max(abs(low), abs(high)), 0, 1)
    if bar.classes:
        strength = np.full(values.shape, 0.5)
    opacity = (0.12 + 0.83 * strength**0.7)[..., None]
    grey = 56 + 0.42 * (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    mixed = opacity * bar.colour(values) + (1 - opacity) * grey
    picture = np.round(mixed).astype(np.uint8)
    if contours and not bar.classes:
        smooth = _smoothed(values, max(values.shape) / 40)
        picture = outline(picture, smooth >= high / 2, colour=(255, 255, 255))
        if is_signed(bar.colours):
            picture = outline(picture, smooth <= low / 2, colour=(0, 0, 0))
    return picture


def coarse(values: ArrayLike, grain: int, *, add_up: bool) -> NDArray[np.float64]:
    """A map (H, W) with cells of `grain` x `grain` pixels, each showing the sum or the mean of its pixels.

    Single pixels of a large image cannot be seen; what its cells add up to can.
    """
    values = as_array(values).astype(float)
    if grain == 1:
        return values
    starts = [np.arange(0, side, grain) for side in values.shape]
    cells = np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1)
    sizes = [np.diff([*start, side]) for start, side in zip(starts, values.shape, strict=True)]
    if not add_up:
        cells = cells / np.outer(*sizes)
    return cells.repeat(sizes[0], axis=0).repeat(sizes[1], axis=1)


def map_plate(values: ArrayLike, bar: ColourBar, *, title: str = "", theme: Theme = LIGHT) -> Rgb:
    """A map (H, W) in colours with its title and colour bar."""
    picture = shown(bar.colour(as_array(values)))
    return sheet([Group(title, [picture], bar=bar)], theme=theme)


def sheet(
    groups: Sequence[Group],
    *,
    title: str = "",
    lines: Sequence[str] = (),
    width: int = 1280,
    theme: Theme = LIGHT,
) -> Rgb:
    """Groups of pictures in rows, as many beside each other as fit into `width` pixels.

    Args:
        groups: from left to right, then down.
        title: of the sheet.
        lines: of words below the title.
        width: most pixels of the sheet; a single group may be wider.
        theme: light or dark.
    """
    if not groups:
        raise ValueError("groups: none given; expected at least one Group")
    cell = max(_width(group) for group in groups), max(_height(group) for group in groups)
    columns = max(1, min(len(groups), (width - GAP) // (cell[0] + GAP)))
    rows = -(-len(groups) // columns)
    columns = -(-len(groups) // rows)  # rows of about equal length
    head = (GAP + 26 if title else 0) + len(lines) * LINE
    size = (columns * (cell[0] + GAP) + GAP, head + rows * (cell[1] + GAP) + GAP)
    canvas = Image.new("RGB", size, theme.paper)
    pen = ImageDraw.Draw(canvas)
    if title:
        pen.text(
            (GAP, GAP), _cut(title, _font(18, bold=True), size[0] - 2 * GAP), theme.ink, _font(18, bold=True)
        )
    for number, line in enumerate(lines):
        place = (GAP, (GAP + 26 if title else GAP) + number * LINE)
        pen.text(place, _cut(line, _font(13), size[0] - 2 * GAP), theme.faint, _font(13))
    for number, group in enumerate(groups):
        left = GAP + number % columns * (cell[0] + GAP)
        top = head + GAP + number // columns * (cell[1] + GAP)
        _draw_group(canvas, pen, group, (left, top), theme)
    return np.asarray(canvas).copy()


def value_text(value: float, *, signed: bool = True, digits: int = 3) -> str:
    """A number in a few digits, with a true minus sign; zero has no sign."""
    text = f"{value:{'+' if signed else ''}.{digits}g}" if value else "0"
    return text.replace("-", "\u2212").replace("e\u2212", "e-")


def _draw_group(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, group: Group, corner: tuple[int, int], theme: Theme
) -> None:
    left, top = corner
    width = _width(group)
    if group.title:
        pen.text((left, top), _cut(group.title, _font(14, bold=True), width), theme.ink, _font(14, bold=True))
        top += LINE + 2
    step = group.pictures[0].shape[1] + 4
    for number, picture in enumerate(group.pictures):
        canvas.paste(Image.fromarray(picture), (left + number * step, top))
    top += group.pictures[0].shape[0] + 4
    if any(group.captions):
        for number, caption in enumerate(group.captions):
            text = _cut(caption, _font(12), step - 6)
            pen.text((left + number * step, top), text, theme.faint, _font(12))
        top += SMALL_LINE
    if group.bar is not None:
        _draw_bar(canvas, pen, group.bar, (left, top, width), theme)
        top += BAR_HEIGHT + 2 * SMALL_LINE + 4
    if group.note:
        pen.text((left, top), _cut(group.note, _font(12), width), theme.faint, _font(12))


def _draw_bar(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    bar: ColourBar,
    place: tuple[int, int, int],
    theme: Theme,
) -> None:
    left, top, width = place
    if bar.classes:
        for number, (colour, name) in enumerate(bar.key()[:6]):  # what the height of a bar holds
            x, y = left + number % 2 * (width // 2), top + number // 2 * SMALL_LINE
            pen.rectangle([x, y + 2, x + 10, y + 12], fill=colour)
            pen.text((x + 15, y), _cut(name, _font(12), width // 2 - 20), theme.ink, _font(12))
        return
    table = colour_table(bar.colours, width)
    canvas.paste(Image.fromarray(np.repeat(table[None], BAR_HEIGHT, axis=0)), (left, top))
    low, high = bar.limits
    below = top + BAR_HEIGHT + 3
    ticks = [(0.0, low, "la"), (1.0, high, "ra")]
    if low < 0 < high:
        ticks.append((-low / (high - low), 0.0, "ma"))
    for share, value, anchor in ticks:
        x = left + share * (width - 1)
        pen.line([(x, top + BAR_HEIGHT), (x, top + BAR_HEIGHT + 3)], theme.faint)
        pen.text((x, below), value_text(value, signed=low < 0), theme.ink, _font(12), anchor=anchor)
    middle = left + width / 2
    pen.text(
        (middle, below + SMALL_LINE), _cut(bar.unit, _font(12), width), theme.faint, _font(12), anchor="ma"
    )


def _width(group: Group) -> int:
    return len(group.pictures) * (group.pictures[0].shape[1] + 4) - 4


def _height(group: Group) -> int:
    height = group.pictures[0].shape[0] + 4 + (LINE + 2 if group.title else 0)
    height += SMALL_LINE if any(group.captions) else 0
    height += BAR_HEIGHT + 2 * SMALL_LINE + 4 if group.bar is not None else 0
    return height + (SMALL_LINE if group.note else 0)


def _smoothed(values: np.ndarray, sigma: float) -> np.ndarray:
    blur = ImageFilter.GaussianBlur(sigma)
    scale = float(np.abs(values).max()) or 1.0
    eight = Image.fromarray(np.round(127.5 + 127.5 * values / scale).astype(np.uint8))
    return (np.asarray(eight.filter(blur)).astype(float) - 127.5) / 127.5 * scale


def _cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """A text on one line of at most `width` pixels."""
    text = drawable(" ".join(str(text).split()))
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(font_file(name)), size)
