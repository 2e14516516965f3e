"""Random masks that hide several places of an image at once, drawn when they are needed.

A mask is 1 where the image shows and 0 where it is hidden, and may be in between. A `MaskSource` draws (n, H, W) of
them from a generator.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.network.logits import check_count
from interp_cnn.explanation.occlusion.windows import Window, window_grid

MaskSource = Callable[[int, torch.Generator], Tensor]


def random_windows(image_size: tuple[int, int], *, window: Window, number: int = 1) -> MaskSource:
    """`number` windows a mask, anywhere, overhanging too, so that every pixel is hidden equally often.

    Args:
        image_size: (H, W) in pixels.
        window: side of a square, (height, width), or a 2-d boolean shape.
        number: windows in one mask; they may overlap.
    """
    check_count(number=number)
    grid = window_grid(image_size, window, 1, "both")
    (H, W), (height, width) = image_size, grid.size
    shape = None if grid.shape is None else grid.shape.float()[None, None]

    def draw(count: int, generator: torch.Generator) -> Tensor:
        top = torch.randint(0, H + height - 1, (count, number), generator=generator)
        left = torch.randint(0, W + width - 1, (count, number), generator=generator)
        if shape is None:  # a rectangle is a product of rows and columns
            rows, columns = _covered(top, height, H), _covered(left, width, W)
            hidden = rows.transpose(1, 2) @ columns
        else:
            corners = torch.zeros(count, (H + height - 1) * (W + width - 1))
            corners.scatter_(1, top * (W + width - 1) + left, 1.0)
            corners = corners.view(count, 1, H + height - 1, W + width - 1)
            whole = F.conv_transpose2d(corners, shape)[:, 0]
            hidden = whole[:, height - 1 : height - 1 + H, width - 1 : width - 1 + W]
        return (hidden < 0.5).float()

    return draw


def rise_masks(image_size: tuple[int, int], *, cells: int = 7, shown: float = 0.5) -> MaskSource:
    """The masks of RISE: a coarse grid of zeros and ones, enlarged smoothly and shifted by a random part of a cell.

    V. Petsiuk, A. Das, K. Saenko, "RISE: randomized input sampling for explanation of black-box models" (BMVC 2018),
    section 3.2. Every pixel shows the share `shown` on average.

    Args:
        image_size: (H, W) in pixels.
        cells: side of the grid.
        shown: probability that a cell shows the image.
    """
    check_count(cells=cells)
    if not 0 < shown < 1:
        raise ValueError(f"shown must be between 0 and 1, got {shown!r}")
    H, W = image_size
    cell = -(-H // cells), -(-W // cells)
    size = (cells + 1) * cell[0], (cells + 1) * cell[1]

    def draw(count: int, generator: torch.Generator) -> Tensor:
        grid = (torch.rand(count, 1, cells, cells, generator=generator) < shown).float()
        large = F.interpolate(grid, size, mode="bilinear", align_corners=False)[:, 0].clamp_(max=1)
        top, left = (torch.randint(side, (count,), generator=generator).tolist() for side in cell)
        return torch.stack([mask[a : a + H, b : b + W] for mask, a, b in zip(large, top, left, strict=True)])

    return draw


def _covered(starts: Tensor, size: int, length: int) -> Tensor:
    """(n, windows) -> (n, windows, length): 1 in the cells of the interval that ends `start` cells in."""
    first = starts[:, :, None] - (size - 1)
    cells = torch.arange(length)
    return ((cells >= first) & (cells < first + size)).float()
