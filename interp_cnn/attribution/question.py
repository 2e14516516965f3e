"""A question about images, and what it comes to for one network: whom to ask about which output.

The class to explain may be the one that the network predicts, the image's own, or one for all images; with a rival, the
best other class, the question is what speaks for the one rather than the other.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.network.contrast import LogitDifferences
from interp_cnn.explanation.network.logits import check_logits, evaluation_mode
from interp_cnn.report.maps.records import ClassScore
from interp_cnn.runs.inputs import Picture, Subject

CLASSES_SHOWN = 5


@dataclass(frozen=True)
class Question:
    """What is asked about every image.

    Attributes:
        methods: names.
        options: of the methods.
        target: `predicted`, `true`, or a class's name or number.
        against_runner_up: whether the best other class's logit is taken off.
        tolerant: whether an image may go without a map that a method refuses.
        grain: side in pixels of the cells that are drawn; None: about 40 cells along the image's longer side.
    """

    methods: tuple[str, ...]
    options: Options
    target: str = "predicted"
    against_runner_up: bool = False
    tolerant: bool = False
    grain: int | None = None


def posed(
    question: Question, subject: Subject, images: Tensor, pictures: Sequence[Picture]
) -> tuple[nn.Module, Tensor, list[dict]]:
    """The network and outputs to ask about, and what is known of each answer before.

    Args:
        question: what is asked.
        subject: who is asked.
        images: (B, C, H, W).
        pictures: B, for their classes.

    Returns:
        A network images -> logits; the output to explain for each image (B,); for each image the arguments of an
        `Answer` without its maps.
    """
    with evaluation_mode(subject.network), torch.no_grad():
        logits = check_logits(subject.network(images), len(images)).cpu()
    if question.against_runner_up and logits.shape[1] < 2:
        raise ValueError(f"against=runner_up: {subject.name} knows one class only")
    targets = [_target(question.target, subject, *one) for one in zip(logits, pictures, strict=True)]
    rivals = [_rival(row, target) for row, target in zip(logits, targets, strict=True)]
    heads = []
    for row, target, rival in zip(logits, targets, rivals, strict=True):
        chances = row.softmax(0)
        shown = sorted(
            {*row.topk(min(CLASSES_SHOWN, len(row))).indices.tolist(), target, rival}, key=lambda k: -row[k]
        )
        heads.append(
            {
                "network": subject.name,
                "target": subject.classes[target],
                "against": subject.classes[rival] if question.against_runner_up else "",
                "score": float(row[target] - row[rival] if question.against_runner_up else row[target]),
                "scores": [ClassScore(subject.classes[k], float(row[k]), float(chances[k])) for k in shown],
            }
        )
    if not question.against_runner_up:
        return subject.network, torch.tensor(targets, device=images.device), heads
    pairs = sorted(set(zip(targets, rivals, strict=True)))
    outputs = [pairs.index(pair) for pair in zip(targets, rivals, strict=True)]
    network = LogitDifferences(subject.network, pairs, logits.shape[1]).eval()
    return network, torch.tensor(outputs, device=images.device), heads


def _target(asked: str, subject: Subject, logits: Tensor, picture: Picture) -> int:
    if asked == "predicted":
        return int(logits.argmax())
    name = picture.label if asked == "true" else asked
    if name in subject.classes:
        return subject.classes.index(name)
    if asked == "true":
        label = f"labelled {name}, which {subject.name} does not know" if name else "not labelled"
        raise ValueError(f"target=true: {picture.name} is {label}")
    if name.isdecimal() and int(name) < len(subject.classes):
        return int(name)
    raise ValueError(f"target={asked} is no class of {subject.name}")


def _rival(logits: Tensor, target: int) -> int:
    """The best class but the target."""
    others = logits.clone()
    others[target] = -torch.inf
    return int(others.argmax())


def share_of(shard: str | None) -> tuple[int, int] | None:
    """(k, n) of `k/n`."""
    if shard is None:
        return None
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", str(shard))
    if not found or not int(found[1]) < int(found[2]):
        raise ValueError(f"shard={shard}: expected K/N with K from 0 to N-1, such as 0/4, 1/4, 2/4 and 3/4")
    return int(found[1]), int(found[2])


def size_of(side: int | None) -> tuple[int, int] | None:
    """(H, W) of images of so many pixels a side; None for each image's own."""
    if side is not None and (not isinstance(side, int) or side < 1):
        raise ValueError(f"image_size={side}: expected pixels, 1 or more, or null for each image's own size")
    return None if side is None else (side, side)
