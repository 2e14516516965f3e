"""The recipe of feature visualisations: pictures of a layer's filters, shown to all networks again, on one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from interp_cnn.decisions.recipe import asked_of
from interp_cnn.decisions.sheet import Asked
from interp_cnn.discovery.images import spread_images
from interp_cnn.discovery.naming import pretrained_features
from interp_cnn.evaluation.statistics import Estimate, Sampled, resampling, share_of_hits, weighted_mean
from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.explanation.filters.feature_visualisation import OBJECTIVES, visualise_filters
from interp_cnn.explanation.filters.naming import peak_patch
from interp_cnn.explanation.filters.picture_checks import (
    PictureChecks,
    check_pictures,
    distances_from_real,
    typical_peaks,
)
from interp_cnn.explanation.filters.picture_parameters import PARAMETRISATIONS
from interp_cnn.explanation.network.feature_maps import feature_maps, feature_maps_and_logits
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.report.concepts.feature_visualisation import (
    FilterPicture,
    VisualisationReading,
    said_of_pictures,
    write_visualisations,
)
from interp_cnn.runs.inputs import Subject
from interp_cnn.storage.progress import stages

STARTS = ("noise", "exemplar")
PATCHES = 6  # real ones beside a picture
BATCH = 64


@dataclass(frozen=True)
class Visualisation:
    """How pictures are made; see `visualise_filters`.

    Attributes:
        filters: of each layer at most, evenly chosen; None: all.
        start: "noise", or the filter's strongest "exemplar".
        images: validation images at most, whose spectrum, colours and spread are asked.
    """

    filters: int | None = 128
    parametrisation: str = "phase"
    start: str = "noise"
    closeness: float = 1.0
    objective: str = "peak"
    steps: int = 64
    images: int = 500

    def __post_init__(self) -> None:
        for name, known in (
            ("parametrisation", PARAMETRISATIONS),
            ("start", STARTS),
            ("objective", OBJECTIVES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"feature_visualisation.{name}={getattr(self, name)}: expected {' or '.join(known)}"
                )
        for name, least in (("filters", 1), ("steps", 1), ("images", 3)):
            value = getattr(self, name)
            if (value is not None or name != "filters") and (not isinstance(value, int) or value < least):
                raise ValueError(f"feature_visualisation.{name}={value}: expected {least} or more")
        if not isinstance(self.closeness, int | float) or not self.closeness >= 0:
            raise ValueError(f"feature_visualisation.closeness={self.closeness}: expected 0 or more")


@dataclass(frozen=True)
class VisualisationRequest:
    """Pictures to make.

    Attributes:
        networks: whose filters; with data.
        device: where they compute.
        layer: dotted name of the layer, of each network; None: its top masked layer, else its last feature maps.
        settings: how.
        seed: of noise and movements.
        first: name of the page.
    """

    networks: Sequence[Subject]
    device: torch.device
    layer: str | None
    settings: Visualisation
    seed: int
    first: str


def explain_visualisations(request: VisualisationRequest, folder: Path) -> tuple[Path, list[str]]:
    """Write the page of pictures and return it, with a sentence about each network.

    Raises:
        Refusal: no filter of any network fires on an image.
    """
    asked = [asked_of(subject, request.device, request.layer) for subject in request.networks]
    pretrained = pretrained_features(request.device)
    judge = None if pretrained is None else _Judge(pretrained[1])
    readings = []
    pairs = list(zip(request.networks, asked, strict=True))
    for subject, one in stages(pairs, "pictures of filters", lambda it: it[0].name):
        reading = _reading(subject, one, asked, request, judge)
        if reading is not None:
            readings.append(reading)
    if not readings:
        raise Refusal("what=[feature_visualisation]: no filter of these networks fires on an image")
    page = write_visualisations(
        folder, readings, facts=_facts(request, pretrained and pretrained[0]), first=request.first
    )
    return page, [said_of_pictures(reading) for reading in readings]


def _reading(
    subject: Subject,
    one: Asked,
    asked: Sequence[Asked],
    request: VisualisationRequest,
    judge: _Judge | None,
) -> VisualisationReading | None:
    strongest, settings = one.strongest, request.settings
    assert strongest is not None and subject.data is not None  # networks without data are refused before
    firing = (~strongest.silent).nonzero().flatten()
    if not len(firing):
        return None
    count = min(settings.filters or len(firing), len(firing))
    channels = firing[torch.linspace(0, len(firing) - 1, count).round().long()]
    real = torch.stack([sample.image for sample in spread_images(subject.data, settings.images)])
    best = torch.stack([strongest.images[int(it)] for it in strongest.image_numbers[channels, 0]]) / 255
    found = visualise_filters(
        one.network,
        real,
        channels,
        layer=strongest.layer,
        parametrisation=settings.parametrisation,
        starts=best if settings.start == "exemplar" else None,
        closeness=settings.closeness,
        objective=settings.objective,
        steps=settings.steps,
        seed=request.seed,
    )
    typical = typical_peaks(strongest)
    judge = judge or _Judge(_own_features(one, strongest.layer))
    categories = [str(one.classes[it]) for it in _usual_labels(strongest, channels)]
    columns, seen = [], []
    for pictures in (found.pictures, best):
        checks = check_pictures(one.network, pictures, channels, typical, layer=strongest.layer)
        distance = judge.distances(pictures, (real * 255).round() / 255)  # as the exemplars are kept
        answers = {other.name: _seen(other, pictures) for other in asked}
        columns.append(_columns(checks, distance))
        seen.append(answers)
    made, actual = columns
    return VisualisationReading(
        one.name,
        strongest.layer,
        len(strongest),
        int(strongest.silent.sum()),
        [
            FilterPicture(
                int(number),
                categories[row],
                found.pictures[row].numpy(),
                [
                    peak_patch(strongest, int(number), rank)
                    for rank in range(strongest.image_numbers.shape[1])
                    if strongest.image_numbers[number, rank] >= 0
                ][:PATCHES],
                {name: float(values[row]) for name, values in made.items()},
                {name: float(values[row]) for name, values in actual.items()},
                {name: answers[row] for name, answers in seen[0].items()},
            )
            for row, number in enumerate(channels.tolist())
        ],
        _means(made, seen[0], categories, one.name),
        _means(actual, seen[1], categories, one.name),
    )


def _columns(checks: PictureChecks, distance: Tensor) -> dict[str, Tensor]:
    return {
        "reactivation": checks.reactivation,
        "control": checks.control,
        "rank": checks.rank,
        "distance": distance,
    }


def _means(
    columns: Mapping[str, Tensor],
    seen: Mapping[str, Sequence[tuple[str, float]]],
    categories: Sequence[str],
    own: str,
) -> dict[str, Estimate]:
    """Every measure's mean over pictures, with its interval."""
    hits = {
        name: torch.tensor(
            [answer == category for (answer, _), category in zip(answers, categories, strict=True)]
        ).double()
        for name, answers in seen.items()
    }
    others = [values for name, values in hits.items() if name != own]
    means = {name: mean_over(columns[name]) for name in ("reactivation", "control", "distance")}
    means["first"] = share_of_hits(columns["rank"] == 1)
    means["own_class"] = share_of_hits(hits[own])
    if others:
        means["others_class"] = mean_over(torch.stack(others).mean(0))
    return means


