"""A run folder: what a training wrote, and how to get its network and its data back.

    config.yaml              the full configuration, resolved
    checkpoints/best.ckpt    lowest validation task loss
    checkpoints/last.ckpt    last finished epoch; `ckpt_path=` goes on from it
    metrics.csv              every logged quantity by epoch
    events.out.tfevents.*    the same and pictures, for TensorBoard
    images.json.gz           names and hashes of the images of both sides; later commands use these sides
    run.json                 seconds, versions, seed, parameters

A configuration comes from disk and may come from somebody else: it is read as plain values, and nothing that it names
as `_target_` is called unless it is a class of this project's data sets. A checkpoint holds tensors and plain values.
"""

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.model.backbones import build_network
from interp_cnn.model.interpretable_conv import template_masks
from interp_cnn.pretrained.shipped import is_pretrained
from interp_cnn.runs.configuration import first_line, load_config
from interp_cnn.runs.epochs import check_last, epochs_of
from interp_cnn.runs.images import Seen, follow_images
from interp_cnn.runs.normalisation import checked_statistics
from interp_cnn.runs.notebook import run_html
from interp_cnn.runs.places import only_run
from interp_cnn.runs.pretrained import description_in, lacks_images, network_in
from interp_cnn.storage.files import write_text
from interp_cnn.storage.tensors import read_tensors

ALLOWED_TARGETS = "interp_cnn.data."  # the one list of what a configuration may call: classes of its modules
CHECKPOINTS = ("last", "best")


@dataclass(frozen=True, repr=False)
class Run:
    """A training, loaded.

    Attributes:
        folder: the run folder.
        config: its full configuration.
        network: with the weights of one of its checkpoints, in evaluation mode.
        data: its data, set up.
        filter_categories: layer -> (D,) class of every filter.
        epochs: how many epochs these weights were trained.
    """

    folder: Path
    config: DictConfig
    network: nn.Module
    data: PartDataModule
    filter_categories: dict[str, torch.Tensor]
    epochs: int

    def __repr__(self) -> str:
        return f"Run({', '.join(f'{name}: {text}' for name, text in self.facts.items())})"

    def _repr_html_(self) -> str:
        """What it is, and a validation image of each class, as a notebook shows it."""
        return run_html(self.facts, self.data)

    @property
    def facts(self) -> dict[str, str]:
        """What it is, in words."""
        data, layers = self.data, ", ".join(self.layers)
        return {
            "folder": str(self.folder),
            "network": f"{self.kind} {self.config.model.name}, {self.epochs} epochs, layers {layers}",
            "data": f"{self.data_name}, {len(data.train_set):,} training and {len(data.val_set):,} validation images",
        }

    @property
    def kind(self) -> str:
        """Interpretable, plain, mask_only or loss_only."""
        return self.config.model.kind

    @property
    def data_name(self) -> str:
        """The data set in words."""
        return self.config.data.dataset._target_.split(".")[-2].replace("_", " ")

    @property
    def seen(self) -> Seen:
        """What it was trained on and judged by."""
        return Seen.by(self.folder, self.data)

    @property
    def configuration(self) -> str:
        """The full configuration as text."""
        return OmegaConf.to_yaml(self.config, resolve=True)

    @property
    def layers(self) -> list[str]:
        """The interpretable layers: each one's output is the masked map."""
        return list(template_masks(self.network))


def load_run(folder: Path | str, *, checkpoint: str = "last", root: Path | str | None = None) -> Run:
    """Network, data and configuration of a training.

    Args:
        folder: the run folder, or a folder with this one run in it; also one of `save_pretrained`, or the name of a
            network that comes with the package (digits-interpretable, digits-plain).
        checkpoint: "last", or "best", which was chosen on the validation images.
        root: where the run's images lie now; None: where they lay.

    Raises:
        FileNotFoundError: no such folder, or no training in it.
        ValueError: a configuration or checkpoint that does not fit.

    Example:
        >>> from interp_cnn import load_run, lrp
        >>> def map_of_first_image(folder):
        ...     run = load_run(folder, checkpoint="best")
        ...     image = run.data.val_set[0]
        ...     return lrp(run.network, image.image, int(image.label))
    """
    if checkpoint not in CHECKPOINTS:
        raise ValueError(f"checkpoint={checkpoint}: a run keeps last and best")
    folder = only_run(folder)
    config = load_config(folder)
    if config.training.get("kind") == "inversion":
        raise ValueError(f"{folder} holds a decoder, no classifier; give the run that it was trained for")
    if root is not None:
        config.data.root = str(root)
    elif lacks_images(folder):
        raise ValueError(
            f"{folder} does not say where its images lie: give root=DIR, in a command data=... data.root=DIR; "
            "from_pretrained loads the network alone"
        )
    data = build_data(config.data, images_of=folder)
    if is_pretrained(folder):
        return _pretrained_run(folder, config, data, checkpoint)
    network = network_for(config.model, data, start=False)
    path = folder / "checkpoints" / f"{checkpoint}.ckpt"
    content = load_checkpoint(path)
    state = content["state_dict"]
    epochs = epochs_of(path, content)
    if checkpoint == "last":
        check_last(folder, path, epochs)
    weights = {
        key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")
    }
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit the network of {folder / 'config.yaml'}: {first_line(error)}"
        ) from error
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{path} holds weights that are NaN or infinite ({', '.join(broken[:3])}): its training diverged, or the "
            "file was changed; train again, with a lower training.learning_rate"
        )
    categories = {
        layer: _assigned(state, layer.replace(".", "_"), data.background) for layer in template_masks(network)
    }
    return Run(folder, config, network.eval(), data, categories, epochs)


