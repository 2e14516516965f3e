"""A layer by its dotted name or by the module itself."""

from __future__ import annotations

from torch import nn


def layer_name(network: nn.Module, layer: str | nn.Module) -> str:
    """The dotted name of a layer of a network.

    Args:
        network: any network.
        layer: the name, or the module.

    Raises:
        ValueError: a module that is no part of the network.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> layer_name(network, network[1])
        '1'
    """
    if isinstance(layer, str):
        return layer
    for name, module in network.named_modules():
        if module is layer and name:
            return name
    raise ValueError(
        f"layer is a {type(layer).__name__} that is no module of the network; expected one of its own"
    )
