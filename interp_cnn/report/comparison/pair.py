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
from interp_cnn.report.comparison.contents import FilterPair, Network, OnPart, Standing
from interp_cnn.report.comparison.filters import class_name, filter_measures
from interp_cnn.report.comparison.first_screen import HEADLINE
from interp_cnn.report.measures import measure, ranking_measures

SIDE = 168  # pixels of one image


@dataclass(frozen=True)
class PairRow:
    """One network's filter: its place among the networks, its number, where it stands, and a picture for each image.

    Attributes:
        place, name: of the network.
        filter: its number.
        standing: its value and rank.
        pictures: one for each image.
        verdicts: of each image "hit", "miss", or "none" where it does not show the part, and the overlap in words;
            empty without masks of parts.
        matches: the verdicts in words, "matches the top in 5 of these 6".
    """

    place: int
    name: str
    filter: int
    standing: str
    pictures: list[Picture]
    verdicts: list[tuple[str, str]]
    matches: str


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


def middle_filters(networks: Sequence[Network], classes: Sequence[str] = ()) -> Middle | None:
    """The filters to show; None where no two networks have exemplars and a measure of their filters.

    Args:
        networks: the first two are looked at.
        classes: names; with them a filter whose strongest images show another class than the one on whose images it was
            measured is left out.
    """
    if len(networks) < 2 or any(network.exemplars is None for network in networks[:2]):
        return None
    tables = [filter_measures(network) for network in networks[:2]]
    names = dict.fromkeys((*HEADLINE, *ranking_measures()))
    name = next((it for it in names if all(_known(table, it) for table in tables)), None)
    if name is None:
        return None
    first, second = (
        _Ranking(network, table[name].to_numpy(), measure(name).better, classes)
        for network, table in zip(networks[:2], tables, strict=True)
    )
    shared = sorted(first.shown & second.shown)
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
        look = pair.on_parts.get(network.name)
        pictures = []
        for index, (image, values) in enumerate(zip(np.asarray(pair.images), maps, strict=True)):
            rgb = within(figures.to_rgb(image), SIDE)
            words = f"where filter {number} of {network.name} fires"
            if look is None:
                drawn = figures.lit(rgb, values, highest=highest)
            else:
                region, mask = np.asarray(look.regions)[index], np.asarray(look.masks)[index]
                drawn = figures.region_and_part(rgb, region, mask)
                words += f", and the {look.part}"
            alt = f"Image {index + 1} of class {pair.category}: {words}"
            pictures.append(album.picture(f"pair/{place}-{index}", drawn, alt))
        standing = pair.standings[network.name]
        ranking = measure(pair.ranking)
        words = f"{ranking.title.lower()} {ranking.write(standing.value)}, rank {standing.rank} of {standing.count}"
        verdicts = [_verdict(overlap, look.least) for overlap in look.overlaps] if look is not None else []
        rows.append(PairRow(place, network.name, number, words, pictures, verdicts, _matches(look)))
    return PairView(rows, pair.category, measure(pair.ranking).title.lower())


def _verdict(overlap: float | None, least: float) -> tuple[str, str]:
    if overlap is None:
        return "none", "not shown"
    hit = overlap > least
    return ("hit", f"\u2713 overlap {overlap:.2f}") if hit else ("miss", f"\u2717 overlap {overlap:.2f}")


def _matches(look: OnPart | None) -> str:
    if look is None:
        return ""
    shown = [overlap > look.least for overlap in look.overlaps if overlap is not None]
    return f"matches the {look.part} in {sum(shown)} of these {len(shown)}"


def _known(table: pd.DataFrame, name: str) -> bool:
    return name in table.columns and bool(table[name].notna().any())


class _Ranking:
    """The filters of a network that fire and have a value, best first.

    Attributes:
        rows: of the filters, in their order.
        classes: row -> the class that most of the filter's strongest images show, of those that may be chosen.
    """

    def __init__(self, network: Network, values: np.ndarray, better: str, classes: Sequence[str]) -> None:
        assert network.exemplars is not None
        silent = network.exemplars.silent
        known = [row for row in range(len(values)) if np.isfinite(values[row]) and not silent[row]]
        sign = 1 if better == "lower" else -1
        self.values = values
        self.rows = sorted(known, key=lambda row: (sign * values[row], row))
        shown = _classes_shown(network)
        measured_on = list(network.filters["category"]) if classes and "category" in network.filters else None
        self.classes = {
            row: category
            for row, category in shown.items()
            if measured_on is None or class_name(measured_on[row], classes) == classes[category]
        }

    @property
    def shown(self) -> set[int]:
        return {self.classes[row] for row in self.rows if row in self.classes}

    def middling(self, category: int) -> int:
        """Of the rows that show a class, the one nearest to the middle; the better one of two as near."""
        candidates = (row for row in self.rows if self.classes.get(row) == category)
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
