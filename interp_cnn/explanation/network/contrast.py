"""For and against: what speaks for the target class rather than for its rival.

A map of the target's logit alone shows what helps the target, also where it helps every class. The map of the
difference f_target - f_rival shows what decides between the two: above zero it speaks for the target, below zero
for the rival, near zero it does not matter. Any method can be asked, since the difference is a network's logit too.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.logits import check_question, checked_evaluation, target_logits


class LogitDifferences(nn.Module):
    """A network that answers with differences of two logits each: f_target - f_other, one for each pair.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        pairs: (target, other) classes.
        classes: K.
    """

    def __init__(self, network: nn.Module, pairs: Sequence[tuple[int, int]], classes: int) -> None:
        super().__init__()
        self.network = network
        weight = torch.zeros(len(pairs), classes)
        for row, (target, other) in enumerate(pairs):
            weight[row, target], weight[row, other] = 1.0, -1.0
        like = next(network.parameters(), weight)
        self.differences = nn.Linear(classes, len(pairs), bias=False, device="meta")
        self.differences.weight = nn.Parameter(weight.to(like), requires_grad=False)
        self.training = network.training

    def train(self, mode: bool = True) -> "LogitDifferences":
        """Training or evaluation mode, of the network too unless it has one only."""
        with suppress(NotImplementedError):  # what torch.export made
            super().train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to one difference per pair (B, pairs)."""
        return self.differences(self.network(images))


def for_and_against(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    against: Tensor | None = None,
    method: Callable[[nn.Module, Tensor, Tensor], Tensor],
) -> Tensor:
    """The map of the target's logit minus the rival's.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W).
        targets: (B,) classes.
        against: (B,) rivals; by default the class with the largest logit besides the target.
        method: (network, images, targets) -> (B, C, H, W); options by `functools.partial`.

    Returns:
        (B, C, H, W): above zero for the target, below zero for the rival.
    """
    images, targets = check_question(images, targets)
    with checked_evaluation(network), torch.no_grad():
        logits = network(images)
        target_logits(logits, targets)
    against = rivals(logits, targets) if against is None else check_question(images, against)[1]
    target_logits(logits, against)
    if (against == targets).any():
        raise ValueError("against must be another class than the target in every image")
    pairs, which = torch.unique(torch.stack([targets, against], 1), dim=0, return_inverse=True)
    differences = LogitDifferences(network, [tuple(pair) for pair in pairs.tolist()], logits.shape[1])
    return method(differences, images, which)


def rivals(logits: Tensor, targets: Tensor) -> Tensor:
    """The class with the largest logit besides the target, (B,)."""
    if logits.shape[1] < 2:
        raise ValueError("a network with one class has no rival class")
    return logits.scatter(1, targets[:, None], float("-inf")).argmax(1)
