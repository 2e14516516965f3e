"""Batch normalisation over the images of all processes, so that a batch may be cut into pieces.

With W processes of B / W images each layer's mean and variance are those of all B images, and the gradient goes
through them to every process. torch.nn.SyncBatchNorm does the same, but not on a CPU.

Source: Ioffe, Szegedy, Batch Normalization, ICML 2015, algorithm 1.
"""

from functools import partial

import torch
from torch import Tensor, nn

from interp_cnn.model.distributed import sum_over_ranks, world_size


def share_batch_norms(network: nn.Module) -> None:
    """Makes every batch norm of a network one of all processes; its weights and their names stay."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.forward = partial(shared_batch_norm, module, module.forward)


def shared_batch_norm(norm: nn.modules.batchnorm._BatchNorm, alone, input: Tensor) -> Tensor:
    """Normalised values (B, D, ...) of `input`; `alone` is what the layer does by itself, in evaluation mode."""
    if not norm.training or world_size() == 1:
        return alone(input)
    axes = [axis for axis in range(input.dim()) if axis != 1]
    shape = [1, -1, *[1] * (input.dim() - 2)]
    exact = input.float()
    count = sum_over_ranks(exact.new_tensor(float(input.numel() // input.shape[1])))
    mean = _Sum.apply(exact.sum(axes)) / count  # (D,)
    centred = exact - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(axes)) / count
    _remember(norm, mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
    normalised = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        normalised = normalised * norm.weight.view(shape) + norm.bias.view(shape)
    return normalised.to(input.dtype)


@torch.no_grad()
def _remember(norm: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """The running statistics, as the layer itself keeps them."""
    if not norm.track_running_stats:
        return
    assert norm.num_batches_tracked is not None  # it tracks
    assert norm.running_mean is not None and norm.running_var is not None
    norm.num_batches_tracked += 1
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean), share)
    norm.running_var.lerp_(variance.to(norm.running_var), share)


class _Sum(torch.autograd.Function):
    """Sum over processes; every process's loss depends on every term, so gradients are summed as well."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        return sum_over_ranks(values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return sum_over_ranks(gradient.contiguous())
