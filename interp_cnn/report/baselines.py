"""Baselines in words: what each is called and what it does."""

from __future__ import annotations

IN_THE_TABLE = (
    "best_constant",
    "oracle",
)  # the floor and the ceiling; the other baselines wait behind a click

BASELINES = {
    "random_cell": "random cell",
    "centre": "image centre",
    "constant_centre": "image centre",
    "best_constant": "best fixed spot",
    "oracle": "oracle",
    "oracle_other_part": "oracle, other part",
    "oracle_jitter": "oracle with noise",
    "mean_place": "mean place",
    "shuffled_images": "shuffled images",
    "untrained": "untrained network",
}

MEANINGS = {
    "random_cell": "a filter that points at a random cell of the grid on every image",
    "centre": "a filter that always points at the middle of the image",
    "constant_centre": "a filter that always points at the middle of the image",
    "best_constant": "the fixed cell, or region, that scores best on these very images",
    "oracle": "a filter that always points at an annotated part itself",
    "oracle_other_part": "the same, judged by the other parts only",
    "oracle_jitter": "the same, off by 5 % of the image diagonal at random",
    "mean_place": "every part where it lies on average on other images of the class",
    "shuffled_images": "the network's own positions, dealt to other images of the class",
    "untrained": "the same layers with random weights and without masks",
}


def baseline(name: str) -> str:
    """A baseline in words; what stands in brackets, a network's name, is kept."""
    kind, bracket, rest = name.partition(" (")
    return (BASELINES.get(kind) or kind.replace("_", " ")) + bracket + rest


def baseline_meaning(name: str) -> str:
    """What a baseline does, if it is a familiar one."""
    return MEANINGS.get(name.partition(" (")[0], "")
