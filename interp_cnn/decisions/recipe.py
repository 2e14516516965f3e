"""The recipes of decision sheets and class sheets: exemplars looked for, networks asked, pages and files written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch

from interp_cnn.decisions.classes import class_reading
from interp_cnn.decisions.sheet import Asked, decisions_about
from interp_cnn.explanation.decisions.head import chosen_layer
from interp_cnn.explanation.filters.exemplars import exemplars
from interp_cnn.explanation.network.feature_maps import evaluation_mode
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.report.decisions.class_views import sentence
from interp_cnn.report.decisions.pages import DecidedImage, write_classes, write_decisions
from interp_cnn.runs.devices import frozen
from interp_cnn.runs.inputs import InputPicture, Subject
from interp_cnn.storage.progress import progress_bar


@dataclass(frozen=True)
class DecisionRequest:
    """Decisions to ask for.

    Attributes:
        networks: that are asked.
        images: about which.
        device: where the networks compute.
        layer: dotted name of the layer, of each network; None: its top masked layer, else its last feature maps.
        first: name of the page.
        source: where the images are from, in words.
        beside: further pages, title -> address.
    """

    networks: Sequence[Subject]
    images: Sequence[InputPicture]
    device: torch.device
    layer: str | None
    first: str
    source: str
    beside: Mapping[str, str] = field(default_factory=dict)


def explain_decisions(request: DecisionRequest, folder: Path) -> Path:
    """Ask all networks about all images, write the page and return it."""
    subjects = [asked_of(subject, request.device, request.layer) for subject in request.networks]
    decided = []
    bar = progress_bar(transient=True)
    task = bar.add_task("decisions", total=float(len(request.images)), seen="")
    with bar:
        for number, picture in enumerate(request.images, 1):
            pixels = picture.pixels()
            decisions = decisions_about(subjects, pixels, picture.label)
            decided.append(DecidedImage(picture.name, picture.label, pixels.numpy(), decisions))
            bar.update(task, completed=float(number), seen=f"{number}/{len(request.images)} images")
    names = " and ".join(subject.name for subject in subjects)
    layers = dict.fromkeys(decision.layer for image in decided for decision in image.decisions)
    return write_decisions(
        folder,
        decided,
        title=f"Decisions of {names}",
        facts={
            "networks": names,
            "layer": ", ".join(layers),
            "images": f"{len(decided)} of {request.source}",
        },
        first=request.first,
        beside=request.beside,
    )


def explain_classes(request: DecisionRequest, folder: Path) -> tuple[Path, list[str]]:
    """Ask all networks what their classes are made of, write the page and return it, with a sentence about each.

    Raises:
        Refusal: none of the networks can be asked.
    """
    readings = []
    bar = progress_bar(transient=True)
    task = bar.add_task("classes", total=float(len(request.networks)), seen="")
    with bar:
        for number, subject in enumerate(request.networks, 1):
            assert subject.data is not None  # refused before
            reading = class_reading(asked_of(subject, request.device, request.layer), subject.data)
            if reading is not None:
                readings.append(reading)
            bar.update(task, completed=float(number), seen=subject.name)
    if not readings:
        raise Refusal("what=[classes]: no method shares out the logits of any of these networks")
    names = " and ".join(reading.few.network for reading in readings)
    page = write_classes(
        folder,
        readings,
        title=f"Classes of {names}",
        facts={
            "networks": names,
            "layer": ", ".join(dict.fromkeys(reading.few.layer for reading in readings)),
            "images": f"{readings[0].few.images:,} validation images",
        },
        first=request.first,
    )
    return page, [f"{reading.few.network} {sentence(reading.few)}" for reading in readings]


def asked_of(
    subject: Subject, device: torch.device, layer: str | None = None, *, most: int | None = None
) -> Asked:
    """A network with the exemplars of its filters, where its data are at hand.

    Args:
        subject: the network.
        device: where it computes from now on.
        layer: whose filters; None: its top masked layer, else its last feature maps.
        most: validation images to look for exemplars among; None: all.
    """
    network = frozen(subject.network.to(device).eval())
    if subject.data is None:
        return Asked(subject.name, network, subject.classes)
    blank = torch.zeros(1, subject.data.channels, *subject.data.image_size, device=device)
    with evaluation_mode(network), torch.no_grad():
        layer = chosen_layer(network, blank, layer)
    loader = subject.data.val_dataloader()
    batches = None if most is None else max(1, most // (loader.batch_size or 1))
    strongest = exemplars(network, islice(loader, batches), layer=layer)
    return Asked(subject.name, network, subject.classes, strongest)
