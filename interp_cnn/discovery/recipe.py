"""The recipe of what layers stand for: concepts mined, measured, drawn, verified, and shown on pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.discovery.pages import show
from interp_cnn.discovery.settings import Drawing, Mining
from interp_cnn.discovery.sources import sources_of
from interp_cnn.discovery.verification import verify_concepts
from interp_cnn.runs.folder import write_json
from interp_cnn.runs.inputs import Subject
from interp_cnn.runs.provenance import provenance


@dataclass(frozen=True)
class ConceptRequest:
    """Concepts to mine, verify and show.

    Attributes:
        networks: of the same classes as the data.
        data: on whose validation images concepts are mined and judged.
        mining: how.
        drawing: how pictures are drawn; None: none are.
        layer: dotted name of the layer, of each network; None: its top masked layer, else its last feature maps.
        unmasked: also mine masked layers before their mask.
        device: where the networks compute.
        first: name of the first page.
        configuration: of the call, kept beside the concepts.
    """

    networks: Sequence[Subject]
    data: PartDataModule
    mining: Mining = field(default_factory=Mining)
    drawing: Drawing | None = None
    layer: str | None = None
    unmasked: bool = True
    device: torch.device | str = "cpu"
    first: str = "index.html"
    configuration: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DiscoveredConcepts:
    """The first page of a call, and the number of concepts on all of them."""

    page: Path
    count: int


def discover_concepts(request: ConceptRequest, folder: Path) -> DiscoveredConcepts:
    """Mines, draws and verifies concepts into a folder, and writes their pages.

    Args:
        request: concepts of which layers of which networks.
        folder: of the pages; results are kept in its `patterns/`, and what is there already is not made again.

    Raises:
        ValueError: an unknown layer, or networks whose classes are not those of the data.
    """
    for subject in request.networks:
        subject.network.to(request.device)
    sources = sources_of(request.networks, request.data, layer=request.layer, unmasked=request.unmasked)
    verified = verify_concepts(folder / "patterns", sources, request.data, request.mining, request.drawing)
    made = provenance()
    write_json(folder / "patterns" / "patterns.json", {**made, "question": request.configuration})
    page = show(folder, verified, request.data, request.mining, command=made["command"], first=request.first)
    return DiscoveredConcepts(page, sum(len(concepts.units.concepts) for concepts in verified))
