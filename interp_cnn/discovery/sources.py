"""Sources: which layer of which network is asked what it stands for.

The fairness rules: every source is asked on the same images, with the same settings, about a layer of the same size
where the networks have one. A network with template masks is asked twice, on the map behind its mask and on the map
before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.explanation.gradients.grad_cam import last_feature_maps
from interp_cnn.explanation.network.feature_maps import named_layer
from interp_cnn.explanation.receptive_field.field import ReceptiveField, receptive_field
from interp_cnn.model.interpretable_conv import template_masks
from interp_cnn.runs.devices import frozen
from interp_cnn.runs.inputs import Subject
from interp_cnn.storage.fingerprints import fingerprint
from interp_cnn.storage.names import distinct_slugs


@dataclass(frozen=True, eq=False)
class Source:
    """One layer of one network.

    Attributes:
        name: shown everywhere, "interpretable, masked".
        slug: of its files.
        subject: name of its network.
        network: frozen, in evaluation mode.
        layer: dotted module name.
        field: receptive field of the layer.
        question: what its results depend on.
    """

    name: str
    slug: str
    subject: str
    network: nn.Module
    layer: str
    field: ReceptiveField
    question: dict


def sources_of(
    subjects: Sequence[Subject], data: PartDataModule, *, layer: str | None = None, unmasked: bool = True
) -> list[Source]:
    """The sources of some networks.

    Args:
        subjects: the networks.
        data: whose images they are asked on.
        layer: dotted name of the layer, of each network; None: its top masked layer, else its last feature maps.
        unmasked: also ask masked layers before their mask.

    Raises:
        ValueError: unknown layer, or classes that are not those of the data.
    """
    layers = []
    for subject in subjects:
        if tuple(subject.classes) != tuple(data.classes):
            raise ValueError(
                f"{subject.name} tells {len(subject.classes)} other classes apart than the data's "
                f"{', '.join(data.classes[:3])}...; patterns are mined per class of the data"
            )
        network = frozen(subject.network.eval())
        masks = template_masks(network)
        blank = torch.zeros(1, data.channels, *data.image_size)
        name = layer or (list(masks)[-1] if masks else last_feature_maps(network, blank))
        named_layer(network, name)
        masked = name in masks and masks[name].enabled
        layers.append((f"{subject.name}, masked map" if masked else subject.name, subject, name))
        if masked and unmasked:
            layers.append((f"{subject.name}, unmasked map", subject, f"{name}.layer"))
    slugs = distinct_slugs([name for name, _, _ in layers])
    size = data.image_size[0], data.image_size[1]
    return [
        Source(
            name,
            slug,
            subject.name,
            subject.network,
            place,
            receptive_field(subject.network, place, size, channels=data.channels),
            {"network": fingerprint(subject.network), "layer": place, "image_size": list(size)},
        )
        for slug, (name, subject, place) in zip(slugs, layers, strict=True)
    ]
