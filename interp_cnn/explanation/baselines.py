"""Reference images: what an image is compared with when a method asks "relevant as against what?".

Integrated gradients, DeepLIFT and Shapley values explain F(x) - F(b): the answer depends on the baseline b,
so it is named, and several baselines may be averaged. Baselines live where images live, in pixels of [0,
1], before any normalisation.

    zero   black                      mean   each channel's mean over the image
    blur   the image, blurred by a Gaussian of a tenth of its longer side (no edge survives, the colours stay)
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.network.precision import chosen_precision

Baseline = str | float | Tensor | Sequence["Baseline"]


@chosen_precision()
def reference_images(images: Tensor, baseline: Baseline) -> list[Tensor]:
    """The reference images a baseline stands for.

    Args:
        images: (B, C, H, W).
        baseline: `zero`, `mean`, `blur`, a number, a tensor that broadcasts over the images as one image or B
            ((C, H, W), (1, C, H, W), (B, C, H, W), (C, 1, 1), ...), or a sequence of these.

    Returns:
        One tensor (1, C, H, W) or (B, C, H, W) for each baseline.
    """
    if isinstance(baseline, Sequence) and not isinstance(baseline, str):
        if not baseline:
            raise ValueError("baseline must name at least one reference image, got an empty sequence")
        return [reference for entry in baseline for reference in reference_images(images, entry)]
    if isinstance(baseline, Tensor):
        return [_broadcast(images, baseline)]
    if isinstance(baseline, int | float) and not isinstance(baseline, bool) and math.isfinite(baseline):
        return [torch.full_like(images[:1], float(baseline))]
    if baseline == "zero":
        return [torch.zeros_like(images[:1])]
    if baseline == "mean":
        return [images.mean((2, 3), keepdim=True).expand_as(images).contiguous()]
    if baseline == "blur":
        return [blurred(images, max(images.shape[2:]) / 10)]
    raise ValueError(
        "baseline must be 'zero', 'mean', 'blur', a finite number, a tensor, or a sequence of these, "
        f"got {baseline!r}"
    )


def blurred(images: Tensor, sigma: float, *, radius: int | None = None) -> Tensor:
    """Gaussian blur, edges repeated outwards.

    Args:
        images: (B, C, H, W).
        sigma: in pixels.
        radius: where the Gaussian is cut off, in pixels; None: at three sigma.

    Returns:
        (B, C, H, W).

    Example:
        >>> blurred(torch.eye(3)[None, None], sigma=0.5, radius=1)[0, 0, 1]
        tensor([0.1790, 0.6420, 0.1790])
    """
    channels, radius = images.shape[1], max(1, round(3 * sigma)) if radius is None else radius
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(channels, 1, -1)
    images = F.pad(images, (radius, radius, radius, radius), mode="replicate")
    images = F.conv2d(images, kernel[:, :, None, :], groups=channels)
    return F.conv2d(images, kernel[:, :, :, None], groups=channels)


def _broadcast(images: Tensor, baseline: Tensor) -> Tensor:
    B, C, H, W = images.shape
    baseline = baseline.detach().to(images)
    baseline = baseline[None] if baseline.dim() < 4 else baseline
    count = baseline.shape[0] if baseline.dim() == 4 else 0
    try:
        reference = baseline.expand(count, C, H, W).contiguous() if count in (1, B) else None
    except RuntimeError:
        reference = None
    if reference is None:
        raise ValueError(
            f"baseline must broadcast over images {(B, C, H, W)}, got shape {tuple(baseline.shape)}"
        )
    if not torch.isfinite(reference).all():
        raise ValueError("baseline must be finite, got NaN or infinity")
    return reference
