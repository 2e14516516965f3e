"""Asking a network what its classes are made of: class sheets, and how few filters do.

What is shown and judged comes from validation images. The ranking of filters that decides which are kept, and the
scoring sheets, come from training images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.parts import PartBatch, PartSet
from interp_cnn.decisions.sheet import LOOKS_LIKE, Asked, chosen, looks_like, place_of
from interp_cnn.evaluation.filters.scoring_sheet import ScoringSheet, scoring_path, sparsest_within
from interp_cnn.explanation.decisions.class_filters import (
    ClassFilters,
    ImageShares,
    class_filters,
    image_shares,
    right_with_few,
)
from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.explanation.network.feature_maps import feature_maps
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.report.decisions.class_contents import (
    ClassReading,
    ClassShare,
    ClassSheet,
    FewFilters,
    Scored,
)

TRAINING, JUDGED = 1000, 2000  # images looked at, at most, from all classes alike
MOST_CLASSES = 100  # whose filters are kept one class at a time
WITHIN = 0.01  # of accuracy

log = logging.getLogger(__name__)


def class_reading(subject: Asked, data: PartDataModule) -> ClassReading | None:
    """What the filters of a network bring to each class; None, with a line, where no method shares its logits out.

    Args:
        subject: the network, with exemplars of the layer's filters.
        data: of the images, whose classes are the network's.
    """
    assert subject.strongest is not None  # they name the layer
    layer, batches = subject.strongest.layer, Batches(data.val_set, JUDGED)
    try:
        train_shares = image_shares(subject.network, Batches(data.train_set, TRAINING), layer=layer)
        val_shares = image_shares(subject.network, batches, layer=layer)
    except (Refusal, ValueError) as refused:
        log.info("%s: what its classes are made of is left out: %s", subject.name, refused)
        return None
    read = class_filters(val_shares)
    sheets = [
        _sheet(subject, data.val_set, batches.places, val_shares, read, number)
        for number in range(len(subject.classes))
        if read.images[number]
    ]
    return ClassReading(sheets, _few(subject, train_shares, val_shares, batches))


class Batches:
    """Fixed views of at most so many images of a set, every class's in turn; a loader that can be read again."""

    def __init__(self, images: PartSet, most: int, size: int = 64) -> None:
        self.images, self.size = images, size
        self.places = alike(images.labels, most)

    def __iter__(self) -> Iterator[PartBatch]:
        for at in range(0, len(self.places), self.size):
            yield self.images.__getitems__(self.places[at : at + self.size]).finished()


def alike(labels: Tensor, most: int) -> list[int]:
    """Places of at most so many labels, in order, of each class about as many, spread over its images.

    Example:
        >>> alike(torch.tensor([0, 0, 0, 0, 0, 1]), 4)
        [0, 2, 4, 5]
    """
    groups = [(labels == label).nonzero().flatten().tolist() for label in labels.unique().tolist()]
    places: list[int] = []
    left = most
    for number, group in enumerate(sorted(groups, key=len)):
        count = min(len(group), left // (len(groups) - number))
        left -= count
        places += [group[place] for place in torch.linspace(0, len(group) - 1, count).round().long().tolist()]
    return sorted(places)


def _sheet(
    subject: Asked,
    images: PartSet,
    places: Sequence[int],
    val_shares: ImageShares,
    read: ClassFilters,
    number: int,
) -> ClassSheet:
    class_rows = (val_shares.labels == number).nonzero().flatten().tolist()
    total = torch.zeros(())
    for row in class_rows:
        total = total + images[places[row]].image
    shown = chosen(read.shares[number])
    relevant = {it: val_shares.most_relevant(number, it, LOOKS_LIKE) for it in shown}
    looked_at = sorted({row for rows in relevant.values() for row in rows})
    pixels = {row: images[places[row]].image for row in looked_at}
    maps: dict[int, Tensor] = {}
    for row, image in pixels.items():  # one at a time: a handful of images
        given = image[None].to(device_of(subject.network))
        with torch.no_grad():
            maps[row] = feature_maps(subject.network, given, val_shares.layer)[0].cpu()
    assert subject.strongest is not None
    return ClassSheet(
        network=subject.name,
        target=subject.classes[number],
        images=len(class_rows),
        score=float(val_shares.logits[class_rows, number].double().mean()),
        rest=float(read.rest[number]),
        shares=read.shares[number].numpy(),
        often=read.often[number].numpy(),
        shown=[
            ClassShare(
                number=it,
                share=float(read.shares[number, it]),
                often=float(read.often[number, it]),
                place=_middle(val_shares, subject.strongest, class_rows, it),
                label=subject.labels[it],
                also=[subject.classes[k] for k in read.shared_with(number, it)],
                highest=max(
                    [
                        float(subject.strongest.maps[it].max()),
                        *(float(maps[r][it].max()) for r in relevant[it]),
                    ]
                ),
                fires=looks_like(subject.strongest, it),
                relevant=[(pixels[row], maps[row][it].numpy()) for row in relevant[it]],
            )
            for it in shown
        ],
        mean_image=(total / len(class_rows)).numpy(),
    )


def _middle(
    val_shares: ImageShares, strongest: Exemplars, rows: Sequence[int], number: int
) -> tuple[float, float]:
    """Median place of the cells that bring most of a filter's shares, where it brings any."""
    bringing = [row for row in rows if val_shares.shares[row, number] != 0] or list(rows)
    return place_of(strongest.field, val_shares.positions[bringing, number].median(0).values)


def _few(subject: Asked, train_shares: ImageShares, val_shares: ImageShares, batches: Batches) -> FewFilters:
    classes, depth = val_shares.logits.shape[1], val_shares.shares.shape[1]
    kept: list[tuple[int, float]] = []
    if classes <= MOST_CLASSES:
        counts = [*(2**power for power in range(20) if 2**power < depth), depth]
        ranking = class_filters(train_shares).ranking
        right = right_with_few(subject.network, batches, ranking, counts, layer=val_shares.layer)
        kept = list(zip(counts, right.double().mean(1).tolist(), strict=True))
    path = scoring_path(train_shares.presences, train_shares.labels, classes)
    accuracies = [
        float((it.answers(val_shares.presences) == val_shares.labels).double().mean()) for it in path
    ]
    accuracy = float(val_shares.right.double().mean())
    sparsest = sparsest_within(path, val_shares.presences, val_shares.labels, val_shares.right, loss=WITHIN)
    within = [place for place, reached in enumerate(accuracies) if reached >= accuracy - WITHIN - 1e-9]
    best = within[0] if within else max(range(len(path)), key=accuracies.__getitem__)
    return FewFilters(
        network=subject.name,
        layer=val_shares.layer,
        filters=depth,
        images=len(val_shares.labels),
        accuracy=accuracy,
        kept=kept,
        sheets=[
            (it.filters_per_class, reached)
            for it, reached in zip(path, accuracies, strict=True)
            if it.filters_per_class > 0
        ],
        sparsest=(sparsest.filters_per_class, sparsest.accuracy),
        scoring=_weights(path[best], subject.classes),
    )


def _weights(sheet: ScoringSheet, classes: Sequence[str]) -> list[Scored]:
    """A class's bias, then its filters with the largest weights first."""
    lines = []
    for number, name in enumerate(classes):
        lines.append(Scored(name, None, float(sheet.biases[number])))
        weights = sheet.weights[number]
        for it in weights.argsort(descending=True, stable=True).tolist():
            if weights[it] > 0:
                lines.append(Scored(name, it, float(weights[it])))
    return lines
