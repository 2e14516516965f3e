"""A logit as a sum over the filters of a layer: what each of them brings to the decision, and what is left.

    logit = sum_d share_d + rest

`exact`, `integrated_gradients` and `deeplift` compare the layer's maps with silence (all maps zero), so the rest is
what the network says when no filter fires: its biases, and whatever reaches the logits without passing the layer.

    exact                  share_d = sum over cells of dF/dx x: the head is linear behind the layer, nothing is a matter
                           of choice, and switching a set of filters off costs exactly the sum of their shares
    lrp                    relevance handed back from the logit to the layer by the rules of `lrp`; biases behind the
                           layer keep their part for themselves: the rest, with what went round the layer
    deeplift               the change from silence by finite differences, layer by layer
    integrated_gradients   the slope along the straight line from silence to the image's maps

Where the head is linear, all four agree (LRP with the rule epsilon). Shares of concepts by LRP: Achtibat et al., "From
attribution maps to human-understandable explanations through concept relevance propagation", Nature Machine
Intelligence 5, 2023, where biases swallow part of the logit without a word.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_cnn.explanation.baselines import Baseline, reference_images
from interp_cnn.explanation.decisions.head import Head, chosen_layer
from interp_cnn.explanation.gradients.gradients import integrated_gradients_with_error
from interp_cnn.explanation.network.feature_maps import named_layer
from interp_cnn.explanation.network.logits import check_question, checked_evaluation, target_logits
from interp_cnn.explanation.network.precision import precision
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.explanation.propagation.composites import RuleChoice, chosen_rules
from interp_cnn.explanation.propagation.deeplift import baseline_values, multipliers_at
from interp_cnn.explanation.propagation.linear_layers import folded_norms
from interp_cnn.explanation.propagation.lrp_walk import Walk, relevance_of_logits
from interp_cnn.explanation.propagation.tape import Value, check_plain, record
from interp_cnn.storage.brief import Brief

METHODS = ("lrp", "deeplift", "exact", "integrated_gradients")
COMPLETE = 1e-4  # of logit and shares without signs: what shares and rest may miss


@dataclass(frozen=True, eq=False, repr=False)
class Contributions(Brief):
    """What the filters of a layer bring to a logit.

    Attributes:
        layer: dotted name.
        method: by which the logit was shared out.
        targets: (B,) the class asked about.
        scores: (B,) its logit, or its lead over the class of `against`.
        logits: (B, K) of all classes.
        maps: (B, D, h, w), the share of each cell of each filter, in logits.
        rest: (B,) what no filter of the layer brings: biases, and what reaches the logit round the layer.
        activations: (B, D, h, w), the layer's output.
        missing: (B,) how far the rest is from what the network says in silence: the error of a line cut into pieces
            (`integrated_gradients`), rounding (`deeplift`, `exact`), 0 where nothing is compared with silence (`lrp`).
        bypassed: whether anything of the image reaches the logits round the layer.
        linear: whether nothing but sums lies behind the layer, so that the shares are no matter of choice.
    """

    layer: str
    method: str
    targets: Tensor
    scores: Tensor
    logits: Tensor
    maps: Tensor
    rest: Tensor
    activations: Tensor
    missing: Tensor
    bypassed: bool
    linear: bool

    @property
    def shares(self) -> Tensor:
        """(B, D), in logits; with the rest they sum to the score."""
        return self.maps.sum((2, 3), dtype=torch.float64).to(self.maps)

    @property
    def positions(self) -> Tensor:
        """(B, D, 2) int64: row and column of the cell that brings most of each share, in cells of the layer's grid."""
        width = self.maps.shape[3]
        signed = self.maps * torch.sign(self.shares)[:, :, None, None]
        cells = signed.flatten(2).argmax(2)
        return torch.stack((cells // width, cells % width), 2)

    def order(self, image: int = 0) -> Tensor:
        """(D,) filters of one image, those that speak for the class most first."""
        return self.shares[image].argsort(descending=True, stable=True)


@torch.inference_mode(False)
@precision("float32")
def filter_contributions(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | int,
    *,
    layer: str | nn.Module | None = None,
    method: str = "lrp",
    baseline: Baseline | None = None,
    rule: RuleChoice = "epsilon",
    against: Tensor | int | None = None,
) -> Contributions:
    """Share a logit out among the filters of a layer; shares and rest sum to the logit.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W), or one image (C, H, W).
        targets: (B,) classes, or one for all images.
        layer: dotted name or module whose output is (B, D, h, w); None: the last layer that masks around parts, else
            the last feature maps.
        method: `lrp`, `deeplift`, `exact` (where nothing but sums lies behind the layer) or `integrated_gradients`.
        baseline: of deeplift and integrated gradients: an image as in `reference_images`, whose maps are compared with;
            None: maps of zeros, silence.
        rule: of lrp, as in `lrp`.
        against: (B,) classes, or one: share out the target's lead over them instead.

    Raises:
        Refusal: the layer gives no maps, the head is not linear (`exact`), or an operation that no rule knows.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> found = filter_contributions(network, torch.rand(3, 8, 8), 2)
        >>> bool((found.shares.sum(1) + found.rest - found.scores).abs().max() < 1e-5)
        True
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if baseline is not None and method not in ("deeplift", "integrated_gradients"):
        raise ValueError(f"baseline={baseline!r}: method={method} compares with silence")
    check_plain(network)
    images, targets = check_question(images, targets)
    with checked_evaluation(network, images, alone=True), torch.no_grad():
        name = chosen_layer(network, images, layer)
        head = Head(network, images, name)
        contributions = _shared(network, images, targets, head, method, baseline, rule)
        if against is None:
            return contributions
        rivals = check_question(images, against)[1]
        other = _shared(network, images, rivals, head, method, baseline, rule)
    return Contributions(
        layer=name,
        method=method,
        targets=targets,
        scores=contributions.scores - other.scores,
        logits=contributions.logits,
        maps=contributions.maps - other.maps,
        rest=contributions.rest - other.rest,
        activations=contributions.activations,
        missing=contributions.missing + other.missing,
        bypassed=contributions.bypassed,
        linear=contributions.linear,
    )


def _shared(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    head: Head,
    method: str,
    baseline: Baseline | None,
    rule: RuleChoice,
) -> Contributions:
    scores = target_logits(head.logits, targets)
    if method == "lrp":
        maps, rest = _by_relevance(head, targets, rule), None
    elif method == "deeplift":
        maps, rest = _by_differences(network, images, targets, head, baseline)
    elif method == "exact":
        maps, rest = _by_slope(head, targets)
    else:
        maps, rest = _along_the_line(network, images, targets, head, baseline)
    shares = maps.sum((1, 2, 3), dtype=torch.float64)
    if rest is None:
        rest = scores - shares
    missing = (scores - shares - rest).abs()
    scale = scores.abs() + maps.flatten(1).abs().sum(1)
    if method != "integrated_gradients" and not (missing <= COMPLETE * scale + 1e-6).all():
        raise Refusal(
            f"{method}: shares and rest miss the logit by {float(missing.max()):.3g}; "
            "network.double() has more digits, and method=lrp sums by construction"
        )
    return Contributions(
        layer=head.layer,
        method=method,
        targets=targets,
        scores=scores,
        logits=head.logits.detach(),
        maps=maps,
        rest=(scores - shares).to(scores),
        activations=head.maps.clone(),
        missing=missing.to(scores),
        bypassed=head.bypassed,
        linear=head.bend is None,
    )


def head_walk(head: Head, rule: RuleChoice) -> Walk:
    """The way back from the logits to a layer and on to the pixels; biases behind the layer keep their share."""
    behind = set(head.steps)
    before = [step for step in head.tape.steps if step not in behind]
    norms = folded_norms(head.steps)
    norms = {layer: norm for layer, norm in norms.items() if layer in behind}
    norms |= {layer: norm for layer, norm in folded_norms(before).items() if layer not in behind}
    return Walk(head.tape, chosen_rules(head.tape, rule), norms, keeping=frozenset(behind))


def _by_relevance(head: Head, targets: Tensor, rule: RuleChoice) -> Tensor:
    start = {head.tape.logits: relevance_of_logits(head.tape, targets)}
    maps = head_walk(head, rule).to_value(start, head.value)
    if not torch.isfinite(maps).all():
        raise Refusal(
            "lrp: relevance is NaN or infinite on its way to the layer; method=deeplift has no such poles"
        )
    return maps


def _by_differences(
    network: nn.Module, images: Tensor, targets: Tensor, head: Head, baseline: Baseline | None
) -> tuple[Tensor, Tensor]:
    references = [images] if baseline is None else reference_images(images, baseline)
    gate = _Gate(named_layer(network, head.layer))
    maps, rests = [], []
    with gate:
        tape = record(network, images)
        value = gate.found_on(tape.steps)
        start = torch.zeros_like(tape.logits.tensor).scatter_(1, targets[:, None], 1)
        for reference in references:
            gate.factor = 0.0 if baseline is None else 1.0
            values = baseline_values(network, tape, reference)
            gate.factor = 1.0
            maps.append(multipliers_at(tape, values, start, value) * (value.tensor - values[value]))
            logits = values[tape.logits].expand(len(images), -1)
            rests.append(logits.gather(1, targets[:, None])[:, 0])
    mean = torch.stack(maps).mean(0)
    if head.bypassed and baseline is not None:  # what else of the image changed stays in the rest
        return mean, target_logits(head.logits, targets) - mean.sum((1, 2, 3))
    return mean, torch.stack(rests).mean(0)


class _Gate:
    """Multiplies a layer's output by a number, so that one and the same way through the network can be silenced."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.factor, self.last = layer, 1.0, None

    def __enter__(self) -> _Gate:
        self.handle = self.layer.register_forward_hook(self._through)
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()

    def found_on(self, steps: list) -> Value:
        return next(value for step in reversed(steps) for value in step.outputs if value.tensor is self.last)

    def _through(self, _layer: nn.Module, _given: object, output: Tensor) -> Tensor:
        self.last = output * torch.full((), self.factor, dtype=output.dtype, device=output.device)
        return self.last


def _by_slope(head: Head, targets: Tensor) -> tuple[Tensor, Tensor]:
    if head.bend is not None:
        raise Refusal(
            f"method=exact needs a linear head behind {head.layer!r}, and there is {head.bend}; "
            "method=lrp, deeplift or integrated_gradients share out any head"
        )
    with torch.enable_grad():
        maps = head.maps.detach().clone().requires_grad_()
        score = target_logits(head(maps), targets)
        (slope,) = torch.autograd.grad(score.sum(), maps)
    silent = target_logits(head(torch.zeros_like(head.maps)), targets)
    return slope * head.maps, silent


def _along_the_line(
    network: nn.Module, images: Tensor, targets: Tensor, head: Head, baseline: Baseline | None
) -> tuple[Tensor, Tensor]:
    shares, rests = [], []
    for number in range(len(images)):
        row = slice(number, number + 1)
        alone = head if len(images) == 1 else Head(network, images[row], head.layer)
        silence = torch.zeros_like(alone.maps)
        starts = [silence]
        if baseline is not None:
            starts = [
                Head(network, reference.expand_as(images)[row], head.layer).maps
                for reference in reference_images(images, baseline)
            ]
        for start in starts:
            integral = integrated_gradients_with_error(
                alone, alone.maps, targets[row], baseline=start, tolerance=1e-3
            )
            shares.append(integral.maps / len(starts))
            rests.append(target_logits(alone(start), targets[row]) / len(starts))
    count = len(shares) // len(images)
    maps = torch.cat(shares).unflatten(0, (len(images), count)).sum(1)
    return maps, torch.cat(rests).unflatten(0, (len(images), count)).sum(1)
