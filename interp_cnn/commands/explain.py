"""Command `explain`: for every image, which pixels speak for its class and which against, by every method asked for.

    interp-cnn explain run=outputs/train/... methods=[occlusion,lrp]
    interp-cnn explain network=torchvision:resnet50 weights=FILE images=DIR
    interp-cnn explain run=outputs/compare/... what=[decisions,classes]
    interp-cnn explain run=outputs/compare/... what=[patterns,reconstructions]
    interp-cnn explain run=outputs/compare/... what=[naming,feature_visualisation,edits]

Each image gets a folder with raw maps, pictures and numbers; a table and pages show all of them. Called again on the
same folder (`hydra.run.dir=...`), the command goes on where it was interrupted, and redraws what is to look different.
With `shard=0/4` it takes a quarter of the images; called without, in the same folder, it joins the quarters.
Decisions filter by filter (`what=[decisions]`), what classes are made of (`classes`), what layers stand for
(`what=[patterns]`), pictures that a decoder draws of it (`reconstructions`) and what is asked about single filters
(`explain_filters`) have pages of their own.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from omegaconf import DictConfig, ListConfig

from interp_cnn.attribution.recipe import ExplainedImages, estimate_maps, explain_maps
from interp_cnn.attribution.request import SCALES, MapRequest, MapSettings, share_of
from interp_cnn.commands.explain_filters import FILTER_PAGES, FilterPage, filter_pages
from interp_cnn.commands.explain_inputs import pictures_and_networks, size_of, weights_in_words
from interp_cnn.data.image_files import skips
from interp_cnn.decisions.recipe import DecisionRequest, explain_classes, explain_decisions
from interp_cnn.discovery.recipe import ConceptRequest, discover_concepts
from interp_cnn.discovery.settings import Drawing, Mining, settings_of
from interp_cnn.explanation.methods.options import Options, occlusion_options
from interp_cnn.explanation.methods.registry import methods_of, with_each_window
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.report.maps.records import Look
from interp_cnn.runs.devices import computing
from interp_cnn.runs.folder import plain
from interp_cnn.runs.inputs import (
    Subject,
    spread,
)
from interp_cnn.storage.spelling import nearest

DECISIONS, CLASSES, CONCEPTS = (
    "Why: decisions filter by filter",
    "What classes are made of",
    "What layers stand for",
)
WHAT = ("maps", "decisions", "classes", "patterns", "reconstructions", *FILTER_PAGES)


@dataclass(frozen=True)
class Requests:
    """What a configuration asks for, None where it does not; `available` is the number of images without a limit."""

    maps: MapRequest | None
    decisions: DecisionRequest | None
    classes: DecisionRequest | None
    concepts: ConceptRequest | None
    filters: Sequence[FilterPage]
    available: int


def run(config: DictConfig) -> None:
    """Explains the images of the configuration in Hydra's run folder."""
    from hydra.core.hydra_config import HydraConfig

    explain(config, Path(HydraConfig.get().runtime.output_dir))


def explain(config: DictConfig, folder: Path) -> Path:
    """Explains the images of a composed `explain` configuration in a folder; returns the first page, or the folder
    where there is no page yet: of a share's images, or of an estimate.
    """
    with computing(config) as device:
        requests = _requests(config, device)
        if requests.maps is not None and config.estimate:
            print("\n".join(estimate_maps(requests.maps, folder)))
            return folder
        page = folder
        if requests.concepts is not None:
            discovered = discover_concepts(requests.concepts, folder)
            page = discovered.page
            print(f"{discovered.count} patterns and filters: {os.path.relpath(page)}")
        for asked in requests.filters:
            page, sentences = asked.write(folder)
            print("\n".join([*sentences, f"{asked.title}: {os.path.relpath(page)}"]))
        if requests.classes is not None:
            page, sentences = explain_classes(requests.classes, folder)
            print("\n".join([*sentences, f"what classes are made of: {os.path.relpath(page)}"]))
        if requests.decisions is not None:
            page = explain_decisions(requests.decisions, folder)
            count = len(requests.decisions.images)
            print(f"{count} images, why each was decided as it was: {os.path.relpath(page)}")
        if requests.maps is not None:
            explained = explain_maps(requests.maps, folder)
            page = explained.page or folder
            print(_summary(explained, config.shard, requests.available))
            if explained.refusals:
                raise Refusal(explained.refusals)
    return page


