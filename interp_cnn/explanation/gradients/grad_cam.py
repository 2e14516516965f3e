"""Grad-CAM: which cells of a layer's feature maps speak for the class.

    alpha_k = mean over cells of df/dA_k        map = relu(sum_k alpha_k A_k), enlarged to the image

Selvaraju et al., ICCV 2017 (arXiv 1610.02391). The map is as coarse as the layer and has no colour channel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_cnn.explanation.network.layers import layer_name
from interp_cnn.explanation.network.logits import (
    check_logits,
    check_question,
    checked_evaluation,
    target_logits,
)
from interp_cnn.explanation.network.precision import chosen_precision
from interp_cnn.explanation.network.refusals import Refusal


@torch.inference_mode(False)
@chosen_precision()
def grad_cam(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | int,
    *,
    layer: str | nn.Module | None = None,
    positive: bool = True,
) -> Tensor:
    """Grad-CAM: a layer's feature maps weighted by their mean gradient, enlarged to the image.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W), or one image (C, H, W).
        targets: (B,) classes, or one for all images.
        layer: dotted module name, or the module; by default the last one, pooling left out, that returns maps of
            more than one cell. A module that is used several times counts where it returns them last.
        positive: cut off what is negative, as in the paper.

    Returns:
        (B, H, W), enlarged bilinearly, activation times slope.

    Raises:
        ValueError: an unknown layer, or one that returns no feature maps or runs several times.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> grad_cam(network, torch.rand(3, 8, 8), 2, layer=network[1]).shape
        torch.Size([1, 8, 8])
    """
    images, targets = check_question(images, targets)
    with checked_evaluation(network, images, alone=True):
        run = None
        if layer is None:
            layer, run = _last_run_with_maps(network, images[:1])
        elif (layer := layer_name(network, layer)) not in dict(network.named_modules()):
            raise ValueError(f"layer must be the name of a module of the network, got {layer!r}")
        feature_maps, gradient = _maps_and_gradient(network, images, targets, layer, run)  # (B, D, h, w) both
    if len(feature_maps) != len(images):
        raise Refusal(
            f"layer {layer!r} returns maps of {len(feature_maps)} images for {len(images)}: the network takes them "
            "apart before it; name another layer"
        )
    relevance = (gradient.mean((2, 3), keepdim=True) * feature_maps).sum(1, keepdim=True)  # (B, 1, h, w)
    relevance = relevance.clamp(min=0) if positive else relevance
    return F.interpolate(relevance, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def _maps_and_gradient(
    network: nn.Module, images: Tensor, targets: Tensor, layer: str, run: int | None
) -> tuple[Tensor, Tensor]:
    """What a layer returns in its run of this number (None: its only one), and the logit's slope by it."""
    held: list[Tensor] = []
    runs = 0

    def hold(module: nn.Module, arguments: tuple, output: Tensor) -> Tensor | None:
        nonlocal runs
        runs += 1
        if run not in (None, runs - 1):
            return None
        if not isinstance(output, Tensor) or output.dim() != 4:
            raise ValueError(f"layer {layer!r} must return feature maps (B, D, h, w)")
        held.append(output.detach().requires_grad_())
        torch.set_grad_enabled(True)  # nothing in front of the layer needs to be differentiated
        return held[-1].clone()  # an in-place ReLU behind the layer must not change the maps held

    handle = network.get_submodule(layer).register_forward_hook(hold)
    try:
        with torch.no_grad():
            score = target_logits(network(images), targets)
    finally:
        handle.remove()
    if len(held) != 1:
        raise ValueError(f"layer {layer!r} must run once in a forward pass, it ran {runs} times")
    (gradient,) = (
        torch.autograd.grad(score.sum(), held, allow_unused=True) if score.requires_grad else (None,)
    )
    if gradient is None:
        raise ValueError(f"layer {layer!r} has no influence on the logits")
    return held[0].detach(), gradient


def last_feature_maps(network: nn.Module, images: Tensor) -> str:
    """The last module, pooling and dropout left out, whose last output are maps of more than one cell."""
    return layers_with_maps(network, images)[0]


def layers_with_maps(network: nn.Module, images: Tensor) -> list[str]:
    """The modules whose last output are maps of more than one cell, pooling and dropout left out, last ones first.

    Args:
        network: in evaluation mode.
        images: (B, C, H, W) that pass it once.

    Raises:
        ValueError: there is none.
    """
    calls = _calls(network, images)
    last = {name: number for number, (name, _, _) in enumerate(calls)}
    return [calls[number][0] for number in _with_maps(calls) if last[calls[number][0]] == number]


def _last_run_with_maps(network: nn.Module, images: Tensor) -> tuple[str, int]:
    """The last module that returns maps of more than one cell, pooling and dropout left out, and which of its runs."""
    calls = _calls(network, images)
    name = calls[place := _with_maps(calls)[0]][0]
    return name, sum(before == name for before, _, _ in calls[:place])


def _calls(network: nn.Module, images: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """The named modules in the order in which they end in a forward pass, with what they return."""
    calls: list[tuple[str, nn.Module, Tensor]] = []

    def note(name: str):
        return lambda module, arguments, output: calls.append((name, module, output))

    handles = [
        module.register_forward_hook(note(name))
        for name, module in network.named_modules()
        if name and not isinstance(module, torch.jit.ScriptModule)  # takes no hooks
    ]
    try:
        with torch.no_grad():
            check_logits(network(images), len(images))
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _with_maps(calls: list[tuple[str, nn.Module, Tensor]]) -> list[int]:
    """The calls that return maps of more than one cell and are no pooling's or dropout's, the last of them first."""
    pooled = {id(output) for _, module, output in calls if "Pool" in type(module).__name__}
    numbers = []
    for number in reversed(range(len(calls))):
        _, module, output = calls[number]
        maps = isinstance(output, Tensor) and output.dim() == 4 and output[0, 0].numel() > 1
        if maps and id(output) not in pooled and "Dropout" not in type(module).__name__:
            numbers.append(number)
    if not numbers:
        raise ValueError(
            "the network has no module that returns feature maps (B, D, h, w): name one with layer="
        )
    return numbers
