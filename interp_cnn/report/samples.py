"""What the pages show of sample images: the image, what each network says, and rows of maps on one scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp_cnn.figures import common_limits
from interp_cnn.figures.colours import as_array
from interp_cnn.report.contents import Contents, PixelMap, SampleImage
from interp_cnn.report.filters import NetworkView
from interp_cnn.report.numbers import minus
from interp_cnn.report.pictures import Album, Picture, map_picture, sample_picture
from interp_cnn.report.wording import method_title


@dataclass(frozen=True)
class MapView:
    """One network's map of a row; None where it has none."""

    network: NetworkView
    picture: Picture | None
    prediction: str


@dataclass(frozen=True)
class MapRow:
    """One method on one image, all networks on one scale."""

    method: str
    target: str
    unit: str
    colours: str
    low: str
    high: str
    maps: list[MapView]


@dataclass(frozen=True)
class SampleView:
    """One sample image."""

    page: str
    name: str
    label: str
    picture: Picture
    predictions: list[tuple[NetworkView, str, str]]
    rows: list[MapRow]


def sample_views(
    contents: Contents, networks: list[NetworkView], album: Album, map_colours: str
) -> list[SampleView]:
    """Draw every sample image and its maps."""
    everything = [it for sample in contents.samples for it in sample.maps]
    methods = list(dict.fromkeys(it.method for it in everything))
    # One look per method in the whole report: signed as soon as one of its maps has an opposing pixel.
    signed = {method: any(_lowest(it) < 0 for it in everything if it.method == method) for method in methods}
    views = []
    for index, sample in enumerate(contents.samples):
        base = f"images/{index:04d}"
        picture = album.picture(
            f"{base}-image", sample_picture(sample), f"{sample.name}, class {sample.label}"
        )
        rows = []
        for method in methods:
            maps = [it for it in sample.maps if it.method == method]
            if maps:
                colours = map_colours if signed[method] else "heat"
                rows.append(_row(sample, maps, networks, album, f"{base}-{methods.index(method)}", colours))
        predictions = [
            (network, says, f"{100 * probability:.1f}\u00a0%")
            for network in networks
            if network.name in sample.predictions
            for says, probability in [sample.predictions[network.name]]
        ]
        views.append(SampleView(f"{base}.html", sample.name, sample.label, picture, predictions, rows))
    return views


def _row(
    sample: SampleImage,
    maps: list[PixelMap],
    networks: list[NetworkView],
    album: Album,
    base: str,
    colours: str,
) -> MapRow:
    limits = common_limits([it.values for it in maps], colours=colours)
    views = []
    for network in networks:
        found = next((it for it in maps if it.network == network.name), None)
        picture = None
        if found is not None:
            rgb = map_picture(sample, as_array(found.values), limits, colours)
            alt = f"{found.method} of {network.name} on {sample.name} for class {found.target}"
            picture = album.picture(f"{base}-{network.slug}", rgb, alt, colours=256)
        says, probability = sample.predictions.get(network.name, ("", 0.0))
        views.append(MapView(network, picture, f"{says} {100 * probability:.0f}\u00a0%" if says else ""))
    targets = " and ".join(dict.fromkeys(it.target for it in maps))
    low, high = (minus(f"{limit:+.3g}" if limit else "0") for limit in limits)
    return MapRow(method_title(maps[0].method), targets, maps[0].unit, colours, low, high, views)


def _lowest(it: PixelMap) -> float:
    values = as_array(it.values)
    return float(np.nanmin(values)) if values.size and not np.isnan(values).all() else 0.0
