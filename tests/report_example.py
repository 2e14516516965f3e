"""A report about two networks that never were: the shapes, sizes and order of magnitude of a real comparison.

    python tests/report_example.py FOLDER [IMAGES.npz]

writes it with 128 filters each, on drawn images or on those of an npz file with `image` (N, H, W, 3) uint8,
to look at.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from interp_cnn.explanation.filters.exemplars import Exemplars, exemplars
from interp_cnn.report import Contents, FilterPair, Network, SampleImage, Sights, write_report
from interp_cnn.report.comparison.contents import Mistaken, OnPart
from interp_cnn.report.comparison.pair import middle_filters
from interp_cnn.report.maps.records import Answer, ClassScore, ImageRecord, MapRecord, map_key

CLASSES = ("fox", "horse", "<script>alert(1)</script>", "Ente & Gans")


@dataclass(frozen=True)
class Number:
    """Stands for an estimate or a difference."""

    value: float
    low: float = nan
    high: float = nan
    n: int = 0
    p: float = nan
    test: str = ""


@dataclass
class Batch:
    images: Tensor
    labels: Tensor
    names: list[str]


def drawn_images(count: int, side: int = 40) -> Tensor:
    """Coloured blobs on a gradient, (N, 3, side, side) in [0, 1]."""
    generator = np.random.default_rng(5)
    rows, columns = np.mgrid[:side, :side] / side
    images = []
    for _ in range(count):
        base, slope = generator.uniform(0.2, 0.7, 3), generator.uniform(-0.3, 0.3, 3)
        image = base[:, None, None] + slope[:, None, None] * (rows + columns)
        for _ in range(3):
            row, column = generator.uniform(0.2, 0.8, 2)
            size = generator.uniform(0.05, 0.15)
            blob = np.hypot(rows - row, columns - column) < size
            image[:, blob] = generator.uniform(0, 1, 3)[:, None]
        images.append(image)
    return torch.from_numpy(np.clip(np.stack(images), 0, 1)).float()


def seen_by_a_random_network(images: Tensor, filters: int, seed: int) -> Exemplars:
    """Exemplars of a small network with random weights; the first and the last or every 40th filter never
    fire.
    """
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, filters, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(filters, len(CLASSES)),
    )
    network[3].bias.data[:: min(40, filters - 1)] = -100.0
    labels = torch.arange(len(images)) % len(CLASSES)
    names = [f"photo <{number:04d}> & co.jpg" for number in range(len(images))]
    parts = range(0, len(images), 32)
    batches = [Batch(images[s : s + 32], labels[s : s + 32], names[s : s + 32]) for s in parts]
    return exemplars(network, batches, layer="4", count=9)


def example_network(name: str, images: Tensor, filters: int, seed: int, instability: float) -> Network:
    generator = np.random.default_rng(seed)
    found = seen_by_a_random_network(images, filters, seed)
    silent = found.silent.numpy()
    values = np.where(silent, nan, generator.normal(instability, 0.018, filters))
    gains = 1 - values / 0.1
    positive = float(np.mean(gains > 0))
    steady, gain = float(np.nanmean(values)), float(np.nanmean(gains))
    summary = {
        "accuracy": Number(0.9 + 0.01 * seed, 0.87 + 0.01 * seed, 0.92 + 0.01 * seed, 450),
        "location_instability": Number(steady, steady - 0.004, steady + 0.004, filters),
        "best_constant": Number(0.071, 0.069, 0.073, filters),
        "tracking_gain": Number(gain, gain - 0.03, gain + 0.04, filters),
        "tracking_filters": Number(positive, positive - 0.04, positive + 0.05, filters),
        "instability_minimum": Number(0.06, 0.057, 0.064, filters),
        "translation_gain": Number(0.4 / seed, 0.4 / seed - 0.02, 0.4 / seed + 0.02, filters),
        "part_interpretability": Number(0.5 / seed, 0.5 / seed - 0.03, 0.5 / seed + 0.03, filters),
        "part_interpretability_null": Number(0.11, 0.1, 0.12, filters),
        "unique_detectors": Number(2.0 / seed, 1.0, 2.0, filters),
        "something_new": Number(12.5),
    }
    table = pd.DataFrame(
        {
            "filter": range(filters),
            "category": [
                CLASSES[number % len(CLASSES)] if not silent[number] else None for number in range(filters)
            ],
            "n": [100] * filters,
            "part": ["head" if number % 2 else "legs" for number in range(filters)],
            "tracks": gains > 0.1,
            "location_instability": values,
            "location_instability_low": values - 0.01,
            "location_instability_high": values + 0.012,
            "tracking_gain": gains,
        }
    )
    description = (
        "template mask and filter loss on" if seed == 1 else "the same layers and initial weights, both off"
    )
    masks = np.clip(1.6 - np.abs(found.maps.numpy() - found.maps.numpy().max((2, 3), keepdims=True)), 0, 1)
    sights = Sights(
        masks=masks,
        occlusion=found.mean_map.numpy() - 0.01,
        decodes=images[torch.arange(filters) % len(images)],
    )
    counts = generator.integers(0, 3, (len(CLASSES), len(CLASSES))) + 40 * np.eye(len(CLASSES), dtype=int)
    text = f"seed: 0\nmodel:\n  kind: {name}\n  note: <b> & more\n"
    described = {"description": description, "sights": sights, "confusion": counts, "configuration": text}
    return Network(name, "body.target", 1_234_567, summary, table, found, **described)


def example_samples(
    images: Tensor, count: int, methods: tuple[str, ...], networks: Sequence[Network] = ()
) -> list[SampleImage]:
    generator = np.random.default_rng(3)
    height, width = images.shape[2:]
    rows, columns = np.mgrid[:height, :width]
    samples = []
    for number in range(count):
        maps = {}
        for method in methods:
            for network in ("interpretable", "plain"):
                values = np.zeros((height, width))
                for strength in (2.0, 0.8, -0.9):
                    row, column = generator.uniform(0.25, 0.75, 2)
                    distance = (rows - row * height) ** 2 + (columns - column * width) ** 2
                    values += (
                        strength * generator.uniform(0.4, 1) * np.exp(-distance / (0.02 * height * width))
                    )
                maps[network, method] = values if method != "grad_cam" else np.maximum(values, 0)
        says = {"interpretable": (CLASSES[number % 2], 0.97), "plain": (CLASSES[number % 3], 0.61)}
        heights = {one.name: generator.uniform(-0.2, 0.5, len(one.filters)) for one in networks}
        name = f"photo <{number}>.jpg"
        samples.append(sample_of(images[number], name, CLASSES[number % 2], says, maps, heights))
    return samples


def sample_of(
    image: ArrayLike,
    name: str,
    label: str,
    says: Mapping[str, tuple[str, float]],
    maps: Mapping[tuple[str, str], NDArray | str],
    peaks: Mapping[str, ArrayLike] | None = None,
) -> SampleImage:
    """An image with maps (network, method) -> values, or why there are none, for its class."""
    answers, values = [], {}
    for network, (answer, probability) in says.items():
        records = []
        for method in (method for one, method in maps if one == network):
            it = maps[network, method]
            unit = "logit drop when hidden" if method == "occlusion" else "logits"
            record = MapRecord(method, unit, method != "grad_cam", refused=it if isinstance(it, str) else "")
            if not isinstance(it, str):
                record = record.with_values(it)
                values[map_key(network, method, len(says))] = it.astype(np.float32)
            records.append(record)
        scores = [ClassScore(answer, 2.5, probability)]
        answers.append(Answer(network, label, "", 2.5, scores, records))
    record = ImageRecord(name, label, tuple(image.shape[1:]), "", answers)
    return SampleImage(record, image, values, peaks or {})


def example_curves(epochs: int = 20) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = []
    for network, speed in (("interpretable", 5.0), ("plain", 4.0)):
        for split, offset in (("train", 0.0), ("val", 0.12)):
            for epoch in range(epochs):
                loss = 1.3 * np.exp(-epoch / speed) + offset + 0.02 * generator.normal()
                values = {"loss": loss, "accuracy": 1 - 0.5 * loss}
                if network == "interpretable" and split == "train":
                    values["filter loss"] = -2 * (1 - np.exp(-epoch / 6))
                rows += [
                    {"epoch": epoch, "split": split, "quantity": quantity, "value": value, "network": network}
                    for quantity, value in values.items()
                ]
    return pd.DataFrame(rows)


def example_pair(networks: Sequence[Network]) -> FilterPair | None:
    """The maps of the middle filters on their own strongest images."""
    middle = middle_filters(networks)
    if middle is None:
        return None
    pairs = list(zip(networks, middle.rows, strict=True))
    seen = networks[0].exemplars
    assert seen is not None
    numbers = seen.image_numbers[middle.rows[0]][:6]
    return FilterPair(
        category=CLASSES[middle.category],
        images=torch.stack([seen.images[int(number)].float() / 255 for number in numbers]).numpy(),
        filters={network.name: int(network.filters["filter"].iloc[row]) for network, row in pairs},
        maps={network.name: network.exemplars.maps[row][:6].numpy() for network, row in pairs},
        standings=dict(zip((network.name for network in networks), middle.standings, strict=False)),
        ranking=middle.ranking,
        on_parts={network.name: example_look(place) for place, network in enumerate(networks)},
    )


def example_look(place: int) -> OnPart:
    """A square that wanders away from a part, which one image does not show."""
    regions, masks = np.zeros((2, 6, 64, 64), dtype=bool)
    masks[:5, 20:40, 20:40] = True
    for number in range(6):
        regions[number, 20:40, 20 + 5 * number + place : 40 + 5 * number + place] = True
    return OnPart("head", regions, masks, [0.9, 0.6, 0.3, 0.2, 0.1, None][place:] + [None] * place)


def example_mistakes(network: Network, images: Tensor) -> list[Mistaken]:
    """As many images as the network's counts have off their diagonal."""
    counts = np.asarray(network.confusion) * (1 - np.eye(len(CLASSES), dtype=int))
    kinds = [
        (CLASSES[row], CLASSES[column])
        for row, column in np.argwhere(counts).tolist()
        for _ in range(counts[row, column])
    ]
    return [
        Mistaken(f"photo {number:03d}.jpg", label, answer, images[number % len(images)].numpy())
        for number, (label, answer) in enumerate(kinds)
    ]


