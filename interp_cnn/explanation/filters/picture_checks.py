"""Does a picture show what its filter stands for? Asked of the networks, not of the eye.

    re-activation   the filter's peak on the picture over its mean peak on its strongest real images
    control         share of the layer's other filters that reach as much of their own mean peak on this picture
    rank            1 + how many of them do: 1 is a picture of this filter and of no other
    probabilities   of the classes
    distance        how far outside real images it lies: its distance to the nearest one, in units of the median
                    distance of a real image to the nearest other one

Re-activation alone proves nothing, gradient ascent has just raised it; what a network that was never asked sees, and
how far from real images the picture had to go, were not optimised.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.explanation.network.feature_maps import feature_maps_and_logits
from interp_cnn.explanation.network.layers import layer_name
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.storage.brief import Brief

SAME = 1e-3  # of the median distance between real images: nearer is the same image


@dataclass(frozen=True, eq=False, repr=False)
class PictureChecks(Brief):
    """What a network makes of N pictures, one per filter.

    Attributes:
        reactivation: (N,), 1 where the filter answers as to its strongest real images on average.
        control: (N,), share of other filters; NaN where there are none that fire.
        rank: (N,), from 1.
        probabilities: (N, K).
    """

    reactivation: Tensor
    control: Tensor
    rank: Tensor
    probabilities: Tensor


def check_pictures(
    network: nn.Module,
    pictures: Tensor,
    channels: Tensor,
    typical: Tensor,
    *,
    layer: str | nn.Module,
    batch_size: int = 64,
) -> PictureChecks:
    """Show pictures to a network.

    Args:
        network: any classifier.
        pictures: (N, C, H, W) in [0, 1].
        channels: (N,) the filter of each.
        typical: (D,), what peaks are divided by (`typical_peaks`); filters with 0 take no part.
        layer: dotted module name, or the module.
        batch_size: pictures at a time.

    Raises:
        ValueError: other numbers of pictures and channels, or of filters.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(12, 2))
        >>> checks = check_pictures(network, torch.rand(2, 1, 2, 2), torch.tensor([0, 2]), torch.ones(3), layer="0")
        >>> checks.rank.shape, checks.probabilities.shape
        (torch.Size([2]), torch.Size([2, 2]))
    """
    layer = layer_name(network, layer)
    if len(pictures) != len(channels):
        raise ValueError(f"channels holds {len(channels)} numbers; expected {len(pictures)}, one per picture")
    peaks, logits = [], []
    for part in pictures.split(batch_size):
        maps, answers = feature_maps_and_logits(network, part.to(device_of(network)), layer)
        peaks.append(maps.amax((2, 3)).double().cpu())
        logits.append(answers.double().cpu())
    found = torch.cat(peaks)  # (N, D)
    if found.shape[1] != len(typical):
        raise ValueError(f"typical holds {len(typical)} values; expected {found.shape[1]}, one per filter")
    known = typical.double() > 0
    relative = torch.where(known, found / typical.double().clamp(min=1e-12), -torch.inf)
    own = relative.gather(1, channels[:, None])
    reached = relative >= own
    reached.scatter_(1, channels[:, None], False)
    count = reached.sum(1).double()
    others = known.sum().double() - known[channels].double()
    return PictureChecks(own[:, 0], count / others, 1 + count, torch.cat(logits).softmax(1))


def typical_peaks(strongest: Exemplars) -> Tensor:
    """(D,) mean peak of every filter on its exemplars; 0 for one that never fires."""
    there = strongest.image_numbers >= 0
    return (strongest.scores * there).sum(1) / there.sum(1).clamp(min=1)


def distances_from_real(features: Tensor, real: Tensor) -> Tensor:
    """How far outside real images pictures lie: (N,), about 1 for a real image that is not among them.

    Args:
        features: (N, F) of pictures; one that is the same as a real image is compared with the others.
        real: (M, F) of at least 3 real images.

    Raises:
        ValueError: fewer than 3 real images.

    Example:
        >>> real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> distances_from_real(torch.tensor([[8.0], [1.0], [2.5]]), real)
        tensor([5.0000, 1.0000, 0.5000], dtype=torch.float64)
    """
    if len(real) < 3:
        raise ValueError(f"real holds {len(real)} images; expected at least 3")
    between = torch.cdist(real.double(), real.double())
    usual = between.fill_diagonal_(torch.inf).min(1).values.median()
    away = torch.cdist(features.double(), real.double(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = torch.where(away > SAME * usual, away, torch.inf).min(1).values
    return nearest / usual.clamp(min=1e-12)
