"""Command `export`: a run's filters, maps, tables and network as files that other programs read.

    interp-cnn export run=outputs/train/A
    interp-cnn export run=outputs/compare/B what=[model] model_formats=[onnx]

Writes into export/ inside the run folder, under names that never change. Called again, it skips what is there and
was made from the same weights, images, settings and code.
"""

import copy
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig

from interp_cnn.commands.compare_contents import DESCRIPTIONS
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
from interp_cnn.exports import card, decisions, filters, maps, network, tables
from interp_cnn.exports.manifest import ExportFolder, key_of
from interp_cnn.model.trunk import Extended
from interp_cnn.report.comparison.tables import exemplar_table
from interp_cnn.report.decisions.class_tables import class_tables
from interp_cnn.report.measures import shown_in
from interp_cnn.runs.devices import computing
from interp_cnn.runs.folder import Run, load_run, plain
from interp_cnn.runs.inputs import set_pictures, spread
from interp_cnn.runs.measuring import measure_run
from interp_cnn.runs.moved_images import moved_root
from interp_cnn.runs.places import run_folders
from interp_cnn.runs.provenance import provenance
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
        found = load_run(folder, checkpoint=config.checkpoint, root=root)
        found.network.to(device)
        place = folder / "export" if config.to is None else Path(config.to)
        if config.to is not None and len(folders) > 1:
            place = place / folder.name
        export(found, config, place)


