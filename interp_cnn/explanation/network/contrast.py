"""For and against: what speaks for the target class rather than for its rival.

A map of the target's logit alone shows what helps the target, also where it helps every class. The map of the
difference f_target - f_rival shows what decides between the two: above zero it speaks for the target, below zero
for the rival, near zero it does not matter. Any method can be asked, since the difference is a network's logit too.
"""

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn


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
