"""What the pages show of the filters: one view per network and filter, with its pictures and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.report.album import Album
from interp_cnn.report.comparison.contents import Network
from interp_cnn.report.comparison.filter_pictures import FilterPictures, filter_pictures
from interp_cnn.report.comparison.measure_rows import Row, measure_rows
from interp_cnn.report.measures import NULL, Measure, in_order, measure, ranking_measures, shown_in
from interp_cnn.report.numbers import is_known, number
from interp_cnn.report.words import class_words

CHOSEN = 3


@dataclass(frozen=True)
class Strong:
    """One of a filter's strongest images in words; `page` is its own, where it has one."""

    score: str
    label: str
    name: str
    page: str


@dataclass(frozen=True)
class FilterView:
    """One filter; no pictures for a filter that never fires or without exemplars.

    Attributes:
        number: of the filter.
        page: its own.
        category: the class that its training, or its mean response, assigned it to.
        part: that it tracks.
        region_part: that its region matches most often, where parts have masks.
        silent: whether it never fires.
        values: by measure.
        pictures: of what it looks at.
        rows: its measures beside the others'.
        strongest: the images on which it fires most.
        highest: its peak on the first of them; 0 where nobody looked.
    """

    number: int
    page: str
    category: str
    part: str
    silent: bool
    values: dict[str, float]
    pictures: FilterPictures | None
    rows: list[Row]
    strongest: list[Strong]
    highest: float = 0.0
    region_part: str = ""

    @property
    def mostly(self) -> tuple[str, int] | None:
        """The class that most of its strongest images show, and how many; None where there are none."""
        labels = [image.label for image in self.strongest]
        label = max(dict.fromkeys(labels), key=labels.count, default=None)
        return None if label is None else (label, labels.count(label))

    @property
    def shows(self) -> str:
        """What its strongest images show: `mostly 9 (9 of 9)`; nothing where there are none."""
        if self.mostly is None:
            return ""
        label, count = self.mostly
        often = "mostly" if 2 * count > len(self.strongest) else "most often"
        return f"{often} {label} ({count} of {len(self.strongest)})"

    @property
    def label(self) -> str:
        """The class that it is shown for, that of most of its strongest images, and its part where it has one there."""
        name, count = self.mostly or ("", 0)
        if 2 * count < len(self.strongest):
            return "mixed"
        if not self.contradicted and self.category:
            part = self.region_part or self.part
            return class_words(self.category) + (f": {part}" if part else "")
        return class_words(name)

    @property
    def seen(self) -> str:
        """How many of its strongest images show that class, and the class that it was measured on if it is another."""
        if self.mostly is None:
            return ""
        own = bool(self.category) and not self.contradicted
        name, count = (self.category, self.own) if own else self.mostly
        elsewhere = f" \u00b7 measured on {self.category}" if self.contradicted else ""
        return f"{count} of {len(self.strongest)} show {name}{elsewhere}"

    @property
    def contradicted(self) -> bool:
        """Whether its strongest images show another class than the one that it is assigned to."""
        mostly = self.mostly
        return bool(self.category) and mostly is not None and self.own < mostly[1]

    @property
    def short(self) -> list[tuple[str, str]]:
        """At most three numbers with their short names, for a card."""
        known = [name for name in shown_in("card") if is_known(self.values.get(name))]
        names = sorted(known, key=lambda name: measure(name).ranks or len(known) + 99)[:3]
        return [(measure(name).write(self.values[name]), measure(name).short) for name in names]

    @property
    def own(self) -> int:
        """How many of its strongest images show the filter's own category."""
        return sum(image.label == self.category for image in self.strongest)

    @property
    def category_words(self) -> str:
        """The category as a word among numbers."""
        return class_words(self.category)

    @property
    def sort_values(self) -> str:
        """The values by which the grid is sorted, `-` where not known."""
        return " ".join(
            f"{value:.6g}" if is_known(value) else "-"
            for name, value in self.values.items()
            if not name.endswith(NULL)
        )


@dataclass(frozen=True)
class NetworkView:
    """One network's page and filters."""

    number: int
    name: str
    slug: str
    layer: str
    description: str
    filters: list[FilterView]

    @property
    def page(self) -> str:
        return f"filters-{self.slug}.html"

    @property
    def count(self) -> int:
        return len(self.filters)

    def page_of(self, number: int) -> str:
        """The page of a filter by its number."""
        return next(it.page for it in self.filters if it.number == number)

    @property
    def silent(self) -> int:
        return sum(it.silent for it in self.filters)

    @property
    def sort_names(self) -> list[str]:
        """The measures by which filters are sorted; what chance would give is not worth sorting by."""
        names = self.filters[0].values if self.filters else ()
        return [name for name in names if not name.endswith(NULL)]

    @property
    def sortable(self) -> list[Measure]:
        return [measure(name) for name in self.sort_names]

    @property
    def categories(self) -> list[str]:
        return sorted({it.category for it in self.filters if it.category})

    @property
    def parts(self) -> list[str]:
        """The parts that some filter tracks."""
        return sorted({it.part for it in self.filters if it.part})


