"""What `explain` is asked about: networks by run or by name, and the images that they are shown."""

from dataclasses import replace

import torch
from omegaconf import DictConfig, ListConfig

from interp_cnn.data.photographs import photographs
from interp_cnn.runs.doubts import LOOKED_AT, say_colour
from interp_cnn.runs.inputs import (
    InputPicture,
    Subject,
    folder_pictures,
    network_subject,
    run_subjects,
    set_pictures,
    shown_data,
    with_classes,
)
from interp_cnn.runs.moved_images import moved_root
from interp_cnn.runs.places import run_folders


def pictures_and_networks(config: DictConfig) -> tuple[list[InputPicture], list[Subject]]:
    """All images, and the networks with names for their classes."""
    if (config.run is None) == (config.network is None):
        raise ValueError("whose decisions are to be explained? give run=FOLDER or network=NAME, not both")
    weights = None
    if config.run is not None:
        if config.mean is not None or config.std is not None:
            raise ValueError(
                "mean= and std= belong to network=...; the network of a run normalises as in its training"
            )
        runs = list(config.run) if isinstance(config.run, ListConfig) else [config.run]
        root = moved_root(config.get("data"), run_folders(runs))
        networks = run_subjects(runs, checkpoint=config.checkpoint, root=root)
    else:
        weights = _weights(config)
        torch.manual_seed(config.seed)
        networks = [
            network_subject(
                config.network,
                weights=weights,
                mean=config.mean,
                std=config.std,
                output=config.output,
            )
        ]
    first = networks[0]
    size, data = first.image_size or size_of(config.image_size), first.data
    if config.images is None:
        data = shown_data(networks, config.get("data"))
        size = size if data is None else data.image_size
        networks = [replace(subject, data=data) for subject in networks]
    if config.images is None and data is None:
        raise ValueError(f"nothing to show to {first.name}: give images=DIR, or data=...")
    networks = [with_classes(subject, size, weights=weights, file=config.classes) for subject in networks]
    if config.images is not None:
        classes = {name: None for subject in networks for name in subject.classes}
        shown = photographs(str(config.images))
        pictures = folder_pictures(
            shown, list(classes), size=size, channels=first.channels, crop=crops(config, first)
        )
        if first.channels == 1:
            say_colour(first.name, [photograph.pixels(size) for photograph in shown[:LOOKED_AT]], len(shown))
        return pictures, networks
    assert data is not None  # refused above
    return set_pictures(data), networks


def crops(config: DictConfig, subject: Subject) -> bool:
    """Whether photographs keep their proportions."""
    if config.fit not in (None, "crop", "squeeze"):
        raise ValueError(f"fit={config.fit}: expected crop or squeeze, or null")
    as_trained = config.run is None or subject.crop
    return config.fit == "crop" or (config.fit is None and as_trained)


def _weights(config: DictConfig) -> str | None:
    """The weights of a network; `checkpoint=FILE` is another word for them."""
    if config.checkpoint in (None, "last", "best"):
        return config.weights
    if config.weights is not None:
        raise ValueError(
            f"weights={config.weights} and checkpoint={config.checkpoint} are both given; give one"
        )
    return config.checkpoint


def weights_in_words(config: DictConfig) -> str:
    """Where the weights of a network by name come from; empty for a run, which has its own."""
    if config.network is None:
        return ""
    random = config.network.startswith("torchvision:")
    normalised = "" if config.mean is None else f", behind (pixels - {config.mean}) / {config.std}"
    weights = _weights(config) or ("random weights" if random else "weights as its factory gives them")
    return f"{weights}{normalised}"


def size_of(side: int | None) -> tuple[int, int] | None:
    """(H, W) of images of so many pixels a side; None for each image's own."""
    if side is not None and (not isinstance(side, int) or side < 1):
        raise ValueError(f"image_size={side}: expected pixels, 1 or more, or null for each image's own size")
    return None if side is None else (side, side)
