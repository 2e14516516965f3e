"""Command `train`: one network from a configuration to a run folder.

Called again on the same folder (`hydra.run.dir=...`), it goes on after the last finished epoch, bit for bit on a CPU.
"""

import copy
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.split_record import SplitRecord
from interp_cnn.explanation.filters.exemplars import exemplars
from interp_cnn.explanation.occlusion.maps import occlusion_map
from interp_cnn.model.backbones import pretrained_parameters
from interp_cnn.runs.choices import choose_network, pixels_record, say_pixels, say_trunk
from interp_cnn.runs.configuration import load_config
from interp_cnn.runs.decoders import DecoderSettings, decoder_for
from interp_cnn.runs.devices import training_device
from interp_cnn.runs.epochs import run_record
from interp_cnn.runs.filter_curves import FilterCurves
from interp_cnn.runs.folder import build_data, load_run, network_for, plain, write_json
from interp_cnn.runs.going_on import check_fits, check_goes_on, check_same_run, sound_checkpoint
from interp_cnn.runs.places import with_full_paths
from interp_cnn.runs.provenance import leave_to_the_first, provenance
from interp_cnn.runs.trunk_maps import trunk_maps_for
from interp_cnn.storage.files import write_text
from interp_cnn.training.averaging import MovingAverage
from interp_cnn.training.checkpoints import LAST, PREVIOUS
from interp_cnn.training.classification import Classification
from interp_cnn.training.confusion_board import Answers
from interp_cnn.training.devices import trainer_arguments
from interp_cnn.training.finetuning import FineTuning, Freezing
from interp_cnn.training.fit import fit
from interp_cnn.training.loggers import check_logger
from interp_cnn.training.mask_board import Dashboard
from interp_cnn.training.trunk_maps import TrunkMaps

log = logging.getLogger(__name__)


def run(config: DictConfig) -> float | None:
    """Trains the configured network in Hydra's run folder.

    Returns:
        A classifier's validation accuracy after its last epoch: what a sweeper that searches, such as Optuna, takes.
    """
    from hydra.core.hydra_config import HydraConfig

    folder = Path(HydraConfig.get().runtime.output_dir)
    if config.training.kind == "inversion":
        invert(config, folder)
    else:
        train(config, folder, resume=True)
    leave_to_the_first()
    last = pd.read_csv(folder / "metrics.csv").iloc[-1]
    accuracy = float(last["val/accuracy"]) if "val/accuracy" in last else None
    place = os.path.relpath(folder)
    print(f"run folder: {place}")
    if accuracy is not None:
        print(
            f"validation accuracy {100 * accuracy:.1f} % after the last epoch; weights: {place}/checkpoints/{LAST}"
        )
        print(f"next: interp-cnn explain {place}   or: interp-cnn evaluate {place}")
    return accuracy


