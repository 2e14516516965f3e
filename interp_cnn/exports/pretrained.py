"""A trained network as a folder that `from_pretrained` reads: config.json, model.safetensors and a model card.

The folder `model/` that `interp-cnn export` writes is the same, with other formats beside them. Folders of this
machine (of images, of files of weights) are not told: what is saved may be given away.
"""

from __future__ import annotations

import copy
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from interp_cnn.data.split_record import FILE as IMAGES
from interp_cnn.evaluation.filters.measure_network import NetworkMeasures
from interp_cnn.exports.card import DESCRIPTIONS, ModelCard, markdown
from interp_cnn.exports.network import errors_in, network_files
from interp_cnn.model.backbones import network_arguments
from interp_cnn.pretrained.shipped import CARD, CONFIG, is_pretrained
from interp_cnn.report.measures import shown_in
from interp_cnn.runs.epochs import last_epoch, run_record
from interp_cnn.runs.folder import Run, load_run, plain
from interp_cnn.runs.measuring import measure_run
from interp_cnn.runs.places import without_places
from interp_cnn.storage.files import write_bytes

SEVERAL = 8  # images on which a file's logits are compared with the network's
Figures = Mapping[str, Mapping[str, float]]  # measure -> value, low, high, n


def save_pretrained(
    trained: Run | nn.Module | Path | str,
    folder: Path | str,
    *,
    classes: Sequence[str] | None = None,
    measures: NetworkMeasures | None = None,
) -> Path:
    """Writes a trained network into a folder: config.json, model.safetensors and README.md, its model card.

    `from_pretrained(folder)` loads the network, `load_run(folder)` and `interp-cnn explain folder` also its data, where
    a run was saved. The list of images that it was trained on goes along (images.json.gz); without that file the split
    is drawn anew.

    Args:
        trained: a run or its folder, else a network that `build_network` or `from_pretrained` made.
        folder: to write into; a new one, or one that this function wrote.
        classes: names in the order of the logits, of a network; a run knows them.
        measures: figures for the card, as `evaluate_network` gives them; None: of a run those that its comparison
            wrote, else it is measured now, which takes about a minute; of a network those that it came with, or none.

    Returns:
        The folder.

    Raises:
        ValueError: a folder of other files, a network that was built otherwise, or another number of classes.

    Example:
        >>> import tempfile
        >>> from interp_cnn import from_pretrained
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = save_pretrained(from_pretrained("digits-plain"), f"{place}/mine")
        ...     sorted(file.name for file in folder.iterdir())
        ['README.md', 'config.json', 'model.safetensors']
    """
    place = Path(folder).expanduser().absolute()
    if place.is_dir() and any(place.iterdir()) and not is_pretrained(place):
        raise ValueError(
            f"{place} holds other files; expected a new folder, or one that save_pretrained wrote"
        )
    given = None if measures is None else _figures(_row(measures))
    if isinstance(trained, Path | str):
        trained = load_run(trained)
    if isinstance(trained, Run):
        if classes is not None and tuple(classes) != tuple(trained.data.classes):
            raise ValueError(f"classes={classes}: the run's are {trained.data.classes}; leave them out")
        figures = (
            given or known_figures(trained) or _figures(_row(measure_run(trained, resamples=500, seed=0)))
        )
        about, network, images = description_of(trained, figures), trained.network, first_images(trained)
    else:
        about, network = _description(trained, classes, given), trained
        size = (SEVERAL, about["network"]["channels"], *about["network"]["image_size"])
        images = torch.rand(size, generator=torch.Generator().manual_seed(0))
    files = dict(pretrained_files(network, images, about, ["safetensors"], place=place.name))
    if isinstance(trained, Run):
        files |= record_files(trained, place=place.name)
    for name in sorted(files, key=lambda name: name.endswith(CONFIG)):  # last: a folder without it is none
        write_bytes(place.parent / name, files[name])
    return place


def pretrained_files(
    network: nn.Module, images: Tensor, about: dict[str, Any], formats: Sequence[str], *, place: str
) -> list[tuple[str, bytes]]:
    """Names, inside the folder `place`, and contents: the network in every format, its description and its card."""
    network = copy.deepcopy(network).cpu().eval()
    files = list(network_files(network, images, about, formats, place=place))
    errors = errors_in(dict(files)[f"{place}/{CONFIG}"])
    card = markdown(_card(about, sum(it.numel() for it in network.parameters()), errors, place))
    return [*files, (f"{place}/{CARD}", card.encode("utf-8"))]


def record_files(trained: Run, *, place: str) -> list[tuple[str, bytes]]:
    """The list of images that a run was trained on and judged by, where it keeps one."""
    record = trained.folder / IMAGES
    return [(f"{place}/{IMAGES}", record.read_bytes())] if record.is_file() else []


def first_images(trained: Run) -> Tensor:
    """Some validation images (B, C, H, W) of a run."""
    held_out = trained.data.val_set
    return torch.stack([held_out[number].image for number in range(min(SEVERAL, len(held_out)))])


