"""Command `evaluate`: measures finished runs side by side, a foreign network, or the annotations alone.

    interp-cnn evaluate runs=[outputs/train/a,outputs/train/b]
    interp-cnn evaluate runs=[outputs/train/multirun/SWEEP]      all runs of a sweep, with means over seeds
    interp-cnn evaluate runs=[outputs/compare/TIME]              both networks of a comparison
    interp-cnn evaluate runs=[RUN] data=image_folder data.root=DIR   a run whose images were moved
    interp-cnn evaluate network=torchvision:resnet18 weights=FILE layer=layer4 data=animal_parts data.root=DIR
    interp-cnn evaluate data=animal_parts data.root=DIR          what a constant, chance and an oracle score there

Writes filters.csv (a row per filter), summary.csv, differences.csv, summary.json, summary.md and figures/*.png.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from torch import Tensor

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.evaluation.filters.baselines import annotation_baselines
from interp_cnn.evaluation.filters.comparison import NetworkMeasures, compare, measure_network
from interp_cnn.evaluation.filters.regions import RegionRule
from interp_cnn.evaluation.filters.seeds import seed_markdown, seed_table
from interp_cnn.explanation.gradients.grad_cam import last_feature_maps
from interp_cnn.report.console import summary_table
from interp_cnn.report.evaluation.tables import write_measures
from interp_cnn.report.measures import shown_in
from interp_cnn.runs.devices import computing
from interp_cnn.runs.doubts import say_random_weights
from interp_cnn.runs.folder import build_data, load_run, plain, untrained, write_json
from interp_cnn.runs.inputs import count_of_classes, names_in
from interp_cnn.runs.measuring import measure_run, readout_of
from interp_cnn.runs.moved_images import moved_root
from interp_cnn.runs.places import run_folders
from interp_cnn.storage.files import write_text
from interp_cnn.storage.progress import stage, stages

log = logging.getLogger(__name__)
Images = dict[str, Callable[[int], Tensor]]  # by network: number of a measured image to its pixels


def run(config: DictConfig) -> None:
    """Measures what the configuration names and writes tables and figures into Hydra's run folder."""
    from hydra.core.hydra_config import HydraConfig

    folder = Path(HydraConfig.get().runtime.output_dir)
    if config.runs and config.network:
        raise ValueError("runs and network are both given; give the one or the other")
    if not config.runs and not config.network:
        if config.get("data") is None:
            raise ValueError(
                "nothing to measure: give runs=[FOLDER,...], or network=... with data=..., "
                "or data=... alone for the baselines of its annotations"
            )
        _annotations_alone(config, folder)
        return
    rule = RegionRule(**config.regions)
    with computing(config) as device:
        if config.runs:
            measures, before, seeds, images = _measured_runs(config, rule, device)
            several = len({*seeds}) > 1
        else:
            measures, before, images = _measured_network(config, rule, device)
            several = False
    # Over seeds the differences are paired by seed; single networks are compared image by image.
    baselines = compare(measures[:1] if several else measures, seed=config.seed, untrained=before)
    comparison = replace(baselines, networks=measures)
    write_measures(comparison, folder, images)
    console = Console()
    console.print(summary_table(comparison))
    if several:
        table = seed_table(measures, seeds)
        text = seed_markdown(table, shown_in("table"))
        write_text(folder / "seeds.csv", table.to_csv(index=False))
        write_text(folder / "seeds.md", text)
        console.print(
            f"\nmean over seeds [95 %], difference to plain paired by seed [95 %]:\n{text}", soft_wrap=True
        )
    print(f"tables and figures: {os.path.relpath(folder)}")


def _measured_runs(
    config: DictConfig, rule: RegionRule, device: torch.device
) -> tuple[list[NetworkMeasures], NetworkMeasures | None, list[int], Images]:
    """Every run's measures, those of the first run before training, the training seeds, and their images."""
    measured = partial(
        measure_run,
        resamples=config.resamples,
        seed=config.seed,
        readout=config.readout,
        regions=rule,
    )
    folders = run_folders(config.runs)
    before, root = None, moved_root(config.get("data"), folders)
    measures: list[NetworkMeasures] = []
    seeds = []
    images: Images = {}
    names: list[str] = []
    for path in stages(folders, "measuring filters"):
        trained = load_run(path, checkpoint=config.checkpoint, root=root)
        trained.network.to(device)
        name = trained.kind if trained.kind not in names else f"{trained.kind} ({trained.folder.name})"
        names.append(name)
        seeds.append(trained.config.seed)
        measures.append(measured(trained, name=name))
        images[name] = _pixels(trained.data)
        log.info("%s: %s.ckpt of %s, epoch %d", name, config.checkpoint, path, trained.epochs)
        if config.untrained and before is None:
            before = measured(untrained(trained), name="untrained")
    return measures, before, seeds, images


def _pixels(data: PartDataModule) -> Callable[[int], Tensor]:
    return lambda number: data.val_set[number].image