def train(
    config: DictConfig,
    folder: Path,
    *,
    label: str | None = None,
    resume: bool = False,
    images_of: Path | None = None,
    known: dict[str, TrunkMaps] | None = None,
) -> Path:
    """Trains one network; the same lines for the interpretable one and for its twin.

    Args:
        config: a composed `train` or `compare` configuration.
        folder: run folder.
        label: what the progress bar says; by default the kind of the network.
        resume: go on with what an interrupted call left in the folder, or return at once when it is complete.
        images_of: run folder whose training and validation images are taken; None: those of the training that is gone
            on with, or the data set's own split.
        known: maps of the frozen trunk that a twin has computed, or where this training leaves its own for the twin.

    Returns:
        The run folder.
    """
    resolved = with_full_paths(choose_network(OmegaConf.create(plain(config))))
    arguments = trainer_arguments(plain(resolved.trainer), training_device(resolved.get("device", "auto")))
    resolved.trainer = arguments
    logger = plain(resolved.logger) if resolved.get("logger") else None
    check_logger(logger or {"kind": "tensorboard"})
    checkpoint = config.get("ckpt_path")
    if checkpoint is not None or resume:
        checkpoint = sound_checkpoint(Path(checkpoint) if checkpoint else folder / "checkpoints" / LAST)
    if checkpoint is None and config.get("ckpt_path") is not None:
        raise FileNotFoundError(
            f"ckpt_path={config.ckpt_path} does not exist; a run keeps checkpoints/{LAST}"
        )
    if checkpoint is not None:
        check_same_run(resolved, checkpoint)
        _say_another_device(resolved, checkpoint)
        if checkpoint == folder / "checkpoints" / PREVIOUS:
            # damaged; it would be kept as the previous one
            checkpoint.with_name(LAST).unlink(missing_ok=True)
    if resume and run_record(folder) is not None and (folder / "checkpoints" / LAST).is_file():
        return folder
    if checkpoint is not None and checkpoint.resolve().parent.parent != folder.resolve():
        check_goes_on(checkpoint, resolved.training.epochs)
    started = time.time()
    begun_in = None if checkpoint is None else checkpoint.resolve().parent.parent
    images_of = begun_in or images_of
    data = build_data(resolved.data, images_of=images_of)
    if checkpoint is not None and data.differences and (data.differences.missing or data.differences.changed):
        log.warning("the training goes on with the images that are there, not bit for bit")
    torch.manual_seed(config.seed)
    network = network_for(resolved.model, data)
    _check_batch(network, resolved, data)
    say_trunk(network, resolved)
    say_pixels(network, resolved, data.image_size)
    module = classification(network, resolved, data)
    module.trunk_maps = _trunk_maps(module, resolved, data, folder=folder, known=known)
    if checkpoint is not None:
        check_fits(module, checkpoint)
    if rank_zero_only.rank == 0:
        write_text(folder / "config.yaml", OmegaConf.to_yaml(resolved))
        if images_of != folder.resolve():  # who goes on keeps the images that the training began with
            now, begun = data.split_record(), None if begun_in is None else SplitRecord.read(begun_in)
            (now if begun is None else begun.went_on_with(now)).write(folder)
    training = resolved.training
    trainer = fit(
        module,
        data,
        folder=folder,
        epochs=training.epochs,
        seed=resolved.seed,
        patience=training.patience,
        gradient_clip=training.gradient_clip,
        ckpt_path=checkpoint,
        label=label or resolved.model.kind,
        callbacks=[
            Dashboard(resolved.model.kind, maps=board_maps(network), strongest=_strongest),
            Answers(),
            FilterCurves(),
            Freezing(network, module.fine_tuning, arguments["accelerator"]),
            *([] if training.get("average") is None else [MovingAverage(network, training.average)]),
        ],
        trainer=arguments,
        logger=logger,
    )
    if trainer.is_global_zero:
        seconds = time.time() - started
        parameters = sum(p.numel() for p in network.parameters())
        write_json(
            folder / "run.json",
            {
                **provenance(),
                "seed": resolved.seed,
                "epochs": trainer.current_epoch,
                "seconds": round(seconds, 2),
                "parameters": parameters,
                "pixels": pixels_record(network, data.image_size),
            },
        )
    return folder


def _trunk_maps(
    module: Classification,
    config: DictConfig,
    data: PartDataModule,
    *,
    folder: Path,
    known: dict[str, TrunkMaps] | None,
) -> TrunkMaps | None:
    """The maps of a frozen trunk, those of a twin where it has some."""
    if known and (twins := known.get("trunk")) is not None:
        data.views = twins.views
        return twins
    trunk_maps = trunk_maps_for(
        config.training,
        module.network,
        data,
        settings=module.fine_tuning,
        accelerator=config.trainer.accelerator,
        folder=folder,
    )
    if known is not None and trunk_maps is not None:
        known["trunk"] = trunk_maps
    return trunk_maps


def _check_batch(network: torch.nn.Module, config: DictConfig, data: PartDataModule) -> None:
    """Refuse steps of one image where a batch norm would see one value per channel, which has no spread."""
    if min(data.batch_size, len(data.train_set)) * config.training.views > 1:
        return
    try:
        with torch.no_grad():
            copy.deepcopy(network).train()(torch.zeros(1, data.channels, *data.image_size))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"data.batch_size is {data.batch_size} with {len(data.train_set)} training images: a batch norm of this "
            "network needs 2 or more images in a step"
        ) from error


