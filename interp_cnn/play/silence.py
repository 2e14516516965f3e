"""Filters that are switched off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.feature_maps import named_layer
from interp_cnn.explanation.network.placement import beside


@contextmanager
def silent_filters(network: nn.Module, layer: str, count: int, off: Sequence[int]) -> Iterator[None]:
    """Some filters of a layer give maps of zeros within the block, whatever runs the network.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        layer: dotted name of a module whose output is (B, D, h, w).
        count: D.
        off: numbers of the filters, each from 0 to D - 1; none: nothing changes.
    """
    if not off:
        yield
        return
    kept = torch.ones(count, 1, 1)
    kept[list(off)] = 0
    kept = beside(network, kept)

    def silence(_layer: nn.Module, _given: object, maps: Tensor) -> Tensor:
        return maps * kept

    handle = named_layer(network, layer).register_forward_hook(silence)
    try:
        yield
    finally:
        handle.remove()
