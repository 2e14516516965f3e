"""Command `study`: a piece of research on relevance maps, redone on this data with error bars.

    interp-cnn study experiment=occlusion_study                                 on the embedded digits
    interp-cnn study experiment=distortion_study data=mnist data.root=DIR
    interp-cnn study experiment=distractor_study data=mnist_strokes data.root=DIR
    interp-cnn study experiment=grid_study run=[A,B]
    interp-cnn study experiment=single_deletion_study run=[A,B]

Trains the network (or takes `run=`), asks it about validation images part by part, and writes a page with question,
answer, figures and tables. Called again on the same folder (`hydra.run.dir=...`), it goes on where it was interrupted.
"""

import os
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch.utils.data import Subset

from interp_cnn.commands.train import train
from interp_cnn.data.identity import identity_of
from interp_cnn.data.split_record import SplitRecord
from interp_cnn.report.study import write_study
from interp_cnn.runs.devices import computing
from interp_cnn.runs.doubts import say_guessing
from interp_cnn.runs.folder import Run, build_data, load_run, plain, untrained, write_json
from interp_cnn.runs.images import leave_out_trained_on
from interp_cnn.runs.moved_images import moved_root
from interp_cnn.runs.places import run_folders
from interp_cnn.runs.provenance import leave_to_the_first, provenance
from interp_cnn.runs.twins import twins
from interp_cnn.storage.fingerprints import fingerprint
from interp_cnn.studies.distortion_study import DistortionStudy
from interp_cnn.studies.distractor_study import DistractorStudy
from interp_cnn.studies.grid_study import GridStudy
from interp_cnn.studies.judged import ImageStudy, Judged
from interp_cnn.studies.occlusion_study import OcclusionStudy
from interp_cnn.studies.parts import done_in_parts, fingerprint_of
from interp_cnn.studies.single_deletion_study import SingleDeletionStudy

STUDIES = {
    "occlusion": OcclusionStudy,
    "distortion": DistortionStudy,
    "distractor": DistractorStudy,
    "grid": GridStudy,
    "single_deletion": SingleDeletionStudy,
}


def run(config: DictConfig) -> None:
    """Runs the configured study in Hydra's run folder and prints its answer."""
    from hydra.core.hydra_config import HydraConfig

    study(config, Path(HydraConfig.get().runtime.output_dir))


def study(config: DictConfig, folder: Path) -> Path:
    """Runs a study and returns its page.

    Raises:
        ValueError: no study was chosen, or a setting that does not fit.
    """
    if not isinstance(config.study, DictConfig):
        choices = ", ".join(f"{name}_study" for name in STUDIES)
        raise ValueError(f"which study? give experiment=NAME, one of {choices}")
    for name in ("images", "together"):
        if not isinstance(config[name], int) or config[name] < 2:
            raise ValueError(f"{name}={config[name]}: expected 2 or more")
    settings = plain(config.study)
    name = settings.pop("name")
    if name not in STUDIES:
        raise ValueError(f"study.name={name}: expected one of {', '.join(STUDIES)}")
    kind = STUDIES[name]
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    chosen = kind(**values, seed=config.seed, resamples=config.resamples)
    with computing(config) as device:
        return _judged(config, folder, chosen, device)


def _judged(config: DictConfig, folder: Path, chosen, device: torch.device) -> Path:
    started = time.time()
    runs = _runs(config, folder, chosen.kinds)
    for trained in runs:
        trained.network.to(device)
    _check_together(runs)
    leave_out_trained_on(runs[0].data, [trained.seen for trained in runs])
    judged = _subjects(config, runs, chosen)
    parts = chosen.parts(judged, config.together)
    weights = [fingerprint(network) for network in judged.with_untrained.values()]
    data = plain(runs[0].config.data)
    images = identity_of(Subset(judged.images, range(judged.count)))
    key = fingerprint_of(chosen, weights, data, config.together, images)
    results = done_in_parts(folder / "parts", key, parts, label="judging")
    measured = {name: np.concatenate([part[name] for part in results]) for name in results[0]}
    once = chosen.once(judged)
    names = tuple(judged.networks)
    if "correct" in measured:
        labels = [runs[0].data.classes[label] for label in judged.images.labels[: judged.count].tolist()]
        for name, right in zip(names, np.atleast_2d(measured["correct"].T), strict=False):
            say_guessing(name, right, labels)
    facts = {
        "data": f"{data['dataset']['_target_'].rpartition('.')[2].removesuffix('Parts')}, {judged.count} validation "
        "images",
        "network": f"{', '.join(names)}: {runs[0].config.model.name}, "
        f"{sum(p.numel() for p in runs[0].network.parameters()):,} parameters{_accuracy(measured)}",
    }
    findings = chosen.findings(measured, once, facts, names)
    made = provenance()
    write_json(folder / "study.json", {**made, "configuration": plain(config)})
    date = datetime.now().strftime("%Y-%m-%d %H:%M")
    page = write_study(folder / "report", findings, command=made["command"], made=date)
    print(findings.answer)
    print(f"report: {os.path.relpath(page)}   ({time.time() - started:.0f} s)")
    return page