def _summary(explained: ExplainedImages, shard: str | None, available: int) -> str:
    """What was done, in a line; `available` is the number of images without a limit."""
    count, bad = len(explained.names), len(explained.bad)
    if explained.page is None:
        return f"shard {shard}: {count} images explained; a call without shard= joins all shards"
    more = f" of {available} (limit=null: all)" if count + bad < available else ""
    left_out = f", {bad} left out (quarantine.csv)" if bad else ""
    return f"{count} image{'s' if count != 1 else ''}{more} explained{left_out}: {os.path.relpath(explained.page)}"


def _requests(config: DictConfig, device: torch.device) -> Requests:
    """What a configuration asks for. Every setting is checked here, before any work is done."""
    what, settings, look, share = _what(config.what), _settings(config), _look(config), share_of(config.shard)
    if share is not None and "maps" not in what:
        raise ValueError(f"shard={config.shard} shares out maps, and what={list(config.what)} asks none")
    discovery = _discovery(config, device) if what & {"patterns", "reconstructions"} else None
    pictures, networks = pictures_and_networks(config)
    methods = methods_of(config.methods, [subject.network for subject in networks])
    settings = replace(settings, methods=with_each_window(methods, settings.options))
    maps = decisions = classes = concepts = None
    pages = _pages_beside(what)
    source = "validation data" if config.images is None else str(config.images)
    if what & {"decisions", "classes"} and share is None:
        why = DecisionRequest(
            networks=networks,
            images=spread(pictures, config.limit),
            device=device,
            layer=config.layer,
            first=pages.get(DECISIONS, "index.html"),
            source=source,
            beside={title: name for title, name in pages.items() if title == CLASSES},
        )
        decisions = why if "decisions" in what else None
        if "classes" in what:
            _check_classes(networks)
            classes = replace(why, first=pages.get(CLASSES, "index.html"), beside={})
    filters = [] if share is not None else filter_pages(config, what, networks, device)
    if discovery is not None and share is None:
        first = pages.get(CONCEPTS, "index.html")
        concepts = _concept_request(
            config, networks, device, first, *discovery, drawn="reconstructions" in what
        )
    if "maps" in what:
        _check_target(settings.target, networks)
        chosen = spread(pictures, config.limit)
        if settings.target == "true" and not all(picture.label for picture in chosen):
            raise ValueError(
                "target=true, but not every image has a class; name their folders like the classes"
            )
        maps = MapRequest(
            networks=networks,
            images=chosen,
            settings=settings,
            look=look,
            device=device,
            batch_size=config.batch_size,
            skip_bad=skips(config.on_error),
            share=share,
            draw=config.draw,
            shared_scale=config.shared_scale,
            image_size=size_of(config.image_size),
            weights=weights_in_words(config),
            source=source,
            configuration=plain(config),
            beside=pages,
        )
    return Requests(maps, decisions, classes, concepts, filters, len(pictures))


def _pages_beside(what: set[str]) -> dict[str, str]:
    """Titles and names of the pages that are not the first one: that of maps, else of decisions, else of classes."""
    pages = {}
    if "decisions" in what and "maps" in what:
        pages[DECISIONS] = "decisions.html"
    if "classes" in what and what & {"maps", "decisions"}:
        pages[CLASSES] = "classes.html"
    if what & {"patterns", "reconstructions"} and what & {"maps", "decisions", "classes"}:
        pages[CONCEPTS] = "patterns.html"
    if len(what) > 1:
        pages |= {title: f"{name}.html" for name, title in FILTER_PAGES.items() if name in what}
    return pages


