"""How much the filter loss weighs: as a share of the task's gradient, which is the same for any network.

The publication's weight is "lambda ~ 1 / epoch x mean of max x" with a constant that is not given. Here the weight
is a ratio: the filter loss pulls at the layer's feature maps `ratio` times as hard as the task does,

    weight = ratio x schedule x |d task / d x| / |d filter loss / d x|

The two norms are measured every few steps and smoothed; both live in the state dict, so a resumed run goes on
as if it had never stopped. Because they are smoothed, the ratio that a step really has is near the target, not
equal to it; `measure` answers with the norms of the step itself, from which the realised ratio is logged.
"""

import torch
from torch import Tensor, nn

from interp_cnn.model.ranks import sum_over_ranks, world_size

SCHEDULES = ("constant", "inverse_epoch", "warmup", "fade")


class LossWeight(nn.Module):
    """The weight of one layer's filter loss.

    Args:
        ratio: target ratio of the gradient norms; 0 switches the loss off.
        schedule: "constant"; "inverse_epoch": ratio / epoch (paper); "warmup": rises linearly over
            `warmup_epochs`; "fade": rises like warmup, then falls linearly to zero at the last epoch.
        warmup_epochs: see schedule.
        measure_every: steps between two measurements.
    """

    def __init__(
        self, ratio: float, *, schedule: str = "warmup", warmup_epochs: float = 2.0, measure_every: int = 8
    ):
        super().__init__()
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule is {schedule!r}; expected one of {', '.join(SCHEDULES)}")
        if ratio < 0:
            raise ValueError(f"ratio is {ratio}; expected 0 (off) or more")
        self.ratio = ratio
        self.schedule = schedule
        self.warmup_epochs = warmup_epochs
        self.measure_every = measure_every
        self.task_norm: Tensor
        self.filter_norm: Tensor
        self.register_buffer("task_norm", torch.zeros(()))
        self.register_buffer("filter_norm", torch.zeros(()))

    def target(self, epoch: float, epochs: int) -> float:
        """Ratio that is aimed at after so many (fractional) epochs of all."""
        rise = min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs > 0 else 1.0
        if self.schedule == "warmup":
            return self.ratio * rise
        if self.schedule == "fade":
            return self.ratio * rise * max(0.0, 1 - epoch / max(epochs, 1))
        if self.schedule == "inverse_epoch":
            return self.ratio / max(1.0, int(epoch) + 1.0)
        return self.ratio

    def due(self, step: int) -> bool:
        """Whether the norms are to be measured in this step."""
        return step % self.measure_every == 0 or bool(self.filter_norm == 0)

    def measure(self, task_loss: Tensor, filter_loss: Tensor, feature_maps: Tensor) -> Tensor:
        """Takes the gradient norms of both losses at the feature maps; keeps the graph.

        Returns:
            () norm of the filter loss's gradient over the task's, in this step, not smoothed.
        """
        squares = torch.stack(
            [
                torch.autograd.grad(loss, feature_maps, retain_graph=True)[0].float().square().sum()
                for loss in (task_loss, filter_loss)
            ]
        )
        # each process's gradients are world-size times those of the mean over processes
        norms = sum_over_ranks(squares).sqrt() / world_size()
        if bool(norms.isfinite().all()):
            decay = 0.0 if bool(self.filter_norm == 0) else 0.9
            self.task_norm.mul_(decay).add_(norms[0], alpha=1 - decay)
            self.filter_norm.mul_(decay).add_(norms[1], alpha=1 - decay)
        return norms[1] / norms[0].clamp(min=1e-12)

    def value(self, epoch: float, epochs: int) -> Tensor:
        """Weight of the filter loss now, ()."""
        return self.target(epoch, epochs) * self.task_norm / self.filter_norm.clamp(min=1e-12)
