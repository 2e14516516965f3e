"""Contact sheets, as PNG and as SVG: the same pictures with the same captions.

In an SVG the pictures are PNG files inside it, the captions are text: they can be searched, and stay sharp.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape

from interp_cnn import figures
from interp_cnn.figures.colours import LIGHT, Rgb, Theme
from interp_cnn.figures.png import png_bytes

ON_A_SHEET = 64
COLUMNS = 8
GAP, LINE, HEAD = 10, 20, 34


def sheets(
    name: str, images: Sequence[Rgb], captions: Sequence[str], *, title: str, columns: int = COLUMNS
) -> Iterator[tuple[str, bytes]]:
    """Sheets of at most 64 pictures: `name-1.png`, `name-1.svg`, `name-2.png`, ..."""
    for number, start in enumerate(range(0, len(images), ON_A_SHEET), 1):
        these, words = images[start : start + ON_A_SHEET], captions[start : start + ON_A_SHEET]
        wide = min(columns, len(these))
        drawn = figures.contact_sheet(these, words, columns=wide, title=title)
        yield f"{name}-{number}.png", png_bytes(drawn, colours=256)
        yield f"{name}-{number}.svg", svg_sheet(these, words, columns=wide, title=title).encode("utf-8")


def svg_sheet(
    images: Sequence[Rgb], captions: Sequence[str], *, columns: int, title: str, theme: Theme = LIGHT
) -> str:
    """Pictures in a grid with captions below them; each picture names itself to a screen reader."""
    height, width = max(len(image) for image in images), max(image.shape[1] for image in images)
    rows = -(-len(images) // columns)
    size = (columns * (width + GAP) + GAP, HEAD + rows * (height + LINE + GAP) + GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" '
        f'viewBox="0 0 {size[0]} {size[1]}" font-family="DejaVu Sans, Arial, sans-serif" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="100%" height="100%" fill="{theme.paper}"/>',
        f'<text x="{GAP}" y="24" font-size="16" fill="{theme.ink}">{escape(title)}</text>',
    ]
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left = GAP + number % columns * (width + GAP)
        top = HEAD + GAP + number // columns * (height + LINE + GAP)
        content = base64.b64encode(png_bytes(image, colours=128)).decode("ascii")
        lines += [
            f'<image x="{left}" y="{top}" width="{image.shape[1]}" height="{image.shape[0]}" '
            f'href="data:image/png;base64,{content}"><title>{escape(caption)}</title></image>',
            f'<text x="{left + width / 2:g}" y="{top + height + 14}" font-size="12" text-anchor="middle" '
            f'fill="{theme.ink}">{escape(caption)}</text>',
        ]
    return "\n".join([*lines, "</svg>\n"])