def _check_classes(networks: Sequence[Subject]) -> None:
    """Refuse networks without images of their classes to learn a scoring sheet from."""
    for subject in networks:
        if subject.data is None:
            raise ValueError(
                f"what=[classes]: {subject.name} has no training images here; ask a run (run=FOLDER), or give data=..."
            )
        if tuple(subject.data.classes) != tuple(subject.classes):
            raise ValueError(
                f"what=[classes]: {subject.name} tells {len(subject.classes)} classes apart, and "
                f"data={subject.data.classes[0]}... has {len(subject.data.classes)}; expected the same classes"
            )


def _discovery(config: DictConfig, device: torch.device) -> tuple[Mining, Drawing]:
    """How patterns are mined and pictures drawn."""
    mining, drawing = settings_of(
        plain(config.patterns), plain(config.reconstructions), seed=config.seed, device=device.type
    )
    if config.images is not None:
        raise ValueError("images=... has no classes to mine: what=[patterns] asks run=..., or data=...")
    return mining, drawing


def _concept_request(
    config: DictConfig,
    networks: Sequence[Subject],
    device: torch.device,
    first: str,
    mining: Mining,
    drawing: Drawing,
    *,
    drawn: bool,
) -> ConceptRequest:
    """What layers stand for; `first` is the name of the first page, `drawn` whether pictures are drawn."""
    data = networks[0].data
    assert data is not None  # without images or data there was nothing to show
    return ConceptRequest(
        networks=networks,
        data=data,
        mining=mining,
        drawing=drawing if drawn else None,
        layer=config.patterns.layer,
        unmasked=config.patterns.unmasked,
        device=device,
        first=first,
        configuration=plain(config),
    )


def _what(given: ListConfig | str) -> set[str]:
    words = [given] if isinstance(given, str) else list(given)
    for word in words:
        if word not in WHAT:
            raise ValueError(
                f"what: nothing is called {word!r}; {nearest(word, WHAT) or 'there are'} ({', '.join(WHAT)})"
            )
    if not words:
        raise ValueError(f"what=[] asks nothing; there are {', '.join(WHAT)}")
    return {*words}


def _settings(config: DictConfig) -> MapSettings:
    methods = methods_of(config.methods)  # of the networks, when they are there
    if config.against not in (None, "none", "runner_up"):
        raise ValueError(f"against={config.against}: expected none or runner_up")
    for name in ("grain", "batch_size"):
        if config[name] is not None and (not isinstance(config[name], int) or config[name] < 1):
            raise ValueError(f"{name}={config[name]}: expected 1 or more, or null")
    windows, strides, occlusion = occlusion_options(plain(config.occlusion))
    options = Options(
        window=windows or config.window,
        stride=strides or config.stride,
        fill=config.fill,
        baseline=config.baseline,
        layer=config.layer,
        seed=config.seed,
        occlusion=occlusion,
    )
    return MapSettings(
        methods,
        options,
        target=_target(config.target),
        against_runner_up=config.against == "runner_up",
        tolerant=config.methods is None,
        grain=config.grain,
    )


def _look(config: DictConfig) -> Look:
    if config.colours not in ("green-red", "orange-blue"):
        raise ValueError(f"colours={config.colours}: expected green-red or orange-blue")
    if config.shared_scale not in SCALES:
        raise ValueError(f"shared_scale={config.shared_scale}: expected {', '.join(SCALES)}")
    return Look(config.colours, config.contours, across_methods=config.shared_scale in ("methods", "all"))


def _target(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)  # YAML reads true as a truth value


def _check_target(target: str, networks: Sequence[Subject]) -> None:
    """Refuse a class that a network does not know before any work is done."""
    for subject in networks:
        number = target.isdecimal() and int(target) < len(subject.classes)
        if target not in ("predicted", "true", *subject.classes) and not number:
            hint = nearest(target, ["predicted", "true", *subject.classes])
            examples = ", ".join(subject.classes[:3])
            known = f"predicted, true, or one of {len(subject.classes)} classes such as {examples}"
            raise ValueError(
                f"target={target}: {subject.name} knows no such class; {hint or f'expected {known}'}"
            )
