"""The first picture of a comparison: one filter of each network on the same images.

Neither is chosen by its pictures. They are ranked by the measure of the headline; of all pairs whose strongest images
show the same class it is the one nearest to the middle of both rankings.
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
from interp_cnn.report.album import Album, Picture, within
from interp_cnn.report.comparison.contents import FilterPair, Network, Standing
from interp_cnn.report.comparison.filters import filter_measures
from interp_cnn.report.comparison.first_screen import HEADLINE
from interp_cnn.report.measures import measure, ranking_measures

SIDE = 168  # pixels of one image


@dataclass(frozen=True)
class PairRow:
    """One network's filter: its place among the networks, its number, where it stands, and a picture for each image."""

    place: int
    name: str
    filter: int
    standing: str
    pictures: list[Picture]


@dataclass(frozen=True)
class PairView:
    """Both rows, the class of the images, and the measure by which the filters lie in the middle."""

    rows: list[PairRow]
    category: str
    ranking: str


class Middle(NamedTuple):
    """A class by its index, one filter of each of two networks by its row, where each stands, and by which measure."""

    category: int
    rows: tuple[int, int]
    standings: tuple[Standing, Standing]
    ranking: str


def middle_filters(networks: Sequence[Network]) -> Middle | None:
    """The filters to show; None where no two networks have exemplars and a measure of their filters."""
    if len(networks) < 2 or any(network.exemplars is None for network in networks[:2]):
        return None
    tables = [filter_measures(network) for network in networks[:2]]
    names = dict.fromkeys((*HEADLINE, *ranking_measures()))
    name = next((it for it in names if all(_known(table, it) for table in tables)), None)
    if name is None:
        return None
    first, second = (
        _Ranking(network, table[name].to_numpy(), measure(name).better)
        for network, table in zip(networks[:2], tables, strict=True)
    )
    shared = sorted({first.classes[row] for row in first.rows} & {second.classes[row] for row in second.rows})
    if not shared:
        return None
    pairs = [(category, first.middling(category), second.middling(category)) for category in shared]
    category, chosen, other = min(pairs, key=lambda pair: first.distance(pair[1]) + second.distance(pair[2]))
    return Middle(category, (chosen, other), (first.standing(chosen), second.standing(other)), name)


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
        standing = pair.standings[network.name]
        words = f"{measure(pair.ranking).write(standing.value)}, rank {standing.rank} of {standing.count}"
        rows.append(PairRow(place, network.name, number, words, pictures))
    return PairView(rows, pair.category, measure(pair.ranking).title.lower())


def _known(table: pd.DataFrame, name: str) -> bool:
    return name in table.columns and bool(table[name].notna().any())


class _Ranking:
    """The filters of a network that fire and have a value, best first.

    Attributes:
        rows: of the filters, in their order.
        classes: row -> the class that most of the filter's strongest images show.
    """

    def __init__(self, network: Network, values: np.ndarray, better: str) -> None:
        assert network.exemplars is not None
        silent = network.exemplars.silent
        known = [row for row in range(len(values)) if np.isfinite(values[row]) and not silent[row]]
        sign = 1 if better == "lower" else -1
        self.values = values
        self.rows = sorted(known, key=lambda row: (sign * values[row], row))
        self.classes = _classes_shown(network)

    def middling(self, category: int) -> int:
        """Of the rows that show a class, the one nearest to the middle; the better one of two as near."""
        candidates = (row for row in self.rows if self.classes[row] == category)
        return min(candidates, key=self.distance)

    def distance(self, row: int) -> float:
        """Of a row's place from the middle, as a share of all places."""
        return abs(self.rows.index(row) - (len(self.rows) - 1) / 2) / len(self.rows)

    def standing(self, row: int) -> Standing:
        return Standing(float(self.values[row]), self.rows.index(row) + 1, len(self.rows))


def _classes_shown(network: Network) -> dict[int, int]:
    """Row of each filter that fires -> the class that most of its strongest images show."""
    exemplars = network.exemplars
    assert exemplars is not None
    shown = {}
    for row in torch.nonzero(~exemplars.silent).flatten().tolist():
        labels = exemplars.labels[row][exemplars.image_numbers[row] >= 0].tolist()
        shown[row] = Counter(labels).most_common(1)[0][0]
    return shown
