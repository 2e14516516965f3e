"""Rules of layer-wise relevance propagation: how an output's relevance R_j is shared out among the inputs x_i.

Contributions are z_ij = x_i w_ij without the bias, so a bias shares its relevance out among them; z_j = sum_i z_ij,
(.)+ and (.)- are positive and negative parts:

    Epsilon      R_i = sum_j z_ij / (z_j + eps sign z_j) R_j                                  Bach et al. 2015
    Gamma        the same with z_ij + gamma z_ij+ where z_j >= 0, z_ij + gamma z_ij- elsewhere
                                                                  Montavon et al. 2019; Andeol et al. 2021
    ZPlus        z_ij+ / sum_i z_ij+                                          Montavon et al. 2017 (alpha1 beta0)
    AlphaBeta    alpha z_ij+ / sum_i z_ij+  -  beta z_ij- / sum_i z_ij-,  alpha - beta = 1    Bach et al. 2015
    ZBox         z_ij - low w_ij+ - high w_ij-, over their sum: for pixels in [low, high]     Montavon et al. 2017
    Flat         1 / (number of inputs connected with j)                                Lapuschkin et al. 2019

Every rule conserves: what it cannot share in proportion (a denominator of zero: a black patch under a bias; the part
that epsilon absorbs) is spread evenly over the connected inputs, and alpha-beta with contributions of one sign only
shares by that sign. A rule reads the layer's weights and never writes to them.
"""

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from interp_cnn.explanation.network.logits import check_positive
from interp_cnn.explanation.propagation.linear_layers import WeightedLayer

STABILISER = 1e-6


class Rule(Protocol):
    """Shares the relevance of a layer's outputs out among its inputs."""

    def share(self, layer: WeightedLayer, relevance: Tensor) -> Tensor:
        """Relevance of the layer's outputs to relevance of its inputs."""
        ...


@dataclass(frozen=True)
class Epsilon:
    """In proportion to the contributions; a larger epsilon evens out what stands on weak evidence."""

    epsilon: float = STABILISER

    def __post_init__(self) -> None:
        check_positive(epsilon=self.epsilon)

    def share(self, layer: WeightedLayer, relevance: Tensor) -> Tensor:
        """R_i = x_i sum_j w_ij R_j / z_j."""
        denominator = stabilised(layer.total, self.epsilon)
        factor = relevance / denominator
        shared = layer.transpose(factor, layer.weight).mul_(layer.input)
        shared = _with_bias(layer, shared, factor)
        return _with_rest(layer, shared, (factor, layer.total, denominator))


@dataclass(frozen=True)
class Gamma:
    """In proportion, with the contributions that agree with the sign of their sum strengthened by 1 + gamma.

    The sign is that of the sum which is shared out: with the sign of the biased output, as zennit takes it, the
    denominator z_j + gamma z_j+ of a unit that only its bias keeps up can come close to zero, and one such unit
    covers the whole map.
    """

    gamma: float = 0.25

    def __post_init__(self) -> None:
        check_positive(gamma=self.gamma)

    def share(self, layer: WeightedLayer, relevance: Tensor) -> Tensor:
        """Positive sums favour what speaks for them, negative ones what speaks against."""
        positive = _signed(layer, +1)
        for_output = layer.total >= 0
        agreeing = torch.where(for_output, positive, layer.contributions - positive)
        total = layer.total + self.gamma * agreeing
        denominator = stabilised(total)
        factor = relevance / denominator
        shared = torch.zeros_like(layer.input)
        for sign, outputs in ((+1, for_output), (-1, ~for_output)):
            shared += _transposed(layer, factor * outputs, sign, self.gamma, 1.0)
        shared = _with_bias(layer, shared, factor)
        return _with_rest(layer, shared, (factor, total, denominator))


@dataclass(frozen=True)
class ZPlus:
    """In proportion to the positive contributions only."""

    def share(self, layer: WeightedLayer, relevance: Tensor) -> Tensor:
        """R_i = sum_j z_ij+ / z_j+ R_j."""
        positive = _signed(layer, +1)
        denominator = stabilised(positive)
        factor = relevance / denominator
        return _with_rest(layer, _transposed(layer, factor, +1), (factor, positive, denominator))