def invert(config: DictConfig, folder: Path) -> Path:
    """Trains a decoder for a layer of a trained network, on the data of its run."""
    training = config.training
    if training.run is None:
        raise ValueError("training=inversion inverts a trained network; give training.run=RUN_FOLDER")
    trained = load_run(training.run, checkpoint="last")
    settings = {
        field.name: training[field.name] for field in fields(DecoderSettings) if field.name in training
    }
    started = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    layer = training.layer or trained.layers[-1]
    decoder_for(
        trained.network,
        trained.data,
        layer=layer,
        folder=folder,
        settings=DecoderSettings(**settings, seed=config.seed),
        trainer=plain(config.trainer),
        device=training_device(config.device),
        label=f"decoder of {trained.kind}",
    )
    seconds = round(time.time() - started, 2)
    write_json(folder / "run.json", {**provenance(), "seed": config.seed, "seconds": seconds, "layer": layer})
    return folder


def classification(network: torch.nn.Module, config: DictConfig, data) -> Classification:
    """The Lightning module of a configuration."""
    training = config.training
    if training.class_weights not in ("none", "balanced"):
        raise ValueError(f"training.class_weights is {training.class_weights!r}; expected none or balanced")
    weights = None
    if training.class_weights == "balanced":
        counts = torch.bincount(torch.as_tensor(data.train_set.labels), minlength=len(data.classes))
        weights = counts.sum() / (len(counts) * counts.clamp(min=1).float())
    return Classification(
        network,
        num_classes=len(data.classes),
        image_size=data.image_size,
        channels=data.channels,
        background=data.background,
        objective=training.objective,
        class_weights=weights,
        filter_loss=plain(config.model.filter_loss),
        loss_weight=plain(config.model.loss_weight),
        equivariance=config.model.equivariance,
        diversity=config.model.diversity,
        presence=config.model.get("presence", 0.0),
        views=training.views,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        warmup_share=training.warmup_share,
        mask_growth=training.mask_growth,
        label_smoothing=training.label_smoothing,
        deleted_patches=training.get("deleted_patches", 0.0),
        mean=data.mean,
        compile_network=training.compile,
        fine_tuning=FineTuning(
            pretrained_parameters(network),
            trunk_rate=training.get("trunk_rate", 1.0),
            freeze=training.get("freeze", "none"),
            frozen_epochs=training.get("frozen_epochs", 0),
            frozen_statistics=training.get("frozen_statistics", False),
        ),
    )


def board_maps(network: torch.nn.Module) -> dict[str, Callable]:
    """Maps to watch from epoch to epoch; none of a deep network from weights, of which they take minutes each time."""
    return {} if pretrained_parameters(network) else {"occlusion": _occlusion}


def _occlusion(network: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Coarse maps (B, H, W), good enough to watch from epoch to epoch."""
    side = min(images.shape[2:])
    window, stride = max(1, round(side / 4)), max(1, round(side / 6))
    return occlusion_map(network, images, targets, window=window, stride=stride, overhang="end")


def _strongest(network: torch.nn.Module, loader: Iterable, layer: str) -> torch.Tensor:
    """The strongest image of each filter, (D, C, H, W) in [0, 1]; grey for a filter that never fires."""
    strongest = exemplars(network, loader, layer=layer, count=1)
    grey = torch.full_like(strongest.mean_image, 0.5)
    numbers = strongest.image_numbers[:, 0].tolist()
    return torch.stack([strongest.images[number] / 255 if number >= 0 else grey for number in numbers])


def _say_another_device(config: DictConfig, checkpoint: Path) -> None:
    """A training goes on on any device, but with the same bits on its own alone."""
    folder = checkpoint.resolve().parent.parent
    if not (folder / "config.yaml").is_file():
        return
    before = OmegaConf.select(load_config(folder), "trainer.accelerator")
    now = config.trainer.accelerator
    if before != now:
        log.warning("goes on on %s, begun on %s: with the same images, but other roundings", now, before)