def _measured_network(
    config: DictConfig, rule: RegionRule, device: torch.device
) -> tuple[list[NetworkMeasures], NetworkMeasures | None, Images]:
    """The given network, the same without its weights (random ones, of torchvision or the factory), and its images."""
    from interp_cnn.runs.networks import known_class_names, load_network
    from interp_cnn.runs.normalisation import say_doubt

    if config.get("data") is None:
        raise ValueError(
            "data is missing; a network is measured on images with landmarks, such as data=animal_parts"
        )
    data = build_data(config.data)
    load = partial(load_network, config.network, mean=config.mean, std=config.std, output=config.output)
    network = load(weights=config.weights).to(device)
    shape = (data.channels, *data.image_size)
    count = count_of_classes(network, config.network, shape)
    blank = torch.zeros(1, *shape, device=device)
    layer = _layer_of(network, config.layer, blank)
    measured = partial(
        measure_network,
        loader=data.val_dataloader(),
        layer=layer,
        name=config.network,
        kind="given",
        classes=data.classes,
        parts=data.parts,
        image_size=data.image_size,
        background=data.background,
        readout=readout_of(network, layer, config.readout),
        regions=rule,
        resamples=config.resamples,
        seed=config.seed,
        stage=stage,
    )
    before = None
    say_random_weights(config.network, config.weights)
    say_doubt(network, config.network, shape)
    names = (
        names_in(config.classes)
        if config.classes
        else known_class_names(config.network, count, weights=config.weights)
    )
    measured = partial(measured, answers=matched_classes(names, data.classes, count))
    if config.untrained and config.weights is not None:
        torch.manual_seed(config.seed)
        before = measured(load(num_classes=count).to(device), name="untrained")
    return [measured(network)], before, {config.network: _pixels(data)}


def matched_classes(names: Sequence[str], classes: Sequence[str], count: int) -> Tensor | None:
    """What a network's classes stand for in the data, by their names.

    Args:
        names: of the network's classes; empty where nobody knows them.
        classes: of the data.
        count: how many classes the network tells apart.

    Returns:
        (count,) the label of each of the network's classes, -1 for none; None where the network has as many classes as
        the data and no names of its own, whose order is taken for that of the data.

    Raises:
        ValueError: another number of names than of classes.

    Example:
        >>> matched_classes(["Red fox", "cat"], ["cat", "red_fox", "dog"], 2).tolist()
        [1, 0]
    """
    if names and len(names) != count:
        raise ValueError(f"classes has {len(names)} names, but the network tells {count} classes apart")
    if not names and count == len(classes):
        return None
    label = {_plain_name(name): number for number, name in enumerate(classes)}
    matched = torch.tensor([label.get(_plain_name(name), -1) for name in names] or [-1] * count)
    missing = [name for number, name in enumerate(classes) if number not in matched]
    if len(missing) == len(classes):
        log.warning(
            "no accuracy: none of the network's %d classes has the name of a class of the data (%s); "
            "classes=FILE names them, one on each line",
            count,
            ", ".join(classes[:3]),
        )
    elif missing:
        log.warning("accuracy without the images of %s: the network has no such class", ", ".join(missing))
    return matched


def _plain_name(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _layer_of(network: torch.nn.Module, layer: str | None, images: Tensor) -> str:
    """The layer's name, by default that of the last feature maps; torchvision's networks stand behind a
    normalisation, as `body`.
    """
    if layer is None:
        return last_feature_maps(network, images)
    names = [name for name, _ in network.named_modules() if name]
    for candidate in (layer, f"body.{layer}"):
        if candidate in names:
            return candidate
    from difflib import get_close_matches

    near = get_close_matches(layer, names, 3, 0.3) or names[:3]
    raise ValueError(f"the network has no layer {layer!r}; nearest: {', '.join(near)}")


def _annotations_alone(config: DictConfig, folder: Path) -> None:
    data = build_data(config.data)
    landmarks, labels = _landmarks(data)
    rows = annotation_baselines(
        landmarks, labels, image_size=data.image_size, resamples=config.resamples, seed=config.seed
    )
    table = pd.DataFrame(
        [
            {"baseline": name.replace("_", " "), "measure": measure, **_numbers(estimate)}
            for name, row in rows.items()
            for measure, estimate in row.items()
        ]
    )
    write_text(folder / "baselines.csv", table.to_csv(index=False))
    write_json(folder / "config.json", plain(config))
    Console().print(
        f"annotated images: {int(landmarks.isfinite().all(2).any(1).sum())}, training and validation"
    )
    Console().print(_baseline_table(rows))
    print(f"table: {os.path.relpath(folder / 'baselines.csv')}")


def _landmarks(data: PartDataModule) -> tuple[Tensor, Tensor]:
    """Landmarks (N, P, 2) and labels (N,) of all images in their fixed views."""
    landmarks, labels = [], []
    for part_set in (data.train_set, data.val_set):
        for index in track(
            range(len(part_set)), description="reading annotations", disable=not sys.stderr.isatty()
        ):
            sample = part_set[index]
            landmarks.append(sample.landmarks)
            labels.append(sample.label)
    return torch.stack(landmarks), torch.tensor(labels)


def _numbers(estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def _baseline_table(rows):
    from rich.table import Table

    table = Table(title="no network at all", title_justify="left")
    table.add_column("baseline")
    for label in ("location instability", "tracking gain"):
        table.add_column(label, justify="right", no_wrap=True)
    for name, row in rows.items():
        cells = [
            f"{row[key].value:.3f} [{row[key].low:.3f}, {row[key].high:.3f}]" if key in row else ""
            for key in ("location_instability", "tracking_gain")
        ]
        table.add_row(name.replace("_", " "), *cells)
    return table
