"""Where a network computes."""

import torch
from torch import Tensor, nn


def device_of(network: nn.Module) -> torch.device:
    """Where a network's parameters lie; the processor, where it has none.

    Example:
        >>> device_of(nn.Linear(2, 3)), device_of(nn.ReLU())
        (device(type='cpu'), device(type='cpu'))
    """
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def beside(network: nn.Module, images: Tensor) -> Tensor:
    """The images where the network's parameters lie; where they are, if it has none."""
    return images.to(next(network.parameters(), images).device)
