"""Command `explain`: for every image, which pixels speak for its class and which against, by every method asked for.

    interp-cnn explain run=outputs/train/... methods=[occlusion,lrp]
    interp-cnn explain network=torchvision:resnet50 weights=FILE images=DIR
    interp-cnn explain run=outputs/compare/... what=[patterns,reconstructions]

Each image gets a folder with raw maps, pictures and numbers; a table and pages show all of them. Called again on the
same folder (`hydra.run.dir=...`), the command goes on where it was interrupted, and redraws what is to look different.
With `shard=0/4` it takes a quarter of the images; called without, in the same folder, it joins the quarters.
What layers stand for (`what=[patterns]`), and pictures that a decoder draws of it (`reconstructions`), have pages of
their own (`gallery`).
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from interp_cnn.attribution.folder import Explanations
from interp_cnn.attribution.question import Question, share_of, size_of
from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.image_files import skips
from interp_cnn.discovery.pages import show
from interp_cnn.discovery.settings import settings_of
from interp_cnn.discovery.sources import sources_of
from interp_cnn.discovery.verification import examined
from interp_cnn.explanation.methods.options import Options, occlusion_options, windows_in_words
from interp_cnn.explanation.methods.registry import method_named, methods_of, with_each_window
from interp_cnn.report.maps.pages import About, write_pages
from interp_cnn.report.maps.records import Look
from interp_cnn.runs.devices import computing
from interp_cnn.runs.folder import build_data, plain, write_json
from interp_cnn.runs.inputs import (
    Picture,
    Subject,
    folder_pictures,
    network_subject,
    run_subjects,
    set_pictures,
    spread,
    with_classes,
)
from interp_cnn.runs.places import moved_root
from interp_cnn.runs.provenance import provenance
from interp_cnn.storage.spelling import nearest

WHAT = ("maps", "patterns", "reconstructions")
SCALES = {
    "none": "one per method and image",
    "images": "one per method over all images",
    "methods": "one per unit and image",
    "all": "one per unit over all images",
}


def run(config: DictConfig) -> None:
    """Explains the images of the configuration in Hydra's run folder."""
    from hydra.core.hydra_config import HydraConfig

    explain(config, Path(HydraConfig.get().runtime.output_dir))


def explain(config: DictConfig, folder: Path) -> Path:
    """Explains the images of a composed `explain` configuration in a folder; returns the first page, or the folder of a
    share's images, which has no pages yet.
    """
    with computing(config) as device:
        return _explained(config, folder, device)


def _explained(config: DictConfig, folder: Path, device: torch.device) -> Path:
    what, question, look = _what(config.what), _question(config), _look(config)
    share = share_of(config.shard)
    everything, networks = _pictures_and_networks(config)
    beside = {"What layers stand for": "patterns.html"} if "maps" in what and len(what) > 1 else {}
    if share is not None and "maps" not in what:
        raise ValueError(f"shard={config.shard} shares out maps, and what={list(config.what)} asks none")
    if what != {"maps"} and share is None:
        page = _gallery(config, folder, networks, what, device, "patterns.html" if beside else "index.html")
        if "maps" not in what:
            return page
    _check_target(question.target, networks)
    pictures = spread(everything, config.limit)
    if question.target == "true" and not all(picture.label for picture in pictures):
        raise ValueError("target=true, but not every image has a class; name their folders like the classes")
    found = Explanations(
        folder,
        networks,
        question,
        device=device,
        skip_bad=skips(config.on_error),
        share=share or (0, 1),
    )
    if config.estimate:
        print("\n".join(found.estimate(pictures)))
        return folder
    over_images = config.shared_scale in ("images", "all")
    at_once = config.draw and not over_images
    found.add(pictures, batch_size=config.batch_size, look=look if at_once else None)
    if share is not None:
        print(
            f"shard {config.shard}: {len(found.names)} images explained; a call without shard= joins all shards"
        )
        return folder
    if over_images:
        look = replace(look, limits=found.common_scales())
    if config.draw:
        found.draw(look)
    made = provenance()
    numbers = len(found.names), len(found.bad)
    about = _about(config, networks, question, numbers=numbers, command=made["command"])
    write_json(folder / "explain.json", {**made, "question": plain(config)})
    others = ["explain.json", "manifest.csv", *(["quarantine.csv"] if found.bad else [])]
    page = write_pages(folder, found.names, about, look, others, beside=beside)
    more = f" of {len(everything)} (limit=null: all)" if len(pictures) < len(everything) else ""
    left_out = f", {len(found.bad)} left out (quarantine.csv)" if found.bad else ""
    print(f"{len(found.names)} images{more} explained{left_out}: {os.path.relpath(page)}")
    return page


def _gallery(
    config: DictConfig,
    folder: Path,
    networks: Sequence[Subject],
    what: set[str],
    device: torch.device,
    first: str,
) -> Path:
    """Mines, draws, verifies, and writes the pages of what layers stand for."""
    mining, drawing = settings_of(
        plain(config.patterns), plain(config.reconstructions), seed=config.seed, device=device.type
    )
    if config.images is not None:
        raise ValueError("images=... has no classes to mine: what=[patterns] asks run=..., or data=...")
    data = networks[0].data if config.get("data") is None else _data(config.data, networks[0])
    assert data is not None  # without images or data there was nothing to show
    for one in networks:
        one.network.to(device)
    sources = sources_of(networks, data, layer=config.patterns.layer, unmasked=config.patterns.unmasked)
    drawing = drawing if "reconstructions" in what else None
    found = examined(folder / "patterns", sources, data, mining, drawing)
    made = provenance()
    write_json(folder / "patterns" / "patterns.json", {**made, "question": OmegaConf.to_container(config)})
    page = show(folder, found, data, mining, command=made["command"], first=first)
    print(f"{sum(len(one.units.concepts) for one in found)} patterns and filters: {os.path.relpath(page)}")
    return page


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


