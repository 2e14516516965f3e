"""A scoring sheet: what a network decides, said again with few filters per class, each with a weight that only adds.

On a frozen network a linear head is fitted over presences, the largest value of each filter's map. Weights are not
negative, so that a filter can only speak for a class, and an L1 penalty takes filters out one by one:

    minimise over W >= 0 and b:  mean cross-entropy(W x + b) + strength * sum(W)

At each strength the filters that are left are fitted once more without the penalty, which shrinks their weights (the
relaxed lasso: Meinshausen, Computational Statistics & Data Analysis 52, 2007). Sparse heads with non-negative weights
over presences are those of PIP-Net (Nauta et al., CVPR 2023); here no network is trained for them.

The path is fitted on training images. How sparse a sheet may be at a given loss is chosen on one half of the judging
images and stated on the other, and the other way round, so that the choice flatters nobody.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = 16
WEAKEST = 1e-3  # of the strength at which no filter is left
STEPS = 200
STILL = 1e-5  # largest change of a weight (of standardised presences) that counts as none


@dataclass(frozen=True, eq=False)
class ScoringSheet:
    """K classes that add up weights of D filters.

    Attributes:
        strength: of the penalty.
        weights: (K, D), not negative; the unit is one logit per unit of a filter's presence.
        biases: (K,).
    """

    strength: float
    weights: Tensor
    biases: Tensor

    @property
    def filters_per_class(self) -> float:
        """Filters with a weight, the mean over the classes."""
        return float((self.weights > 0).sum(1).double().mean())

    def answers(self, presences: Tensor) -> Tensor:
        """Presences (N, D) to classes (N,)."""
        return (presences.double() @ self.weights.T + self.biases).argmax(1)


def scoring_path(
    presences: Tensor, labels: Tensor, classes: int, *, strengths: int = STRENGTHS
) -> list[ScoringSheet]:
    """Scoring sheets from the sparsest to the fullest.

    Args:
        presences: (N, D) of training images.
        labels: (N,) int64.
        classes: K.
        strengths: sheets on the path.

    Example:
        >>> presences = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.8]])
        >>> sheet = scoring_path(presences, torch.tensor([0, 0, 1, 1]), 2)[-1]
        >>> sheet.answers(presences), sheet.filters_per_class
        (tensor([0, 0, 1, 1]), 1.0)
    """
    scale = presences.double().std(0, correction=0)
    scale = scale.where(scale > 0, torch.inf)  # a filter that never changes tells nothing
    inputs = presences.double() / scale
    biases = labels.bincount(minlength=classes).double().clamp(min=0.5).log()
    weights = torch.zeros(classes, inputs.shape[1], dtype=torch.float64)
    highest = float((-_slopes(inputs, labels, weights, biases)[0]).max())
    if not highest > 0:  # nothing speaks for any class
        return [ScoringSheet(0.0, weights, biases)]
    sheets = []
    for strength in torch.logspace(
        math.log10(0.9 * highest), math.log10(WEAKEST * highest), strengths, dtype=torch.float64
    ).tolist():
        weights, biases = fitted(inputs, labels, weights, biases, strength=strength)
        relaxed, at = fitted(inputs, labels, weights, biases, strength=0.0, kept=weights > 0)
        sheets.append(ScoringSheet(strength, relaxed / scale, at))
    return sheets


def fitted(
    inputs: Tensor,
    labels: Tensor,
    weights: Tensor,
    biases: Tensor,
    *,
    strength: float,
    kept: Tensor | None = None,
    steps: int = STEPS,
    still: float = STILL,
) -> tuple[Tensor, Tensor]:
    """Weights and biases that minimise the penalised loss, from some start on: accelerated proximal gradients with
    restarts (Beck and Teboulle 2009; O'Donoghue and Candès 2015).

    Args:
        inputs: (N, D) float64.
        labels: (N,).
        weights: (K, D) where to start.
        biases: (K,) likewise.
        strength: of the penalty.
        kept: (K, D) bool, which weights may differ from 0; None: all.
        steps: at most.
        still: largest change of a weight that counts as none.
    """
    with_one = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=inputs.dtype)], 1)
    # the cross-entropy's second derivative is at most half of the inputs' second moments
    rate = 2 * len(inputs) / float(torch.linalg.matrix_norm(with_one, 2)) ** 2
    momentum, looking, at = 1.0, weights, biases
    for _ in range(steps):
        slope, of_biases = _slopes(inputs, labels, looking, at)
        new = (looking - rate * (slope + strength)).clamp(min=0)
        if kept is not None:
            new = new * kept
        moved = at - rate * of_biases
        change, drift = new - weights, moved - biases
        uphill = ((looking - new) * change).sum() + ((at - moved) * drift).sum() > 0
        following = 1.0 if uphill else (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        pace = 0.0 if uphill else (momentum - 1) / following
        weights, biases, momentum = new, moved, following
        looking, at = weights + pace * change, biases + pace * drift
        if max(float(change.abs().max()), float(drift.abs().max())) < still:
            break
    return weights, biases


def _slopes(inputs: Tensor, labels: Tensor, weights: Tensor, biases: Tensor) -> tuple[Tensor, Tensor]:
    """Of the mean cross-entropy by the weights (K, D) and by the biases (K,)."""
    wrong = (inputs @ weights.T + biases).softmax(1) - F.one_hot(labels, len(biases))
    return wrong.T @ inputs / len(inputs), wrong.mean(0)


@dataclass(frozen=True)
class Sparsest:
    """How few filters do at a stated loss of accuracy.

    Attributes:
        filters_per_class: mean over both halves.
        accuracy: of the sheets, each on the half that it was not chosen on.
        network: accuracy of the network itself on the same images.
    """

    filters_per_class: float
    accuracy: float
    network: float


def sparsest_within(
    path: Sequence[ScoringSheet], presences: Tensor, labels: Tensor, right: Tensor, *, loss: float = 0.01
) -> Sparsest:
    """The sparsest sheets that lose at most `loss` of the network's accuracy on every other image, judged on the rest.

    Args:
        path: from the sparsest to the fullest.
        presences: (N, D) of judging images.
        labels: (N,).
        right: (N,) bool, whether the network itself is right.
        loss: of accuracy; where no sheet keeps that, the most accurate is taken.
    """
    hits = torch.stack([sheet.answers(presences) == labels for sheet in path]).double()  # (S, N)
    first = torch.arange(len(labels)) % 2 == 0
    filters, judged = [], torch.zeros(len(labels), dtype=torch.float64)
    for chosen_on in (first, ~first):
        if not chosen_on.any() or chosen_on.all():
            chosen_on = torch.ones_like(first)  # one image: it is judge and judged
        accuracy = hits[:, chosen_on].mean(1)
        enough = accuracy >= float(right[chosen_on].double().mean()) - loss - 1e-12
        place = int(enough.to(torch.int8).argmax()) if enough.any() else int(accuracy.argmax())
        filters.append(path[place].filters_per_class)
        judged[~chosen_on] = hits[place, ~chosen_on]
        if chosen_on.all():
            judged = hits[place]
    return Sparsest(sum(filters) / 2, float(judged.mean()), float(right.double().mean()))
