"""What an explanation asks of a layer that masks feature maps around a part: where, how much, and why there.

Such a layer multiplies every map x of a filter by a mask M around the position that it infers from x itself:

    y = r(x) M_mu(x)        mu(x) = the position        r = ReLU or the identity

Its position moves by jumps, so no gradient tells what a move did to the output; whoever explains the network asks
the layer. Explanations take any network and know no layer by its class, so the questions are a protocol, which
`interp_cnn.model.interpretable_conv.TemplateMask` answers.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class PartMask(Protocol):
    """A layer (B, D, h, w) -> (B, D, h, w) that masks each map around the position of its part.

    Attributes:
        enabled: False where the layer is the identity.
        rectify: whether negative activations are set to zero before anything else.
    """

    enabled: bool
    rectify: bool

    def __call__(self, feature_maps: Tensor, /) -> Tensor:
        """The masked maps."""
        ...

    def positions(self, feature_maps: Tensor) -> Tensor:
        """Where the masks lie: maps as they enter the layer, (B, D, h, w), to (B, D) int64, row-major cells."""
        ...

    def factors_at(self, positions: Tensor, height: int, width: int) -> Tensor:
        """What the maps are multiplied by at given positions: (B, D) to (B, D, h, w)."""
        ...

    def evidence_between(self, positions: Tensor, others: Tensor, height: int, width: int) -> Tensor:
        """What in a map decides between two positions: (B, D) and (B, D) to weights (B, D, h, w).

        The layer prefers `positions` to `others` on a map x >= 0 where sum_c weights_c x_c > 0.
        """
        ...

    def undecided(self, feature_maps: Tensor, inexact: Tensor | None, rounding: float) -> Tensor:
        """Whose mask could lie elsewhere if values were rounded otherwise: maps (B, D, h, w) to (B, D) boolean.

        Of exactly equal values a layer takes the same one each time; of values that rounding has set apart, or made
        equal, it takes any.

        Args:
            feature_maps: as they enter the layer.
            inexact: (B, D, h, w), cells that may be off by rounding even where they are exactly equal to another; None:
                unknown, equal values count as exact.
            rounding: relative error of the values.
        """
        ...


def is_part_mask(module: nn.Module | None) -> bool:
    """Whether a module answers as a `PartMask`, also where it is switched off."""
    return isinstance(module, PartMask)
