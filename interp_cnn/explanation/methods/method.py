"""What a relevance method is: a function from network, images and targets to maps, and what its values mean."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from interp_cnn.explanation.methods.options import Options


class MethodResult(NamedTuple):
    """What a method's function finds.

    Attributes:
        maps: (B, H, W).
        sums: (B,).
        passes: the work in forward passes, where it is not the images that the network was sent.
        notes: one sentence per image about its map, such as how far it can be trusted; empty for none.
    """

    maps: Tensor
    sums: Tensor
    passes: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """One way to ask.

    Attributes:
        maps: (network, images (B, C, H, W), targets (B,), options) -> what it finds.
        meaning: what a pixel's value says, for people.
        unit: of the values.
        signed: whether values below zero speak against the class.
        cells: what several pixels together say: the "sum" of their values (shares), the "mean" (slopes), or "" where
            neighbours say much the same anyway.
        cost: about how many images an image's map sends through the network, for estimates.
        total: (network, images, targets, options) -> (B,), what the maps should sum to; None: nothing.
        classes: whether values are not amounts but numbers of classes.
        worth: (network, images (1, C, H, W), options) -> the same known better, from a plan or from this image; None:
            `cost`.
        work: time of one of these passes in plain forward passes; more than 1 where the way back is taken too.
    """

    maps: Callable[[nn.Module, Tensor, Tensor, Options], MethodResult]
    meaning: str
    unit: str
    signed: bool = True
    cells: str = "sum"
    cost: Callable[[tuple[int, int], Options], float] = lambda size, options: 1.0
    total: Callable[[nn.Module, Tensor, Tensor, Options], Tensor] | None = None
    classes: bool = False
    worth: Callable[[nn.Module, Tensor, Options], float] | None = None
    work: float = 1.0


def with_sums(maps: Tensor, notes: tuple[str, ...] = (), passes: float | None = None) -> MethodResult:
    """Maps that sum to what their values add up to."""
    return MethodResult(maps, maps.double().sum((1, 2)), passes, notes)