def export(found: Run, config: DictConfig, place: Path) -> None:
    """Writes the parts of a loaded run into a folder and says what was written and what was there already."""
    target = ExportFolder(place)
    origin = [fingerprint(found.network), found.configuration, code_of("interp_cnn"), *_images(found.data)]
    strongest = cache(lambda layer: _strongest(found, layer, config.exemplars))
    parts: dict[str, Callable[[], Files]] = {
        "classes": lambda: _classes(found, strongest),
        "decisions": lambda: _decisions(found, config, strongest),
        "filters": lambda: _filters(found, strongest),
        "maps": lambda: _maps(found, config),
        "model": lambda: _model(found, config, target.folder),
        "table": lambda: _tables(found, config, strongest),
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


def _filters(found: Run, strongest: Callable[[str], Exemplars]) -> Files:
    for layer, slug in zip(found.layers, distinct_slugs(found.layers), strict=True):
        title = f"Strongest images of each filter, {found.kind} network, {layer}"
        yield from filters.filter_files(
            strongest(layer), _categories(found, layer), place=f"filters/{slug}", title=title
        )


def _decisions(found: Run, config: DictConfig, strongest: Callable[[str], Exemplars]) -> Files:
    asked = [Asked(found.kind, found.network, found.data.classes, strongest(found.layers[-1]))]
    decided = (
        (picture.name, pixels.numpy(), decisions_about(asked, pixels, picture.label))
        for picture in spread(set_pictures(found.data), config.images)
        for pixels in [picture.pixels()]
    )
    yield from decisions.decision_files(decided, place="decisions")


def _classes(found: Run, strongest: Callable[[str], Exemplars]) -> Files:
    one = Asked(found.kind, found.network, found.data.classes, strongest(found.layers[-1]))
    reading = class_reading(one, found.data)
    for name, table in class_tables([] if reading is None else [reading]):
        yield f"classes/{name}", table.to_csv(index=False, lineterminator="\n").encode("utf-8")


def _maps(found: Run, config: DictConfig) -> Files:
    pictures = spread(set_pictures(found.data), config.images)
    images = torch.stack([picture.pixels() for picture in pictures])
    pixels = images.to(device_of(found.network))
    with evaluation_mode(found.network), torch.no_grad():
        logits = found.network(pixels)
    targets = logits.argmax(1)
    drawn = {
        method: np.stack(
            [one.values.numpy() for one in asked(method, found.network, pixels, targets, Options())]
        )
        for method in config.methods
    }
    seen = maps.SeenImages(
        images=images.numpy(),
        names=[picture.name for picture in pictures],
        labels=[picture.label for picture in pictures],
        classes=found.data.classes,
        logits=logits.cpu().numpy(),
        maps=drawn,
        feature_maps={
            layer: feature_maps(found.network, pixels, layer).cpu().numpy() for layer in found.layers
        },
    )
    yield from maps.map_files(seen, place="maps", title=f"{found.kind} network")


def _tables(found: Run, config: DictConfig, strongest: Callable[[str], Exemplars]) -> Files:
    measured = measure_run(found, resamples=config.resamples, seed=config.seed)
    layer = found.layers[-1]
    found_tables = {
        "filters": measured.filters,
        "measures": compare([measured], seed=config.seed).table(),
        "exemplars": exemplar_table(strongest(layer), measured.filters["filter"], found.data.classes),
    }
    yield from tables.table_files(found_tables, list(config.table_formats), place="tables")


def _model(found: Run, config: DictConfig, folder: Path) -> Files:
    data = found.data
    configuration = {
        "network": network_arguments(found),
        "classes": list(data.classes),
        "kind": found.kind,
        "filter_categories": {name: found_.tolist() for name, found_ in found.filter_categories.items()},
    }
    images = torch.stack([data.val_set[number].image for number in range(min(8, len(data.val_set)))])
    errors: dict[str, float] = {}
    for name, content in network.network_files(
        copy.deepcopy(found.network).cpu(), images, configuration, list(config.model_formats), place="model"
    ):
        if name.endswith("network.json"):
            errors = network.errors_in(content)
        yield name, content
    yield "README.md", card.markdown(_card(found, folder, errors)).encode("utf-8")


def network_arguments(found: Run) -> dict[str, Any]:
    """What builds a run's network again, without the weights that it started from: those that it has now follow."""
    data, model, built = found.data, plain(found.config.model), found.network
    return {
        "name": model["name"],
        "num_classes": len(data.classes),
        "channels": data.channels,
        "image_size": list(data.image_size),
        "mean": list(map(float, data.mean)),
        "std": list(map(float, data.std)),
        "trunk": built.trunk_layer if isinstance(built, Extended) else None,
        "filters": list(model.get("filters", (128,))),
        "output": model.get("output"),
        **{name: model[name] for name in ("layers", "widths", "extra_conv", "mask")},
    }


def _card(found: Run, folder: Path, errors: dict[str, float]) -> card.ModelCard:
    data, config = found.data, found.config
    parameters = sum(p.numel() for p in found.network.parameters())
    height, width = data.image_size
    facts = {
        "network": f"{config.model.name}, {parameters:,} parameters; interpretable layers: {', '.join(found.layers)}",
        "input": f"{data.channels} x {height} x {width} pixels in [0, 1]; the network normalises them itself",
        "data": f"{found.data_name}: {len(data.train_set):,} training and {len(data.val_set):,} validation images",
        "training": f"{found.epochs} epochs, seed {config.seed}",
    }
    idea = f"{found.kind}: {DESCRIPTIONS.get(found.kind, 'a network of its own kind')}."
    return card.ModelCard(
        title=f"{found.kind} {config.model.name}",
        idea=idea,
        facts=facts,
        classes=data.classes,
        measures=_measures(folder),
        files=errors,
        command=provenance()["command"],
    )


def _measures(folder: Path) -> dict[str, str]:
    """The figures of the table part, where it is there."""
    path = folder / "tables" / "measures.csv"
    if not path.is_file():
        return {}
    row = pd.read_csv(path).iloc[0]
    return {
        name.replace("_", " "): f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
        for name in shown_in("model card")
        if name in row and np.isfinite(row[name])
    }


def _strongest(found: Run, layer: str, count: int) -> Exemplars:
    return exemplars(found.network, found.data.val_dataloader(), layer=layer, count=count)


def _categories(found: Run, layer: str) -> list[str]:
    return [found.data.classes[number] for number in found.filter_categories[layer].tolist()]


def _digest(target: ExportFolder, part: str) -> str:
    """What the card shows of the table part."""
    return target.parts.get("table", {}).get("key", "") if part == "model" else ""