def description_of(trained: Run, figures: Figures) -> dict[str, Any]:
    """What config.json says of a run; figures are measure -> value, low, high, n."""
    arguments = network_arguments(trained.network)
    assert arguments is not None  # every run's network is one of `build_network`
    settings = plain(without_places(trained.config))
    settings["model"] = {**settings["model"], "trunk": arguments["trunk"]}
    data = trained.data
    record = run_record(trained.folder) or {}
    made_by = getattr(trained.network, "config", {}).get("made_by") or {
        "command": _without_places(str(record.get("command", ""))),
        "git_commit": record.get("git_commit"),
        "versions": record.get("versions", {}),
    }
    return {
        "network": arguments,
        "classes": list(data.classes),
        "kind": trained.kind,
        "epochs": trained.epochs,
        "filter_categories": {
            name: categories.tolist() for name, categories in trained.filter_categories.items()
        },
        "data": {
            "name": trained.data_name,
            "training_images": len(data.train_set),
            "validation_images": len(data.val_set),
        },
        "measures": {name: dict(values) for name, values in figures.items()},
        "made_by": made_by,
        "training": {name: settings[name] for name in ("seed", "data", "model", "training")},
    }


def known_figures(trained: Run) -> Figures:
    """The figures of a run's last epoch that its comparison wrote, or that it was saved with; empty where none are."""
    folder = trained.folder
    if saved := getattr(trained.network, "config", {}).get("measures"):
        return saved
    path = folder.parent / "tables" / "summary.csv"
    if not path.is_file() or not (folder / "metrics.csv").is_file() or trained.epochs != last_epoch(folder):
        return {}
    table = pd.read_csv(path)
    rows = table[table["name"] == folder.name]
    return _figures(rows.iloc[0].to_dict()) if len(rows) == 1 else {}


def figures_in(path: Path) -> Figures:
    """The figures of the first network of a table of measures; empty where there is no such file."""
    return _figures(pd.read_csv(path).iloc[0].to_dict()) if path.is_file() else {}


def _row(measures: NetworkMeasures) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, estimate in measures.summary.items():
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        row |= {f"{name}_n": estimate.n}
    return row


def _figures(row: Mapping[Any, Any]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "value": float(row[name]),
            **{end: float(row[f"{name}_{end}"]) for end in ("low", "high")},
            "n": int(row[f"{name}_n"]),
        }
        for name in shown_in("model card")
        if name in row and math.isfinite(row[name])
    }


def _description(
    network: nn.Module, classes: Sequence[str] | None, figures: Figures | None
) -> dict[str, Any]:
    arguments = network_arguments(network)
    if arguments is None:
        raise ValueError(
            f"{type(network).__name__} is a network that nothing here could build again; expected one of build_network "
            "(such as build_network('torchvision:resnet18', layers=['layer4'], ...)), from_pretrained or a run; "
            "torch.save keeps the weights of others"
        )
    about = dict(getattr(network, "config", {}))
    count = arguments["num_classes"]
    names = list(classes or about.get("classes", [f"class {number}" for number in range(count)]))
    if len(names) != count:
        raise ValueError(f"classes has {len(names)} names; the network tells {count} classes apart")
    return {**about, "network": arguments, "classes": names, "measures": figures or about.get("measures", {})}


def _card(about: dict[str, Any], parameters: int, errors: dict[str, float], name: str) -> ModelCard:
    built, made = about["network"], about.get("made_by", {})
    layers = ", ".join(about.get("filter_categories", {})) or "its last feature maps"
    height, width = built["image_size"]
    facts = {
        "network": f"{built['name']}, {parameters:,} parameters; filters measured in: {layers}",
        "input": f"{built['channels']} x {height} x {width} pixels in [0, 1]; the network normalises them itself",
    }
    if data := about.get("data"):
        facts["data"] = (
            f"{data['name']}: {data['training_images']:,} training and {data['validation_images']:,} validation images"
        )
    if training := about.get("training"):
        facts["training"] = f"{about['epochs']} epochs, seed {training['seed']}"
    if made.get("git_commit"):
        facts["code"] = f"commit {made['git_commit']}, torch {made['versions'].get('torch', '?')}"
    kind = about.get("kind", "")
    idea = f"{kind}: {DESCRIPTIONS.get(kind, 'a network of its own kind')}." if kind else "A trained network."
    return ModelCard(
        title=" ".join(filter(None, [kind, built["name"]])),
        idea=idea,
        facts=facts,
        classes=about["classes"],
        measures={
            name.replace("_", " "): f"{it['value']:.3f} [{it['low']:.3f}, {it['high']:.3f}], {it['n']} images"
            for name, it in about.get("measures", {}).items()
        },
        files=errors,
        command=made.get("command", ""),
        name=name,
    )


def _without_places(command: str) -> str:
    """A command without folders of this machine, and without the one that it wrote into."""
    words = [word for word in shlex.split(command) if not word.startswith("hydra.")]
    return shlex.join(_without_place(word) for word in words)


def _without_place(word: str) -> str:
    key, equals, value = word.rpartition("=")
    somewhere = value.lstrip("['\"")
    hidden = somewhere.startswith(("/", "~", "\\")) or PureWindowsPath(somewhere).is_absolute()
    return f"{key}{equals}DIR" if hidden else word
