"""Asking a network for the sheet of one decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interp_cnn.explanation.decisions.class_filters import by_first_that_works
from interp_cnn.explanation.decisions.contributions import Contributions
from interp_cnn.explanation.decisions.removal import Removal, filters_for, removal
from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.explanation.network.feature_maps import evaluation_mode
from interp_cnn.explanation.network.placement import beside
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.explanation.receptive_field.field import ReceptiveField
from interp_cnn.report.decisions.contents import Curves, Decision, FilterShare
from interp_cnn.report.words import class_words

FOR, AGAINST = 5, 2  # filters shown, at most
WORTH_SHOWING = 0.004  # of the sum of all shares without signs
LOOKS_LIKE = 3  # exemplars of a filter


@dataclass(frozen=True)
class Asked:
    """A network that is asked for its decisions.

    Attributes:
        name: shown everywhere.
        network: images (B, C, H, W) -> logits (B, K).
        classes: K names.
        strongest: exemplars of a layer's filters; None: the layer is chosen, and no exemplars are shown.
    """

    name: str
    network: nn.Module
    classes: Sequence[str]
    strongest: Exemplars | None = None

    @cached_property
    def labels(self) -> list[str]:
        """What filters are called: the class that most of their strongest images show, and how many; empty without."""
        strongest = self.strongest
        if strongest is None:
            return []
        labels = []
        for shown, numbers in zip(strongest.labels, strongest.image_numbers, strict=True):
            names = [str(self.classes[int(label)]) for label in shown[numbers >= 0]]
            label = "never fires"
            for most, count in Counter(names).most_common(1):
                label = f"{class_words(most)} ({count} of {len(names)})"
            labels.append(label)
        return labels


def decisions_about(networks: Sequence[Asked], image: Tensor, label: str = "") -> list[Decision]:
    """Why each network says what it says of an image (C, H, W), and where that is wrong, why not its true class.

    A network that no method shares out is left out.
    """
    decisions = []
    for subject in networks:
        pixels = beside(subject.network, image)
        with evaluation_mode(subject.network), torch.no_grad():
            predicted = int(subject.network(pixels[None]).argmax())
        true = [subject.classes.index(label)] if label in subject.classes else []
        for target in dict.fromkeys([predicted, *true]):
            with suppress(Refusal):
                decisions.append(decide(subject, pixels, target, label=label))
    return decisions


def decide(subject: Asked, image: Tensor, target: int, *, label: str = "") -> Decision:
    """The sheet of one decision.

    Args:
        subject: the network.
        image: (C, H, W) where the network lies.
        target: the class asked about.
        label: the image's own class, empty where not known.

    Raises:
        Refusal: a network that no method shares out.
    """
    images, targets = image[None], torch.tensor([target], device=image.device)
    layer = None if subject.strongest is None else subject.strongest.layer
    contributions = by_first_that_works(subject.network, images, targets, layer=layer)
    without = removal(subject.network, image, contributions)
    logits = without.most[0]
    return Decision(
        network=subject.name,
        layer=contributions.layer,
        method=contributions.method,
        target=subject.classes[target],
        predicted=subject.classes[int(logits.argmax())],
        label=label,
        score=float(contributions.scores[0]),
        probability=float(logits.softmax(0)[target]),
        rest=float(contributions.rest[0]),
        shares=contributions.shares[0].double().cpu().numpy(),
        shown=[_share(number, contributions, without, subject) for number in chosen(contributions.shares[0])],
        enough=int(filters_for(contributions.shares)[0]),
        curves=_curves(without),
        linear=contributions.linear,
        bypassed=contributions.bypassed,
    )


def chosen(shares: Tensor, most_for: int = FOR, most_against: int = AGAINST) -> list[int]:
    """The filters to show: the largest shares for the class, then the largest against it.

    Args:
        shares: (D,) of all filters, in logits.
        most_for: how many speak for the class, at most.
        most_against: how many speak against it, at most.

    Example:
        >>> chosen(torch.tensor([3.0, -1.0, 0.001, 2.0]))
        [0, 3, 1]
    """
    least = WORTH_SHOWING * shares.abs().sum()
    order = shares.argsort(descending=True, stable=True).tolist()
    speaking_for = [number for number in order[:most_for] if shares[number] > least]
    against = [number for number in order[::-1][:most_against] if shares[number] < -least]
    return speaking_for + against


def _share(number: int, contributions: Contributions, without: Removal, subject: Asked) -> FilterShare:
    strongest = subject.strongest
    row, column = contributions.positions[0, number].tolist()
    height, width = contributions.activations.shape[2:]
    place = ((column + 0.5) / width, (row + 0.5) / height)
    values = contributions.activations[0, number].cpu().numpy()
    looks, highest = [], float(values.max())
    if strongest is not None:
        looks = looks_like(strongest, number)
        highest = float(strongest.maps[number].max())
        place = place_of(strongest.field, torch.tensor([row, column]))
    return FilterShare(
        number=number,
        share=float(contributions.shares[0, number]),
        drop=float(without.drops[number]),
        place=place,
        label=subject.labels[number] if subject.labels else "",
        map=values,
        highest=highest,
        exemplars=looks,
    )


def looks_like(strongest: Exemplars, number: int) -> list[tuple[Tensor, NDArray]]:
    """The images on which a filter fires most, with its map on each."""
    images = strongest.image_numbers[number][:LOOKS_LIKE].tolist()
    return [
        (strongest.images[image], strongest.maps[number, place].numpy())
        for place, image in enumerate(images)
        if image >= 0
    ]


def place_of(field: ReceptiveField, cell: Tensor) -> tuple[float, float]:
    """The middle (x, y) of what a cell (row, column) sees, as parts of the image's width and height."""
    down, right = field.centres(cell).tolist()
    height, width = field.image_size
    return min(max((right + 0.5) / width, 0.0), 1.0), min(max((down + 0.5) / height, 0.0), 1.0)


def _curves(without: Removal) -> Curves:
    target = without.target
    return Curves(
        counts=without.counts.numpy(),
        most=without.most[:, target].double().cpu().numpy(),
        least=without.least[:, target].double().cpu().numpy(),
        random=without.random[:, :, target].double().mean(0).cpu().numpy(),
        probability=without.probability(without.most).double().cpu().numpy(),
    )