def _pretrained_run(folder: Path, config: DictConfig, data: PartDataModule, checkpoint: str) -> Run:
    """What `save_pretrained` kept of a run."""
    if checkpoint != "last":
        raise ValueError(
            f"checkpoint={checkpoint}: {folder.name} keeps one set of weights; leave checkpoint out"
        )
    description, network = description_in(folder), network_in(folder)
    if description["classes"] != list(data.classes):
        raise ValueError(
            f"{folder} knows the classes {', '.join(description['classes'])}, its data have {', '.join(data.classes)}"
        )
    categories = {
        layer: torch.tensor(classes) for layer, classes in description.get("filter_categories", {}).items()
    }
    return Run(folder, config, network, data, categories, int(description.get("epochs", 0)))


def untrained(run: Run) -> Run:
    """The run as it was before training and without masks: weights drawn anew with its seed, no file of weights
    loaded, filters without categories; on the same device.
    """
    model = OmegaConf.merge(run.config.model, {"mask": {"enabled": False}})
    assert isinstance(model, DictConfig)  # two of them, merged
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)
        network = network_for(model, run.data, start=False)
    device = device_of(run.network)
    return replace(run, network=network.eval().to(device), filter_categories={}, epochs=0)


def load_checkpoint(path: Path) -> dict:
    """Tensors and plain values of a checkpoint; nothing in it is executed."""
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist; a training writes it when an epoch is done"
        )
    try:
        content = read_tensors(path)
        state = content.get("state_dict") if isinstance(content, dict) else None
        if not isinstance(state, dict) or not all(
            isinstance(value, torch.Tensor) for value in state.values()
        ):
            raise ValueError("it holds no state_dict of tensors")
    except (ValueError, OSError) as error:
        others = path.name == "last.ckpt" and path.with_name("best.ckpt").is_file()
        instead = "; checkpoint=best takes the weights of the best epoch" if others else ""
        raise ValueError(f"checkpoint {path} cannot be read: {first_line(error)}{instead}") from error
    return content


def build_data(config: DictConfig, *, images_of: Path | None = None) -> PartDataModule:
    """The data module of a configuration, set up.

    Args:
        config: the section `data`.
        images_of: run folder whose training and validation images are taken, as far as they are there; None: the
            data set's own split.
    """
    from hydra.utils import instantiate

    with _values_of("data"):
        for target in _targets(plain(config)):
            _check_target(target)
        data = instantiate(config, _convert_="all")
        if not isinstance(data, PartDataModule):
            raise ValueError(f"data makes a {type(data).__name__}; expected a PartDataModule")
        if images_of is not None:
            follow_images(data, images_of)
        data.setup()
    return data


def network_for(config: DictConfig, data: PartDataModule, *, start: bool = True) -> nn.Module:
    """The network of a model configuration for this data, new weights from the global random state.

    Args:
        config: the section `model`.
        data: set up.
        start: whether it gets the weights that it is to start from; False: a checkpoint brings others.
    """
    with _values_of("model"):
        return _network(config, data, start)


def _network(config: DictConfig, data: PartDataModule, start: bool) -> nn.Module:
    given = checked_statistics(config.get("mean"), config.get("std"), data.channels)
    return build_network(
        config.name,
        num_classes=len(data.classes),
        channels=data.channels,
        image_size=data.image_size,
        mean=data.mean,
        std=data.std,
        statistics=given,
        layers=config.layers,
        weights=config.weights,
        load=start,
        trunk=config.get("trunk"),
        filters=config.get("filters", (128,)),
        widths=config.widths,
        extra_conv=config.extra_conv,
        mask=plain(config.mask),
        output=config.get("output"),
    )


def plain(config: DictConfig) -> dict[str, Any]:
    """A configuration's values in dicts and lists, interpolations resolved."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)  # a DictConfig is a mapping
    return {str(name): value for name, value in values.items()}


def write_json(path: Path, content: dict) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")


@contextmanager
def _values_of(section: str) -> Iterator[None]:
    """Values of a configuration meet the code here; one of another kind (a list for a number) is the user's to mend."""
    from hydra.errors import InstantiationException

    kinds = (TypeError, AttributeError, KeyError, RuntimeError, OverflowError, OmegaConfBaseException)
    try:
        yield
    except (InstantiationException, *kinds) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if not isinstance(cause, kinds):
            raise
        raise ValueError(f"the settings of {section} do not fit: {first_line(cause)}") from error


def _check_target(target: object) -> None:
    """Refuse what is not itself a class of a data module: `interp_cnn.data.images.os.system` begins well too."""
    module_name, _, name = str(target).rpartition(".")
    data_class = None
    if module_name.startswith(ALLOWED_TARGETS):
        try:
            data_class = getattr(importlib.import_module(module_name), name, None)
        except ImportError:
            data_class = None
    if not isinstance(data_class, type) or data_class.__module__ != module_name:
        raise ValueError(
            f"data._target_ is {target}; only classes of the modules {ALLOWED_TARGETS}* are called"
        )


def _targets(node) -> list[str]:
    if isinstance(node, dict):
        targets = [node["_target_"]] if "_target_" in node else []
        return targets + [target for value in node.values() for target in _targets(value)]
    if isinstance(node, list):
        return [target for value in node for target in _targets(value)]
    return []


def _assigned(state: dict, layer: str, background: int | None) -> torch.Tensor:
    response = state[f"filter_losses.{layer}.categories.response"].clone()
    if background is not None:
        response[:, background] = -torch.inf
    return response.argmax(1)
