"""One way back along a tape: relevance handed from the logits, or from a layer, to the pixels, step by step."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from interp_cnn.explanation.network.operations import MOVES, SUMS
from interp_cnn.explanation.propagation.linear_layers import WeightedLayer
from interp_cnn.explanation.propagation.lrp_rules import STABILISER, Epsilon, Rule, ZBox
from interp_cnn.explanation.propagation.lrp_steps import Shares, propagate_relevance
from interp_cnn.explanation.propagation.tape import Step, Tape, Value
from interp_cnn.explanation.propagation.transposes import of_one_output

_PROPORTIONAL = SUMS | {"add", "sub"}
_AFFINE = MOVES | {"add", "sub", "rsub", "mul", "div", "neg", "batch_norm", "mean", "interpolate"}


@dataclass(frozen=True)
class Conservation:
    """One step's ledger: the relevance it received from above and handed down, for each image."""

    layer: str
    operation: str
    received: Tensor  # (B,)
    propagated: Tensor  # (B,)


@dataclass
class Walk:
    """One way back along a tape.

    Attributes:
        tape: the operations that ran.
        rules: of the weighted steps.
        norms: batch norms folded into the weighted steps before them.
        ledger: filled with what every step received and handed down.
        by_activation: (B,) the images whose biases share by activation; None for no image.
        keeping: steps whose biases and shifts keep their share of the relevance for themselves.
    """

    tape: Tape
    rules: dict[Step, Rule | ZBox]
    norms: dict[Step, Step]
    ledger: list[Conservation] | None = None
    by_activation: Tensor | None = None
    keeping: frozenset[Step] = frozenset()
    largest: Tensor = field(init=False)  # (B,) absolute sum of the relevance on the way
    lost: Tensor = field(init=False)  # (B,) what rounding lost on the way, before it was handed out again

    def __post_init__(self) -> None:
        self.folded = set(self.norms.values())
        self.count = len(self.tape.images.tensor)
        epsilons = {rule.epsilon if isinstance(rule, Epsilon) else None for rule in self.rules.values()}
        common = epsilons.pop() if len(epsilons) == 1 else None
        self.epsilon = common or STABILISER  # one for all layers: for sums as well

    def to_pixels(
        self, start: dict[Value, Tensor], total: Tensor, *, stop: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The relevance of the pixels (B, C, H, W), and which images' relevance outgrew the precision (B,).

        Args:
            start: values with their relevance, as from `relevance_of_logits`.
            total: (B,) what the pixels' relevance is to sum to.
            stop: give up once all images' relevance has outgrown the precision.
        """
        rounding = torch.finfo(total.dtype).eps
        limit = 1e-5 / rounding * total.abs()
        self.largest, swollen = total.abs(), torch.zeros_like(total)  # swollen: the same behind sums
        if self.ledger is not None:
            self.ledger.clear()
        relevance, walked = dict(start), 0
        for step in reversed(self.tape.steps):
            received = [relevance.pop(value, None) for value in step.outputs]
            if all(share is None for share in received):
                continue
            shares = self._handed_down(step, received)
            if step in self.rules:
                self.largest = torch.maximum(self.largest, self._size(shares[0][1]))
                walked += 1
                if stop and walked in (1, 4, 16) and not (self.largest <= limit).any():
                    break  # looked up seldom: each look waits for the device
            elif step.kind in _PROPORTIONAL:
                for _, share in shares:
                    swollen = torch.maximum(swollen, self._size(share))
            _add(shares, relevance)
        pixels = relevance.get(self.tape.images, torch.zeros_like(self.tape.images.tensor))
        self.lost = total - sums(pixels)
        most = 1e4 * rounding * torch.maximum(self.largest, swollen)
        return _without_rounding(pixels, total, most), ~(self.largest <= limit)

    def to_value(self, start: dict[Value, Tensor], goal: Value) -> Tensor:
        """The relevance of one value on the way, shaped like it."""
        relevance = dict(start)
        for step in reversed(self.tape.steps):
            if goal in step.outputs:
                break
            received = [relevance.pop(value, None) for value in step.outputs]
            if any(share is not None for share in received):
                _add(self._handed_down(step, received), relevance)
        return relevance.get(goal, torch.zeros_like(goal.tensor))

    def _handed_down(self, step: Step, received: list[Tensor | None]) -> Shares:
        if step in self.rules:
            shares = self._shared(step, of_one_output(received))
        elif step in self.folded:
            shares = [(step.argument(0, "input"), of_one_output(received))]
        else:
            by_activation = self._sharing_by_activation(step.outputs[0].tensor)
            shares = propagate_relevance(
                step, received, by_activation, self.epsilon, keeping=step in self.keeping
            )
        if self.ledger is not None:
            arrived = [share for share in received if share is not None]
            handed = self._sums([share for _, share in shares])
            self.ledger.append(Conservation(step.layer, step.kind, self._sums(arrived), handed))
        return shares

    def _sharing_by_activation(self, values: Tensor) -> Tensor | None:
        """(B,) images whose biases share by activation; none where a network took its images apart before."""
        return self.by_activation if values.dim() and len(values) == self.count else None

    def _size(self, share: Tensor) -> Tensor:
        """(B,) absolute sums; where a network takes its images apart into another batch, the sum of all for each."""
        sums = share.abs().reshape(*share.shape[:1] or (1,), -1).sum(1)
        return sums if len(sums) == self.count else sums.sum().expand(self.count)

    def _shared(self, step: Step, relevance: Tensor) -> Shares:
        kept = step in self.keeping
        by_activation = (
            torch.ones(self.count, dtype=torch.bool, device=relevance.device)
            if kept
            else self._sharing_by_activation(relevance)
        )
        layer = WeightedLayer(step, self.norms.get(step), by_activation, keeps_bias=kept)
        rule = self.rules[step]
        if isinstance(rule, ZBox):
            bounds = [_reached(self.tape, step, bound)[:1] for bound in (rule.low, rule.high)]
            share = rule.share_between(layer, relevance, torch.minimum(*bounds), torch.maximum(*bounds))
        else:
            share = rule.share(layer, relevance)
        return [(layer.value, share)]

    def _sums(self, tensors: list[Tensor]) -> Tensor:
        return torch.stack([tensor.reshape(self.count, -1).sum(1) for tensor in tensors]).sum(0)


def relevance_of_logits(tape: Tape, targets: Tensor) -> Tensor:
    """(B, K): each image's target logit in its place, nothing elsewhere."""
    logits, places = tape.logits.tensor, targets[:, None]
    return torch.zeros_like(logits).scatter_(1, places, logits.gather(1, places))


def sums(relevance: Tensor) -> Tensor:
    """(B,) in double precision where the device has it."""
    return relevance.flatten(1).sum(1, dtype=None if relevance.device.type == "mps" else torch.float64)


def _add(shares: Shares, relevance: dict[Value, Tensor]) -> None:
    for value, share in shares:
        relevance[value] = relevance[value] + share if value in relevance else share


def _without_rounding(pixels: Tensor, total: Tensor, most: Tensor) -> Tensor:
    """What rounding lost on the way, at most (B,), goes to the pixels in proportion to their relevance."""
    size = pixels.abs()
    missing = (total - sums(pixels)).to(pixels)
    missing = missing * (missing.abs() <= most) / size.sum((1, 2, 3)).clamp(min=torch.finfo(size.dtype).tiny)
    return torch.addcmul(pixels, size, missing[:, None, None, None])


def _reached(tape: Tape, layer: Step, pixel: float) -> Tensor:
    """The layer's input were every pixel of this value; only an affine way from the pixels is walked."""
    tensors = {tape.images: torch.full_like(tape.images.tensor, pixel)}
    goal = layer.argument(0, "input")
    for step in tape.steps:
        if goal in tensors:
            break
        if step.kind in _AFFINE and all(value in tensors for value in step.inputs):
            output = step.run(tensors)
            outputs = output if isinstance(output, tuple | list) else [output]
            tensors |= dict(zip(step.outputs, outputs, strict=True))
    if goal not in tensors:
        raise ValueError(f"the z-box rule is for a layer that sees the pixels, not for {layer.where}")
    return tensors[goal]
