"""What `explain` asks about single filters, each on a page of its own: which patch belongs, pictures of them, edits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from interp_cnn.discovery.edit_settings import EditSettings
from interp_cnn.discovery.edits import EditRequest, explain_edits
from interp_cnn.discovery.feature_visualisation import (
    Visualisation,
    VisualisationRequest,
    explain_visualisations,
)
from interp_cnn.discovery.naming import NamingRequest, explain_naming
from interp_cnn.runs.folder import plain
from interp_cnn.runs.inputs import Subject

FILTER_PAGES = {  # word of `what` -> title of its page
    "naming": "Which patch belongs?",
    "feature_visualisation": "Pictures of filters",
    "edits": "What changes a filter",
}


@dataclass(frozen=True)
class FilterPage:
    """One page: its title, and what writes it into a folder and gives its path and sentences for the terminal."""

    title: str
    write: Callable[[Path], tuple[Path, list[str]]]


def filter_pages(
    config: DictConfig, what: set[str], networks: Sequence[Subject], device: torch.device
) -> list[FilterPage]:
    """The pages that a configuration asks for.

    Raises:
        ValueError: a setting out of its range, or a network without images.
    """
    makers = {"naming": _naming, "feature_visualisation": _visualisation, "edits": _edits}
    pages = []
    for name, title in FILTER_PAGES.items():
        if name in what:
            first = f"{name}.html" if len(what) > 1 else "index.html"
            pages.append(FilterPage(title, makers[name](config, networks, device, first)))
    return pages


def _naming(config: DictConfig, networks: Sequence[Subject], device: torch.device, first: str):
    count = config.questions
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"questions={count}: expected 1 or more about each network")
    _check_images(networks, "naming", "to cut patches from")
    request = NamingRequest(networks, device, config.layer, count, config.seed, first)
    return lambda folder: explain_naming(request, folder)


def _visualisation(config: DictConfig, networks: Sequence[Subject], device: torch.device, first: str):
    settings = Visualisation(**plain(config.feature_visualisation))
    _check_images(networks, "feature_visualisation", "to measure its filters on")
    request = VisualisationRequest(networks, device, config.layer, settings, config.seed, first)
    return lambda folder: explain_visualisations(request, folder)


def _edits(config: DictConfig, networks: Sequence[Subject], device: torch.device, first: str):
    settings = EditSettings(**plain(config.edits))
    _check_images(networks, "edits", "to cut patches from")
    for subject in networks:
        assert subject.data is not None
        shorter = min(subject.data.image_size)
        if settings.cells > shorter:
            raise ValueError(
                f"edits.cells={settings.cells}: expected at most {shorter}, the pixels of a side"
            )
    request = EditRequest(networks, device, config.layer, settings, config.seed, first)
    return lambda folder: explain_edits(request, folder)


def _check_images(networks: Sequence[Subject], what: str, purpose: str) -> None:
    """Refuse networks without images of their own."""
    for subject in networks:
        if subject.data is None:
            raise ValueError(
                f"what=[{what}]: {subject.name} has no images here {purpose}; ask a run, or give data=..."
            )
