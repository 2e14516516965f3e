"""Command `study`: a piece of research on relevance maps, redone on this data with error bars.

    interp-cnn study experiment=occlusion_study                                 on the embedded digits
    interp-cnn study experiment=distortion_study data=mnist data.root=DIR
    interp-cnn study experiment=distractor_study data=mnist_strokes data.root=DIR

Trains the network (or takes `run=`), asks it about validation images part by part, and writes a page with question,
answer, figures and tables. Called again on the same folder (`hydra.run.dir=...`), it goes on where it was interrupted.
"""

import os
import time
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch.utils.data import Subset

from interp_cnn.commands.train import train
from interp_cnn.data.identity import identity_of
from interp_cnn.data.parts import PartBatch, collate
from interp_cnn.data.split_record import SplitRecord
from interp_cnn.report.study import write_study
from interp_cnn.runs.devices import computing
from interp_cnn.runs.folder import Run, build_data, load_run, plain, write_json
from interp_cnn.runs.images import leave_out_trained_on
from interp_cnn.runs.moved_images import moved_root
from interp_cnn.runs.places import run_folders
from interp_cnn.runs.provenance import leave_to_the_first, provenance
from interp_cnn.runs.twins import twins
from interp_cnn.storage.fingerprints import fingerprint
from interp_cnn.studies.distortion_study import DistortionStudy
from interp_cnn.studies.distractor_study import DistractorStudy
from interp_cnn.studies.occlusion_study import OcclusionStudy
from interp_cnn.studies.parts import done_in_parts, fingerprint_of

STUDIES = {"occlusion": OcclusionStudy, "distortion": DistortionStudy, "distractor": DistractorStudy}


def run(config: DictConfig) -> None:
    """Runs the configured study in Hydra's run folder and prints its answer."""
    from hydra.core.hydra_config import HydraConfig

    study(config, Path(HydraConfig.get().runtime.output_dir))


def study(config: DictConfig, folder: Path) -> Path:
    """Runs a study and returns its page.

    Raises:
        ValueError: no study was chosen, or a setting that does not fit.
    """
    if config.study is None:
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
    for found in runs:
        found.network.to(device)
    networks = {found.kind: found.network for found in runs}
    if len(networks) < len(runs):
        raise ValueError(
            f"run={config.run}: two networks of one kind ({runs[0].kind}); give one of each kind"
        )
    leave_out_trained_on(runs[0].data, [found.seen for found in runs])
    val_set = runs[0].data.val_set
    count = min(config.images, len(val_set))
    parts = {}
    for first in range(0, count, config.together):
        indices = range(first, min(first + config.together, count))
        parts[f"images-{first:05d}"] = partial(_measured, chosen, networks, val_set, indices)
    weights = [fingerprint(network) for network in networks.values()]
    data = plain(runs[0].config.data)
    images = identity_of(Subset(val_set, range(count)))
    key = fingerprint_of(chosen, weights, data, config.together, images)
    found = done_in_parts(folder / "parts", key, parts, label="judging")
    measured = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    once = chosen.once(networks, _batch(val_set, range(min(8, count))))
    facts = {
        "data": f"{data['dataset']['_target_'].rpartition('.')[2].removesuffix('Parts')}, {count} validation images",
        "network": f"{', '.join(networks)}: {runs[0].config.model.name}, "
        f"{sum(p.numel() for p in runs[0].network.parameters()):,} parameters, {_accuracy(measured)}",
    }
    findings = chosen.findings(measured, once, facts, tuple(networks))
    made = provenance()
    write_json(folder / "study.json", {**made, "configuration": plain(config)})
    date = datetime.now().strftime("%Y-%m-%d %H:%M")
    page = write_study(folder / "report", findings, command=made["command"], made=date)
    print(findings.answer)
    print(f"report: {os.path.relpath(page)}   ({time.time() - started:.0f} s)")
    return page


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


def _measured(chosen, networks, val_set, indices: range) -> dict[str, np.ndarray]:
    return chosen.measured(networks, _batch(val_set, indices), indices.start)


def _batch(val_set, indices: range) -> PartBatch:
    return collate([val_set[index] for index in indices])


def _accuracy(measured: dict[str, np.ndarray]) -> str:
    each = np.atleast_1d(measured["correct"].mean(0))  # of one network, or of every one
    return "accuracy on them " + " and ".join(f"{one:.3f}" for one in each)
