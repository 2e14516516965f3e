"""Layer-wise relevance propagation (LRP): the target logit handed back to the pixels, layer by layer, nothing lost.

The relevance of the target logit is the logit itself. Walking back along the operations that ran (`tape`), each step
hands the relevance of its outputs to its inputs, so that the sum stays what it was (conservation):

    convolution, linear      by a rule of `relevance_rules`, chosen for the layer; batch norm behind it is folded in
    activation, batch norm, layer norm, template mask, product with a constant    passed through (a constant gate)
    sum of two branches, average pooling, mean                                    in proportion to the contributions
    max-pooling                                                                   to the winner of each window
    view, slice, concatenation, padding                                           to where each value came from
    product of two values    to the signal, none to the gate (the broadcast one, or a sigmoid's output); else half each
    quotient                 to the numerator, none to the normaliser

Biases share their relevance out among the contributions, z_ij / sum_i z_ij. Where contributions cancel out and the
bias alone keeps a unit up, that quotient explodes (a trained five-layer CNN on MNIST: absolute sum 10^4 times the
logit; a random resnet18: 10^24), and the map is noise. Biases can instead share by activation, in proportion to
|x_i|, as if each bias were part of the weights: z_ij + b_j |x_i| / sum_i |x_i|. That is stable at any depth (3 to 16
times the logit on trained networks) and is used where digits would run out.

Bach et al., PLoS ONE 2015; Montavon et al., in: Explainable AI, LNCS 11700, 2019. Gates: Arras et al. 2017; layer
norm: Achtibat et al., ICML 2024. An operation without a rule is refused by name and place.
"""

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.logits import check_question, evaluation_mode, target_logits
from interp_cnn.explanation.network.precision import precision
from interp_cnn.explanation.propagation.composites import RuleChoice, chosen_rules
from interp_cnn.explanation.propagation.linear_layers import WeightedLayer, folded_norms
from interp_cnn.explanation.propagation.lrp_rules import STABILISER, Epsilon, Rule, ZBox
from interp_cnn.explanation.propagation.lrp_steps import Shares, propagate_relevance
from interp_cnn.explanation.propagation.operations import MOVES, SUMS, of_one_output
from interp_cnn.explanation.propagation.tape import Step, Tape, check_plain, record

log = logging.getLogger(__name__)

WORTH_SAYING = 1e-3  # share of the logit that a map misses
_PROPORTIONAL = SUMS | {"add", "sub"}
_AFFINE = MOVES | {"add", "sub", "rsub", "mul", "div", "neg", "batch_norm", "mean", "interpolate"}


@dataclass(frozen=True)
class Conservation:
    """One step's ledger: the relevance it received from above and handed down, for each image."""

    layer: str
    operation: str
    received: Tensor  # (B,)
    propagated: Tensor  # (B,)


@dataclass(frozen=True)
class Relevance:
    """Maps of some images, and what they lack.

    Attributes:
        maps: (B, C, H, W), in units of the logit.
        missing: (B,) the share of the logit that the map's sum misses.
    """

    maps: Tensor
    missing: Tensor


@torch.inference_mode(False)
@precision("float32")
def lrp(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | int,
    *,
    rule: RuleChoice = "epsilon",
    biases: str = "auto",
) -> Tensor:
    """Layer-wise relevance propagation from the target logit to the pixels; the map sums to the logit.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W), or one image (C, H, W).
        targets: (B,) classes, or one for all images.
        rule: how weighted layers share relevance: a rule (`Epsilon(0.1)`), its name (`epsilon`, `gamma`, `z+`,
            `alpha-beta`, `flat`), a composite's name (`epsilon-plus`, `epsilon-plus-flat`, `epsilon-gamma-box`,
            `alpha2-beta1`, `alpha2-beta1-flat`, `z-box`), or a mapping from layer types, dotted layer names or
            `first` to rules or their names.
        biases: how the rules epsilon and gamma share a bias: in proportion to the `contributions`, by `activations`,
            or `auto`: by contributions, but by activations for an image whose relevance on the way outgrows the
            precision (absolute sum times rounding above 1e-5 of the logit: 84 times the logit in float32, which
            trained networks with batch norm exceed by far). The log says for how many. Choose one of the two
            where maps of many images are to be compared.

    Returns:
        (B, C, H, W), signed, in units of the logit.

    Raises:
        ValueError: an unknown rule, or an operation of the network that no rule knows, with its place.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> lrp(network, torch.rand(3, 8, 8), 2, rule="epsilon-plus").shape
        torch.Size([1, 3, 8, 8])
    """
    return _propagated(network, images, targets, rule, biases).maps


@torch.inference_mode(False)
@precision("float32")
def lrp_with_missing(
    network: nn.Module, images: Tensor, targets: Tensor, *, rule: RuleChoice = "epsilon", biases: str = "auto"
) -> Relevance:
    """The maps of `lrp`, and the share of the logit that each of them misses."""
    return _propagated(network, images, targets, rule, biases)


@torch.inference_mode(False)
@precision("float32")
def lrp_conservation(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | int,
    *,
    rule: RuleChoice = "epsilon",
    biases: str = "auto",
) -> list[Conservation]:
    """What every step of `lrp` received and handed down, from the logits to the pixels."""
    ledger: list[Conservation] = []
    _propagated(network, images, targets, rule, biases, ledger)
    return ledger


