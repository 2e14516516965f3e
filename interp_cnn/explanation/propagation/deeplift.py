"""DeepLIFT (Rescale): the change of the logit from a baseline to the image, handed back as contributions of the pixels.

For every value v of the network with its change dv = v(image) - v(baseline), a multiplier m(v) says how much of the
logit's change each unit of dv brings about: contribution = m dv. Multipliers are walked back by the chain rule with
finite differences in place of derivatives, so the pixels' contributions sum to F(x) - F(b) exactly (completeness):

    pointwise function        m(x) = m(y) dy / dx                    (its slope where dx = 0)
    linear step               m(x) = W^T m(y)
    product y = u v           m(u) = m(y) (v_x + v_b) / 2,  m(v) = m(y) (u_x + u_b) / 2; a quotient alike
    max-pooling               the rise max(y_x, y_b) - y_b is brought about by the image's winner, the fall
                              y_x - max(y_x, y_b) by the baseline's winner, equal winners sharing alike; both are
                              added up where windows overlap
                              and divided by dx; no contribution exceeds its winner's own change
    layer, group, instance norm    centring, variance, inverse root and product, each as above
    part mask y = x M         m(x) = m(y) (M_x + M_b) / 2; a mask that moves is brought about by the cells that made
                              it prefer the new position to the old (a `PartMask` says which: for a mask at the peak
                              the two peaks), in proportion to their own changes: exact here too

Shrikumar, Greenside, Kundaje, ICML 2017 (arXiv 1704.02685), whose rules do not cover pooling; the usual replacement
misses the sum by up to several times its value. Image and baseline run apart, each on its own tape. A network that
takes another path for the baseline, or a decision without slope that differs, is refused with a sentence.
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_cnn.explanation.baselines import Baseline, reference_images
from interp_cnn.explanation.network.logits import check_question, checked_evaluation, target_logits
from interp_cnn.explanation.network.precision import precision
from interp_cnn.explanation.network.refusals import gathered_refusals, refuse_where
from interp_cnn.explanation.propagation.deeplift_steps import propagate_multipliers
from interp_cnn.explanation.propagation.in_double import KEPT, is_same, walked_in_double
from interp_cnn.explanation.propagation.recordings import Recordings
from interp_cnn.explanation.propagation.tape import Step, Tape, Value, check_plain, record

log = logging.getLogger(__name__)
_recordings = Recordings("deeplift")


@dataclass(frozen=True)
class DeepLiftMaps:
    """Maps of some images, and what can be said of them.

    Attributes:
        maps: (B, C, H, W), in units of the logit.
        only_rounding: (B,) whether the logit changes by no more than the rounding of its parts, so that the map's sum
            says nothing.
    """

    maps: Tensor
    only_rounding: Tensor


@torch.inference_mode(False)
@precision("float32")
def deeplift(
    network: nn.Module, images: Tensor, targets: Tensor | int, *, baseline: Baseline = "zero"
) -> Tensor:
    """DeepLIFT contributions of the pixels; they sum to F(image) - F(baseline) of the target logit.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W), or one image (C, H, W).
        targets: (B,) classes, or one for all images.
        baseline: see `reference_images`; the maps of several are averaged.

    Returns:
        (B, C, H, W), signed, in units of the logit.

    Raises:
        ValueError: an operation of the network that no rule knows, with its place.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> deeplift(network, torch.rand(3, 8, 8), 2).shape
        torch.Size([1, 3, 8, 8])
    """
    return _handed_back(network, images, targets, baseline).maps


@torch.inference_mode(False)
@precision("float32")
def deeplift_with_doubts(
    network: nn.Module, images: Tensor, targets: Tensor, *, baseline: Baseline = "zero"
) -> DeepLiftMaps:
    """The maps of `deeplift`, and which of them have a sum that says nothing."""
    return _handed_back(network, images, targets, baseline)


def _handed_back(
    network: nn.Module, images: Tensor, targets: Tensor | int, baseline: Baseline
) -> DeepLiftMaps:
    check_plain(network)
    images, targets = check_question(images, targets)
    walked = _walked(network, images, targets, baseline)
    if images.dtype == torch.float32 and images.device.type != "mps":
        _walk_again_in_double(network, images, targets, baseline, walked)
    doubts = [_only_rounding(each, change, walked.largest) for each, change in walked.of_baselines]
    maps = torch.stack([contributions for contributions, _ in walked.of_baselines])
    return DeepLiftMaps(maps.mean(0), torch.stack(doubts).any(0))


@dataclass
class _Walked:
    """The logits (B, K), the largest value on each image's way (B,), and of each baseline the contributions
    (B, C, H, W) and the logit's change (B,).
    """

    logits: Tensor
    largest: Tensor
    of_baselines: list[tuple[Tensor, Tensor]]


def _walked(network: nn.Module, images: Tensor, targets: Tensor, baseline: Baseline) -> _Walked:
    def way(images: Tensor, targets: Tensor, *, asking: bool = False) -> tuple[Tensor, ...]:
        """Logits, largest values, whether anything is refused, then contributions and change of each baseline;
        without `asking` the host reads nothing.
        """
        parts = []
        tape = record(network, images)
        score = target_logits(tape.logits.tensor, targets)
        start = torch.zeros_like(tape.logits.tensor).scatter_(1, targets[:, None], 1)
        refused = torch.zeros((), dtype=torch.bool, device=images.device)
        for reference in reference_images(images, baseline):
            at_baseline = baseline_values(network, tape, reference)
            with gathered_refusals() as refusals:
                contributions = multipliers_at(tape, at_baseline, start, tape.images) * (images - reference)
            if asking:
                _refuse(refusals)
            elif refusals:
                refused = refused | torch.stack([condition for condition, _ in refusals]).any()
            baseline_score = at_baseline[tape.logits].expand(len(images), -1).gather(1, targets[:, None])
            parts += [contributions, score - baseline_score[:, 0]]
        return tape.logits.tensor, _largest_value(tape), refused, *parts

    with checked_evaluation(network, images, alone=True), torch.no_grad():
        outcome = None
        if isinstance(baseline, str | float | int):
            outcome = _recordings.run(way, network, images, targets, baseline)
        if outcome is None or outcome[2]:  # what is refused is refused with its sentence
            outcome = way(images, targets, asking=True)
    logits, largest, _, *parts = outcome
    return _Walked(logits, largest, list(zip(parts[::2], parts[1::2], strict=True)))


def _walk_again_in_double(
    network: nn.Module, images: Tensor, targets: Tensor, baseline: Baseline, walked: _Walked
) -> None:
    """Replace the contributions that float32 keeps no sum for: a network of little norm behind much that cancels out.

    Only where the logit changes as much in double precision (a change that is rounding, or a mask that hangs on it,
    does not). The baselines are those of all images, however few are walked again.
    """
    size = walked.logits.abs().amax(1)
    lost = torch.stack([~_keeps(each, change, size) for each, change in walked.of_baselines]).any(0)
    if not bool(lost.any()):
        return
    references = [
        reference.double() if len(reference) == 1 else reference[lost].double()
        for reference in reference_images(images, baseline)
    ]
    again = walked_in_double(
        "deeplift", network, lambda exact: _walked(exact, images[lost].double(), targets[lost], references)
    )
    if again is None:
        return
    for (contributions, change), (exact, exact_change) in zip(
        walked.of_baselines, again.of_baselines, strict=True
    ):
        same = is_same(exact_change, change[lost])
        contributions[lost] = torch.where(same[:, None, None, None], exact.to(images), contributions[lost])
        change[lost] = torch.where(same, exact_change.to(change), change[lost])


def _keeps(contributions: Tensor, change: Tensor, logits: Tensor) -> Tensor:
    """Whether each map (B, C, H, W) sums to the change (B,), as near as logits of that size and its parts let it."""
    parts = torch.maximum(contributions.abs().sum((1, 2, 3)), logits) / 10
    return (contributions.sum((1, 2, 3)) - change).abs() <= KEPT * torch.maximum(change.abs(), parts)


def _refuse(refusals: list[tuple[Tensor, str]]) -> None:
    """The first sentence that holds, by one look at all of them."""
    if refusals:
        for holds, (_, sentence) in zip(
            torch.stack([condition for condition, _ in refusals]).tolist(), refusals, strict=True
        ):
            if holds:
                raise ValueError(sentence)


def multipliers_at(tape: Tape, at_baseline: dict[Value, Tensor], start: Tensor, goal: Value) -> Tensor:
    """The multipliers of a value, shaped like it, from those of the logits, (B, K)."""
    multipliers = {tape.logits: start}
    for step in reversed(tape.steps):
        if goal in step.outputs:
            break
        received = [multipliers.pop(value, None) for value in step.outputs]
        if all(multiplier is None for multiplier in received):
            continue
        _check_decisions(step, at_baseline)
        for value, multiplier in propagate_multipliers(step, received, at_baseline):
            multipliers[value] = multipliers[value] + multiplier if value in multipliers else multiplier
    return multipliers[goal]


def baseline_values(network: nn.Module, tape: Tape, reference: Tensor) -> dict[Value, Tensor]:
    """For each value on the image's tape the baseline's tensor, of all images or one for all."""
    for count in dict.fromkeys((len(reference), len(tape.images.tensor))):
        other = record(network, reference.expand(count, *reference.shape[1:]))
        path, other_path = (
            [(s.kind, s.layer, len(s.outputs)) for s in recording.steps] for recording in (tape, other)
        )
        if path != other_path:
            raise ValueError("network takes another path for the baseline than for the image")
        pairs = {tape.images: other.images.tensor}
        for step, other_step in zip(tape.steps, other.steps, strict=True):
            pairs |= {
                value: other_value.tensor
                for value, other_value in zip(step.outputs, other_step.outputs, strict=True)
            }
        if all(_goes_with(tensor, value.tensor) for value, tensor in pairs.items()):
            return pairs
    raise ValueError("network gives the baseline's values other shapes than the image's")


def _goes_with(reference: Tensor, tensor: Tensor) -> bool:
    """Whether a baseline's value belongs to the images' one by one, or is one for all of them."""
    one_for_all = reference.dim() > 0 and len(reference) == 1 and reference.shape[1:] == tensor.shape[1:]
    return reference.shape == tensor.shape or one_for_all


def _check_decisions(step: Step, at_baseline: dict[Value, Tensor]) -> None:
    """A frozen value (a comparison, an index, a detached tensor) must be the same for image and baseline."""
    for value in step.frozen_inputs:
        made = value.step.where if value.step else "the images"
        refuse_where(
            value.tensor != at_baseline[value],
            f"deeplift: {step.where} uses {made}, which decides differently for the baseline",
        )


def _largest_value(tape: Tape) -> Tensor:
    """(B,) the largest absolute value that each image had on its way, of values that belong to one image each."""
    largest = tape.images.tensor.abs().flatten(1).amax(1)
    for step in tape.steps:
        for value in step.outputs:
            x = value.tensor
            if x.is_floating_point() and x.dim() > 1 and len(x) == len(largest) and x.numel():
                largest = torch.maximum(largest, x.abs().flatten(1).amax(1).to(largest))
    return largest


def _only_rounding(contributions: Tensor, change: Tensor, largest: Tensor) -> Tensor:
    """Whether each change of the logit is the rounding of its parts, (B,); refused where a larger one is missed.

    Args:
        contributions: (B, C, H, W).
        change: (B,).
        largest: (B,) values on the way, which are known to some 64 times the rounding of their type: layers round one
            by one, and what is large may cancel out in the logit.
    """
    error = (contributions.sum((1, 2, 3)) - change).abs()
    scale = torch.maximum(change.abs(), 0.01 * contributions.abs().sum((1, 2, 3)))
    of_values = 64 * torch.finfo(largest.dtype).eps * largest
    if not (error <= 1e-3 * scale + 1e-6 + of_values).all():
        raise ValueError(
            f"deeplift's contributions miss the change of the logit by {float(error.max()):.3g}: "
            "the network's precision is too low; network.double() has more digits"
        )
    lost = error > 1e-2 * change.abs()
    if lost.any():
        log.warning(
            "deeplift: in %d of %d images the logit changes by no more than the rounding of its parts: "
            "the map's sum says nothing (at worst %.2g instead of %.2g)",
            int(lost.sum()),
            len(lost),
            *(float(values[error.argmax()]) for values in (contributions.sum((1, 2, 3)), change)),
        )
    return lost
