"""A loss of a layer's maps whose gradient joins the task's on its way back, as a share of it.

    g = g_task + w g_own        w = ratio x |g_task| / |g_own|

The weight is the one of this very step, and nothing is computed twice: the own loss is taken back only when the
task's gradient has come down to the maps. By then the maps that went up, masked, are no longer kept, so that both
never lie in memory together. A loss that is simply added to the task's would be taken back first and its gradient
held until the end.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from interp_cnn.model.distributed import sum_over_ranks


class AuxiliaryLoss:
    """What pulls at the maps of one layer in one step, from the forward to the end of the backward pass.

    Attributes:
        weight: () w, known after the backward pass; 0 where a norm is zero or not finite.
    """

    def __init__(self, feature_maps: Tensor):
        self.maps: Tensor | None = feature_maps
        self.loss: Tensor | None = None
        self.ratio = 0.0
        self.weight = torch.zeros((), device=feature_maps.device)

    def join(self, loss: Tensor, ratio: float) -> None:
        """Pull by `loss`, () that depends on the maps, `ratio` times as hard as the task does."""
        self.loss, self.ratio = loss, ratio

    def attached(self) -> Tensor:
        """The maps as the network goes on with them: what comes back from there is the task's gradient."""
        assert self.maps is not None  # they are let go of in the backward pass only
        return _Pulled.apply(self.maps, self)

    def joined(self, task: Tensor) -> Tensor:
        """The gradient of the maps, from the task's; pulled the first time alone."""
        maps, loss = self.maps, self.loss
        self.maps = self.loss = None  # nothing is held while the layers below go back
        if maps is None or loss is None or self.ratio == 0:
            return task
        (gradient,) = torch.autograd.grad(loss, maps)
        squares = torch.stack([tensor.float().square().sum() for tensor in (task, gradient)])
        norms = sum_over_ranks(squares).sqrt()  # of all processes' images
        weight = self.ratio * norms[0] / norms[1]
        # on the device: to ask here would make the host wait for it in every step
        pulls = weight < torch.inf  # NaN and infinity do not
        self.weight = weight.nan_to_num(0, 0, 0)
        return torch.where(pulls, gradient.mul_(weight).add_(task), task)


class _Pulled(torch.autograd.Function):
    """The identity; backward asks the pull."""

    rectifies = False  # told to guided back-propagation

    @staticmethod
    def forward(ctx, feature_maps: Tensor, pull: AuxiliaryLoss) -> Tensor:
        ctx.auxiliary_loss = pull
        return feature_maps.view_as(feature_maps)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        return ctx.auxiliary_loss.joined(gradient), None
