"""Where a training writes its curves and pictures: TensorBoard, a table and files, Weights & Biases, MLflow.

Every one of them has the number of finished epochs as its axis. Dashboards draw for TensorBoard's writer; with another
logger they draw for a `PictureBoard`, which keeps pictures and settings and leaves out what only TensorBoard can show.
"""

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from interp_cnn.figures.png import save_png

KINDS = ("tensorboard", "csv", "wandb", "mlflow")
CURVES, PICTURES = "curves", "pictures"  # folders of logger=csv


def check_logger(settings: Mapping[str, Any]) -> None:
    """Refuse a logger that is unknown or whose package is not there, before any work is done.

    Args:
        settings: as in conf/logger; `kind` at least.

    Raises:
        ValueError: with the extra that brings it.

    Example:
        >>> check_logger({"kind": "csv"})
    """
    kind = settings.get("kind")
    if kind not in KINDS:
        raise ValueError(f"logger.kind is {kind!r}; expected {', '.join(KINDS)}")
    if kind in ("wandb", "mlflow") and importlib.util.find_spec(kind) is None:
        raise ValueError(f"logger={kind} needs the package {kind}: pip install 'interp-cnn[{kind}]'")


def logger_of(settings: Mapping[str, Any], folder: Path, label: str) -> Logger:
    """The logger of a training.

    Args:
        settings: as in conf/logger.
        folder: run folder.
        label: of the training, such as the kind of network.
    """
    check_logger(settings)
    kind, place = settings["kind"], folder.resolve()
    name = settings.get("name") or f"{label} {place.name}".strip()
    if kind == "tensorboard":
        return EpochBoard(folder, name=None, version="", default_hp_metric=False)
    if kind == "csv":
        return EpochTable(folder, name=CURVES, version="")
    if kind == "wandb":
        known_by = hashlib.sha256(str(place).encode()).hexdigest()[:12]  # who goes on goes on in the same run
        return EpochWandb(
            name=name,
            project=settings.get("project"),
            entity=settings.get("entity"),
            offline=bool(settings.get("offline")),
            save_dir=str(folder),
            id=known_by,
            resume="allow",
        )
    return EpochMLflow(
        experiment_name=settings.get("project") or "interp_cnn",
        run_name=name,
        tracking_uri=settings.get("tracking_uri") or "sqlite:///mlflow.db",
    )


def by_epoch(
    metrics: Mapping[str, float], step: int | None, log: Callable[[dict[str, Any], int | None], None]
) -> None:
    """Quantities of an epoch, which they name, at the number of epochs that are then finished: curves, pictures and
    final measures have one axis, and "epoch" is no curve.
    """
    named = dict(metrics)
    epoch = named.pop("epoch", None)
    if named:
        log(named, step if epoch is None else int(epoch) + 1)


class EpochBoard(TensorBoardLogger):
    """TensorBoard by finished epochs."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See `by_epoch`."""
        by_epoch(metrics, step, super().log_metrics)


class EpochTable(CSVLogger):
    """A table by finished epochs."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `by_epoch`."""
        by_epoch(metrics, step, super().log_metrics)


class EpochWandb(WandbLogger):
    """Weights & Biases by finished epochs."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See `by_epoch`; the epoch is an axis of its own there, as steps may only grow."""
        by_epoch(metrics, step, lambda named, epochs: self.experiment.log({**named, "epochs": epochs}))


class EpochMLflow(MLFlowLogger):
    """MLflow by finished epochs; it allows fewer signs in a name."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See `by_epoch`."""
        by_epoch(metrics, step, super().log_metrics)


class PictureBoard:
    """The part of TensorBoard's writer that other loggers have too: pictures, texts, final measures.

    Args:
        logger: of a training.
        folder: run folder, for pictures where the logger keeps none.
    """

    def __init__(self, logger: Logger, folder: Path) -> None:
        self.logger, self.folder = logger, folder

    def add_image(self, tag: str, picture: NDArray, epochs: int, dataformats: str = "HWC") -> None:
        """A picture (H, W, 3) uint8."""
        assert dataformats == "HWC"
        if isinstance(self.logger, WandbLogger):
            self.logger.log_image(tag, [picture])
        elif isinstance(self.logger, MLFlowLogger):
            client, run = self.logger.experiment, self.logger.run_id
            client.log_image(run, picture, artifact_file=f"{tag}/{epochs:05d}.png")
        else:
            save_png(self.folder / PICTURES / tag / f"{epochs:05d}.png", picture)

    def add_hparams(self, settings: dict, measures: dict[str, float], **unused: Any) -> None:
        """Settings, with what was measured in the end."""
        self.logger.log_hyperparams(settings)
        finite = {name: value for name, value in measures.items() if value == value}
        self.logger.log_metrics(finite, step=int(settings["epochs"]))

    def add_text(self, *unused: Any, **options: Any) -> None:
        """Texts stand in the run folder anyway."""

    add_custom_scalars = add_embedding = add_histogram = add_pr_curve_raw = add_text


def close(logger: Logger) -> None:
    """Ends a run of Weights & Biases: the next training of this process is another one."""
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()
