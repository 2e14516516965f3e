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
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.logits import check_question, checked_evaluation, target_logits
from interp_cnn.explanation.network.precision import precision
from interp_cnn.explanation.propagation.composites import RuleChoice, chosen_rules
from interp_cnn.explanation.propagation.in_double import KEPT, is_same, walked_in_double
from interp_cnn.explanation.propagation.linear_layers import folded_norms
from interp_cnn.explanation.propagation.lrp_walk import Conservation, Walk, relevance_of_logits, sums
from interp_cnn.explanation.propagation.recordings import Recordings
from interp_cnn.explanation.propagation.tape import check_plain, record

log = logging.getLogger(__name__)
_recordings = Recordings("lrp")

# of the logit, or of a tenth of the map's absolute sum, on the way: behind more a map is rounding
LOST = 1e-4
WORTH_SAYING = 1e-3  # share of the logit that a map misses


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
    walked = _walked(network, images, targets, rule, biases, ledger)
    if ledger is None and images.dtype == torch.float32 and images.device.type != "mps":
        _walk_again_in_double(network, images, targets, rule, walked)
    if not torch.isfinite(walked.maps).all():
        raise ValueError("relevance is NaN or infinite: contributions that cancel out outgrow the precision")
    missing = (walked.missing / walked.score).abs().nan_to_num(0)
    if (missing > WORTH_SAYING).any():
        log.warning(
            "lrp: up to %.2g %% of the logit is missing from the maps of %d of %d images",
            100 * float(missing.max()),
            int((missing > WORTH_SAYING).sum()),
            len(images),
        )
    return Relevance(walked.maps, missing)


@dataclass
class _Walked:
    """Maps of a walk, the logits (B,) that they are to sum to, what rounding lost of them on the way (B,), and in which
    images biases share by activation (B,).
    """

    maps: Tensor
    score: Tensor
    lost: Tensor
    by_activation: Tensor

    @property
    def missing(self) -> Tensor:
        """(B,) of the logit."""
        return self.score - sums(self.maps)


def _walked(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    rule: RuleChoice,
    biases: str,
    ledger: list[Conservation] | None = None,
    given: Tensor | None = None,
) -> _Walked:
    """The way back; `given` with biases="activations": (B,) the images in which they do, None: all."""

    def way(images: Tensor, targets: Tensor, *, asking: bool = False) -> tuple[Tensor, ...]:
        """Logits (B, K), and the fields of `_Walked`; without `asking` the host reads nothing."""
        tape = record(network, images)
        score = target_logits(tape.logits.tensor, targets)
        walk = Walk(tape, chosen_rules(tape, rule), folded_norms(tape.steps), ledger)
        by_activation = biases == "activations"
        chosen = torch.full_like(targets, by_activation, dtype=torch.bool) if given is None else given
        walk.by_activation = chosen if by_activation else None
        start = {tape.logits: relevance_of_logits(tape, targets)}
        result, outgrown = walk.to_pixels(start, score, stop=asking and biases == "auto")
        if biases == "auto" and (not asking or outgrown.any()):
            walk.by_activation = chosen = outgrown
            result, _ = walk.to_pixels(start, score)
        return tape.logits.tensor, score, result, walk.lost, chosen

    with checked_evaluation(network, images, alone=True), torch.no_grad():
        outcome = None
        if ledger is None and given is None and not isinstance(rule, Mapping):
            outcome = _recordings.run(way, network, images, targets, (rule, biases))
        _, score, result, lost, chosen = way(images, targets, asking=True) if outcome is None else outcome
    if biases == "auto" and chosen.any():
        log.info("lrp: biases share by activation in %d of %d images", int(chosen.sum()), len(images))
    return _Walked(result, score, lost, chosen)


def _walk_again_in_double(
    network: nn.Module, images: Tensor, targets: Tensor, rule: RuleChoice, walked: _Walked
) -> None:
    """Replace the maps that float32 keeps no sum for: contributions of a layer cancel out to their rounding.

    Only where the network itself gives the same logit in double precision (a mask that hangs on rounding does not).
    """
    size = torch.maximum(walked.score.abs(), walked.maps.abs().sum((1, 2, 3)) / 10)
    kept = (walked.missing.abs() <= KEPT * size) & (walked.lost.abs() <= LOST * size)
    lost = ~kept  # NaN is no sum either
    if not bool(lost.any()):
        return
    again = walked_in_double(
        "lrp",
        network,
        lambda exact: _walked(
            exact, images[lost].double(), targets[lost], rule, "activations", given=walked.by_activation[lost]
        ),
    )
    if again is None:
        return
    same = is_same(again.score, walked.score[lost])
    better = same & (again.lost.abs() <= LOST * size[lost])
    walked.maps[lost] = torch.where(better[:, None, None, None], again.maps.to(images), walked.maps[lost])
