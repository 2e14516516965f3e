"""The pictures of one filter: what it fires on, where, what its mask keeps, what it needs, what it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp_cnn import figures
from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.figures.colours import Rgb, as_array
from interp_cnn.report.album import SIDE, Album, Picture, within
from interp_cnn.report.comparison.contents import Sights
from interp_cnn.report.comparison.filter_sheets import (
    activation_sheet,
    lit_sheet,
    mask_sheet,
    mean_map,
    occlusion_picture,
    patch_sheet,
    peak_places,
    strongest_image,
)
from interp_cnn.report.numbers import minus, number

FLAT = 1e-9  # a fall below this share of the peak is rounding


@dataclass(frozen=True)
class Scaled:
    """A picture with the ends of its colour scale in words."""

    picture: Picture
    low: str
    high: str


@dataclass(frozen=True)
class FilterPictures:
    """What the pages show of a filter that fires; None where nobody looked."""

    patches: Picture
    lit: Picture
    map: Scaled
    activation: Scaled
    places: Picture
    mask: Picture | None = None
    occlusion: Scaled | None = None
    decode: Picture | None = None
    strongest: Picture | None = None

    @property
    def alone(self) -> bool:
        """Whether something is shown of its strongest image alone."""
        return self.strongest is not None


def filter_pictures(
    exemplars: Exemplars, sights: Sights, index: int, *, base: str, words: str, album: Album
) -> FilterPictures:
    """Draw a filter's pictures, with palettes small enough for hundreds of filters.

    Args:
        exemplars: exemplars of all filters.
        sights: what else is known of them.
        index: of the filter.
        base: where the files go, `filters/plain/0003`.
        words: what the filter is called.
        album: that saves them.
    """

    def save(
        name: str, rgb: Rgb, alt: str, colours: int | None = None, *, photograph: bool = True
    ) -> Picture:
        return album.picture(f"{base}-{name}", rgb, alt, colours=colours, photograph=photograph)

    peak, mean_peak = float(exemplars.maps[index].max()), float(exemplars.mean_map[index].max())
    maps = activation_sheet(exemplars, index)
    sheet = save("activation", maps, f"Maps of {words} on its strongest images", 128, photograph=False)
    drawn = FilterPictures(
        patches=save(
            "patches",
            patch_sheet(exemplars, index),
            f"Strongest images of {words}, its receptive field outlined",
            128,
        ),
        lit=save("lit", lit_sheet(exemplars, index), f"Where {words} fires on its strongest images", 128),
        map=Scaled(
            save("map", mean_map(exemplars.mean_map[index].numpy()), f"Mean map of {words}"),
            "0",
            number(max(0.0, mean_peak)),
        ),
        activation=Scaled(sheet, "0", number(peak)),
        places=save(
            "places",
            peak_places(exemplars, index),
            f"Peaks of {words} on the mean image",
            64,
            photograph=False,
        ),
    )
    return FilterPictures(**{**vars(drawn), **_sights(exemplars, sights, index, words, save)})


def _sights(
    exemplars: Exemplars, sights: Sights, index: int, words: str, save
) -> dict[str, Picture | Scaled]:
    pictures: dict[str, Picture | Scaled] = {}
    if sights.masks is not None:
        rgb = mask_sheet(exemplars, as_array(sights.masks)[index], index)
        pictures["mask"] = save("mask", rgb, f"Strongest images of {words} as its mask lets them through", 64)
    if sights.occlusion is not None:
        values = as_array(sights.occlusion)[index].astype(float)
        values = np.where(np.abs(values) < FLAT * float(exemplars.scores[index, 0]), 0.0, values)
        rgb, (low, high) = occlusion_picture(exemplars, values, index)
        alt = f"What {words} needs of its strongest image"
        pictures["occlusion"] = Scaled(
            save("occlusion", rgb, alt, 128, photograph=False), minus(f"{low:+.3g}"), minus(f"{high:+.3g}")
        )
    if sights.decodes is not None:
        rgb = within(figures.to_rgb(as_array(sights.decodes)[index]), SIDE)
        pictures["decode"] = save("decode", rgb, f"What a decoder draws from the map of {words} alone", 96)
    if pictures.keys() & {"occlusion", "decode"}:
        pictures["strongest"] = save(
            "strongest", strongest_image(exemplars, index), f"Strongest image of {words}", 96
        )
    return pictures
