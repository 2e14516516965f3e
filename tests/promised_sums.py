"""How far maps that promise a sum miss it: relevance the logit, DeepLIFT's contributions the logit's change.

A sum of much larger terms of both signs cannot be better than their rounding, so a miss is measured against the
promised sum, or against a tenth (a fifth) of the terms' absolute sum where that is more.
"""

import copy

import torch
from torch import Tensor, nn

from interp_cnn.explanation.baselines import reference_images
from interp_cnn.explanation.propagation.deeplift import deeplift
from interp_cnn.explanation.propagation.lrp import lrp

EVERY_RULE = (
    "epsilon",
    "gamma",
    "z+",
    "alpha-beta",
    "flat",
    "epsilon-plus",
    "epsilon-plus-flat",
    "epsilon-gamma-box",
    "alpha2-beta1",
    "alpha2-beta1-flat",
    "z-box",
)
ALLOWED = {torch.float32: 1e-5, torch.float64: 1e-9}


def relevance_miss(network: nn.Module, images: Tensor, targets: Tensor, rule: str) -> float:
    """How far the relevance misses the logit; allowed is `ALLOWED`."""
    logits, own = _logits(network, images)
    relevance = lrp(network, images, targets, rule=rule).double().flatten(1)
    wanted = logits.gather(1, targets[:, None])[:, 0]
    return _miss(relevance, wanted, relevance.abs().sum(1) / 10, own)


def contributions_miss(network: nn.Module, images: Tensor, targets: Tensor, baseline: str | Tensor) -> float:
    """How far DeepLIFT's contributions miss the logit's change; the rounding of the logits is in the change."""
    (reference,) = reference_images(images, baseline)
    contributions = deeplift(network, images, targets, baseline=baseline).double().flatten(1)
    (logits, own), (before, own_before) = _logits(network, images), _logits(network, reference)
    change = (logits - before).gather(1, targets[:, None])[:, 0]
    parts = torch.maximum(contributions.abs().sum(1), logits.abs().amax(1))
    return _miss(contributions, change, parts / 5, own + own_before)


def _logits(network: nn.Module, images: Tensor) -> tuple[Tensor, float]:
    """The logits, and how far the network itself is from its answer in double precision."""
    exact = copy.deepcopy(network).double()
    with torch.no_grad():
        logits = network(images.clone()).double()
        return logits, float((logits - exact(images.double())).abs().max())


def _miss(maps: Tensor, wanted: Tensor, parts: Tensor, own: float) -> float:
    """The largest one; infinite where a map is no number, so that no comparison lets it pass."""
    error = ((maps.sum(1) - wanted).abs() - own).clamp(min=0)
    return float((error / torch.maximum(wanted.abs(), parts)).nan_to_num(torch.inf).max())
