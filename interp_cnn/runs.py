"""A run folder: what a training wrote, and how to get its network and its data back.

    config.yaml              the full configuration, resolved
    checkpoints/best.ckpt    lowest validation task loss
    checkpoints/last.ckpt    last finished epoch; `ckpt_path=` goes on from it
    metrics.csv              every logged quantity by epoch
    events.out.tfevents.*    the same and pictures, for TensorBoard
    run.json                 seconds, versions, seed, parameters

A configuration comes from disk and may come from somebody else, so nothing that it names as `_target_` is called
unless it is one of this project's data sets.
"""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.model.backbones import build_network
from interp_cnn.model.interpretable_conv import template_masks

log = logging.getLogger(__name__)
ALLOWED_TARGETS = "interp_cnn.data."


@dataclass(frozen=True)
class Run:
    """A finished training, loaded."""

    folder: Path
    config: DictConfig
    network: nn.Module
    data: PartDataModule
    filter_categories: dict[str, torch.Tensor]

    @property
    def kind(self) -> str:
        """Interpretable, plain, mask_only or loss_only."""
        return self.config.model.kind

    @property
    def layers(self) -> list[str]:
        """The interpretable layers: each one's output is the masked map."""
        return list(template_masks(self.network))


def load_run(folder: Path | str, *, checkpoint: str = "best", overrides: DictConfig | None = None) -> Run:
    """Network, data and configuration of a finished training.

    Args:
        folder: the run folder.
        checkpoint: "best" or "last".
        overrides: values that replace those of the run's data configuration (a moved `root`, say).

    Raises:
        FileNotFoundError: no such folder, or no training in it.
        ValueError: a configuration or checkpoint that does not fit.
    """
    folder = Path(folder)
    config = load_config(folder)
    if overrides is not None:
        config.data = OmegaConf.merge(config.data, overrides)
    data = build_data(config.data)
    network = network_for(config.model, data)
    path = folder / "checkpoints" / f"{checkpoint}.ckpt"
    state = load_checkpoint(path)["state_dict"]
    weights = {
        key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")
    }
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit the network of {folder / 'config.yaml'}: {_first(error)}"
        ) from error
    categories = {
        layer: _assigned(state, layer.replace(".", "_"), data.background) for layer in template_masks(network)
    }
    return Run(folder, config, network.eval(), data, categories)


def load_config(folder: Path) -> DictConfig:
    """The configuration of a run folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"run folder {folder} does not exist")
    path = folder / "config.yaml"
    if not path.is_file():
        nested = sorted(found.parent.name for found in folder.glob("*/config.yaml"))
        hint = f"; it holds the runs {', '.join(nested)}" if nested else ""
        raise FileNotFoundError(f"{folder} is no run folder: it has no config.yaml{hint}")
    return OmegaConf.load(path)


def load_checkpoint(path: Path) -> dict:
    """Tensors and plain values of a checkpoint; nothing in it is executed."""
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist; a training writes it when an epoch is done"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"checkpoint {path} cannot be read: {_first(error)}") from error


def build_data(config: DictConfig) -> PartDataModule:
    """The data module of a configuration, set up."""
    from hydra.utils import instantiate

    for target in _targets(OmegaConf.to_container(config, resolve=True)):
        if not target.startswith(ALLOWED_TARGETS):
            raise ValueError(
                f"data._target_ is {target}; only names that begin with {ALLOWED_TARGETS} are called"
            )
    data = instantiate(config, _convert_="all")
    data.setup()
    return data


def network_for(config: DictConfig, data: PartDataModule) -> nn.Module:
    """The network of a model configuration for this data, with new weights from the global random state."""
    return build_network(
        config.name,
        num_classes=len(data.classes),
        channels=data.channels,
        image_size=tuple(data.image_size),
        mean=data.mean,
        std=data.std,
        layers=config.layers,
        weights=config.weights,
        widths=config.widths,
        extra_conv=config.extra_conv,
        mask=OmegaConf.to_container(config.mask, resolve=True),
    )


def write_json(path: Path, content: dict) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _targets(node) -> list[str]:
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [target for value in node.values() for target in _targets(value)]
    if isinstance(node, list):
        return [target for value in node for target in _targets(value)]
    return []


def _assigned(state: dict, layer: str, background: int | None) -> torch.Tensor:
    response = state[f"filter_losses.{layer}.categories.response"].clone()
    if background is not None:
        response[:, background] = -torch.inf
    return response.argmax(1)


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        (lines[1] if len(lines) > 1 and lines[0].startswith("Error(s)") else lines[0])
        if lines
        else repr(error)
    )
