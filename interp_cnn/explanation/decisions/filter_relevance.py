"""The pixels through which a filter speaks for a class: relevance handed back through that filter alone.

The logit's relevance arrives at the layer as in `filter_contributions(method="lrp")`; that of the filters asked about
goes on to the pixels, the rest is dropped. The map of a filter sums to its share, and the maps of all filters to the
one of everything that passes the layer: which rule a bias follows is decided once for the image, not for each filter.

Conditional relevance: Achtibat et al., Nature Machine Intelligence 5, 2023, equation 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from interp_cnn.explanation.decisions.contributions import head_walk
from interp_cnn.explanation.decisions.head import Head, chosen_layer
from interp_cnn.explanation.network.logits import check_question, checked_evaluation, target_logits
from interp_cnn.explanation.network.precision import precision
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.explanation.propagation.composites import RuleChoice
from interp_cnn.explanation.propagation.lrp_walk import Walk, relevance_of_logits
from interp_cnn.explanation.propagation.tape import Value, check_plain

Filters = int | Sequence[int] | Tensor | None


@torch.inference_mode(False)
@precision("float32")
def filter_relevance(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | int,
    filters: Filters = None,
    *,
    layer: str | nn.Module | None = None,
    rule: RuleChoice = "epsilon",
) -> Tensor:
    """The part of an LRP map that reaches the pixels through some filters of a layer.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W), or one image (C, H, W).
        targets: (B,) classes, or one for all images.
        filters: a filter's number, several numbers (their sum), whole numbers (B,) (one for each image), or weights
            (1 or B, D) or (1 or B, D, h, w), such as a pattern's filters around its place; None: all filters.
        layer: as in `filter_contributions`.
        rule: as in `lrp`.

    Returns:
        (B, C, H, W), in units of the logit.

    Raises:
        ValueError: a filter that the layer does not have.
        Refusal: as `filter_contributions`.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> image = torch.rand(3, 8, 8)
        >>> parts = sum(filter_relevance(network, image, 2, number) for number in range(4))
        >>> torch.allclose(parts, filter_relevance(network, image, 2), atol=1e-5)
        True
    """
    check_plain(network)
    images, targets = check_question(images, targets)
    with checked_evaluation(network, images, alone=True), torch.no_grad():
        head = Head(network, images, chosen_layer(network, images, layer))
        target_logits(head.logits, targets)
        walk = head_walk(head, rule)
        start = {head.tape.logits: relevance_of_logits(head.tape, targets)}
        everything = walk.to_value(start, head.value)
        _settle_biases(walk, head.value, everything)
        weighted = everything * _weights(filters, head.maps)
        pixels, _ = walk.to_pixels({head.value: weighted}, weighted.sum((1, 2, 3)))
    if not torch.isfinite(pixels).all():
        raise Refusal("relevance is NaN or infinite: contributions that cancel out outgrow the precision")
    return pixels


def _settle_biases(walk: Walk, value: Value, relevance: Tensor) -> None:
    """Images whose relevance outgrows the precision on its way share biases by activation, as in `lrp`."""
    _, outgrown = walk.to_pixels({value: relevance}, relevance.sum((1, 2, 3)), stop=True)
    if outgrown.any():
        walk.by_activation = outgrown


def _weights(filters: Filters, maps: Tensor) -> Tensor:
    """What the relevance of each cell is multiplied by, broadcast over (B, D, h, w)."""
    count, depth = maps.shape[:2]
    if filters is None:
        return maps.new_ones(1, 1, 1, 1)
    if isinstance(filters, Tensor) and filters.dim() in (2, 4):
        weights = filters.to(maps) if filters.dim() == 4 else filters.to(maps)[:, :, None, None]
        if weights.shape[0] not in (1, count) or weights.shape[1] != depth:
            raise ValueError(
                f"filters: weights {tuple(filters.shape)}; expected ({count}, {depth}), or with cells"
            )
        return weights
    one_each = isinstance(filters, Tensor) and filters.dim() == 1
    numbers = torch.as_tensor(filters, device=maps.device)
    if numbers.is_floating_point() or numbers.dtype == torch.bool or numbers.dim() > 1 or not numbers.numel():
        raise ValueError(f"filters must be numbers of filters or weights, got {filters!r}")
    if one_each and len(numbers) != count:
        raise ValueError(f"filters: {len(numbers)} numbers for {count} images; expected one for each")
    if int(numbers.min()) < 0 or int(numbers.max()) >= depth:
        raise ValueError(f"filters: {int(numbers.min())}..{int(numbers.max())}; the layer has 0..{depth - 1}")
    if one_each:
        return torch.nn.functional.one_hot(numbers.long(), depth).to(maps)[:, :, None, None]
    weights = maps.new_zeros(1, depth, 1, 1)
    weights[:, numbers.reshape(-1).long()] = 1
    return weights