@dataclass(frozen=True)
class AlphaBeta:
    """Alpha times the positive contributions' shares minus beta times the negative ones'; alpha - beta = 1."""

    alpha: float = 2.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        if abs(self.alpha - self.beta - 1) > 1e-6 or self.beta < 0:
            raise ValueError(f"alpha - beta must be 1 and beta at least 0, got {self.alpha} and {self.beta}")

    def share(self, layer: WeightedLayer, relevance: Tensor) -> Tensor:
        """An output with contributions of one sign only is shared in proportion to them."""
        positive = _signed(layer, +1)
        negative = layer.contributions - positive
        both = (positive > STABILISER) & (negative < -STABILISER)
        alpha = torch.where(both, self.alpha, (positive >= -negative).to(relevance))
        above, below = stabilised(positive), stabilised(negative)
        factor_for = alpha * relevance / above
        factor_against = (1 - alpha) * relevance / below
        shared = _transposed(layer, factor_for, +1) + _transposed(layer, factor_against, -1)
        return _with_rest(layer, shared, (factor_for, positive, above), (factor_against, negative, below))


@dataclass(frozen=True)
class ZBox:
    """For the first layer: pixels lie in [low, high], taken through the normalisation in front of the layer."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got low={self.low}, high={self.high}")

    def share_between(self, layer: WeightedLayer, relevance: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Share with the bounds at the layer's own input, (1, C, H, W) each."""
        rising, falling = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
        total = layer.contributions - layer.forward(low, rising) - layer.forward(high, falling)
        denominator = stabilised(total)
        factor = relevance / denominator
        shared = layer.input * layer.transpose(factor, layer.weight)
        shared -= low * layer.transpose(factor, rising)
        shared -= high * layer.transpose(factor, falling)
        return _with_rest(layer, shared, (factor, total, denominator))


@dataclass(frozen=True)
class Flat:
    """Evenly over the connected inputs."""

    def share(self, layer: WeightedLayer, relevance: Tensor) -> Tensor:
        """R_i = sum_j R_j / (inputs connected with j)."""
        return layer.spread(relevance)


def stabilised(denominator: Tensor, epsilon: float = STABILISER) -> Tensor:
    """The denominator moved away from zero by epsilon."""
    return torch.copysign(_number(epsilon, denominator.dtype, denominator.device), denominator).add_(
        denominator
    )


@cache
def _number(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(value, dtype=dtype, device=device)


def _signed(layer: WeightedLayer, sign: int) -> Tensor:
    """The sum of each output's contributions of one sign."""
    x, same = layer.input, _part(layer.weight, sign)
    if layer.nonnegative:
        return layer.forward(x, same)
    other = _part(layer.weight, -sign)
    return layer.forward(x.clamp(min=0), same) + layer.forward(x.clamp(max=0), other)


def _transposed(
    layer: WeightedLayer, factor: Tensor, sign: int, strength: float = 1.0, plain: float = 0.0
) -> Tensor:
    """Factors back to x_i sum_j (plain w_ij + strength w_ij of the sign that gives contributions of this sign)."""
    x = layer.input

    def weight(sign: int) -> Tensor:
        signed = _part(layer.weight, sign)
        return signed if (plain, strength) == (0, 1) else plain * layer.weight + strength * signed

    same = weight(sign)
    if layer.nonnegative:
        return layer.transpose(factor, same).mul_(x)
    other = weight(-sign)
    return x.clamp(min=0) * layer.transpose(factor, same) + x.clamp(max=0) * layer.transpose(factor, other)


def _part(weight: Tensor, sign: int) -> Tensor:
    return weight.clamp(min=0) if sign > 0 else weight.clamp(max=0)


def _with_bias(layer: WeightedLayer, shared: Tensor, factor: Tensor) -> Tensor:
    """The share of the biases that is handed out by activation."""
    bias = layer.bias_by_activation
    return shared if bias is None or layer.keeps_bias else shared + layer.spread_by_activation(factor * bias)


def _with_rest(layer: WeightedLayer, shared: Tensor, *parts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """What the stabilisers of the denominators absorbed, spread evenly over the connected inputs.

    Args:
        layer: the layer.
        shared: relevance of its inputs so far; changed.
        parts: (relevance / stabilised denominator, denominator, stabilised denominator) of each part.
    """
    rests = [factor * (stable - denominator) for factor, denominator, stable in parts]
    return shared.add_(layer.spread(sum(rests[1:], rests[0])))  # spreading is linear
