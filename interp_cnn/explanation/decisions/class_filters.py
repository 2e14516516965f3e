"""Which filters make a class: their mean share in its logit, in how many of its images, and how few of them suffice.

Images ranked by relevance (RelMax) are those in which a filter brings most to the logit of the image's own class; the
usual exemplars are those in which it fires most, whatever for (Achtibat et al., Nature Machine Intelligence 5, 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp_cnn.explanation.decisions.contributions import Contributions, filter_contributions
from interp_cnn.explanation.decisions.head import Head
from interp_cnn.explanation.network.feature_maps import evaluation_mode
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.storage.brief import Brief

IN_TURN = ("exact", "deeplift", "lrp")
PIXELS = (
    1 << 18
)  # of the images asked at once: all that a network computes on them is kept until logits are shared out


def pieces(images: Tensor) -> list[slice]:
    """Parts of a batch (B, C, H, W) that a large network's memory bears.

    Example:
        >>> pieces(torch.zeros(10, 3, 256, 256))
        [slice(0, 4, None), slice(4, 8, None), slice(8, 10, None)]
    """
    size = max(1, PIXELS // (images.shape[2] * images.shape[3]))
    return [slice(at, min(at + size, len(images))) for at in range(0, len(images), size)]


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


@dataclass(frozen=True, eq=False, repr=False)
class ImageShares(Brief):
    """What the filters of a layer bring to each of N images' own class.

    Attributes:
        layer: dotted name.
        method: by which logits were shared out.
        linear: whether nothing but sums lies behind the layer.
        labels: (N,) int64, the images' classes.
        logits: (N, K).
        shares: (N, D) in the logit of the image's own class.
        rest: (N,) what no filter brings to it.
        positions: (N, D, 2) int64, row and column of the cell that brings most of each share.
        presences: (N, D), the largest value of each filter's map.
    """

    layer: str
    method: str
    linear: bool
    labels: Tensor
    logits: Tensor
    shares: Tensor
    rest: Tensor
    positions: Tensor
    presences: Tensor

    @property
    def right(self) -> Tensor:
        """(N,) bool, whether the network says the image's own class."""
        return self.logits.argmax(1) == self.labels

    def most_relevant(self, class_number: int, filter_number: int, count: int) -> list[int]:
        """Images of a class to which a filter brings most (RelMax); those to which it brings nothing are none.

        Returns:
            Places among the N images, at most `count`.
        """
        members = (self.labels == class_number).nonzero().flatten()
        shares = self.shares[members, filter_number]
        order = shares.argsort(descending=True, stable=True)[:count]
        return members[order[shares[order] > 0]].tolist()


def image_shares(network: nn.Module, loader: Iterable[Any], *, layer: str) -> ImageShares:
    """Share out the logit of each image's own class, by one method for all images.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        loader: batches with `images` (B, C, H, W) and `labels` (B,).
        layer: dotted name of a module whose output is (B, D, h, w).

    Raises:
        Refusal: no method shares the network's logits out.
        ValueError: the loader gave no batch.
    """
    device = device_of(network)
    methods: Sequence[str] = IN_TURN
    parts: list[tuple[Tensor, ...]] = []
    contributions: Contributions | None = None
    for images, labels in _in_pieces(loader):
        contributions = by_first_that_works(
            network, images.to(device), labels.to(device), layer=layer, methods=methods
        )
        methods = (contributions.method,)
        tensors = (
            contributions.logits,
            contributions.shares,
            contributions.rest,
            contributions.positions,
            contributions.activations.amax((2, 3)),
        )
        parts.append((labels, *(tensor.detach().cpu() for tensor in tensors)))
    if contributions is None:
        raise ValueError("the loader gave no batch; expected at least one image")
    labels, logits, shares, rest, positions, presences = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    return ImageShares(
        layer=contributions.layer,
        method=contributions.method,
        linear=contributions.linear,
        labels=labels,
        logits=logits,
        shares=shares,
        rest=rest,
        positions=positions,
        presences=presences,
    )


@dataclass(frozen=True, eq=False, repr=False)
class ClassFilters(Brief):
    """What the filters of a layer bring to each of K classes, on images of that class.

    Attributes:
        shares: (K, D) mean share in the class's logit over its images; NaN for a class without images.
        often: (K, D) in what part of them the filter speaks for the class.
        rest: (K,) mean of what no filter brings.
        images: (K,) int64.
    """

    shares: Tensor
    often: Tensor
    rest: Tensor
    images: Tensor

    @property
    def ranking(self) -> Tensor:
        """(K, D) int64, for each class the filters that bring most to it first."""
        return self.shares.nan_to_num().argsort(dim=1, descending=True, stable=True)

    def shared_with(self, class_number: int, filter_number: int) -> list[int]:
        """Other classes to which a filter brings at least half of what it brings to a class."""
        share = float(self.shares[class_number, filter_number])
        brings = self.shares[:, filter_number].nan_to_num() >= share / 2
        return [k for k in brings.nonzero().flatten().tolist() if k != class_number] if share > 0 else []


def class_filters(shares_of_images: ImageShares) -> ClassFilters:
    """The shares of all filters, averaged over the images of each class."""
    classes, shares = shares_of_images.logits.shape[1], shares_of_images.shares.double()
    images = shares_of_images.labels.bincount(minlength=classes)
    count = images[:, None].double()

    def mean(values: Tensor) -> Tensor:
        zeros = torch.zeros(classes, values.shape[1], dtype=torch.float64)
        return zeros.index_add(0, shares_of_images.labels, values.double()) / count

    return ClassFilters(mean(shares), mean(shares > 0), mean(shares_of_images.rest[:, None])[:, 0], images)


@torch.inference_mode(False)
def right_with_few(
    network: nn.Module, loader: Iterable[Any], ranking: Tensor, counts: Sequence[int], *, layer: str
) -> Tensor:
    """Which images are told right when each class keeps only the first filters of its ranking, all others silent.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        loader: batches with `images` and `labels`; other images than those that the ranking is from.
        ranking: (K, D), see `ClassFilters.ranking`.
        counts: filters per class, P of them.
        layer: dotted module name.

    Returns:
        (P, N) bool: the image's own class has the largest of the K logits, each computed with the filters that its
        class keeps.
    """
    device = device_of(network)
    place = ranking.argsort(dim=1).to(device)  # (K, D): where in its ranking each filter stands
    right = []
    for images, labels in _in_pieces(loader):
        with evaluation_mode(network), torch.no_grad():
            head = Head(network, images.to(device), layer)
            predicted = torch.stack(
                [
                    torch.stack(
                        [
                            head(head.maps * (kept < count)[None, :, None, None])[:, k]
                            for k, kept in enumerate(place)
                        ],
                        1,
                    ).argmax(1)
                    for count in counts
                ]
            )
        right.append(predicted.cpu() == labels)
    return torch.cat(right, 1)


def _in_pieces(loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels."""
    for batch in loader:
        for part in pieces(batch.images):
            yield batch.images[part], batch.labels[part].cpu()
