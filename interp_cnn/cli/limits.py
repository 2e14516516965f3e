"""What settings may be, as far as that is known before anything starts: no torch, no folder left behind.

Rooms check what they take; here stands what would otherwise be found out late (after minutes of reading images), not at
all, or too late (a thousand loader processes fill the memory before the first image is read).
"""

import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp_cnn.pretrained.shipped import shipped_names

if TYPE_CHECKING:
    from omegaconf import DictConfig

LARGEST_SEED = 2**32 - 1  # NumPy's
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
# setting: the smallest and the largest value, and whether it is a whole number
BOUNDS: dict[str, tuple[float, float, bool]] = {
    "seed": (0, LARGEST_SEED, True),
    "data.seed": (0, LARGEST_SEED, True),
    "data.batch_size": (1, math.inf, True),
    "training.batch_size": (1, math.inf, True),
    "training.epochs": (1, math.inf, True),
    "training.patience": (1, math.inf, True),
    "training.learning_rate": (0, math.inf, False),
    "training.weight_decay": (0, math.inf, False),
    "training.gradient_clip": (0, math.inf, False),
    "training.warmup_share": (0, 1, False),
    "training.mask_growth": (0, 1, False),
    "training.label_smoothing": (0, 1, False),
    "training.views": (1, 2, True),
}
LEVEL = re.compile(r"\S+ \S+ ([A-Z]+) ")  # of a line of a job's log, see conf/hydra/job_logging
FOLDERS = ("run", "runs", "training.run", "data.root", "ckpt_path")  # read, never made
NAMED = ("run", "runs")  # also networks that come with the package
FOLDERS_OF = {"explain": ("images",), "play": ("images",)}  # of one command; `images` is a number elsewhere
# arguments of Lightning's Trainer that a training sets itself, and what to give instead
OURS = {
    "max_epochs": "training.epochs",
    "gradient_clip_val": "training.gradient_clip",
    "logger": "logger=tensorboard, csv, wandb or mlflow",
    "callbacks": None,
    "plugins": None,
    "enable_checkpointing": None,
    "fast_dev_run": None,
    "barebones": None,
    "default_root_dir": "hydra.run.dir",
    "num_sanity_val_steps": None,
}


def check_limits(config: "DictConfig") -> None:
    """Refuse values outside their limits, and arguments of the Trainer that are not the user's to set.

    Raises:
        ValueError: the first such setting, its value, and what was expected.
    """
    from omegaconf import OmegaConf

    for key, (low, high, whole) in BOUNDS.items():
        value = OmegaConf.select(config, key)
        if _is_number(value):
            _check(key, value, low, high, whole)
    workers = OmegaConf.select(config, "data.workers")
    if _is_number(workers):
        _check(
            "data.workers",
            workers,
            0,
            most_workers(),
            True,
            f"twice the cores of this machine ({os.cpu_count()})",
        )
    trainer = config.get("trainer")
    if trainer is not None:
        _check_trainer(trainer)
    methods = config.get("methods")
    if methods is not None:
        from interp_cnn.explanation.methods.names import check_names  # nothing of torch

        check_names(map(str, [methods] if isinstance(methods, str) else methods))


def most_workers() -> int:
    """How many loader processes are no mistake: each holds a copy of the program."""
    return max(8, 2 * (os.cpu_count() or 1))


def _check(key: str, value: float, low: float, high: float, whole: bool, why: str = "") -> None:
    if low <= value <= high and math.isfinite(value) and (not whole or float(value).is_integer()):
        return
    kind = "a whole number" if whole else "a number"
    limits = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
    raise ValueError(
        f"{key} is {value}; expected {kind} {limits}" + (f", {why}" if why and value > high else "")
    )


def _check_trainer(trainer: "DictConfig") -> None:
    for name in trainer:
        if name in OURS:
            instead = OURS[name]
            hint = f"set {instead}" if instead else "leave it out"
            raise ValueError(f"trainer.{name} is {trainer[name]}, but a training sets it itself; {hint}")
    precision = trainer.get("precision")
    if precision is not None and str(precision) not in PRECISIONS:
        raise ValueError(f"trainer.precision is {precision}; expected {', '.join(PRECISIONS)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@contextmanager
def nothing_left_behind(*files: str) -> Iterator[None]:
    """What is refused before anything starts leaves no folder, unless there was more in it than Hydra writes, and
    warnings.

    Args:
        files: names of further files that this process wrote there.
    """
    from hydra.errors import HydraException

    try:
        yield
    except (ValueError, OSError, HydraException):
        remove_unused_folder(*files)
        raise


def remove_unused_folder(*files: str) -> None:
    """Take Hydra's run folder away, and those around it that it leaves empty, where only Hydra wrote into it, and
    warnings.

    Args:
        files: names of further files that do not count.
    """
    from hydra.core.hydra_config import HydraConfig

    folder = Path(HydraConfig.get().runtime.output_dir)
    written = [path for path in folder.iterdir() if path.name != ".hydra"] if folder.is_dir() else []
    if not all(it.name in files or (it.suffix == ".log" and not _tells_of_work(it)) for it in written):
        return
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    for path in written:
        with suppress(OSError):  # Windows keeps a lock that is held
            path.unlink(missing_ok=True)
    inside = [parent for parent in folder.parents if Path.cwd() in parent.parents]
    with suppress(OSError):  # until one that is not empty, such as the folder of other runs
        for empty in (folder, *inside):
            empty.rmdir()


def _tells_of_work(log: Path) -> bool:
    """Whether a log holds more than warnings, which the terminal has shown."""
    levels = (LEVEL.match(line) for line in log.read_text(errors="replace").splitlines())
    return any(level is not None and level[1] != "WARNING" for level in levels)


def check_folders(command: str) -> None:
    """Refuse a run or a folder of images that the command line names and that is not there; no torch is imported."""
    from hydra.core.hydra_config import HydraConfig

    known = (*FOLDERS, *FOLDERS_OF.get(command, ()))
    for override in HydraConfig.get().overrides.task:
        key, _, value = override.lstrip("+").partition("=")
        if key not in known or value in ("", "null") or any(mark in value for mark in "\"'$\\"):
            continue
        for place in filter(None, value.removeprefix("[").removesuffix("]").split(",")):
            shipped = key in NAMED and place in shipped_names()
            if not shipped and not Path(place).exists():
                raise FileNotFoundError(2, f"{key}: No such file or directory", place)
