"""Up-convolution network: from a layer's feature maps back to a picture.

    maps / scale (D, h, w) -> 3x3 conv, D/2 -> [nearest x2, 3x3 conv, batch norm, LeakyReLU 0.2] until the image's
    size -> 3x3 conv -> sigmoid

After Dosovitskiy and Brox, "Inverting Visual Representations with Convolutional Networks", CVPR 2016 (arXiv
1506.02753). Nearest enlargement instead of transposed convolution leaves no checkerboard (Odena, Dumoulin, Olah,
"Deconvolution and Checkerboard Artifacts", Distill 2016). A decoder that only ever saw whole maps draws nothing
sensible from a part of one; `random_masks` are what it has to be trained with.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

EVERYWHERE = 0.1  # weight of a silent cell, beside a mean of 1, when windows are drawn


class Upconvolution(nn.Module):
    """Decoder of one layer of any network.

    Args:
        filters: D, channels of the feature maps.
        grid: (h, w).
        image_size: (H, W); enlarged by two while smaller, then brought to this size.
        channels: C of the picture.
        width: channels after the first convolution; half the filters by default, at least 32.
        scale: (D,) what each channel is divided by, for instance its 99.5 % quantile; ones by default.
    """

    def __init__(
        self,
        filters: int,
        *,
        grid: tuple[int, int],
        image_size: tuple[int, int],
        channels: int = 3,
        width: int | None = None,
        scale: Tensor | None = None,
    ):
        super().__init__()
        if min(filters, channels, *grid, *image_size) < 1:
            raise ValueError(
                f"filters {filters}, channels {channels}, grid {grid}, image_size {image_size}; "
                "expected at least 1 of each"
            )
        scale = torch.ones(filters) if scale is None else scale.detach().clone()
        if scale.shape != (filters,) or not bool((scale > 0).all()):
            raise ValueError(f"scale has shape {tuple(scale.shape)}; expected ({filters},) positive numbers")
        self.image_size = tuple(image_size)
        self.scale: Tensor
        self.register_buffer("scale", scale[:, None, None])
        width = max(32, filters // 2) if width is None else width
        self.read = nn.Sequential(nn.Conv2d(filters, width, 3, padding=1), nn.LeakyReLU(0.2))
        doublings = 0
        while all(size << doublings < side for size, side in zip(grid, image_size, strict=True)):
            doublings += 1
        widths = [max(16, width >> step) for step in range(doublings + 1)]
        self.enlarge = nn.Sequential(*(_doubled(*pair) for pair in pairwise(widths)))
        self.draw = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, feature_maps: Tensor) -> Tensor:
        """Feature maps (B, D, h, w) to pictures (B, C, H, W) in [0, 1]."""
        hidden = self.enlarge(self.read(feature_maps / self.scale))
        if hidden.shape[2:] != self.image_size:
            hidden = functional.interpolate(hidden, size=self.image_size, mode="nearest")
        return self.draw(hidden).sigmoid()


def random_masks(feature_maps: Tensor, *, generator: torch.Generator, whole: float = 0.25) -> Tensor:
    """Random masks (B, D, h, w) of zeros and ones: what a decoder must learn to draw from.

    A share `whole` of the images keeps everything. Of the others two thirds keep a window, cut at the border, around a
    random cell: in most cases 3 x 3 cells, what will be asked of the decoder most, else of any larger size. Cells are
    drawn in proportion to their sum over channels, as patterns lie where much fires, or, one in eleven, from all alike.
    A third keeps a random share of the channels, in most cases a small one.

    Args:
        feature_maps: (B, D, h, w), each channel over its scale.
        generator: on the CPU.
        whole: share in [0, 1].
    """
    count, filters, height, width = feature_maps.shape
    kind = torch.rand(count, generator=generator)
    windowed = (kind >= whole) & (kind < whole + (1 - whole) * 2 / 3)
    thinned = kind >= whole + (1 - whole) * 2 / 3
    sums = feature_maps.relu().sum(dim=1).flatten(1).cpu()  # (B, h * w)
    lively = sums / sums.mean(dim=1, keepdim=True).clamp(min=1e-6) + EVERYWHERE
    cells = torch.multinomial(lively, 1, generator=generator)
    rows = _intervals(cells // width, height, generator)
    columns = _intervals(cells % width, width, generator)
    window = rows[:, :, None] & columns[:, None, :] | ~windowed[:, None, None]  # (B, h, w)
    share = torch.rand(count, 1, generator=generator) ** 3
    kept = (torch.rand(count, filters, generator=generator) < share) | ~thinned[:, None]  # (B, D)
    masks = kept[:, :, None, None] & window[:, None]
    return masks.to(feature_maps)


def _intervals(middles: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Intervals as rows (B, size) bool around middles (B, 1), cut at the border: of three cells (on a grid of twelve,
    in two of three cases) or more.
    """
    smallest = min(3, size)
    longer = torch.rand(len(middles), 1, generator=generator) ** 6 * (size - smallest + 1)
    lengths = smallest + longer.long()
    starts = middles - lengths // 2
    cells = torch.arange(size)
    return (cells >= starts) & (cells < starts + lengths)


def _doubled(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.LeakyReLU(0.2),
    )
