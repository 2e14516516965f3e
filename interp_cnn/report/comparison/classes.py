"""What the pages show of each class: how well it is told from others, its filters, its measures, its images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp_cnn import figures
from interp_cnn.figures.colours import as_array
from interp_cnn.report.album import Album, Picture, within
from interp_cnn.report.comparison.contents import Contents, Mistaken
from interp_cnn.report.comparison.filters import FilterView, NetworkView, ranked_by, ranking
from interp_cnn.report.comparison.samples import SampleView
from interp_cnn.report.decisions.class_views import ClassSheetView, class_sheet_views
from interp_cnn.report.measures import NULL, Measure, measure
from interp_cnn.report.numbers import is_known

MOST_IN_MATRIX = 30  # classes: a larger matrix is no longer read, nor small
MOST_MISTAKES = 12
MOST_MISTAKEN, THUMBNAIL = 120, 84  # images of a network shown, and their side in pixels
MOST_CARDS = 60  # filters of one class with a card on its page; all are one click away


@dataclass(frozen=True)
class Mistake:
    """How many images of a class got another class for an answer."""

    label: str
    answer: str
    count: int
    of: int


@dataclass(frozen=True)
class MatrixCell:
    """How many of a row's images got the column's answer, and their share of the row in [0, 1]; `to` is the place of
    their pictures on the page, empty where they are right or not shown.
    """

    count: int
    share: float
    words: str
    to: str = ""


@dataclass(frozen=True)
class MistakeGroup:
    """Images of one class that a network took for another: name, picture and page, empty where it has none."""

    anchor: str
    label: str
    answer: str
    images: list[tuple[str, Picture, str]]


@dataclass(frozen=True)
class Confusion:
    """One network's answers by class; no `rows` where there are too many classes to read them."""

    network: NetworkView
    rows: list[tuple[str, list[MatrixCell]]]
    mistakes: list[Mistake]
    groups: list[MistakeGroup]


@dataclass(frozen=True)
class ClassOfNetwork:
    """One class as one network knows it; `filters` are those with a card, `count` all."""

    network: NetworkView
    images: int
    correct: str
    called: list[Mistake]
    taken: list[Mistake]
    filters: list[FilterView]
    count: int


@dataclass(frozen=True)
class ClassView:
    """One class; a row is a measure with, for each network, its mean over the class's filters and over all filters."""

    name: str
    page: str
    networks: list[ClassOfNetwork]
    samples: list[SampleView]
    rows: list[tuple[Measure, list[tuple[str, str]]]]
    ranking: Measure
    sheets: list[ClassSheetView]


def class_pages(contents: Contents) -> dict[str, str]:
    """Name of a class -> its page."""
    return {name: f"classes/{index:04d}.html" for index, name in enumerate(contents.classes)}


def confusions(
    contents: Contents, networks: Sequence[NetworkView], album: Album, pages: Mapping[str, str]
) -> list[Confusion]:
    """The answers of every network whose answers were counted, and the images that it got wrong.

    Args:
        contents: of the report.
        networks: their views.
        album: that saves the images.
        pages: of images, by name.
    """
    views = []
    drawn: dict[str, Picture] = {}
    for network, view in zip(contents.networks, networks, strict=True):
        if network.confusion is not None and contents.classes:
            counts = as_array(network.confusion).astype(int)
            few = len(counts) <= MOST_IN_MATRIX
            mistaken = contents.mistakes.get(network.name, ())
            groups = _groups(mistaken, f"{view.slug}-wrong", album, drawn, pages)
            rows = _matrix(counts, contents.classes, groups) if few else []
            views.append(Confusion(view, rows, _mistakes(counts, contents.classes)[:MOST_MISTAKES], groups))
    return views


