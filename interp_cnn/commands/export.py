"""Command `export`: a run's filters, maps, tables and network as files that other programs read.

    interp-cnn export run=outputs/train/A
    interp-cnn export run=outputs/compare/B what=[model] model_formats=[onnx]

Writes into export/ inside the run folder, under names that never change. Called again, it skips what is there and
was made from the same weights, images, settings and code.
"""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.identity import identity_of
from interp_cnn.data.split_record import Side
from interp_cnn.decisions.classes import class_reading
from interp_cnn.decisions.sheet import Asked, decisions_about
from interp_cnn.evaluation.filters.comparison import compare
from interp_cnn.explanation.filters.exemplars import Exemplars, exemplars
from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.methods.registry import METHODS
from interp_cnn.explanation.methods.run import asked
from interp_cnn.explanation.network.feature_maps import evaluation_mode, feature_maps
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.exports import decisions, filters, maps, network, pretrained, tables
from interp_cnn.exports.manifest import ExportFolder, key_of
from interp_cnn.pretrained.shipped import is_pretrained
from interp_cnn.report.comparison.tables import exemplar_table
from interp_cnn.report.decisions.class_tables import class_tables
from interp_cnn.runs.devices import computing
from interp_cnn.runs.folder import Run, load_run
from interp_cnn.runs.inputs import set_pictures, spread
from interp_cnn.runs.measuring import measure_run
from interp_cnn.runs.moved_images import moved_root
from interp_cnn.runs.places import run_folders
from interp_cnn.storage.fingerprints import code_of, fingerprint
from interp_cnn.storage.names import distinct_slugs
from interp_cnn.storage.spelling import nearest

Files = Iterator[tuple[str, bytes]]
SETTINGS = {  # of each part: what it depends on beside the run and the code
    "classes": ("exemplars",),
    "decisions": ("exemplars", "images"),
    "filters": ("exemplars",),
    "maps": ("images", "methods"),
    "model": ("model_formats",),
    "table": ("exemplars", "resamples", "seed", "table_formats"),
}


def run(config: DictConfig) -> None:
    """Writes the parts of one run, or of all runs of a comparison."""
    _check(config)
    with computing(config) as device:
        _export_all(config, run_folders(config.run), device)


def _export_all(config: DictConfig, folders: list[Path], device: torch.device) -> None:
    root = moved_root(config.get("data"), folders)
    for folder in folders:
        if config.to is None and is_pretrained(folder):
            raise ValueError(f"{folder.name} is a saved network, whose folder stays as it is; give to=DIR")
        trained = load_run(folder, checkpoint=config.checkpoint, root=root)
        trained.network.to(device)
        place = folder / "export" if config.to is None else Path(config.to)
        if config.to is not None and len(folders) > 1:
            place = place / folder.name
        export(trained, config, place)


def export(trained: Run, config: DictConfig, place: Path) -> None:
    """Writes the parts of a loaded run into a folder and says what was written and what was there already."""
    target = ExportFolder(place)
    origin = [
        fingerprint(trained.network),
        trained.configuration,
        code_of("interp_cnn"),
        *_images(trained.data),
    ]
    strongest = cache(lambda layer: _strongest(trained, layer, config.exemplars))
    parts: dict[str, Callable[[], Files]] = {
        "classes": lambda: _classes(trained, strongest),
        "decisions": lambda: _decisions(trained, config, strongest),
        "filters": lambda: _filters(trained, strongest),
        "maps": lambda: _maps(trained, config),
        "model": lambda: _model(trained, config, target.folder),
        "table": lambda: _tables(trained, config, strongest),
    }
    # the card in the model part has the measures of the table, so the table comes first
    for part in sorted(
        parts.keys() & set(config.what),
        key=["filters", "decisions", "classes", "maps", "table", "model"].index,
    ):
        key = key_of(*origin, *(config[name] for name in SETTINGS[part]), _digest(target, part))
        if target.has(part, key):
            print(f"{part}: there already")
            continue
        count = target.write(part, key, parts[part]())
        print(f"{part}: {count} files")
    print(f"exported: {os.path.relpath(target.folder)}")


def _images(data: PartDataModule) -> list[Any]:
    """Which images there are: what is told of those that are asked, and the list of those that were learned from."""
    return [identity_of(data.val_set), Side.of(data.train_set).rows]


