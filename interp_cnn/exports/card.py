"""The model card: what a network is, what it was trained on, how good it is and how to load it, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DESCRIPTIONS = {
    "interpretable": "template masks and mutual-information loss",
    "plain": "the same layers, weights and data order, without mask and loss",
    "mask_only": "template masks without the loss",
    "loss_only": "the loss without the masks",
}
_WAYS = {
    "model.safetensors": (
        "import interp_cnn\n\n"
        'network = interp_cnn.from_pretrained("FOLDER")  # images (B, C, H, W) in [0, 1] -> logits (B, K)\n'
        'names = network.config["classes"]'
    ),
    "model.pt2": 'import torch\n\nnetwork = torch.export.load("FOLDER/model.pt2").module()',
    "model.onnx": (
        "import onnxruntime\n\n"
        'session = onnxruntime.InferenceSession("FOLDER/model.onnx")\n'
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
        command: that trained it; empty where nobody knows.
        name: of its folder, which `from_pretrained` takes.
    """

    title: str
    idea: str
    facts: Mapping[str, str]
    classes: Sequence[str]
    measures: Mapping[str, str]
    files: Mapping[str, float]
    command: str = ""
    name: str = "model"


def markdown(card: ModelCard) -> str:
    """The card's text; everything that a run folder says is escaped."""
    lines = ["---", "library_name: interp_cnn", "pipeline_tag: image-classification", "---", ""]
    lines += [f"# {_plain(card.title)}", "", _plain(card.idea), "", *_table(card.facts, "", ""), ""]
    lines += ["## Classes", "", f"In the order of the logits: {', '.join(map(_plain, card.classes))}.", ""]
    if card.measures:
        lines += [
            "## Measures",
            "",
            "On the validation images, which were not trained on; mean and 95 % interval over them.",
            "",
        ]
        lines += [*_table(card.measures, "measure", "value"), ""]
    lines += ["## How to load it", ""]
    for name, error in card.files.items():
        lines += [f"`{name}` (largest difference of a logit when loaded again: {error:.0e} of the largest):"]
        lines += ["", "```python", _WAYS[name].replace("FOLDER", card.name), "```", ""]
    lines += ["## Limits", ""]
    lines += ["- It knows the classes above alone and says one of them for every image."]
    lines += [
        "- The measures hold for images like those that it was trained on. What its filters look at was"
    ]
    lines += [
        "  found on the validation images; it is a description of them, not a guarantee for others.",
        "",
    ]
    if card.command:
        lines += ["## The same again", "", "```", card.command]
        lines += [
            f"python -c \"import interp_cnn; interp_cnn.save_pretrained('RUN', '{card.name}')\"",
            "```",
            "",
        ]
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
