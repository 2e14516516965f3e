"""Whether a training keeps the maps of its trunk, where, and one line that says how much room they take."""

import logging
import shutil
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.hardware.memory import free_memory, in_words
from interp_cnn.model.trunk import Extended
from interp_cnn.training.finetuning import FineTuning
from interp_cnn.training.trunk_maps import CACHES, TrunkMaps

log = logging.getLogger(__name__)
SHARE = 0.4  # of the free memory, that `auto` takes at most


def trunk_maps_for(
    config: DictConfig,
    network: nn.Module,
    data: PartDataModule,
    *,
    settings: FineTuning,
    accelerator: str,
    folder: Path,
) -> TrunkMaps | None:
    """Where the maps of a frozen trunk are kept; None where they are computed anew in every step.

    The data's training images then repeat `cached_views` views in turn.

    Args:
        config: the section `training`.
        network: that is trained.
        data: that it is trained on, set up.
        settings: how pretrained parameters are trained.
        accelerator: `cpu`, `cuda` or `mps`.
        folder: in which a cache on disk lies.

    Raises:
        ValueError: a cache of something that changes, or that does not fit.
    """
    cache, views = config.get("cache", "none"), config.get("cached_views", 4)
    if cache not in CACHES:
        raise ValueError(f"training.cache is {cache!r}; expected one of {', '.join(CACHES)}")
    if type(views) is not int or views < 1:
        raise ValueError(f"training.cached_views is {views}; expected 1 or more")
    if cache == "none":
        return None
    deleted = config.get("deleted_patches", 0.0)
    if deleted and cache != "auto":
        raise ValueError(
            f"training.cache is {cache}, and training.deleted_patches={deleted} makes no picture come twice; expected "
            "training.cache=none"
        )
    if deleted:
        return None
    fixed = isinstance(network, Extended) and settings.pretrained and settings.frozen(accelerator)
    if cache == "auto" and (not fixed or accelerator != "cpu" or config.get("compile")):
        return None
    if not fixed or not isinstance(network, Extended):
        raise ValueError(
            f"training.cache is {cache}, but no trunk stays as it is; expected training.freeze=trunk and a "
            "network with model.weights that is cut at a trunk, or training.cache=none"
        )
    if config.get("compile"):
        raise ValueError(f"training.cache is {cache}; expected none with training.compile=true")
    views = min(views, config.epochs)
    count = len(data.train_set) * views * config.views + len(data.val_set)
    size = count * _bytes_of_maps(network, data)
    what = f"{count:,} maps of the trunk ({config.views * views} views of each training image)"
    if cache == "disk":
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    else:
        free = free_memory()
    if size > free * (SHARE if cache == "auto" else 1):
        if cache == "auto":
            log.warning("%s would take %s of %s: computed anew", what, in_words(size), in_words(free))
            return None
        raise ValueError(
            f"training.cache is {cache}, but {what} take {in_words(size)} and {in_words(free)} are free; expected "
            f"{'disk, ' if cache == 'memory' else ''}none or fewer training.cached_views"
        )
    place = "on disk" if cache == "disk" else "in memory"
    log.warning("%s are computed once and kept %s: %s", what, place, in_words(size))
    data.views = views
    return TrunkMaps(count, folder if cache == "disk" else None, views=views)


@torch.no_grad()
def _bytes_of_maps(network: Extended, data: PartDataModule) -> int:
    was_training = network.trunk.training
    channels = 3 if network.grey else data.channels
    maps = network.trunk.eval()(torch.zeros(1, channels, *data.image_size))
    network.trunk.train(was_training)
    return maps.numel() * maps.element_size()