def example_contents(
    *,
    filters: int = 128,
    images: Tensor | None = None,
    samples: int = 6,
    methods: tuple[str, ...] = ("occlusion",),
) -> Contents:
    images = drawn_images(96) if images is None else images
    networks = [
        example_network("interpretable", images, filters, 1, 0.085),
        example_network("plain", images, filters, 2, 0.118),
    ]
    pair = example_pair(networks)
    return Contents(
        pair=pair,
        title="Interpretable and plain network on animal parts",
        facts={
            "data": "animal parts, 1,797 photographs, 64 × 64 pixels",
            "classes": "4: " + ", ".join(CLASSES),
            "network": "small CNN, 6 convolution layers",
            "training": "20 epochs, AdamW, batch 64, seed 0",
        },
        classes=CLASSES,
        networks=networks,
        baselines={
            "random_cell": {"location_instability": Number(0.152, 0.150, 0.154, 450)},
            "centre": {"location_instability": Number(0.070, 0.067, 0.073, 450)},
            "best_constant": {
                "location_instability": Number(0.068, 0.066, 0.071, 450),
                "tracking_gain": Number(0.0),
            },
            "oracle": {
                "location_instability": Number(0.049, 0.047, 0.051, 450),
                "tracking_gain": Number(0.35),
            },
            "oracle_jitter": {"location_instability": Number(0.061, 0.058, 0.064, 450)},
            "shuffled_images (interpretable)": {"location_instability": Number(0.131, 0.128, 0.134, 450)},
            "shuffled_images (plain)": {"location_instability": Number(0.140, 0.138, 0.145, 450)},
        },
        differences={
            "accuracy": Number(-0.01, -0.03, 0.01, 450, 0.41, "sign flip over images"),
            "location_instability": Number(-0.033, -0.037, -0.029, 450, 0.0002, "sign flip over images"),
            "tracking_gain": Number(0.33, 0.28, 0.37, 450, 0.0002, "bootstrap over images"),
        },
        samples=example_samples(images, samples, methods, networks),
        curves=example_curves(),
        mistakes={network.name: example_mistakes(network, images) for network in networks},
        reproduction={
            "command": "interp-cnn compare data=animal_parts 'data.categories=[fox,horse]' seed=0",
            "date": "2026-03-01 12:00",
            "seed": 0,
            "overrides": ["data=animal_parts", "data.categories=[fox,horse]"],
            "git_commit": "18c73e4",
            "versions": {"python": "3.11.7", "torch": "2.9.0", "interp_cnn": "0.1.0"},
            "machine": {"processor": "2 cores", "memory": "23 GB", "device": "cpu"},
            "seconds": {"interpretable": 80.5, "plain": 61.0},
            "durations": {"training": 73.2, "explanations": 21.9, "measures": 4.25},
        },
    )


if __name__ == "__main__":
    given = None
    if len(sys.argv) > 2:
        given = torch.from_numpy(np.load(sys.argv[2])["image"]).permute(0, 3, 1, 2).float() / 255
    contents = example_contents(images=given, methods=("occlusion", "gradient", "grad_cam"))
    sys.stdout.write(f"{write_report(sys.argv[1], contents)}\n")
