"""Objects that are called as Captum's: `Method(network).attribute(inputs, target=...)`.

Inputs are images (B, C, H, W) in the network's own pixels; the answer has the inputs' shape where a method knows what a
colour channel does, and stands in every channel where it hides pixels (as Captum's Occlusion). `GradCam` and
`Attribution` answer with (B, 1, H, W), at the size of the images. Names of arguments are Captum's; what they mean
differs in nothing but what a class says. The network is handed back as it came, in training mode too, and needs no
canonizer, no module for every ReLU and no gradient of the inputs.
"""

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from interp_cnn.explanation.baselines import Baseline, reference_images
from interp_cnn.explanation.gradients import gradients
from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.methods.run import explain_images
from interp_cnn.explanation.network.logits import checked_evaluation, scores
from interp_cnn.explanation.occlusion.maps import occlusion_map
from interp_cnn.explanation.propagation.composites import RuleChoice
from interp_cnn.explanation.propagation.deeplift import deeplift
from interp_cnn.explanation.propagation.lrp import lrp

Target = int | Sequence[int] | Tensor | None
Baselines = Baseline | None


class Saliency:
    """Gradients without their signs (`abs=False`: with them).

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> Saliency(network).attribute(torch.rand(2, 3, 8, 8), target=[0, 3]).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, forward_func: nn.Module) -> None:
        self.network = _network(forward_func)

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """(B, C, H, W)."""
        return gradients.saliency(self.network, _images(inputs), _targets(target, inputs))


class InputXGradient(Saliency):
    """Pixels times gradients."""

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """(B, C, H, W)."""
        return gradients.gradient_x_input(self.network, _images(inputs), _targets(target, inputs))


class GuidedBackprop(Saliency):
    """Gradients of which a ReLU passes what is positive alone; ReLUs that are functions count too."""

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """(B, C, H, W)."""
        return gradients.guided_backprop(self.network, _images(inputs), _targets(target, inputs))


class _Complete(Saliency):
    """Methods whose attributions sum to a known value, from which `return_convergence_delta` tells the distance."""

    def _attributions(self, images: Tensor, targets: Tensor, baseline: Baseline, **options: Any) -> Tensor:
        raise NotImplementedError

    @overload
    def attribute(
        self,
        inputs: Tensor,
        baselines: Baselines = ...,
        target: Target = ...,
        *,
        return_convergence_delta: Literal[False] = False,
        **options: Any,
    ) -> Tensor: ...
    @overload
    def attribute(
        self,
        inputs: Tensor,
        baselines: Baselines = ...,
        target: Target = ...,
        *,
        return_convergence_delta: bool,
        **options: Any,
    ) -> Tensor | tuple[Tensor, Tensor]: ...
    def attribute(  # pyright: ignore[reportIncompatibleMethodOverride]  # as Captum's
        self,
        inputs: Tensor,
        baselines: Baselines = None,
        target: Target = None,
        *,
        return_convergence_delta: bool = False,
        **options: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attributions (B, C, H, W); with `return_convergence_delta` also (B,) how far their sums are from what they
        should be.

        Args:
            inputs: (B, C, H, W).
            baselines: what the image is compared with: a number, a tensor, or zero, mean, blur; None: zero.
            target: a class for all images, or one for each.
            return_convergence_delta: likewise.
            options: of the method.
        """
        images, targets = _images(inputs), _targets(target, inputs)
        baseline: Baseline = "zero" if baselines is None else baselines
        found = self._attributions(images, targets, baseline, **options)
        if not return_convergence_delta:
            return found
        with checked_evaluation(self.network):
            before = [
                scores(self.network, reference.expand_as(images), targets)
                for reference in reference_images(images, baseline)
            ]
            change = scores(self.network, images, targets) - torch.stack(before).mean(0)
        return found, found.sum((1, 2, 3)) - change


class IntegratedGradients(_Complete):
    """The pixels' shares of the logit's change from a baseline to the image, along the straight line.

    The line is cut where the gradient jumps until its sum is right to one per cent; `n_steps` is the most that one
    image may take (729), no number that has to be found.
    """

    def _attributions(self, images: Tensor, targets: Tensor, baseline: Baseline, **options: Any) -> Tensor:
        renamed = {"n_steps": "max_steps", "internal_batch_size": "batch_size"}
        given = {renamed.get(name, name): value for name, value in options.items()}
        return gradients.integrated_gradients(self.network, images, targets, baseline=baseline, **given)


