"""Command `compare`, the main job: an interpretable network and its plain twin, trained, measured, explained.

Both start from the same weights and see the same images in the same order; nothing but mask and loss differs. The
networks are measured as they stand after the last epoch, so that no choice was made on the images that judge them.
Called again on the same folder (`hydra.run.dir=...`), it goes on where it was interrupted.
"""

import math
import os
import time
from datetime import datetime
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig
from rich.console import Console

from interp_cnn.attribution.request import MapSettings
from interp_cnn.commands.compare_contents import (
    asked_about,
    contested_first,
    filter_pair,
    further_commands,
    mistaken,
    pages_beside,
    portrait,
    sample_images,
    training_curves,
)
from interp_cnn.commands.train import train
from interp_cnn.decisions.classes import class_reading
from interp_cnn.evaluation.filters.comparison import (
    Comparison,
    compare,
)
from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.methods.registry import method_named, methods_of
from interp_cnn.explanation.network.logits import check_count
from interp_cnn.model.backbones import pretrained_parameters
from interp_cnn.report import Contents, write_report
from interp_cnn.report.comparison.first_screen import headline
from interp_cnn.report.console import summary_table
from interp_cnn.report.measures import shown_in
from interp_cnn.runs.choices import choose_network
from interp_cnn.runs.decoders import DecoderSettings
from interp_cnn.runs.devices import computing
from interp_cnn.runs.epochs import run_record
from interp_cnn.runs.folder import Run, load_run, untrained
from interp_cnn.runs.images import leave_out_trained_on
from interp_cnn.runs.measuring import measure_run
from interp_cnn.runs.provenance import leave_to_the_first, provenance
from interp_cnn.runs.twins import twins
from interp_cnn.storage.progress import stage, stages
from interp_cnn.training.mask_board import add_measures

OF_DEEP = 96  # gradients for one image of a network from weights
IMAGES = 20  # whose maps are shown
# of networks from weights: those of one image take a core 17 s at 128 pixels, 70 s at 224
IMAGES_OF_DEEP, IMAGES_OF_LARGE = 8, 4
LARGE = 160**2  # pixels


def run(config: DictConfig) -> None:
    """Trains, measures and explains both networks and prints a short table."""
    from hydra.core.hydra_config import HydraConfig

    folder = Path(HydraConfig.get().runtime.output_dir)
    console = Console()
    started = time.time()
    if config.training.patience is not None:
        raise ValueError(
            f"training.patience is {config.training.patience}: twins may stop after different numbers of epochs; "
            "compare trains both for training.epochs"
        )
    config = choose_network(config)
    if config.gradients is not None:
        check_count(gradients=config.gradients)
    methods_of(config.methods)  # no mistake in a name is found after the trainings only
    runs, known = [], {}  # maps of a frozen trunk are the same for both
    for kind, settings in twins(config).items():
        same = (
            runs[0].folder if runs else None
        )  # the twin sees the same images, though the folder may have changed
        train(settings, folder / kind, label=f"training {kind}", resume=True, images_of=same, known=known)
        runs.append(load_run(folder / kind, checkpoint="last"))
    leave_out_trained_on(runs[0].data, [trained.seen for trained in runs])
    leave_to_the_first()
    seconds = {
        trained.kind: float((run_record(trained.folder) or {}).get("seconds", math.nan)) for trained in runs
    }  # of the training, though it may have been an earlier call's
    with computing(config) as device:
        for trained in runs:
            trained.network.to(device)
        page, comparison = report_on(runs, folder, config, seconds=seconds)
    console.print(summary_table(comparison))
    took = ", ".join(f"{kind} {value:.0f} s" for kind, value in seconds.items())
    console.print(
        f"report: {os.path.relpath(page)}   ({time.time() - started:.0f} s; training: {took})", soft_wrap=True
    )