def class_views(
    contents: Contents, networks: Sequence[NetworkView], samples: Sequence[SampleView], album: Album
) -> list[ClassView]:
    """One view per class, in order."""
    sheets = [{sheet.target: sheet for sheet in it.sheets} for it in contents.readings]
    pages = class_pages(contents)
    name = next(filter(None, map(ranking, networks)), "")
    overall = [_means(it.filters) for it in networks]
    by_category = [_by_category(it) for it in networks]
    counts = [
        None if it.confusion is None else as_array(it.confusion).astype(int) for it in contents.networks
    ]
    mistakes = [[] if it is None else _mistakes(it, contents.classes) for it in counts]
    views = []
    for index, label in enumerate(contents.classes):
        filters = [by_category[place].get(label, []) for place in range(len(networks))]
        of_networks = [
            ClassOfNetwork(
                network=view,
                images=_images(counts[place], index),
                correct=_correct(counts[place], index),
                called=[it for it in mistakes[place] if it.label == label],
                taken=[it for it in mistakes[place] if it.answer == label],
                filters=ranked_by(name, filters[place])[:MOST_CARDS],
                count=len(filters[place]),
            )
            for place, view in enumerate(networks)
        ]
        means = [_means(of_network) for of_network in filters]
        rows = [
            (
                how,
                [
                    (how.write(of_class.get(key)), how.write(of_all.get(key)))
                    for of_class, of_all in zip(means, overall, strict=True)
                ],
            )
            for key in dict.fromkeys(key for of_class in means for key in of_class)
            for how in [measure(key)]
        ]
        class_images = [it for it in samples if it.label == label]
        made_of = class_sheet_views(
            [of_network[label] for of_network in sheets if label in of_network],
            album,
            base=f"classes/{index:04d}",
        )
        views.append(ClassView(label, pages[label], of_networks, class_images, rows, measure(name), made_of))
    return views


def _correct(counts: NDArray | None, index: int) -> str:
    images = _images(counts, index)
    share = counts[index, index] / images if counts is not None and images else math.nan
    return measure("accuracy").write(share)


def _images(counts: NDArray | None, index: int) -> int:
    return 0 if counts is None else int(counts[index].sum())


def _groups(
    mistaken: Sequence[Mistaken],
    base: str,
    album: Album,
    drawn: dict[str, Picture],
    pages: Mapping[str, str],
) -> list[MistakeGroup]:
    """The most frequent kinds of mistakes first, `MOST_MISTAKEN` images at most."""
    kinds: dict[tuple[str, str], list[Mistaken]] = {}
    for image in mistaken:
        kinds.setdefault((image.label, image.answer), []).append(image)
    groups, left = [], MOST_MISTAKEN
    for (label, answer), images in sorted(kinds.items(), key=lambda kind: -len(kind[1])):
        shown = []
        for image in images[:left]:
            if image.name not in drawn:
                picture = within(figures.to_rgb(image.image), THUMBNAIL)
                drawn[image.name] = album.picture(f"wrong/{len(drawn):04d}", picture, image.name, colours=128)
            shown.append((image.name, drawn[image.name], pages.get(image.name, "")))
        left -= len(shown)
        if shown:
            groups.append(MistakeGroup(f"{base}-{len(groups)}", label, answer, shown))
    return groups


def _matrix(
    counts: NDArray, classes: Sequence[str], groups: Sequence[MistakeGroup]
) -> list[tuple[str, list[MatrixCell]]]:
    places = {(group.label, group.answer): group.anchor for group in groups}
    rows = []
    for label, row in zip(classes, counts.tolist(), strict=True):
        total = sum(row)
        cells = [
            MatrixCell(
                count,
                count / total if total else 0.0,
                f"{count} of {total} {label}: called {answer}",
                places.get((label, answer), ""),
            )
            for count, answer in zip(row, classes, strict=True)
        ]
        rows.append((label, cells))
    return rows


def _mistakes(counts: NDArray, classes: Sequence[str]) -> list[Mistake]:
    """All kinds of mistakes, the most frequent first."""
    wrong = counts * (1 - np.eye(len(counts), dtype=int))
    totals = counts.sum(axis=1)
    places = np.argwhere(wrong)
    places = places[np.argsort(-wrong[tuple(places.T)], kind="stable")]
    return [Mistake(classes[int(r)], classes[int(c)], int(wrong[r, c]), int(totals[r])) for r, c in places]


def _by_category(view: NetworkView) -> dict[str, list[FilterView]]:
    by_category: dict[str, list[FilterView]] = {}
    for it in view.filters:
        by_category.setdefault(it.category, []).append(it)
    return by_category


def _means(filters: Sequence[FilterView]) -> dict[str, float]:
    """Mean of each measure over the filters that have it; what chance gives is left out."""
    names = [name for name in (filters[0].values if filters else ()) if not name.endswith(NULL)]
    values = {name: [it.values[name] for it in filters if is_known(it.values[name])] for name in names}
    return {name: sum(them) / len(them) for name, them in values.items() if them}
