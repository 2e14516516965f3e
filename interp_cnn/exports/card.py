"""The model card: what a network is, what it was trained on, how good it is and how to load it, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WAYS = {
    "network.safetensors": (
        "from interp_cnn.exports.network import load_exported\n\n"
        'network = load_exported("model")  # images (B, C, H, W) in [0, 1] -> logits (B, K)'
    ),
    "network.pt2": 'import torch\n\nnetwork = torch.export.load("model/network.pt2").module()',
    "network.onnx": (
        "import onnxruntime\n\n"
        'session = onnxruntime.InferenceSession("model/network.onnx")\n'
        '[logits] = session.run(None, {"images": images})  # float32 in [0, 1]'
    ),
}


@dataclass(frozen=True)
class ModelCard:
    """What a card says.

    Attributes:
        title: of the card.
        idea: one sentence about the kind of network.
        facts: name -> text.
        classes: names in the order of the logits.
        measures: name -> text; of the validation images.
        files: names of the network's files, with the relative error of their logits.
        command: that exports the same again.
    """

    title: str
    idea: str
    facts: Mapping[str, str]
    classes: Sequence[str]
    measures: Mapping[str, str]
    files: Mapping[str, float]
    command: str


def markdown(card: ModelCard) -> str:
    """The card's text; everything that a run folder says is escaped."""
    lines = ["---", "library_name: pytorch", "pipeline_tag: image-classification", "---", ""]
    lines += [f"# {_plain(card.title)}", "", _plain(card.idea), "", *_table(card.facts, "", ""), ""]
    lines += ["## Classes", "", f"In the order of the logits: {', '.join(map(_plain, card.classes))}.", ""]
    if card.measures:
        lines += ["## Measures", "", "On the validation images, which were not trained on.", ""]
        lines += [*_table(card.measures, "measure", "value"), ""]
    lines += ["## How to load it", ""]
    for name, error in card.files.items():
        lines += [f"`{name}` (largest difference of a logit when loaded again: {error:.0e} of the largest):"]
        lines += ["", "```python", _WAYS[name], "```", ""]
    lines += ["## Limits", ""]
    lines += ["- It knows the classes above alone and says one of them for every image."]
    lines += [
        "- The measures hold for images like those that it was trained on. What its filters look at was"
    ]
    lines += [
        "  found on the validation images; it is a description of them, not a guarantee for others.",
        "",
    ]
    lines += ["## The same again", "", "```", card.command, "```", ""]
    return "\n".join(lines)


def _table(rows: Mapping[str, str], first: str, second: str) -> list[str]:
    body = [f"| {_plain(name)} | {_plain(text)} |" for name, text in rows.items()]
    return [f"| {first} | {second} |", "|---|---|", *body]


def _plain(text: str) -> str:
    """A text on one line without marks that Markdown or HTML would read."""
    text = " ".join(str(text).split())
    for mark in ("\\", "|", "*", "_", "`", "[", "]", "#"):
        text = text.replace(mark, "\\" + mark)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
