"""How a network of somebody else sees pixels: what it was trained to see, and whether that is doubtful.

Maps and measures speak in pixels from 0 to 1. A network that was trained on normalised images must normalise them
itself, or be given mean and standard deviation; where neither is so, it answers all the same, and wrongly.
"""

import logging
from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)
MANY_CLASSES = 1000  # as ImageNet's have, whose networks are trained on normalised images

Statistics = float | Sequence[float] | None


def checked_statistics(
    mean: Statistics, std: Statistics, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation per channel; None where none are given.

    Args:
        mean: one number, or one per channel, of pixels in [0, 1].
        std: likewise, above zero.
        channels: C of the images.

    Raises:
        ValueError: one without the other, something that is no number, or another number of channels.

    Example:
        >>> checked_statistics(0.5, [0.2, 0.2, 0.3], 3)
        ((0.5, 0.5, 0.5), (0.2, 0.2, 0.3))
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        given, missing = ("mean", "std") if std is None else ("std", "mean")
        raise ValueError(f"{given} is given without {missing}; expected both, such as mean=0.5 std=0.25")
    per_channel = _per_channel("mean", mean, channels), _per_channel("std", std, channels)
    if min(per_channel[1]) <= 0:
        raise ValueError(f"std is {std}; expected numbers above 0")
    return per_channel


def _per_channel(name: str, value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    values = [value] if isinstance(value, int | float | str) else list(value)
    numbers = [
        number for number in values if isinstance(number, int | float) and not isinstance(number, bool)
    ]
    if len(numbers) != len(values) or not all(map(isfinite, numbers)) or len(values) not in (1, channels):
        expected = "one number" if channels == 1 else f"one number, or {channels}, one per channel"
        raise ValueError(f"{name} is {value}; expected {expected}")
    if max(map(abs, numbers)) > 10:
        raise ValueError(
            f"{name} is {value}; expected that of pixels from 0 to 1 (of 0 to 255, divided by 255)"
        )
    return tuple(map(float, numbers)) * (channels if len(numbers) == 1 else 1)


@torch.no_grad()
def sees_bare_pixels(network: nn.Module, images: Tensor) -> bool | None:
    """Whether the first convolution or linear layer that runs is sent pixels as they are.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, K), in evaluation mode.
        images: (B, C, H, W) whose values reach from 0 to 1.

    Returns:
        Whether what the layer is sent stays within [0, 1]: a normalisation takes the mean off, so that black becomes
        negative. None where no such layer can be watched (a scripted network).
    """
    sent: list[Tensor] = []

    def keep(module: nn.Module, given: tuple) -> None:
        if not sent and given and isinstance(given[0], Tensor):
            sent.append(given[0])

    layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear)]
    handles = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    if not sent:
        return None
    return bool(sent[0].min() >= 0 and sent[0].max() <= 1)


def say_doubt(network: nn.Module, name: str, shape: tuple[int, int, int]) -> None:
    """One line in the log where a network with as many classes as ImageNet's seems to see bare pixels.

    Args:
        network: in evaluation mode, where its parameters lie.
        name: as it is called.
        shape: (C, H, W) of its images.
    """
    place = next(network.parameters(), torch.empty(0))
    ramp = torch.linspace(0, 1, shape[1] * shape[2], device=place.device).view(1, 1, *shape[1:])
    images = ramp.expand(1, *shape).contiguous()
    with torch.no_grad():
        count = network(images.clone()).shape[1]
    if count >= MANY_CLASSES and sees_bare_pixels(network, images):
        log.warning(
            "%s has %d classes, and its first layer sees pixels from 0 to 1 as they are: if it was trained on "
            "normalised images, give mean= and std= (ImageNet: mean=[0.485,0.456,0.406] std=[0.229,0.224,0.225])",
            name,
            count,
        )
