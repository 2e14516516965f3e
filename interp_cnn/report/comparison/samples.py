"""What the pages show of sample images: the image, what each network says, and rows of maps on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp_cnn.figures import common_limits
from interp_cnn.figures.colours import Rgb, as_array
from interp_cnn.report.album import Album, Picture
from interp_cnn.report.comparison.contents import Contents, PixelMap, SampleImage
from interp_cnn.report.comparison.filter_sheets import map_picture, sample_picture
from interp_cnn.report.comparison.filters import FilterView, NetworkView
from interp_cnn.report.numbers import minus
from interp_cnn.report.words import method_title

WITHIN_SCALE = 0.995  # the share of a row's values that its colours span
MOST_FILTERS = 12  # named on an image's page, of each network
Firing = list[tuple[float, FilterView]]


@dataclass(frozen=True)
class MapView:
    """One network's map of a row; no picture where it has none, then `refused` may say why."""

    network: NetworkView
    picture: Picture | None
    prediction: str
    refused: str


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
    """One sample image.

    Attributes:
        firing: filters whose peak on this image is highest, as a share of their highest peak on all images.
        among: filters whose strongest images it is among, with its rank there.
    """

    page: str
    name: str
    label: str
    picture: Picture
    predictions: list[tuple[NetworkView, str, str]]
    rows: list[MapRow]
    firing: list[tuple[NetworkView, Firing]]
    among: list[tuple[NetworkView, Firing]]


def sample_pages(samples: Sequence[SampleImage]) -> dict[str, str]:
    """Name of a sample image -> its page; of images with one name the first."""
    pages: dict[str, str] = {}
    for index, sample in enumerate(samples):
        pages.setdefault(sample.name, f"{_base(index)}.html")
    return pages


def sample_views(
    contents: Contents, networks: list[NetworkView], album: Album, map_colours: str
) -> list[SampleView]:
    """Draw every sample image and its maps."""
    everything = [it for sample in contents.samples for it in sample.maps if it.values is not None]
    methods = list(dict.fromkeys(it.method for it in everything))
    # One look per method in the whole report: signed as soon as one of its maps has an opposing pixel.
    signed = {method: any(_lowest(it) < 0 for it in everything if it.method == method) for method in methods}
    among = _among_strongest(networks)
    views = []
    for index, sample in enumerate(contents.samples):
        base, image = _base(index), sample_picture(sample)
        picture = album.picture(f"{base}-image", image, f"{sample.name}, class {sample.label}", colours=256)
        rows = []
        for method in methods:
            maps = [it for it in sample.maps if it.method == method]
            if maps:
                colours = map_colours if signed[method] else "heat"
                place = f"{base}-{methods.index(method)}"
                rows.append(_row(sample, image, maps, networks, album, place, colours))
        predictions = [
            (network, says, f"{100 * probability:.1f}\u00a0%")
            for network in networks
            if network.name in sample.predictions
            for says, probability in [sample.predictions[network.name]]
        ]
        firing = [(it, found) for it in networks if (found := _firing_most(sample, it))]
        listed = [(it, among[it.slug][sample.name]) for it in networks if sample.name in among[it.slug]]
        place = f"{base}.html"
        views.append(SampleView(place, sample.name, sample.label, picture, predictions, rows, firing, listed))
    return views


def _base(index: int) -> str:
    return f"images/{index:04d}"


def _firing_most(sample: SampleImage, network: NetworkView) -> Firing:
    """The filters with the highest peaks on this image, each over its filter's highest peak on all images."""
    peaks = as_array(sample.peaks.get(network.name, [])).tolist()
    shares = [
        (peak / it.highest, it)
        for peak, it in zip(peaks, network.filters, strict=bool(peaks))
        if peak > 0 and it.highest > 0
    ]
    return sorted(shares, key=lambda pair: (-pair[0], pair[1].number))[:MOST_FILTERS]


def _among_strongest(networks: Sequence[NetworkView]) -> Mapping[str, Mapping[str, Firing]]:
    """For each network, name of an image -> the filters that have it among their strongest, strongest first."""
    found: dict[str, dict[str, Firing]] = {network.slug: {} for network in networks}
    for network in networks:
        for it in network.filters:
            for rank, strong in enumerate(it.strongest, 1):
                found[network.slug].setdefault(strong.name, []).append((rank, it))
        for filters in found[network.slug].values():
            filters.sort(key=lambda pair: (pair[0], pair[1].number))
            del filters[MOST_FILTERS:]
    return found


def _row(
    sample: SampleImage,
    image: Rgb,
    maps: list[PixelMap],
    networks: list[NetworkView],
    album: Album,
    base: str,
    colours: str,
) -> MapRow:
    limits = _limits([as_array(it.values) for it in maps if it.values is not None], colours)
    views = []
    for network in networks:
        found = next((it for it in maps if it.network == network.name), None)
        picture = None
        if found is not None and found.values is not None:
            rgb = map_picture(image, as_array(found.values), limits, colours)
            alt = f"{found.method} of {network.name} on {sample.name} for class {found.target}"
            picture = album.picture(f"{base}-{network.slug}", rgb, alt, colours=256, photograph=False)
        says, probability = sample.predictions.get(network.name, ("", 0.0))
        words = f"{says} {100 * probability:.0f}\u00a0%" if says else ""
        views.append(MapView(network, picture, words, found.refused if found is not None else ""))
    targets = " and ".join(dict.fromkeys(it.target for it in maps))
    low, high = (minus(f"{limit:+.3g}" if limits[0] < 0 else f"{limit:.3g}") for limit in limits)
    return MapRow(method_title(maps[0].method), targets, maps[0].unit, colours, low, high, views)


def _limits(maps: list[np.ndarray], colours: str) -> tuple[float, float]:
    """One scale for all maps, which a few pixels alone do not stretch: the rest would go pale."""
    largest = max((float(np.nanquantile(np.abs(it), WITHIN_SCALE)) for it in maps), default=0.0)
    clipped = [np.clip(it, -largest, largest) for it in maps] if largest > 0 else maps
    return common_limits(clipped, colours=colours)


def _lowest(it: PixelMap) -> float:
    values = as_array(it.values)
    return float(np.nanmin(values)) if values.size and not np.isnan(values).all() else 0.0
