"""One training, from ready parts to a run folder: Trainer, loggers, checkpoints, progress.

Everything random in an epoch comes from (seed, epoch), so a training that was killed and goes on from
`checkpoints/last.ckpt` ends with the same weights, to the bit, as one that was never stopped.
"""

import json
import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.plugins.environments import SLURMEnvironment  # pyright: ignore[reportPrivateImportUsage] - public in Lightning's documentation
from pytorch_lightning.utilities import rank_zero_only
from torch import distributed

from interp_cnn.storage.files import replacing
from interp_cnn.training.checkpoints import BEST, BestEpoch, LastEpoch, Patience, WholeCheckpoints
from interp_cnn.training.devices import cudnn_as_it_was
from interp_cnn.training.divergence import FiniteLoss
from interp_cnn.training.loggers import close, logger_of
from interp_cnn.training.progress import EpochProgress
from interp_cnn.training.throughput import Throughput

NOISE = ("Tip:", "GPU available", "TPU available", "HPU available", "estimate number of stepping batches")
NOISE += ("`Trainer.fit` stopped", "Using bfloat16", "Using 16bit", "Restor", "LOCAL_RANK", "Starting with")


@cudnn_as_it_was()
def fit(
    module: LightningModule,
    data: LightningDataModule,
    *,
    folder: Path,
    epochs: int,
    seed: int,
    monitor: str = "val/task_loss",
    patience: int | None = None,
    gradient_clip: float | None = 1.0,
    ckpt_path: Path | None = None,
    label: str = "training",
    callbacks: Sequence[Callback] = (),
    trainer: dict | None = None,
    logger: dict | None = None,
) -> Trainer:
    """Trains a module and leaves its checkpoints and logs in `folder`.

    Args:
        module: what is trained; holds the last weights afterwards.
        data: training and validation loaders.
        folder: run folder, made when missing.
        epochs: number of epochs.
        seed: of everything random within an epoch.
        monitor: the validation loss, lowest for the best weights.
        patience: epochs without a lower validation loss before it stops; None: never.
        gradient_clip: largest gradient norm, None: no limit.
        ckpt_path: checkpoint to go on from.
        label: what the progress bar says.
        callbacks: further callbacks, such as the dashboard.
        trainer: arguments of Lightning's Trainer (accelerator, devices, precision, ...).
        logger: see `loggers.logger_of`; None: TensorBoard.

    Raises:
        ValueError: epochs or patience below 1, or a loss that became NaN or infinite.
    """
    if epochs < 1:
        raise ValueError(f"training.epochs is {epochs}; expected at least 1")
    if patience is not None and patience < 1:
        raise ValueError(f"training.patience is {patience}; expected at least 1, or null for never")
    quiet_lightning()
    checkpoints = folder / "checkpoints"
    every = [
        FiniteLoss(monitor),
        EpochSeed(seed),
        MetricsTable(folder / "metrics.csv"),
        EpochProgress(label),
        Throughput(),
        *callbacks,
    ]
    every += [BestEpoch(checkpoints, monitor), LastEpoch(checkpoints)]
    if patience is not None:
        every.append(Patience(monitor, patience=patience))
    if ckpt_path is not None and rank_zero_only.rank == 0:
        _keep_best(ckpt_path, checkpoints)
    curves = logger_of(logger or {"kind": "tensorboard"}, folder, label)
    options = {"use_distributed_sampler": False, "enable_model_summary": False, **(trainer or {})}
    fitting = Trainer(
        max_epochs=epochs,
        logger=curves,
        callbacks=every,
        gradient_clip_val=gradient_clip,
        num_sanity_val_steps=0,
        default_root_dir=folder,  # where Lightning looks for checkpoints of a cluster's requeued job
        plugins=[WholeCheckpoints(), *_cluster()],
        **options,
    )
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*logging interval.*",
            ".*exists and is not empty.*",
            ".*in eval mode at the start of training.*",  # a decoder's network, on purpose
        ):
            warnings.filterwarnings("ignore", message)
        try:
            fitting.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        finally:
            close(curves)
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()  # or what comes next would see a share of the images only
    return fitting


def _cluster() -> list:
    """Under Slurm without Lightning's own requeueing: it would go on within an epoch, with other images."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


class EpochSeed(Callback):
    """Seeds the global generators (dropout) from (seed, epoch) at the start of every epoch."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module) -> None:
        """Seeds, differently on every rank."""
        torch.manual_seed((self.seed * 1_000_003 + trainer.current_epoch) * 1009 + trainer.global_rank)


class MetricsTable(Callback):
    """Writes every logged quantity by epoch as a CSV, whole after each epoch; resumes with the checkpoint."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module) -> None:
        """Adds the epoch's row. Training quantities of the epoch follow when it is over."""
        self._add(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module) -> None:
        """Completes the epoch's row and writes the table."""
        self._add(trainer)
        if not trainer.is_global_zero:
            return
        import pandas as pd

        with replacing(self.path) as draft:
            pd.DataFrame(self.rows).to_csv(draft, index=False)

    def state_dict(self) -> dict:
        """The rows so far, as text: checkpoints hold plain values only."""
        return {"rows": json.dumps(self.rows)}

    def load_state_dict(self, state_dict: dict) -> None:
        """Rows of the epochs before the checkpoint."""
        self.rows = json.loads(state_dict["rows"])

    def _add(self, trainer: Trainer) -> None:
        row = {name: float(value) for name, value in trainer.callback_metrics.items() if "/" in name}
        row["train/learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        self.rows = [old for old in self.rows if old["epoch"] != trainer.current_epoch]
        # what is not measured in every epoch keeps its last value, in a resumed training too
        self.rows.append({**(self.rows[-1] if self.rows else {}), "epoch": trainer.current_epoch, **row})


def quiet_lightning() -> None:
    """Keeps Lightning's advertisements and set-up lines off the terminal."""
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning 2.6 under newer torch
    warnings.filterwarnings(
        "ignore", ".*`srun` command is available.*"
    )  # also where nobody meant to use Slurm
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning_fabric"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, _NoNoise) for known in logger.filters):
            logger.addFilter(_NoNoise())


class _NoNoise(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in NOISE)


def _keep_best(checkpoint: Path, folder: Path) -> None:
    """The best weights before a checkpoint that another folder's training goes on from."""
    source, target = checkpoint.with_name(BEST), folder / BEST
    if source.is_file() and not target.is_file():
        with replacing(target) as draft:
            shutil.copyfile(source, draft)
