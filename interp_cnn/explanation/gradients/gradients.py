"""Relevance maps from the gradient of the target logit f with respect to the image x.

    sensitivity_analysis   (df/dx)^2                              Simonyan et al. 2014 (arXiv 1312.6034)
    saliency               |df/dx|                                the same
    gradient_x_input       x * df/dx                              Shrikumar et al. 2016 (arXiv 1605.01713)
    smooth_grad            mean over noise n of df/dx (x + n)     Smilkov et al. 2017 (arXiv 1706.03825)
    integrated_gradients   (x - b) * mean of df/dx along b -> x   Sundararajan et al. 2017: `integrated`
    guided_backprop, deconvnet                                    changed rectifiers: `rectifiers`
    grad_cam               relu(sum_k mean(df/dA_k) A_k)          coarse, without colour: `class_activation`

All take (network, images (B, C, H, W), targets (B,)), one image (C, H, W) and one class for all too; they return
(B, C, H, W), `grad_cam` (B, H, W).
Images are asked about in one batch; the network is used in evaluation mode and its weights get no gradient.
"""

import logging
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from interp_cnn.explanation.baselines import Baseline, reference_images
from interp_cnn.explanation.gradients.grad_cam import grad_cam
from interp_cnn.explanation.gradients.integrated import PathIntegral, checked_gradient, path_integral
from interp_cnn.explanation.gradients.rectifiers import DeconvnetRectifiers, GuidedRectifiers
from interp_cnn.explanation.network.logits import (
    check_count,
    check_positive,
    check_question,
    checked_evaluation,
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
def sensitivity_analysis(network: nn.Module, images: Tensor, targets: Tensor | int) -> Tensor:
    """Squared gradient (df/dx)^2, (B, C, H, W): where a small change matters most. Sum over C for a map."""
    images, targets = check_question(images, targets)
    with checked_evaluation(network, images, alone=True):
        return _gradient(network, images, targets).square()


@torch.inference_mode(False)
@chosen_precision()
def saliency(network: nn.Module, images: Tensor, targets: Tensor | int) -> Tensor:
    """Absolute gradient |df/dx|, (B, C, H, W)."""
    images, targets = check_question(images, targets)
    with checked_evaluation(network, images, alone=True):
        return _gradient(network, images, targets).abs()


@torch.inference_mode(False)
@chosen_precision()
def gradient_x_input(network: nn.Module, images: Tensor, targets: Tensor | int) -> Tensor:
    """Gradient times input x * df/dx, (B, C, H, W). Sums to the logit in a ReLU network without biases."""
    images, targets = check_question(images, targets)
    with checked_evaluation(network, images, alone=True):
        return _gradient(network, images, targets) * images


@torch.inference_mode(False)
@chosen_precision()
def smooth_grad(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | int,
    *,
    samples: int = 25,
    noise: float = 0.15,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Mean gradient over noisy copies of the image, signed.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W), or one image (C, H, W).
        targets: (B,) classes, or one for all images.
        samples: noisy copies an image.
        noise: standard deviation of the noise as a share of each image's own range (max - min).
        generator: draws the seed; without one it is always the same. The noise of an image depends on that seed and
            its pixels, neither on `batch_size` nor on the images beside it.
        batch_size: images in one pass; None: `gradient_batch`.

    Returns:
        (B, C, H, W).
    """
    images, targets = check_question(images, targets)
    batch_size = gradient_batch(images) if batch_size is None else batch_size
    check_count(samples=samples, batch_size=batch_size)
    check_positive(noise=noise)
    seed, maps = drawn_seed(generator), []
    with checked_evaluation(network, images):
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
    targets: Tensor | int,
    *,
    baseline: Baseline = "zero",
    steps: int | None = None,
    tolerance: float = 0.01,
    max_steps: int = 729,
    batch_size: int | None = None,
) -> Tensor:
    """Gradients averaged along the straight line from the baseline to the image, times the difference.

    Without `steps` the line is cut where the network needs it, and the jumps of masks around parts are shared out to
    the pixels that cause them (see `integrated`), until what all pieces miss adds up to no more than `tolerance` of the
    logit's change. The log says where `max_steps` left more missing; `integrated_gradients_with_error` tells how much.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W), or one image (C, H, W).
        targets: (B,) classes, or one for all images.
        baseline: see `reference_images`; several are averaged.
        steps: a fixed number of equal pieces instead, the gradient in the middle of each.
        tolerance: share of the logit's change that may be missing.
        max_steps: most gradients for one image and baseline.
        batch_size: images in one pass; None: `gradient_batch`.

    Returns:
        (B, C, H, W).

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> integrated_gradients(network, torch.rand(2, 3, 8, 8), torch.tensor([0, 4])).shape
        torch.Size([2, 3, 8, 8])
    """
    if steps is None:
        options = {
            "baseline": baseline,
            "tolerance": tolerance,
            "max_steps": max_steps,
            "batch_size": batch_size,
        }
        integral = integrated_gradients_with_error(network, images, targets, **options)
        short = integral.missing > tolerance
        if short.any():
            message = "integrated_gradients: %d of %d images incomplete after %d gradients, at worst %.2g is missing"
            log.warning(message, int(short.sum()), len(short), max_steps, float(integral.missing.max()))
        return integral.maps
    images, targets = check_question(images, targets)
    batch_size = gradient_batch(images) if batch_size is None else batch_size
    check_count(steps=steps, batch_size=batch_size)
    places = [(k + 0.5) / steps for k in range(steps)]
    total = torch.zeros_like(images)
    references = reference_images(images, baseline)
    with checked_evaluation(network, images):
        for reference in references:
            difference = images - reference
            total += difference * _slopes(network, images, difference, targets, places, batch_size) / steps
    return total / len(references)


@torch.inference_mode(False)
@chosen_precision()
def integrated_gradients_with_error(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | int,
    *,
    baseline: Baseline = "zero",
    tolerance: float = 0.01,
    max_steps: int = 729,
    batch_size: int | None = None,
) -> PathIntegral:
    """`integrated_gradients` with what is missing, the pieces and the passes of each image.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W), or one image (C, H, W).
        targets: (B,) classes, or one for all images.
        baseline: see `reference_images`; of several, maps are averaged, pieces and passes added up, and the largest
            missing share counts.
        tolerance: share of the logit's change that may be missing.
        max_steps: most gradients for one image and baseline.
        batch_size: images in one pass; None: `gradient_batch`.
    """
    images, targets = check_question(images, targets)
    batch_size = gradient_batch(images) if batch_size is None else batch_size
    check_count(max_steps=max_steps, batch_size=batch_size)
    check_positive(tolerance=tolerance)
    with checked_evaluation(network, images):
        integrals = [
            path_integral(
                network,
                images,
                reference.expand_as(images),
                targets,
                tolerance=tolerance,
                max_steps=max_steps,
                batch_size=batch_size,
            )
            for reference in reference_images(images, baseline)
        ]
    return PathIntegral(
        torch.stack([integral.maps for integral in integrals]).mean(0),
        torch.stack([integral.missing for integral in integrals]).amax(0),
        torch.stack([integral.pieces for integral in integrals]).sum(0),
        torch.stack([integral.passes for integral in integrals]).sum(0),
    )


def gradient_batch(images: Tensor) -> int:
    """Images in one pass with gradient: 64 small ones, fewer of large ones on a processor, whose caches they leave.

    Measured on two cores at 224 x 224: batches of 64 take 1.5 to 1.9 times as long as batches of 16.
    """
    if images.device.type != "cpu":
        return 64
    pixels = images.shape[-2] * images.shape[-1]
    return max(1, min(64, 16 * 224**2 // pixels))


@torch.inference_mode(False)
@chosen_precision()
def guided_backprop(network: nn.Module, images: Tensor, targets: Tensor | int) -> Tensor:
    """Guided back-propagation (B, C, H, W): rectifiers pass positive gradients where they are on."""
    return _rectified_gradient(network, images, targets, GuidedRectifiers("guided_backprop"))


@torch.inference_mode(False)
@chosen_precision()
def deconvnet(network: nn.Module, images: Tensor, targets: Tensor | int) -> Tensor:
    """Deconvnet (B, C, H, W): rectifiers pass positive gradients on, whatever their own input was."""
    return _rectified_gradient(network, images, targets, DeconvnetRectifiers("deconvnet"))


def _gradient(
    network: nn.Module, images: Tensor, targets: Tensor, rectifiers: GuidedRectifiers | None = None
) -> Tensor:
    """df/dx (B, C, H, W). Only the images' gradient is computed, never the weights'."""
    with checked_evaluation(network), torch.enable_grad():
        images = images.clone().requires_grad_()
        with rectifiers or nullcontext():
            score = target_logits(network(images), targets)
        if score.requires_grad and rectifiers is not None:
            rectifiers.check_seen(score)
        (gradient,) = (
            torch.autograd.grad(score.sum(), images, allow_unused=True) if score.requires_grad else (None,)
        )
    return checked_gradient(gradient)


def _rectified_gradient(
    network: nn.Module, images: Tensor, targets: Tensor | int, rectifiers: GuidedRectifiers
) -> Tensor:
    images, targets = check_question(images, targets)
    with checked_evaluation(network, images, alone=True):
        return _gradient(network, images, targets, rectifiers)


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