def _propagated(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | int,
    rule: RuleChoice,
    biases: str,
    ledger: list[Conservation] | None = None,
) -> Relevance:
    if biases not in ("auto", "contributions", "activations"):
        raise ValueError(f"biases must be 'auto', 'contributions' or 'activations', got {biases!r}")
    check_plain(network)
    images, targets = check_question(images, targets)
    with evaluation_mode(network, images, alone=True), torch.no_grad():
        tape = record(network, images)
        score = target_logits(tape.logits.tensor, targets)
        walk = _Walk(tape, chosen_rules(tape, rule), folded_norms(tape.steps), targets, score, ledger)
        if biases == "activations":
            walk.by_activation = torch.ones_like(targets, dtype=torch.bool)
        result, outgrown = walk.back(stop=biases == "auto")
        if biases == "auto" and outgrown.any():
            log.info("lrp: biases share by activation in %d of %d images", int(outgrown.sum()), len(images))
            walk.by_activation = outgrown
            result, _ = walk.back(stop=False)
    if not torch.isfinite(result).all():
        raise ValueError("relevance is NaN or infinite: contributions that cancel out outgrow the precision")
    missing = ((score - _sums(result)) / score).abs().nan_to_num(0)
    if (missing > WORTH_SAYING).any():
        log.warning(
            "lrp: up to %.2g %% of the logit is missing from the maps of %d of %d images",
            100 * float(missing.max()),
            int((missing > WORTH_SAYING).sum()),
            len(images),
        )
    return Relevance(result, missing)


@dataclass
class _Walk:
    """One way back along a tape; `by_activation` are the images whose biases share by activation."""

    tape: Tape
    rules: dict[Step, Rule | ZBox]
    norms: dict[Step, Step]
    targets: Tensor
    score: Tensor
    ledger: list[Conservation] | None
    by_activation: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.folded = set(self.norms.values())
        epsilons = {rule.epsilon if isinstance(rule, Epsilon) else None for rule in self.rules.values()}
        common = epsilons.pop() if len(epsilons) == 1 else None
        self.epsilon = common or STABILISER  # one for all layers: for sums as well

    def back(self, stop: bool) -> tuple[Tensor, Tensor]:
        """The relevance of the pixels, and which images' relevance outgrew the precision (`stop`: when all did)."""
        logits = self.tape.logits.tensor
        start = torch.zeros_like(logits).scatter_(1, self.targets[:, None], self.score[:, None])
        relevance = {self.tape.logits: start}
        rounding = torch.finfo(logits.dtype).eps
        largest = self.score.abs()  # (B,) absolute sum of the relevance on the way
        limit = 1e-5 / rounding * largest
        swollen = torch.zeros_like(largest)  # the same behind sums
        if self.ledger is not None:
            self.ledger.clear()
        walked = 0
        for step in reversed(self.tape.steps):
            received = [relevance.pop(value, None) for value in step.outputs]
            if all(one is None for one in received):
                continue
            if step in self.rules:
                shares = self._shared(step, of_one_output(received))
                largest = torch.maximum(largest, self._size(shares[0][1]))
                walked += 1
                if stop and walked in (1, 4, 16) and not (largest <= limit).any():
                    break  # looked up seldom: each look waits for the device
            elif step in self.folded:
                shares = [(step.argument(0, "input"), of_one_output(received))]
            else:
                shares = propagate_relevance(
                    step, received, self._sharing_by_activation(step.outputs[0].tensor), self.epsilon
                )
                if step.kind in _PROPORTIONAL:
                    for _, share in shares:
                        swollen = torch.maximum(swollen, self._size(share))
            if self.ledger is not None:
                propagated = [share for _, share in shares]
                arrived = [one for one in received if one is not None]
                self.ledger.append(
                    Conservation(step.layer, step.kind, self._sums(arrived), self._sums(propagated))
                )
            for value, share in shares:
                relevance[value] = relevance[value] + share if value in relevance else share
        pixels = relevance.get(self.tape.images, torch.zeros_like(self.tape.images.tensor))
        return self._without_rounding(pixels, 1e4 * rounding * torch.maximum(largest, swollen)), ~(
            largest <= limit
        )

    def _sharing_by_activation(self, values: Tensor) -> Tensor | None:
        """(B,) images whose biases share by activation; none where a network took its images apart before."""
        return self.by_activation if values.dim() and len(values) == len(self.targets) else None

    def _size(self, share: Tensor) -> Tensor:
        """(B,) absolute sums; where a network takes its images apart into another batch, the sum of all for each."""
        sums = share.abs().flatten(1).sum(1)
        return sums if len(sums) == len(self.targets) else sums.sum().expand(len(self.targets))

    def _without_rounding(self, pixels: Tensor, most: Tensor) -> Tensor:
        """What rounding lost on the way, at most (B,), goes to the pixels in proportion to their relevance."""
        size = pixels.abs()
        missing = (self.score - _sums(pixels)).to(pixels)
        missing = (
            missing * (missing.abs() <= most) / size.sum((1, 2, 3)).clamp(min=torch.finfo(size.dtype).tiny)
        )
        return torch.addcmul(pixels, size, missing[:, None, None, None])

    def _shared(self, step: Step, relevance: Tensor) -> Shares:
        layer = WeightedLayer(step, self.norms.get(step), self._sharing_by_activation(relevance))
        rule = self.rules[step]
        if isinstance(rule, ZBox):
            bounds = [_reached(self.tape, step, bound)[:1] for bound in (rule.low, rule.high)]
            share = rule.share_between(layer, relevance, torch.minimum(*bounds), torch.maximum(*bounds))
        else:
            share = rule.share(layer, relevance)
        return [(layer.value, share)]

    def _sums(self, tensors: list[Tensor]) -> Tensor:
        return torch.stack([one.reshape(len(self.targets), -1).sum(1) for one in tensors]).sum(0)


def _sums(relevance: Tensor) -> Tensor:
    """(B,) in double precision where the device has it."""
    return relevance.sum((1, 2, 3), dtype=None if relevance.device.type == "mps" else torch.float64)


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
