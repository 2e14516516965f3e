"""The first picture of a comparison: one filter of each network on the same images.

Neither is chosen by its pictures. The first network's is the one in the middle of its filters' ranking; the second's
the one in the middle of those whose strongest images show the same class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from interp_cnn import figures
from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.report.album import Album, Picture, within
from interp_cnn.report.comparison.contents import FilterPair, Network
from interp_cnn.report.comparison.filters import filter_measures
from interp_cnn.report.measures import measure, ranking_measures

SIDE = 168  # pixels of one image


@dataclass(frozen=True)
class PairRow:
    """One network's filter: its place among the networks, its number, and a picture for each image."""

    place: int
    name: str
    filter: int
    pictures: list[Picture]


@dataclass(frozen=True)
class PairView:
    """Both rows, the class of the images, and the measure by which the filters lie in the middle."""

    rows: list[PairRow]
    category: str
    ranking: str


class Middle(NamedTuple):
    """A class by its index, one filter of each of two networks by its row, and the measure that ranked them."""

    category: int
    rows: tuple[int, int]
    ranking: str


def middle_filters(networks: Sequence[Network]) -> Middle | None:
    """The filters to show; None where no two networks have exemplars and a measure of their filters."""
    if len(networks) < 2 or any(network.exemplars is None for network in networks[:2]):
        return None
    first, second = networks[:2]
    tables = [filter_measures(network) for network in (first, second)]
    name = next((it for it in ranking_measures() if all(_known(table, it) for table in tables)), None)
    if name is None:
        return None
    first_classes, second_classes = _classes_shown(first), _classes_shown(second)
    ranked = [
        _ranked(network, table[name].to_numpy(), measure(name).better)
        for network, table in zip((first, second), tables, strict=True)
    ]
    both = {second_classes[row] for row in ranked[1]}
    candidates = [row for row in ranked[0] if first_classes[row] in both]
    if not candidates:
        return None
    middle = candidates[len(candidates) // 2]
    alike = [row for row in ranked[1] if second_classes[row] == first_classes[middle]]
    return Middle(first_classes[middle], (middle, alike[len(alike) // 2]), name)


def pair_view(pair: FilterPair, networks: Sequence[Network], album: Album) -> PairView:
    """The pictures of a pair, one row a network."""
    rows = []
    for place, network in enumerate(networks[:2]):
        maps = np.asarray(pair.maps[network.name], dtype=np.float32)
        highest = float(maps.max())
        number = pair.filters[network.name]
        pictures = [
            album.picture(
                f"pair/{place}-{index}",
                figures.lit(within(figures.to_rgb(image), SIDE), values, highest=highest),
                f"Image {index + 1} of class {pair.category}: where filter {number} of {network.name} fires",
            )
            for index, (image, values) in enumerate(zip(np.asarray(pair.images), maps, strict=True))
        ]
        rows.append(PairRow(place, network.name, number, pictures))
    return PairView(rows, pair.category, measure(pair.ranking).title.lower())


def _known(table: pd.DataFrame, name: str) -> bool:
    return name in table.columns and bool(table[name].notna().any())


def _ranked(network: Network, values: np.ndarray, better: str) -> list[int]:
    """Rows of the filters that fire and have a value, best first."""
    assert network.exemplars is not None
    silent = network.exemplars.silent
    known = [row for row in range(len(values)) if np.isfinite(values[row]) and not silent[row]]
    sign = 1 if better == "lower" else -1
    return sorted(known, key=lambda row: (sign * values[row], row))


def _classes_shown(network: Network) -> dict[int, int]:
    """Row of each filter that fires -> the class that most of its strongest images show."""
    exemplars = network.exemplars
    assert isinstance(exemplars, Exemplars)
    shown = {}
    for row in torch.nonzero(~exemplars.silent).flatten().tolist():
        labels = exemplars.labels[row][exemplars.image_numbers[row] >= 0].tolist()
        shown[row] = Counter(labels).most_common(1)[0][0]
    return shown
