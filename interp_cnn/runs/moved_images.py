"""Where the images of runs lie now, and which settings of the data a command was given in vain."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from interp_cnn.runs.configuration import load_config

log = logging.getLogger(__name__)


def moved_root(data: DictConfig | None, runs: Sequence[Path]) -> str | None:
    """Where the images of runs lie now, by data=... data.root=DIR; None: where they lay.

    A run keeps its other settings of the data. What else is given on the command line is named in one line.
    """
    if data is None:
        return None
    given = _given_of_data()
    if any(_kind(load_config(run).data) != _kind(data) for run in runs):
        if given:
            log.warning(
                "the runs' own data are of another kind than data: %s is not taken for them", ", ".join(given)
            )
        return None
    vain = [setting for setting in given if setting.partition("=")[0] not in ("data", "data.root")]
    if vain:
        log.warning("ignored: %s; of a run's data only data.root may be another", ", ".join(vain))
    return data.get("root")


def _given_of_data() -> list[str]:
    """The settings of data on the command line."""
    from hydra.core.hydra_config import HydraConfig

    words = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    return [word.lstrip("+") for word in words if re.match(r"\+*data(\.[^=]*)?=", word)]


def _kind(data: DictConfig) -> object:
    return OmegaConf.select(data, "dataset._target_")
