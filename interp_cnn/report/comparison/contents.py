"""What a report says: plain values, filled in by a command, drawn and written by `write_report`.

Nothing here knows how a number was measured or a map was made. An `Estimate` is anything with `value`,
`low`, `high` and `n` (evaluation's estimates are), a `Difference` anything with `value`, `low`, `high` and
`p`; a number that is not known is NaN and shown as a dash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.report.decisions.class_contents import ClassReading
from interp_cnn.report.decisions.contents import Decision
from interp_cnn.report.maps.records import ImageRecord


class Estimate(Protocol):
    """A value with its interval and the number of things it was measured on."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def n(self) -> int: ...


class Difference(Protocol):
    """First network minus second, paired, with its interval and the p-value of 'no difference'."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def p(self) -> float: ...


@dataclass(frozen=True, eq=False)
class Sights:
    """What is seen of D filters beside their maps; None: nobody looked.

    Attributes:
        masks: (D, N, h, w) in [0, 1], what the template mask lets through on each exemplar.
        occlusion: (D, h, w), how far the filter's peak on its strongest image falls when a pixel is hidden.
        decodes: (D, C, H, W) in [0, 1], what a decoder draws from the filter's map on its strongest image alone.
    """

    masks: ArrayLike | None = None
    occlusion: ArrayLike | None = None
    decodes: ArrayLike | None = None


@dataclass(frozen=True)
class Network:
    """One network: what it measured and what its filters look at.

    Attributes:
        name: shown everywhere, e.g. "interpretable".
        layer: dotted name of the layer whose filters are shown.
        parameters: number of trainable parameters.
        summary: measure -> estimate.
        filters: one row per filter in order; columns `filter`, `category` (class name or index, None for no
            category) and one per measure.
        exemplars: strongest images per filter, or None.
        description: one line about how it differs from the others.
        sights: further pictures of the filters; they belong to exemplars.
        confusion: (K, K) counts, rows the images' classes, columns the network's answers; None: not counted.
        configuration: the full configuration of its training, as text.
    """

    name: str
    layer: str
    parameters: int
    summary: Mapping[str, Estimate]
    filters: pd.DataFrame
    exemplars: Exemplars | None = None
    description: str = ""
    sights: Sights = Sights()
    confusion: ArrayLike | None = None
    configuration: str = ""


@dataclass(frozen=True)
class SampleImage:
    """One image with every network's maps of it.

    Attributes:
        record: its name and class, what each network says, and the numbers of each map.
        image: (C, H, W) in [0, 1] or uint8.
        maps: `map_key` -> (H, W); none for a map that was refused.
        peaks: network -> (D,) peak of each of its filters on this image, in the order of its table of filters.
        decisions: why each network says what it says; of a network that errs also why not the true class.
    """

    record: ImageRecord
    image: ArrayLike
    maps: Mapping[str, NDArray[np.float32]]
    peaks: Mapping[str, ArrayLike] = field(default_factory=dict)
    decisions: Sequence[Decision] = ()


@dataclass(frozen=True)
class Mistaken:
    """A validation image that a network took for another class.

    Attributes:
        name: of the image.
        label: its class.
        answer: what the network says.
        image: (C, H, W) in [0, 1].
    """

    name: str
    label: str
    answer: str
    image: ArrayLike


@dataclass(frozen=True)
class Standing:
    """Of a filter in its network's ranking: its value, its rank from 1, and how many are ranked."""

    value: float
    rank: int
    count: int


@dataclass(frozen=True)
class OnPart:
    """A filter's region and its best part on N images.

    Attributes:
        part: its name.
        regions: (N, H, W) bool, what the filter's valid cells stand for.
        masks: (N, H, W) bool, the part's pixels.
        overlaps: of each image, the IoU of region and part; None where the part is not shown.
        least: above which a region matches the part.
    """

    part: str
    regions: ArrayLike
    masks: ArrayLike
    overlaps: Sequence[float | None]
    least: float = 0.2


@dataclass(frozen=True)
class FilterPair:
    """One filter of each of the first two networks on the same N images, for the first picture.

    Attributes:
        category: class of the images.
        images: (N, C, H, W) in [0, 1].
        filters: network -> number of its filter.
        maps: network -> (N, h, w), the filter's map as the next layer receives it.
        standings: network -> where its filter stands.
        ranking: the measure in whose middle the filters lie.
        on_parts: network -> what of that measure can be seen, where parts have masks.
    """

    category: str
    images: ArrayLike
    filters: Mapping[str, int]
    maps: Mapping[str, ArrayLike]
    standings: Mapping[str, Standing]
    ranking: str
    on_parts: Mapping[str, OnPart] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """Everything in a report.

    Attributes:
        title: e.g. "Interpretable and plain network on digits".
        facts: what was trained on what, name -> text, in the order in which to show it.
        classes: class names, to which category indices refer.
        networks: the network in question first, the one that it is compared with second, others after them.
        baselines: baseline -> measure -> estimate, e.g. random_cell, centre, best_constant, oracle.
        differences: measure -> first minus second network.
        samples: images with maps.
        meanings: method -> what the values of its maps say.
        curves: columns epoch, split, quantity, value, network; None without training.
        reproduction: how to get the same again: command, overrides, versions, seed, commit, machine,
            durations; nested
            mappings become tables.
        beside: other pages to link to, title -> address from the report's folder.
        pair: a filter of each network on the same images; None: no such picture.
        mistakes: network -> validation images that it got wrong.
        readings: what the classes of each network are made of, of those whose logits can be shared out.
        further: commands that show more of these networks, what they show -> the command.
    """

    title: str
    facts: Mapping[str, str]
    classes: Sequence[str]
    networks: Sequence[Network]
    baselines: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)
    samples: Sequence[SampleImage] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)
    curves: pd.DataFrame | None = None
    reproduction: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    pair: FilterPair | None = None
    mistakes: Mapping[str, Sequence[Mistaken]] = field(default_factory=dict)
    readings: Sequence[ClassReading] = ()
    further: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.networks:
            raise ValueError("networks: none given; expected at least one Network")
        names = [network.name for network in self.networks]
        if len(set(names)) < len(names):
            raise ValueError(f"networks: names {names} are not distinct")
        for network in self.networks:
            if "filter" not in network.filters.columns:
                columns = ", ".join(map(str, network.filters.columns))
                raise ValueError(
                    f"filters of {network.name}: columns {columns}; expected one called 'filter'"
                )
            if network.exemplars is not None and len(network.exemplars) != len(network.filters):
                counts = f"{len(network.filters)} rows for {len(network.exemplars)} filters with exemplars"
                raise ValueError(f"filters of {network.name}: {counts}; expected one row per filter")
            if network.confusion is None:
                continue
            shape, classes = np.shape(network.confusion), len(self.classes)
            if shape != (classes, classes):
                raise ValueError(
                    f"confusion of {network.name}: shape {shape}; expected {classes} x {classes}"
                )
