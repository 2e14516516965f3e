"""Sums over the processes of a distributed training; without one a sum is the value itself.

Every process of the group has to call, in the same order.
"""

from torch import Tensor, distributed


def world_size() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum of a tensor over all processes."""
    if world_size() > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def mean_over_ranks(values: Tensor) -> Tensor:
    """Mean of a tensor over all processes."""
    processes = world_size()
    return sum_over_ranks(values) / processes if processes > 1 else values