def network_view(
    network: Network,
    *,
    place: int,
    slug: str,
    classes: Sequence[str],
    album: Album,
    images: Mapping[str, str] | None = None,
) -> NetworkView:
    """Draw the pictures of all filters of a network and put them beside their numbers.

    Args:
        network: to show.
        place: among the networks.
        slug: its name in file names.
        classes: names.
        album: that saves the pictures.
        images: name of an image -> its page, for those that have one.
    """
    table = filter_measures(network)
    numbers = measure_rows(table, network.filters)
    views = []
    for index, category in enumerate(_categories(network.filters, classes)):
        filter_number = int(network.filters["filter"].iloc[index])
        base = f"filters/{slug}/{filter_number:04d}"
        exemplars = network.exemplars
        fired = None if exemplars is None or bool(exemplars.silent[index]) else exemplars
        words = f"filter {filter_number} of {network.name}"
        views.append(
            FilterView(
                number=filter_number,
                page=f"{base}.html",
                category=category,
                part=_tracked_part(network.filters.iloc[index]),
                silent=exemplars is not None and fired is None,
                values={name: float(table[name].iloc[index]) for name in table.columns},
                pictures=filter_pictures(fired, network.sights, index, base=base, words=words, album=album)
                if fired is not None
                else None,
                rows=numbers[index],
                strongest=_strongest(fired, index, classes, images or {}) if fired is not None else [],
                highest=float(fired.scores[index, 0]) if fired is not None else 0.0,
                region_part=_text(network.filters.iloc[index].get("region_part")),
            )
        )
    return NetworkView(place, network.name, slug, network.layer, network.description, views)


def filter_measures(network: Network) -> pd.DataFrame:
    """The numeric measures of every filter; the peak on its strongest image is added where exemplars are
    given.
    """
    numeric = network.filters.select_dtypes("number").drop(
        columns=["filter", "category", "n", "tracks"], errors="ignore"
    )
    ends = [name for name in numeric.columns if str(name).endswith(("_low", "_high", "_n"))]
    table = numeric.drop(columns=ends).astype(float).reset_index(drop=True)
    if network.exemplars is not None and "score" not in table.columns:
        table["score"] = network.exemplars.scores[:, 0].double().numpy()
    return table[in_order(list(table.columns))]


def choices(view: NetworkView) -> tuple[str, list[tuple[str, list[FilterView]]]]:
    """The measure that ranks the filters, and the best, middle and worst of them."""
    name = ranking(view)
    ranked = ranked_by(name, [it for it in view.filters if name and is_known(it.values[name])])
    if len(ranked) <= 3 * CHOSEN:
        return name, [("All", ranked)] if ranked else []
    middle = (len(ranked) - CHOSEN) // 2
    groups = (("Best", 0), ("In the middle", middle), ("Worst", len(ranked) - CHOSEN))
    return name, [(words, ranked[start : start + CHOSEN]) for words, start in groups]


def ranking(view: NetworkView) -> str:
    """The measure by which a network's filters are ranked; empty where nothing is known of them."""
    known = {name for it in view.filters for name, value in it.values.items() if is_known(value)}
    return next((name for name in ranking_measures() if name in known), "")


def ranked_by(name: str, filters: Sequence[FilterView]) -> list[FilterView]:
    """Those that fire, the best by a measure first, those without a value last."""
    sign = 1 if measure(name).better == "lower" else -1

    def key(it: FilterView) -> tuple[bool, float, int]:
        value = it.values.get(name, math.nan)
        return (not is_known(value), sign * value if is_known(value) else 0.0, it.number)

    return sorted((it for it in filters if not it.silent), key=key)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _tracked_part(row: pd.Series) -> str:
    """The part that a filter was found to track; empty where it tracks none or nobody looked."""
    return str(row["part"]) if row.get("tracks") and isinstance(row.get("part"), str) else ""


def _strongest(
    exemplars: Exemplars, index: int, classes: Sequence[str], pages: Mapping[str, str]
) -> list[Strong]:
    columns = (exemplars.image_numbers[index], exemplars.labels[index], exemplars.scores[index])
    rows = zip(*(values.tolist() for values in columns), strict=True)
    return [
        Strong(
            number(score),
            class_name(label, classes),
            exemplars.names[image],
            pages.get(exemplars.names[image], ""),
        )
        for image, label, score in rows
        if image >= 0
    ]


def class_name(category: Any, classes: Sequence[str]) -> str:
    """A category, given by name or by index, in words; empty for none."""
    if category is None or category is pd.NA or (isinstance(category, float) and math.isnan(category)):
        return ""
    if isinstance(category, str):
        return category
    index = int(category)
    return "" if index < 0 else classes[index] if index < len(classes) else f"class {index}"


def _categories(filters: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    if "category" not in filters.columns:
        return [""] * len(filters)
    return [class_name(category, classes) for category in filters["category"]]