def _question(config: DictConfig) -> Question:
    methods = methods_of(config.methods)
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
    return Question(
        with_each_window(methods, options),
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


def _pictures_and_networks(config: DictConfig) -> tuple[list[Picture], list[Subject]]:
    """All images, and the networks with names for their classes."""
    if (config.run is None) == (config.network is None):
        raise ValueError("whose decisions are to be explained? give run=FOLDER or network=NAME, not both")
    weights = None
    if config.run is not None:
        runs = list(config.run) if isinstance(config.run, ListConfig) else [config.run]
        root = moved_root(config.get("data"))
        networks = run_subjects(runs, checkpoint=config.checkpoint, root=root)
    else:
        weights = _weights(config)
        torch.manual_seed(config.seed)
        networks = [network_subject(config.network, weights=weights)]
    first = networks[0]
    size, data = first.image_size or size_of(config.image_size), first.data
    if config.images is None and config.get("data") is not None:
        data = _data(config.data, first)
        size = data.image_size
    if config.images is None and data is None:
        raise ValueError(f"nothing to show to {first.name}: give images=DIR, or data=...")
    networks = [with_classes(one, size, weights=weights, file=config.classes) for one in networks]
    if config.images is not None:
        classes = {name: None for one in networks for name in one.classes}
        pictures = folder_pictures(
            config.images, list(classes), size=size, channels=first.channels, crop=_crops(config)
        )
        return pictures, networks
    assert data is not None  # refused above
    return set_pictures(data), networks


def _crops(config: DictConfig) -> bool:
    """Whether photographs keep their proportions."""
    if config.fit not in (None, "crop", "squeeze"):
        raise ValueError(f"fit={config.fit}: expected crop or squeeze, or null")
    return config.fit == "crop" or (config.fit is None and config.run is None)


def _weights(config: DictConfig) -> str | None:
    """The weights of a network; `checkpoint=FILE` is another word for them."""
    if config.checkpoint in (None, "last", "best"):
        return config.weights
    if config.weights is not None:
        raise ValueError(
            f"weights={config.weights} and checkpoint={config.checkpoint} are both given; give one"
        )
    return config.checkpoint


def _data(config: DictConfig, subject: Subject) -> PartDataModule:
    """The data set to show, in the size that a run's network was trained on."""
    if subject.image_size is not None and "image_size" in config:
        config = config.copy()
        config.image_size = subject.image_size[0]
    data = build_data(config)
    if data.channels != subject.channels:
        raise ValueError(
            f"{subject.name} takes images of {subject.channels} channels, those of data have {data.channels}"
        )
    return data


def _target(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)  # YAML reads true as a truth value


def _check_target(asks: str, networks: Sequence[Subject]) -> None:
    """Refuse a class that a network does not know before any work is done."""
    for one in networks:
        number = asks.isdecimal() and int(asks) < len(one.classes)
        if asks not in ("predicted", "true", *one.classes) and not number:
            hint = nearest(asks, ["predicted", "true", *one.classes])
            known = (
                f"predicted, true, or one of {len(one.classes)} classes such as {', '.join(one.classes[:3])}"
            )
            raise ValueError(f"target={asks}: {one.name} knows no such class; {hint or f'expected {known}'}")


def _about(
    config: DictConfig,
    networks: Sequence[Subject],
    question: Question,
    *,
    numbers: tuple[int, int],
    command: str,
) -> About:
    """What the pages say first; `numbers` of images explained and left out."""
    count, bad = numbers
    names = " and ".join(one.name for one in networks)
    grey = networks[0].channels == 1
    options = question.options
    against = ", minus that of the best other class" if question.against_runner_up else ""
    target = {"predicted": "the class that the network predicts", "true": "the image's own class"}
    asked = target.get(question.target, f"the class {question.target}")
    windows = windows_in_words(options, networks[0].image_size or size_of(config.image_size))
    colour = "black" if grey else "the image's mean colour"
    none = "random weights" if names.startswith("torchvision:") else "weights as its factory gives them"
    facts = {
        "network": names if config.network is None else f"{names}, {_weights(config) or none}",
        "images": f"{count}, from {config.images or 'validation data'}"
        + (f"; {bad} left out, see quarantine.csv" if bad else ""),
        "explained": f"the logit of {asked}{against}",
        "occlusion": f"{windows}, hidden pixels become {options.fill if options.fill is not None else colour}",
        "baseline": f"{options.baseline} (integrated gradients, DeepLIFT, Shapley values)",
        "scale": SCALES[config.shared_scale],
    }
    if not any(name == "rise" or name.startswith("occlusion") for name in question.methods):
        del facts["occlusion"]
    title = f"Which pixels speak for the class: {count} image{'s' if count != 1 else ''}, {names}"
    meanings = {name: method_named(name, options).meaning for name in question.methods}
    return About(title, facts, meanings, command)
