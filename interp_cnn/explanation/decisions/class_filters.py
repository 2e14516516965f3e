"""Which filters make a class: their mean share in its logit, in how many of its images, and how few of them suffice.

Exemplars by relevance (RelMax) are the images in which a filter brings most to the logit of the image's own class; the
usual ones are those in which it fires most, whatever for (Achtibat et al., Nature Machine Intelligence 5, 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp_cnn.explanation.decisions.contributions import Contributions, filter_contributions
from interp_cnn.explanation.decisions.head import Head
from interp_cnn.explanation.filters.exemplars import Exemplars, Look, strongest_of
from interp_cnn.explanation.network.feature_maps import evaluation_mode
from interp_cnn.explanation.network.refusals import Refusal

IN_TURN = ("exact", "deeplift", "lrp")


@dataclass(frozen=True, eq=False)
class ClassFilters:
    """What the filters of a layer bring to each class, on images of that class.

    Attributes:
        layer: dotted name.
        method: by which logits were shared out.
        shares: (K, D) mean share in the class's logit over its images; NaN for a class without images.
        often: (K, D) in what part of them the filter speaks for the class.
        images: (K,) int64.
    """

    layer: str
    method: str
    shares: Tensor
    often: Tensor
    images: Tensor

    @property
    def ranking(self) -> Tensor:
        """(K, D) int64, for each class the filters that bring most to it first."""
        return self.shares.nan_to_num().argsort(dim=1, descending=True, stable=True)

    def shared_with(self, class_number: int, filter_number: int, part: float = 0.5) -> list[int]:
        """Other classes to which a filter brings at least this part of what it brings to a class."""
        own = float(self.shares[class_number, filter_number])
        brings = self.shares[:, filter_number].nan_to_num() >= part * own
        return [k for k in brings.nonzero().flatten().tolist() if k != class_number] if own > 0 else []


def by_first_that_works(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    layer: str | None,
    methods: Sequence[str] = IN_TURN,
) -> Contributions:
    """`filter_contributions` by the first of some methods that the network allows.

    Raises:
        Refusal: it allows none.
    """
    for method in methods[:-1]:
        with suppress(Refusal, ValueError):
            return filter_contributions(network, images, targets, layer=layer, method=method)
    return filter_contributions(network, images, targets, layer=layer, method=methods[-1])


def class_filters(network: nn.Module, loader: Iterable[Any], classes: int, *, layer: str) -> ClassFilters:
    """Shares of all filters in the logit of each image's own class, averaged over the images of each class.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        loader: batches with `images` (B, C, H, W) and `labels` (B,).
        classes: K.
        layer: dotted name of a module whose output is (B, D, h, w).

    Raises:
        Refusal: no method shares the network's logits out.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    total = often = torch.zeros((), dtype=torch.float64)
    images, method = torch.zeros(classes, dtype=torch.int64), ""
    for batch in loader:
        labels = batch.labels.cpu()
        found = by_first_that_works(network, batch.images.to(device), labels.to(device), layer=layer)
        shares, method = found.shares.double().cpu(), found.method
        zeros = torch.zeros(classes, shares.shape[1], dtype=torch.float64)
        total = total + zeros.index_add(0, labels, shares)
        often = often + zeros.index_add(0, labels, (shares > 0).double())
        images += labels.bincount(minlength=classes)
    count = images[:, None].double()
    return ClassFilters(layer, method, total / count, often / count, images)


def relevance_exemplars(
    network: nn.Module, loader: Iterable[Any], *, layer: str, count: int = 9
) -> Exemplars:
    """The images in which each filter brings most to the logit of the image's own class (RelMax).

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        loader: batches with `images` (B, C, H, W) in [0, 1], `labels` (B,) and `names`, always in the same order.
        layer: dotted module name.
        count: exemplars per filter.

    Returns:
        As `exemplars`, with shares as scores, and in place of the maps what each cell brings.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))

    def look(batch: Any) -> Look:
        targets = batch.labels.to(device)
        found = by_first_that_works(network, batch.images.to(device), targets, layer=layer)
        return Look(found.maps, found.positions, found.shares)

    return strongest_of(network, loader, look, layer=layer, count=count)


@torch.inference_mode(False)
def accuracy_with_few(
    network: nn.Module, loader: Iterable[Any], ranking: Tensor, counts: Sequence[int], *, layer: str
) -> dict[int, float]:
    """Accuracy when each class keeps only the first filters of its ranking, all others of its logit at zero.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        loader: batches with `images` and `labels`; other images than those that the ranking is from.
        ranking: (K, D), see `ClassFilters.ranking`.
        counts: filters per class.
        layer: dotted module name.

    Returns:
        {count: share of images whose own class has the largest logit}.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    place = ranking.argsort(dim=1).to(device)  # (K, D): where in its ranking each filter stands
    right, seen = dict.fromkeys(counts, 0), 0
    for batch in loader:
        with evaluation_mode(network), torch.no_grad():
            head = Head(network, batch.images.to(device), layer)
            for count in counts:
                columns = [
                    head(head.maps * (place[k] < count)[None, :, None, None])[:, k]
                    for k in range(len(ranking))
                ]
                said = torch.stack(columns, 1).argmax(1).cpu()
                right[count] += int((said == batch.labels.cpu()).sum())
        seen += len(batch.images)
    return {count: hits / seen for count, hits in right.items()}