def report_on(
    runs: list[Run], folder: Path, config: DictConfig, *, seconds: dict[str, float]
) -> tuple[Path, Comparison]:
    """Measures and explains trained networks and writes tables and report into `folder`.

    Raises:
        ValueError: the networks were trained for different numbers of epochs.
    """
    epochs = {trained.kind: trained.epochs for trained in runs}
    if len({*epochs.values()}) > 1:
        raise ValueError(f"the networks have the weights of different epochs: {epochs}; train them alike")
    methods = methods_of(config.methods, [trained.network for trained in runs])
    measures = []
    for trained in stages(runs, "measuring filters", lambda trained: trained.kind):
        measures.append(measure_run(trained, resamples=config.resamples, seed=config.seed))
    before = None
    if config.untrained:
        before = measure_run(untrained(runs[0]), resamples=config.resamples, seed=config.seed, quick=True)
    comparison = compare(measures, seed=config.seed, untrained=before)
    comparison.to_csv(folder / "tables")
    comparison.to_json(folder / "tables" / "comparison.json")
    for trained, measured in zip(runs, measures, strict=True):
        shown = {name: measured.summary[name].value for name in shown_in("board") if name in measured.summary}
        add_measures(trained.folder, shown, step=trained.epochs)
    decoder = (
        DecoderSettings(epochs=config.decoder_epochs, seed=config.seed) if config.decoder_epochs else None
    )
    networks = [
        portrait(trained, measured, decoder=decoder)
        for trained, measured in stages(
            list(zip(runs, measures, strict=True)), "looking at filters", lambda pair: pair[0].kind
        )
    ]
    readings = [
        class_reading(asked_about(trained, network), trained.data)
        for trained, network in stages(
            list(zip(runs, networks, strict=True)), "what classes are made of", lambda pair: pair[0].kind
        )
    ]
    options = Options(
        window=config.occlusion.window,
        stride=config.occlusion.stride,
        gradients=_gradients(runs[0], config),
        seed=config.seed,
    )
    settings = MapSettings(methods, options, target="true", tolerant=True)
    predictions = [measured.observations.predictions for measured in measures]
    shown = contested_first(runs[0].data, predictions, sample_count(runs[0], config))
    first, second = runs[0].kind, runs[1].kind
    with stage(f"explaining {len(shown)} images"):
        samples = sample_images(runs, networks, folder / "maps", pictures=shown, settings=settings)
    contents = Contents(
        title=f"{first} and {second} network on {runs[0].data_name}",
        facts=_facts(runs[0], config),
        classes=runs[0].data.classes,
        networks=networks,
        baselines=comparison.baselines,
        differences=comparison.differences_of(first, second),
        samples=samples,
        meanings={name: method_named(name, options).meaning for name in methods},
        curves=pd.concat([training_curves(trained) for trained in runs]),
        reproduction={
            "date": datetime.now().strftime("%Y-%m-%d %H:%M"),
            **provenance(),
            "seed": config.seed,
            "seconds": {kind: round(value, 1) for kind, value in seconds.items()},
        },
        beside=pages_beside(folder / "report"),
        pair=filter_pair(runs, networks, measures),
        mistakes={
            trained.kind: mistaken(trained.data, predicted)
            for trained, predicted in zip(runs, predictions, strict=True)
        },
        readings=[reading for reading in readings if reading is not None],
        further=further_commands(folder),
    )
    with stage("writing the report"):
        page = write_report(folder / "report", contents)
    verdict = f"{headline(contents)}\n\nThe report: `{page.relative_to(folder)}` in `{folder.name}`"
    for trained in runs:
        add_measures(trained.folder, {}, step=trained.epochs, verdict=verdict)
    return page, comparison


def _gradients(trained: Run, config: DictConfig) -> int:
    """Of integrated gradients for one image: a network from weights is deep, and its many kinks take very long."""
    if config.gradients is not None:
        return config.gradients
    return OF_DEEP if pretrained_parameters(trained.network) else Options.gradients


def sample_count(trained: Run, config: DictConfig) -> int:
    """How many images have their maps shown."""
    if config.sample_images is not None:
        return config.sample_images
    if not pretrained_parameters(trained.network):
        return IMAGES
    height, width = trained.data.image_size
    return IMAGES_OF_LARGE if height * width > LARGE else IMAGES_OF_DEEP


def _facts(trained: Run, config: DictConfig) -> dict[str, str]:
    data = trained.data
    height, width = data.image_size
    channels = "grey" if data.channels == 1 else "colour"
    return {
        "data": f"{trained.data_name}: {len(data.train_set):,} training and {len(data.val_set):,} validation images, "
        f"{height} x {width} pixels, {channels}",
        "classes": ", ".join(data.classes),
        "parts": ", ".join(data.parts) or "none",
        "network": f"{trained.config.model.name}, interpretable layers: {', '.join(trained.layers)}",
        "training": f"{config.training.epochs} epochs, seed {config.seed}; "
        f"measured after epoch {trained.epochs}, the last",
    }
