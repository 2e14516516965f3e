"""A network measured with one call: what its filters follow, how steadily, and how often it is right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.filters.measure_network import NetworkMeasures, measure_network
from interp_cnn.explanation.gradients.grad_cam import last_feature_maps
from interp_cnn.explanation.network.feature_maps import evaluation_mode
from interp_cnn.explanation.network.layers import layer_name
from interp_cnn.explanation.network.placement import device_of


def evaluate_network(
    network: nn.Module,
    loader: Iterable[PartBatch],
    *,
    layer: str | nn.Module | None = None,
    name: str = "network",
    kind: str = "",
    classes: Sequence[str] | None = None,
    parts: Sequence[str] | None = None,
    background: int | None = None,
    filter_categories: Tensor | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> NetworkMeasures:
    """Accuracy, location instability, tracking gain and every other measure of a layer's filters, with intervals.

    Args:
        network: any classifier, images (B, C, H, W) -> logits (B, K); runs where its parameters lie.
        loader: batches of images (with landmarks and masks where they are known), in an order that does not change;
            read twice where parts have masks.
        layer: dotted name of a module, or the module, whose output is feature maps (B, D, h, w); by default the last
            one.
        name: as shown in tables.
        kind: "interpretable", "plain", ..., as shown in tables.
        classes: K names; by default numbers.
        parts: P names of the landmarks; by default numbers.
        background: class without objects, which gets no filters.
        filter_categories: (D,) int64 the class of each filter, -1 for none; by default the class on whose images its
            mean score is highest.
        resamples: of the images, for the intervals.
        seed: of the resampling; networks with the same seed and images are compared in pairs.

    Returns:
        `filters` (a table, one row per filter), `summary` (measure -> value with interval) and more.

    Raises:
        ValueError: no images, an unknown layer, or batches that do not fit each other.

    Example:
        >>> import torch
        >>> from interp_cnn.data.parts import PartBatch
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 3)
        ... )
        >>> images, marks = torch.rand(12, 1, 8, 8), torch.rand(12, 2, 2) * 8
        >>> batch = PartBatch(images, torch.arange(12) % 3, marks, None, None, None, [str(n) for n in range(12)])
        >>> measures = evaluate_network(network, [batch], resamples=20)
        >>> measures.layer, len(measures.filters)
        ('1', 2)
    """
    first = next(iter(loader), None)
    if first is None:
        raise ValueError("loader gives no batch; expected at least one image")
    device = device_of(network)
    image = first.images[:1].to(device)
    with evaluation_mode(network), torch.no_grad():
        logits = network(image)
        chosen = last_feature_maps(network, image) if layer is None else layer_name(network, layer)
    classes = classes or [f"class {number}" for number in range(logits.shape[1])]
    parts = parts or [f"part {number}" for number in range(first.landmarks.shape[1])]
    return measure_network(
        network,
        loader,
        layer=chosen,
        name=name,
        kind=kind,
        classes=classes,
        parts=parts,
        image_size=(first.images.shape[2], first.images.shape[3]),
        background=background,
        filter_categories=filter_categories,
        resamples=resamples,
        seed=seed,
    )