def mean_over(values: Tensor) -> Estimate:
    """Mean over filters (N,) with its bootstrap interval, none for a single filter."""
    known = values[values.isfinite()].double()
    if len(known) < 2:
        return Estimate(float(known.mean()), n=len(known))
    draws = resampling(len(known))
    return Sampled.from_rows(weighted_mean(known, draws.rows), draws).estimate()


def _seen(asked: Asked, pictures: Tensor) -> list[tuple[str, float]]:
    """The likeliest class and its probability, of each picture."""
    layer = asked.strongest.layer if asked.strongest is not None else ""
    device = device_of(asked.network)
    rows = [
        feature_maps_and_logits(asked.network, part.to(device), layer)[1] for part in pictures.split(BATCH)
    ]
    likeliest = torch.cat(rows).softmax(1).max(1)
    return [
        (str(asked.classes[place]), share)
        for place, share in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
    ]


def _usual_labels(strongest: Exemplars, channels: Tensor) -> list[int]:
    return [
        int(strongest.labels[number][strongest.image_numbers[number] >= 0].mode().values)
        for number in channels.tolist()
    ]


def _own_features(asked: Asked, layer: str) -> Callable[[Tensor], Tensor]:
    device = device_of(asked.network)
    return lambda images: feature_maps(asked.network, images.to(device), layer).mean((2, 3)).cpu()


class _Judge:
    """Tells how far from real images pictures are; networks that are asked on the same images share their features."""

    def __init__(self, features: Callable[[Tensor], Tensor]) -> None:
        self.features = features
        self.known: tuple[Tensor, Tensor] | None = None

    def distances(self, pictures: Tensor, real: Tensor) -> Tensor:
        """(N,) of `distances_from_real`."""
        if self.known is None or not torch.equal(self.known[0], real):
            self.known = real, self._in_pieces(real)
        return distances_from_real(self._in_pieces(pictures), self.known[1])

    def _in_pieces(self, images: Tensor) -> Tensor:
        return torch.cat([self.features(part) for part in images.split(BATCH)])


def _facts(request: VisualisationRequest, judge: str | None) -> dict[str, str]:
    settings = request.settings
    kinds = {
        "phase": "phase: magnitudes of real images, free phases",
        "fourier": "fourier: coefficients divided by their frequency",
    }
    begun = "the filter's strongest real image" if settings.start == "exemplar" else "noise"
    return {
        "picture": kinds[settings.parametrisation],
        "start": begun,
        "goal": f"the {settings.objective} of the filter's map, {settings.steps} steps",
        "distance": f"in {judge or 'the pooled maps of the networks own layer, so not comparable between networks'}",
        "seed": str(request.seed),
    }