class DeepLift(_Complete):
    """Contributions by the rescale rule; networks may use a ReLU twice, or as a function."""

    def _attributions(self, images: Tensor, targets: Tensor, baseline: Baseline, **options: Any) -> Tensor:
        return deeplift(self.network, images, targets, baseline=baseline, **options)


class LRP(Saliency):
    """Layer-wise relevance propagation; the rule is an argument (`epsilon`, `gamma`, `z+`, ...), not set on modules."""

    def __init__(self, model: nn.Module, *, rule: RuleChoice = "epsilon") -> None:
        super().__init__(model)
        self.rule: RuleChoice = rule

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """(B, C, H, W); sums to the logit."""
        return lrp(self.network, _images(inputs), _targets(target, inputs), rule=self.rule)


class Occlusion(Saliency):
    """What the logit loses while a window is hidden, in every channel; windows hide all channels at once."""

    def attribute(  # pyright: ignore[reportIncompatibleMethodOverride]  # as Captum's
        self,
        inputs: Tensor,
        sliding_window_shapes: int | Sequence[int],
        strides: int | Sequence[int] | None = None,
        baselines: float | Tensor | None = None,
        target: Target = None,
    ) -> Tensor:
        """(B, C, H, W).

        Args:
            inputs: (B, C, H, W).
            sliding_window_shapes: (C, rows, columns), (rows, columns) or one side, in pixels.
            strides: likewise; None: 1.
            baselines: what hides; None: 0.
            target: a class for all images, or one for each.
        """
        images = _images(inputs)
        channels = images.shape[1]
        maps = occlusion_map(
            self.network,
            images,
            _targets(target, inputs),
            window=_side("sliding_window_shapes", sliding_window_shapes, channels),
            stride=1 if strides is None else _side("strides", strides, None),
            fill=0.0 if baselines is None else baselines,
            overhang="end",
        )
        return maps[:, None].expand_as(images).clone()


class GradCam(Saliency):
    """Grad-CAM of a layer, brought to the size of the images: Captum's LayerGradCam with its interpolation."""

    def __init__(self, forward_func: nn.Module, layer: str | nn.Module | None = None) -> None:
        super().__init__(forward_func)
        self.layer = layer

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """(B, 1, H, W)."""
        targets = _targets(target, inputs)
        return gradients.grad_cam(self.network, _images(inputs), targets, layer=self.layer)[:, None]


class Attribution(Saliency):
    """Every method of `interp-cnn explain` by its name, also those that Captum has not.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> Attribution(network, "shapley_values", batch_size=8).attribute(torch.rand(1, 3, 8, 8), target=2).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(self, forward_func: nn.Module, method: str, **options: Any) -> None:
        super().__init__(forward_func)
        self.method, self.options = method, Options(**options)

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """(B, 1, H, W), colour channels added up, where the inputs lie."""
        targets = _targets(target, inputs)
        if isinstance(targets, int):
            targets = torch.full((len(inputs),), targets, device=inputs.device)
        found = explain_images(self.method, self.network, _images(inputs), targets, self.options)
        return found.maps[:, None].to(inputs)


def _network(forward_func: nn.Module) -> nn.Module:
    if not isinstance(forward_func, nn.Module):
        raise ValueError(
            f"forward_func is a {type(forward_func).__name__}; expected an nn.Module, images -> logits (B, K)"
        )
    return forward_func


def _images(inputs: Tensor) -> Tensor:
    if not isinstance(inputs, Tensor) or inputs.dim() != 4:
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ValueError(f"inputs is {shape}; expected one tensor of images (B, C, H, W)")
    return inputs.detach()


def _targets(target: Target, inputs: Tensor) -> Any:
    if target is None:
        raise ValueError("target is None; expected a class for all images, or one for each")
    return torch.tensor(target, device=inputs.device) if isinstance(target, list | tuple) else target


def _side(name: str, given: int | Sequence[int], channels: int | None) -> Any:
    if isinstance(given, int):
        return given
    given = tuple(given)
    if len(given) not in (2, 3) or (channels is not None and len(given) == 3 and given[0] != channels):
        raise ValueError(
            f"{name} is {given}; expected (C, rows, columns) with all channels, or (rows, columns)"
        )
    return given[-2:]
