"""Which checkpoint a training goes on from, and whether it may: the same settings, the same network, epochs left."""

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from interp_cnn.runs.configuration import load_config
from interp_cnn.runs.folder import load_checkpoint
from interp_cnn.runs.places import with_full_paths
from interp_cnn.training.checkpoints import LAST, PREVIOUS, BestEpoch, finished_epochs, is_over

log = logging.getLogger(__name__)
COMPARED_ON_RESUME = ("seed", "data", "model", "training")
WITHOUT_EFFECT = (
    "data.workers",
    "data.pin_memory",
    "data.cache",
    "data.quarantine",
    "data.download",
)  # on any bit


def sound_checkpoint(path: Path) -> Path | None:
    """The checkpoint, or the one before it when a last.ckpt is damaged or missing; None where there is none.

    Raises:
        ValueError: there are checkpoints, but none can be read.
    """
    candidates = [path, path.with_name(PREVIOUS)] if path.name == LAST else [path]
    faults = []
    for candidate in (candidate for candidate in candidates if candidate.is_file()):
        try:
            load_checkpoint(candidate)
        except ValueError as error:
            faults.append(error)
            continue
        if candidate != path:
            reason = str(faults[0]) if faults else f"checkpoint {path} does not exist"
            log.warning("%s; going on from the one before, %s", reason, candidate)
        return candidate
    if faults:
        raise ValueError(f"{faults[0]}; train anew in another folder")
    return None


def check_fits(module: torch.nn.Module, checkpoint: Path) -> None:
    """Refuse a checkpoint of other weights, or one without what a training needs to go on."""
    content = load_checkpoint(checkpoint)
    expected, state = module.state_dict(), content["state_dict"]
    for name in [*expected, *state]:
        if name not in state or name not in expected:
            raise ValueError(
                f"{checkpoint}: {name} is {'missing' if name in expected else 'unknown to this network'}"
            )
        if expected[name].shape != state[name].shape:
            shapes = f"{tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
            raise ValueError(f"{checkpoint} does not fit this network: {name} is {shapes}")
    for name in ("epoch", "optimizer_states", "lr_schedulers", "loops", "callbacks"):
        if name not in content:
            raise ValueError(
                f"{checkpoint} holds weights, but no {name}: only a training's own can be gone on from"
            )
    if not any(name.startswith(BestEpoch.__qualname__) for name in content["callbacks"]):
        raise ValueError(f"{checkpoint} is of an earlier version, which did not save every epoch; train anew")


def check_goes_on(checkpoint: Path, epochs: int) -> None:
    """Refuse to go on from the end of a training: nothing is left to do, and its rate has fallen to nothing."""
    content = load_checkpoint(checkpoint)
    if "callbacks" in content and is_over(content, epochs):
        raise ValueError(
            f"ckpt_path={checkpoint}: this training has finished after {finished_epochs(content)} epochs; for more, "
            "train anew with a larger training.epochs, over which the learning rate rises and falls once"
        )


def check_same_run(config: DictConfig, checkpoint: Path) -> None:
    """A checkpoint goes on bit for bit only with the settings that it was made with."""
    folder = checkpoint.resolve().parent.parent
    if not (folder / "config.yaml").is_file():
        return
    recorded = with_full_paths(load_config(folder))  # those of earlier versions are relative
    before = _flat({key: recorded.get(key) for key in COMPARED_ON_RESUME})
    now = _flat({key: config.get(key) for key in COMPARED_ON_RESUME})
    keys = sorted({*before, *now}.difference(WITHOUT_EFFECT))
    different = [key for key in keys if before.get(key) != now.get(key)]
    if different:
        key = different[0]
        if different == ["training.epochs"]:
            raise ValueError(
                f"{checkpoint} is of a training over {before[key]} epochs, not {now[key]}: the learning rate rises and "
                f"falls once over all of them; train anew with {key}={now[key]} in another folder"
            )
        more = f" (and {len(different) - 1} more settings)" if len(different) > 1 else ""
        raise ValueError(
            f"ckpt_path={checkpoint} was trained with {key}={before.get(key)}, not {now.get(key)}{more}; "
            "give the same settings or train anew"
        )


def _flat(tree, prefix: str = "") -> dict:
    if isinstance(tree, DictConfig):
        tree = OmegaConf.to_container(tree)
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: value
        for name, child in tree.items()
        for key, value in _flat(child, f"{prefix}.{name}".lstrip(".")).items()
    }
