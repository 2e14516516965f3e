"""What a request comes to for one network: the output to explain, and the rival whose logit is taken off.

The class to explain may be the one that the network predicts, the image's own, or one for all images; with a rival, the
best other class, the maps show what speaks for the one rather than the other.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from interp_cnn.attribution.request import MapSettings
from interp_cnn.explanation.network.contrast import LogitDifferences
from interp_cnn.explanation.network.logits import check_logits, checked_evaluation
from interp_cnn.report.maps.records import Answer, ClassScore
from interp_cnn.runs.inputs import InputPicture, Subject

CLASSES_SHOWN = 5


def resolve_targets(
    settings: MapSettings, subject: Subject, images: Tensor, pictures: Sequence[InputPicture]
) -> tuple[nn.Module, Tensor, list[Answer]]:
    """The outputs to explain, and what the network says about each image.

    Args:
        settings: which class is explained, and against which.
        subject: the network and the names of its classes.
        images: (B, C, H, W).
        pictures: B, for their classes.

    Returns:
        A network images -> logits; the output to explain for each image (B,); for each image the answer,
        still without maps.
    """
    with checked_evaluation(subject.network), torch.no_grad():
        logits = check_logits(subject.network(images), len(images)).cpu()
    if settings.against_runner_up and logits.shape[1] < 2:
        raise ValueError(f"against=runner_up: {subject.name} knows one class only")
    targets = [
        _target(settings.target, subject, row, picture) for row, picture in zip(logits, pictures, strict=True)
    ]
    rivals = [_rival(row, target) for row, target in zip(logits, targets, strict=True)]
    answers: list[Answer] = []
    for row, target, rival in zip(logits, targets, rivals, strict=True):
        chances = row.softmax(0)
        shown = sorted(
            {*row.topk(min(CLASSES_SHOWN, len(row))).indices.tolist(), target, rival}, key=lambda k: -row[k]
        )
        score = float(row[target] - row[rival] if settings.against_runner_up else row[target])
        answers.append(
            Answer(
                network=subject.name,
                target=subject.classes[target],
                against=subject.classes[rival] if settings.against_runner_up else "",
                score=score,
                scores=[ClassScore(subject.classes[k], float(row[k]), float(chances[k])) for k in shown],
                maps=(),
            )
        )
    if not settings.against_runner_up:
        return subject.network, torch.tensor(targets, device=images.device), answers
    pairs = sorted(set(zip(targets, rivals, strict=True)))
    outputs = [pairs.index(pair) for pair in zip(targets, rivals, strict=True)]
    network = LogitDifferences(subject.network, pairs, logits.shape[1]).eval()
    return network, torch.tensor(outputs, device=images.device), answers


def _target(target: str, subject: Subject, logits: Tensor, picture: InputPicture) -> int:
    if target == "predicted":
        return int(logits.argmax())
    name = picture.label if target == "true" else target
    if name in subject.classes:
        return subject.classes.index(name)
    if target == "true":
        label = f"labelled {name}, which {subject.name} does not know" if name else "not labelled"
        raise ValueError(f"target=true: {picture.name} is {label}")
    if name.isdecimal() and int(name) < len(subject.classes):
        return int(name)
    raise ValueError(f"target={target} is no class of {subject.name}")


def _rival(logits: Tensor, target: int) -> int:
    """The best class but the target."""
    others = logits.clone()
    others[target] = -torch.inf
    return int(others.argmax())
