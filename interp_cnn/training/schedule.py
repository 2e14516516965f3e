"""The learning rate over a training: one cycle, in the form of Smith & Topin (2018), "Super-convergence".

It rises along half a cosine from 1/25 of its peak and falls along another to 1/250,000 of it, as
`torch.optim.lr_scheduler.OneCycleLR` does, which divides by zero where the rise takes exactly one step.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

FIRST, LAST = 1 / 25, 1 / 250_000  # of the peak


def one_cycle(step: int, *, steps: int, warmup_share: float) -> float:
    """The learning rate of a step as a share of the peak.

    Args:
        step: 0 for the first.
        steps: of the whole training, 1 or more.
        warmup_share: part of the steps in which the rate rises; a rise of at most one step is none, and the training
            begins at the peak.

    Example:
        >>> [round(one_cycle(step, steps=5, warmup_share=0.6), 2) for step in range(5)]
        [0.04, 0.52, 1.0, 0.5, 0.0]
    """
    peak = max(0.0, warmup_share * steps - 1)  # the step at which it is highest
    if step < peak:
        return _between(FIRST, 1.0, step / peak)
    fall = steps - 1 - peak
    return _between(1.0, LAST, min(1.0, (step - peak) / fall)) if fall > 0 else 1.0


def one_cycle_schedule(optimizer: Optimizer, *, steps: int, warmup_share: float) -> dict:
    """The schedule as Lightning takes it; the optimiser's own rate is the peak.

    Raises:
        ValueError: a share that is none.
    """
    if not 0 <= warmup_share <= 1:
        raise ValueError(f"warmup_share is {warmup_share}; expected a share from 0 to 1")
    steps = max(1, steps)
    schedule = LambdaLR(optimizer, lambda step: one_cycle(step, steps=steps, warmup_share=warmup_share))
    return {"scheduler": schedule, "interval": "step"}


def _between(start: float, end: float, share: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
