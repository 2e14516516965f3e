"""Relevance maps from the gradient of the target logit f with respect to the image x.

    sensitivity_analysis   (df/dx)^2                              Simonyan et al. 2014 (arXiv 1312.6034)
    saliency               |df/dx|                                the same
    gradient_x_input       x * df/dx                              Shrikumar et al. 2016 (arXiv 1605.01713)
    smooth_grad            mean over noise n of df/dx (x + n)     Smilkov et al. 2017 (arXiv 1706.03825)
    integrated_gradients   (x - b) * mean of df/dx along b -> x   Sundararajan et al. 2017 (arXiv 1703.01365)
    guided_backprop, deconvnet                                    changed rectifiers: `rectifiers`
    grad_cam               relu(sum_k mean(df/dA_k) A_k)          coarse, without colour: `class_activation`

All take (network, images (B, C, H, W), targets (B,)), return (B, C, H, W); `grad_cam` returns (B, 1, H, W).
Images are asked about in one batch; the network is used in evaluation mode and its weights get no gradient.
"""

import logging

import torch
from torch import Tensor, nn

from interp_cnn.explanation.baselines import Baseline, reference_images
from interp_cnn.explanation.gradients.grad_cam import grad_cam
from interp_cnn.explanation.gradients.rectifiers import DeconvnetRectifiers, GuidedRectifiers
from interp_cnn.explanation.network.logits import (
    check_count,
    check_positive,
    check_question,
    evaluation_mode,
    scores,
    target_logits,
)
from interp_cnn.explanation.network.precision import chosen_precision
from interp_cnn.explanation.network.randomness import drawn_seed, image_generators, normal_noise

__all__ = [
    "deconvnet",
    "grad_cam",
    "gradient_x_input",
    "guided_backprop",
    "integrated_gradients",
    "saliency",
    "sensitivity_analysis",
    "smooth_grad",
]

log = logging.getLogger(__name__)


@torch.inference_mode(False)
@chosen_precision()
def sensitivity_analysis(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Squared gradient (df/dx)^2, (B, C, H, W): where a small change matters most. Sum over C for a map."""
    return _gradient(network, *check_question(images, targets)).square()


@torch.inference_mode(False)
@chosen_precision()
def saliency(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Absolute gradient |df/dx|, (B, C, H, W)."""
    return _gradient(network, *check_question(images, targets)).abs()


@torch.inference_mode(False)
@chosen_precision()
def gradient_x_input(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Gradient times input x * df/dx, (B, C, H, W). Sums to the logit in a ReLU network without biases."""
    images, targets = check_question(images, targets)
    return _gradient(network, images, targets) * images


@torch.inference_mode(False)
@chosen_precision()
def smooth_grad(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    samples: int = 25,
    noise: float = 0.15,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
) -> Tensor:
    """Mean gradient over noisy copies of the image, signed.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W).
        targets: (B,) classes.
        samples: noisy copies an image.
        noise: standard deviation of the noise as a share of each image's own range (max - min).
        generator: draws the seed; without one it is always the same. The noise of an image depends on that seed and
            its pixels, neither on `batch_size` nor on the images beside it.
        batch_size: images in one pass.

    Returns:
        (B, C, H, W).
    """
    check_count(samples=samples, batch_size=batch_size)
    check_positive(noise=noise)
    images, targets = check_question(images, targets)
    seed, maps = drawn_seed(generator), []
    for some, classes in zip(images.split(batch_size), targets.split(batch_size), strict=True):
        generators, copies = image_generators(some, seed), max(1, batch_size // len(some))
        deviation = noise * (some.amax((1, 2, 3), keepdim=True) - some.amin((1, 2, 3), keepdim=True))
        total = torch.zeros_like(some)
        for start in range(0, samples, copies):
            count = min(copies, samples - start)
            noisy = torch.cat([some + deviation * normal_noise(some, generators) for _ in range(count)])
            total += _gradient(network, noisy, classes.repeat(count)).unflatten(0, (count, -1)).sum(0)
        maps.append(total / samples)
    return torch.cat(maps)


@torch.inference_mode(False)
@chosen_precision()
def integrated_gradients(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    baseline: Baseline = "zero",
    steps: int | None = None,
    tolerance: float = 0.01,
    max_steps: int = 729,
    batch_size: int = 64,
) -> Tensor:
    """Gradients averaged along the straight line from the baseline to the image, times the difference.

    The line is cut into equal pieces and the gradient taken in the middle of each. Without `steps`, an image
    starts with 27 pieces and every piece is cut in three (all earlier gradients stay in use) until its map is
    complete: |sum - (F(x) - F(b))| <= tolerance * |F(x) - F(b)|. The log counts the images that `max_steps`
    left incomplete.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W).
        targets: (B,) classes.
        baseline: see `reference_images`; several are averaged.
        steps: a fixed number of pieces instead.
        tolerance: completeness error allowed, relative.
        max_steps: most pieces for one image.
        batch_size: images in one pass.

    Returns:
        (B, C, H, W).
    """
    check_count(max_steps=max_steps, batch_size=batch_size, steps=1 if steps is None else steps)
    check_positive(tolerance=tolerance)
    images, targets = check_question(images, targets)
    total = torch.zeros_like(images)
    references = reference_images(images, baseline)
    for reference in references:
        difference = images - reference
        if steps is not None:
            total += (
                difference
                * _slopes(network, images, difference, targets, _middles(steps), batch_size)
                / steps
            )
        else:
            total += _complete(network, images, difference, targets, tolerance, max_steps, batch_size)
    return total / len(references)


@torch.inference_mode(False)
@chosen_precision()
def guided_backprop(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Guided back-propagation (B, C, H, W): rectifiers pass positive gradients where they are on."""
    return _rectified_gradient(network, images, targets, GuidedRectifiers(), "guided_backprop")


