"""The configuration of a run, read from its folder as plain values: it may come from somebody else."""

from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from interp_cnn.pretrained.shipped import is_pretrained
from interp_cnn.runs.places import CONFIG, only_run
from interp_cnn.runs.pretrained import description_in

SECTIONS = ("seed", "data", "model")
LARGEST_CONFIG = 1 << 20  # bytes; a training writes 3 kB


def load_config(folder: Path) -> DictConfig:
    """The configuration of a run folder, or of the training that a folder of `save_pretrained` tells of."""
    path = folder / CONFIG
    if not path.is_file() and is_pretrained(folder):
        return _trained_with(folder)
    if not path.is_file():
        only_run(folder)  # says what is missing, or which runs are inside
        raise FileNotFoundError(f"{folder} is no run folder: it has no {CONFIG}")
    return _plain_config(path)


def _plain_config(path: Path) -> DictConfig:
    """Plain values of a YAML file; aliases (which can fill the memory) and interpolations are never written there."""
    if path.stat().st_size > LARGEST_CONFIG:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a training writes a few thousand")
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("it has YAML aliases")
        if "${" in text:
            raise ValueError("it has interpolations ${...}")
        config = OmegaConf.create(text)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no configuration that a training wrote: {first_line(error)}") from error
    missing = [name for name in SECTIONS if not isinstance(config, DictConfig) or config.get(name) is None]
    if missing or not isinstance(config, DictConfig):
        raise ValueError(f"{path} is no configuration that a training wrote: it has no {missing[0]}")
    kind = OmegaConf.select(config, "model.kind")
    if not isinstance(kind, str | None):
        raise ValueError(f"{path} is no configuration that a training wrote: model.kind={kind} is no name")
    return config


def _trained_with(folder: Path) -> DictConfig:
    training = description_in(folder).get("training")
    if not isinstance(training, dict) or any(training.get(name) is None for name in SECTIONS):
        raise ValueError(
            f"{folder} holds a network alone, without its data; from_pretrained loads it, load_run needs what was "
            "saved of a run"
        )
    config = OmegaConf.create(training)
    assert isinstance(config, DictConfig)  # of a dict
    return config


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        (lines[1] if len(lines) > 1 and lines[0].startswith("Error(s)") else lines[0])
        if lines
        else repr(error)
    )
