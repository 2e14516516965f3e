"""Is a patch worth what the map says? Rank correlation between relevance and the drop when the patch is deleted.

    IDSDS = Spearman's correlation over 4 x 4 patches of  sum of A over the patch  and  f(x) - f(x without the patch)

R. Hesse, S. Schaub-Meyer, S. Roth, "Benchmarking the attribution quality of vision models", NeurIPS 2024, section 3:
the in-domain single-deletion score. f is the logit of the image's own class; a deleted patch is the mean colour of the
data (zeros behind the normalisation); the networks were trained on images of which half had lost a patch, so that their
answers are in domain and networks can be compared, not only maps.

A map that says the same of all patches puts them in no order. As in pixel flipping, tied patches share their fate: the
mean over all ways to break the ties is 0. An image whose drops are all equal has no answer, NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from interp_cnn.evaluation.statistics import rank_correlation
from interp_cnn.explanation.network.logits import check_question
from interp_cnn.explanation.occlusion.fills import Fill
from interp_cnn.explanation.occlusion.maps import occlusion_drops

PATCHES = (
    4  # along each side, as in `training.deleted_patches`: tests/test_single_deletion.py holds them together
)


def patch_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a patch of an image (H, W); what is left over at the lower and right border is in none.

    Raises:
        ValueError: an image of less than a pixel a patch.
    """
    if min(size) < PATCHES:
        raise ValueError(
            f"images are {size[0]} x {size[1]} pixels; expected {PATCHES} or more for as many patches"
        )
    return size[0] // PATCHES, size[1] // PATCHES


def patch_drops(network: nn.Module, images: Tensor, targets: Tensor, *, fill: Fill) -> Tensor:
    """How far the target's logit falls when each patch is deleted, (B, PATCHES^2), row by row.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W).
        targets: (B,) classes.
        fill: what takes the patch's place.
    """
    images, targets = check_question(images, targets)
    side = patch_size((images.shape[2], images.shape[3]))
    drops = occlusion_drops(network, images, window=side, stride=side, fill=fill)
    target_drops = drops[
        torch.arange(len(images), device=drops.device), targets.to(drops.device), :PATCHES, :PATCHES
    ]
    return target_drops.flatten(1).double().cpu()


def patch_sums(maps: Tensor) -> Tensor:
    """The relevance in each patch, (B, H, W) -> (B, PATCHES^2), float64."""
    height, width = patch_size((maps.shape[1], maps.shape[2]))
    inside = maps[:, : PATCHES * height, : PATCHES * width].double()
    return inside.reshape(len(maps), PATCHES, height, PATCHES, width).sum((2, 4)).flatten(1)


def single_deletion(maps: Tensor, drops: Tensor) -> Tensor:
    """Rank correlation between the relevance in patches and the drops of the logit when they are deleted.

    Args:
        maps: (B, H, W), signed where the method is.
        drops: (B, PATCHES^2), see `patch_drops`.

    Returns:
        (B,) from -1 to 1, float64; 0 where the map says the same of all patches, NaN where all drops are equal.

    Example:
        >>> maps = torch.arange(16.0).view(1, 4, 4)
        >>> single_deletion(maps, maps.flatten(1)).item()
        1.0
    """
    sums = patch_sums(maps).to(drops.device)
    correlation = rank_correlation(sums, drops)
    even = (sums == sums[:, :1]).all(1)
    varied = (drops != drops[:, :1]).any(1)
    return torch.where(varied, torch.where(even, 0.0, correlation), torch.nan)
