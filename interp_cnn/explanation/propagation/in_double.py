"""A way back walked again by a copy of the network in double precision, where float32 keeps no sum."""

import copy
import logging
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

log = logging.getLogger(__name__)
Found = TypeVar("Found")

KEPT = 1e-5  # of what a map is to sum to, or of a share of its absolute sum: what float32 may miss
SAME = 1e-4  # likewise: a network that gives another number in double precision hangs on rounding


def walked_in_double(of: str, network: nn.Module, walk: Callable[[nn.Module], Found]) -> Found | None:
    """What `walk` gives for a copy of the network in double precision; None where there is none.

    Args:
        of: the method, for the log.
        network: stays as it is.
        walk: from a network to whatever is asked of it.
    """
    try:
        return walk(copy.deepcopy(network).double())
    except Exception as reason:  # a network of others that takes no copy, or no other number type
        log.info("%s: not walked again in double precision (%s)", of, str(reason).partition("\n")[0])
        return None


def is_same(exact: Tensor, before: Tensor) -> Tensor:
    """Whether double precision tells the same of the network, of each number."""
    return (exact - before).abs() <= SAME * before.abs()