def _subjects(config: DictConfig, runs: list[Run], chosen: ImageStudy) -> Judged:
    """The networks under their kinds, numbered where there are several of one, and the images."""
    kinds = [trained.kind for trained in runs]
    names = [
        kind if kinds.count(kind) == 1 else f"{kind} {kinds[:place].count(kind) + 1}"
        for place, kind in enumerate(kinds)
    ]
    images = runs[0].data.val_set
    return Judged(
        networks={name: trained.network for name, trained in zip(names, runs, strict=True)},
        images=images,
        count=min(config.images, len(images)),
        mean=runs[0].data.mean,
        deleted_patches={
            name: trained.config.training.get("deleted_patches", 0.0)
            for name, trained in zip(names, runs, strict=True)
        },
        untrained=untrained(runs[0]).network if chosen.needs_untrained else None,
    )


def _check_together(runs: list[Run]) -> None:
    """Refuse networks that cannot be shown the same images."""
    first = runs[0].data
    for other in runs[1:]:
        if other.data.classes != first.classes or other.data.image_size != first.image_size:
            raise ValueError(
                f"{other.folder} knows {_images_of(other)}, {runs[0].folder} {_images_of(runs[0])}; expected runs of "
                "the same classes and image size"
            )


def _images_of(run: Run) -> str:
    height, width = run.data.image_size
    return f"{len(run.data.classes)} classes ({', '.join(run.data.classes[:3])}, ...) at {height} x {width} pixels"


def _runs(config: DictConfig, folder: Path, kinds: tuple[str, ...]) -> list[Run]:
    """The networks to judge: those given, or one trained of each kind."""
    if config.run is not None:
        names = list(config.run) if isinstance(config.run, ListConfig) else [config.run]
        folders = run_folders(names)
        root = moved_root(config.data, folders)
        return [load_run(folder, root=root) for folder in folders]
    alone = config.model.kind == "plain" and kinds == ("plain",)
    configured = {"plain": config} if alone else twins(config)
    trained = list(configured if len(kinds) > 1 else kinds)
    images, runs = _training_images(config, folder / trained[0]), []
    for kind in trained:
        settings = configured[kind].copy()
        OmegaConf.set_struct(settings, False)
        if config.widths is not None and settings.model.name == "small_cnn":
            settings.model.widths = config.widths
        settings.training.epochs = max(1, round(config.shown / images))
        if config.shown < images:
            settings.trainer.limit_train_batches = config.shown / images
        warmup = settings.model.loss_weight.warmup_epochs
        settings.model.loss_weight.warmup_epochs = min(warmup, config.shown / images / 2)
        same = runs[0].folder if runs else None
        train(settings, folder / kind, label=f"training {kind}", resume=True, images_of=same)
        runs.append(load_run(folder / kind, checkpoint="last"))
    leave_to_the_first()
    return runs


def _training_images(config: DictConfig, first: Path) -> int:
    """How many images a training has; the one that was begun keeps its number, though the folder may have changed."""
    record = SplitRecord.read(first)
    if record is not None:
        return len(record.train.names)
    return len(build_data(OmegaConf.create(plain(config.data))).train_set)


def _accuracy(measured: dict[str, np.ndarray]) -> str:
    if "correct" not in measured:  # it was not asked of single images
        return ""
    accuracies = np.atleast_1d(measured["correct"].mean(0))  # of one network, or of every one
    return ", accuracy on them " + " and ".join(f"{accuracy:.3f}" for accuracy in accuracies)
