"""For and against: what speaks for one class rather than another is what moves the difference of their logits."""

from collections.abc import Sequence

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

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to one difference per pair (B, pairs)."""
        return self.differences(self.network(images))
