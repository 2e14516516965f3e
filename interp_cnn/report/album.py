"""Pictures of a report: each drawn once, written beside its page, told apart by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import ArrayLike

from interp_cnn import figures
from interp_cnn.figures.colours import Rgb
from interp_cnn.figures.png import save_png

SIDE = 216  # pixels of one large picture: a sheet of three cells


@dataclass(frozen=True)
class Picture:
    """An image file as a page shows it: its place from the report's folder, display size in pixels, and what
    it shows.
    """

    source: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Chart:
    """A chart in both themes; a page shows the one that fits."""

    light: Picture
    dark: Picture


class Album:
    """Where pictures are saved: `figures/` inside a report's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def picture(
        self,
        name: str,
        rgb: Rgb,
        alt: str,
        *,
        scale: float = 1,
        colours: int | None = None,
        photograph: bool = True,
    ) -> Picture:
        """Save a picture under a name without extension, see `png_bytes`; it is shown at 1/`scale` of its pixels."""
        source = f"figures/{name}.png"
        save_png(self.folder / source, rgb, colours=colours, photograph=photograph)
        return Picture(source, round(rgb.shape[1] / scale), round(rgb.shape[0] / scale), alt)

    def chart(self, name: str, draw: Callable[[figures.Theme], Rgb], alt: str, *, scale: int = 2) -> Chart:
        """Draw a chart in both themes; charts are drawn at twice their display size, sheets of pictures once."""
        themes = (("light", figures.LIGHT), ("dark", figures.DARK))
        pair = (self.picture(f"{name}-{word}", draw(theme), alt, scale=scale) for word, theme in themes)
        return Chart(*pair)


def places(
    mean_image: ArrayLike, centres: ArrayLike, counts: ArrayLike, *, spacing: float, side: int = SIDE
) -> Rgb:
    """Centres (N, 2) in pixels, `spacing` apart, on the mean image (C, H, W), as discs whose area is `counts` (N,)."""
    mean = figures.to_rgb(mean_image)
    enlarged = within(mean, side)
    scale = len(enlarged) / len(mean)
    return figures.draw_positions(
        enlarged,
        centres,
        counts=counts,
        radius=min(max(3.0, 0.62 * spacing * scale), side / 10),
        scale=scale,
    )


def within(image: Rgb, side: int) -> Rgb:
    """An image whose longer side is `side` pixels."""
    scale = side / max(image.shape[:2])
    return figures.resize(
        image, (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale)))
    )