@torch.inference_mode(False)
@chosen_precision()
def deconvnet(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Deconvnet (B, C, H, W): rectifiers pass positive gradients on, whatever their own input was."""
    return _rectified_gradient(network, images, targets, DeconvnetRectifiers(), "deconvnet")


def _gradient(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """df/dx (B, C, H, W). Only the images' gradient is computed, never the weights'."""
    with evaluation_mode(network), torch.enable_grad():
        images = images.clone().requires_grad_()
        score = target_logits(network(images), targets)
        (gradient,) = (
            torch.autograd.grad(score.sum(), images, allow_unused=True) if score.requires_grad else (None,)
        )
    if gradient is None:
        raise ValueError(
            "network's logits have no gradient with respect to the images (detached on the way?)"
        )
    if not torch.isfinite(gradient).all():
        raise ValueError("network's gradient with respect to the images is NaN or infinite")
    return gradient


def _rectified_gradient(
    network: nn.Module, images: Tensor, targets: Tensor, rectifiers: GuidedRectifiers, method: str
) -> Tensor:
    images, targets = check_question(images, targets)
    with rectifiers:
        gradient = _gradient(network, images, targets)
    if rectifiers.met == 0:
        raise ValueError(
            f"{method} changes the gradient of rectifiers (ReLU and its kin), the network runs none"
        )
    return gradient


def _middles(pieces: int) -> list[float]:
    return [(k + 0.5) / pieces for k in range(pieces)]


def _new_middles(pieces: int) -> list[float]:
    """Middles of the outer thirds of each piece; the middle third's own middle was already taken."""
    return [(k + part) / pieces for k in range(pieces) for part in (1 / 6, 5 / 6)]


def _complete(
    network: nn.Module,
    images: Tensor,
    difference: Tensor,
    targets: Tensor,
    tolerance: float,
    max_steps: int,
    batch_size: int,
) -> Tensor:
    """Integrated gradients for one baseline, the pieces refined until each image's map is complete."""
    with evaluation_mode(network):
        change = scores(network, images, targets) - scores(network, images - difference, targets)  # (B,)
    slopes = torch.zeros_like(images)
    pieces, points = 27, _middles(27)
    steps = torch.zeros_like(change)
    pending = torch.arange(len(images), device=images.device)
    while True:
        slopes[pending] += _slopes(
            network, images[pending], difference[pending], targets[pending], points, batch_size
        )
        steps[pending] = pieces
        sums = (difference[pending] * slopes[pending]).sum((1, 2, 3)) / pieces
        incomplete = (sums - change[pending]).abs() > tolerance * change[pending].abs()
        pending = pending[incomplete]
        if len(pending) == 0:
            break
        if 3 * pieces > max_steps:
            worst = ((sums[incomplete] - change[pending]) / change[pending]).abs().max()
            message = "integrated_gradients: %d of %d images incomplete after %d steps, worst error %.2g"
            log.warning(message, len(pending), len(images), pieces, float(worst.detach()))
            break
        points, pieces = _new_middles(pieces), 3 * pieces
    return difference * slopes / steps[:, None, None, None]


def _slopes(
    network: nn.Module,
    images: Tensor,
    difference: Tensor,
    targets: Tensor,
    points: list[float],
    batch_size: int,
) -> Tensor:
    """Sum over points p of the gradient at b + p (x - b), (B, C, H, W)."""
    total = torch.zeros_like(images)
    which = torch.arange(len(images), device=images.device).repeat_interleave(len(points))
    back = (1 - torch.tensor(points, dtype=images.dtype, device=images.device)).repeat(len(images))
    for start in range(0, len(which), batch_size):
        rows, share = which[start : start + batch_size], back[start : start + batch_size]
        between = images[rows] - share[:, None, None, None] * difference[rows]
        total.index_add_(0, rows, _gradient(network, between, targets[rows]))
    return total