def _check(config: DictConfig) -> None:
    if config.run is None:
        raise ValueError("which run is to be exported? give run=FOLDER")
    for name in config.what:
        if name not in SETTINGS:
            raise ValueError(
                f"what: no part {name!r}; {nearest(str(name), list(SETTINGS)) or ''} ({', '.join(SETTINGS)})"
            )
    for name in config.methods:
        if name not in METHODS:
            raise ValueError(f"methods: no method {name!r}; there are {', '.join(METHODS)}")
    for name, more in (("exemplars", ""), ("images", ", or null for all")):
        if not ((isinstance(config[name], int) and config[name] >= 1) or (more and config[name] is None)):
            raise ValueError(f"{name}={config[name]}: expected 1 or more{more}")
    for check, formats in (
        (network.check_formats, config.model_formats),
        (tables.check_formats, config.table_formats),
    ):
        check(list(formats))


def _filters(trained: Run, strongest: Callable[[str], Exemplars]) -> Files:
    for layer, slug in zip(trained.layers, distinct_slugs(trained.layers), strict=True):
        title = f"Strongest images of each filter, {trained.kind} network, {layer}"
        yield from filters.filter_files(
            strongest(layer), _categories(trained, layer), place=f"filters/{slug}", title=title
        )


def _decisions(trained: Run, config: DictConfig, strongest: Callable[[str], Exemplars]) -> Files:
    subjects = [Asked(trained.kind, trained.network, trained.data.classes, strongest(trained.layers[-1]))]
    decided = (
        (picture.name, pixels.numpy(), decisions_about(subjects, pixels, picture.label))
        for picture in spread(set_pictures(trained.data), config.images)
        for pixels in [picture.pixels()]
    )
    yield from decisions.decision_files(decided, place="decisions")


def _classes(trained: Run, strongest: Callable[[str], Exemplars]) -> Files:
    subject = Asked(trained.kind, trained.network, trained.data.classes, strongest(trained.layers[-1]))
    reading = class_reading(subject, trained.data)
    for name, table in class_tables([] if reading is None else [reading]):
        yield f"classes/{name}", table.to_csv(index=False, lineterminator="\n").encode("utf-8")


def _maps(trained: Run, config: DictConfig) -> Files:
    pictures = spread(set_pictures(trained.data), config.images)
    images = torch.stack([picture.pixels() for picture in pictures])
    pixels = images.to(device_of(trained.network))
    with evaluation_mode(trained.network), torch.no_grad():
        logits = trained.network(pixels)
    targets = logits.argmax(1)
    drawn = {
        method: np.stack(
            [
                image_map.values.numpy()
                for image_map in asked(method, trained.network, pixels, targets, Options())
            ]
        )
        for method in config.methods
    }
    seen = maps.SeenImages(
        images=images.numpy(),
        names=[picture.name for picture in pictures],
        labels=[picture.label for picture in pictures],
        classes=trained.data.classes,
        logits=logits.cpu().numpy(),
        maps=drawn,
        feature_maps={
            layer: feature_maps(trained.network, pixels, layer).cpu().numpy() for layer in trained.layers
        },
    )
    yield from maps.map_files(seen, place="maps", title=f"{trained.kind} network")


def _tables(trained: Run, config: DictConfig, strongest: Callable[[str], Exemplars]) -> Files:
    measured = measure_run(trained, resamples=config.resamples, seed=config.seed)
    layer = trained.layers[-1]
    named_tables = {
        "filters": measured.filters,
        "measures": compare([measured], seed=config.seed).table(),
        "exemplars": exemplar_table(strongest(layer), measured.filters["filter"], trained.data.classes),
    }
    yield from tables.table_files(named_tables, list(config.table_formats), place="tables")


def _model(trained: Run, config: DictConfig, folder: Path) -> Files:
    figures = pretrained.figures_in(folder / "tables" / "measures.csv") or pretrained.known_figures(trained)
    about = pretrained.description_of(trained, figures)
    yield from pretrained.pretrained_files(
        trained.network, pretrained.first_images(trained), about, list(config.model_formats), place="model"
    )
    yield from pretrained.record_files(trained, place="model")


def _strongest(trained: Run, layer: str, count: int) -> Exemplars:
    return exemplars(trained.network, trained.data.val_dataloader(), layer=layer, count=count)


def _categories(trained: Run, layer: str) -> list[str]:
    return [trained.data.classes[number] for number in trained.filter_categories[layer].tolist()]


def _digest(target: ExportFolder, part: str) -> str:
    """What the card shows of the table part."""
    return target.parts.get("table", {}).get("key", "") if part == "model" else ""
