"""What a job asks of the engine that works on frames, and which of the two it gets: by the device, or by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from interp_cnn.explanation.occlusion.checks import Groups
from interp_cnn.explanation.occlusion.incremental.costs import dense_products
from interp_cnn.explanation.occlusion.incremental.engine import IncrementalOcclusion, WindowDrops
from interp_cnn.explanation.occlusion.incremental.graph import Graph
from interp_cnn.explanation.occlusion.occluders import Occluders
from interp_cnn.explanation.occlusion.one_batch.engine import ListedDrops, OneBatchOcclusion
from interp_cnn.explanation.occlusion.windows import WindowGrid


class CleanLogits(Protocol):
    """What an engine keeps of clean images; the maps beside the logits are its own."""

    logits: Tensor  # (B, K)


class Engine(Protocol):
    """Occlusion of one network by one grid of windows, on frames.

    Clean maps, batches and changes are handed from one method to another of the same engine, each in its own form.

    Attributes:
        name: as in `OcclusionJob`'s argument `engine`.
        dtype: number type of the frames.
        graph: the traced network.
        first_clean: `clean` of the example that the engine was made with, until somebody takes it.
    """

    name: str
    dtype: torch.dtype
    graph: Graph
    first_clean: Any

    @property
    def pays(self) -> bool:
        """False if the plan found nothing worth doing on frames."""
        ...

    @property
    def groups(self) -> Groups:
        """Rows, and columns, of windows that are computed alike."""
        ...

    def products(self) -> int:
        """Multiply-adds of all windows together."""
        ...

    def images_together(self, device: torch.device) -> int:
        """Images whose clean maps are kept at once."""
        ...

    def work(self, images: int, device: torch.device, wanted: np.ndarray | None) -> list[Any]:
        """Batches of a number of images; wanted: (rows, columns), the windows to compute, None: all."""
        ...

    def clean(self, images: Tensor) -> Any:
        """What the deltas need of clean images, a `CleanLogits`."""
        ...

    def changes_of(self, occluders: Occluders) -> Any:
        """What `drops` takes as changes."""
        ...

    def drops(self, clean: Any, batch: Any, changes: Any) -> Sequence[WindowDrops | ListedDrops]:
        """Drops of one batch of `work`."""
        ...


def engine_for(
    network: nn.Module,
    grid: WindowGrid,
    images: Tensor,
    *,
    engine: str,
    logits: Tensor,
    dtype: torch.dtype,
) -> IncrementalOcclusion | OneBatchOcclusion:
    """The engine that was asked for, or under "auto" the one for the device.

    Args:
        network: classifier in evaluation mode.
        grid: the windows.
        images: (B, C, H, W).
        engine: "auto", "incremental" or "one_batch".
        logits: (B, K), what the network gives for the images.
        dtype: number type of the frames.

    Raises:
        Untraceable: the network is not a constant graph.
    """
    if engine == "one_batch" or (engine == "auto" and images.device.type == "cuda"):
        return OneBatchOcclusion(network, grid, images, logits=logits, dtype=dtype)
    # in bfloat16 a difference of two logits is noise, a difference sent through the network is not
    every_step = dtype == torch.bfloat16
    return IncrementalOcclusion(network, grid, images, logits=logits, dtype=dtype, every_step=every_step)


def multiply_adds_per_pass(engine: Engine) -> int:
    """Multiply-adds of one plain forward pass of one image; at least 1."""
    return max(sum(dense_products(step) for step in engine.graph.steps.values()), 1)
