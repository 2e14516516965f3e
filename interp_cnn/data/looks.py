"""What a picture looks like from afar: known again when it was stored with losses, retouched or scaled, under any name.

A look is the picture's brightness in 6 x 6 cells, 16 steps each. JPEG changes a few cells by one step; two photographs
differ by several steps in most cells. A look alone never decides between pictures that are alike: see `recognised`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

CELLS = 6
STEP = 16  # brightness of 255
NEAR = 0.75  # steps, root mean square over the cells
CLEAR = 2.0  # times as far, and half a step more, every other picture must be
ROWS = 4096  # pictures compared at once


def look_of(pixels: NDArray[np.uint8]) -> str:
    """The look of a picture (H, W, C), 0 to 255: one hexadecimal digit a cell.

    Example:
        >>> look_of(np.full((8, 9, 3), 255, dtype=np.uint8))
        'ffffffffffffffffffffffffffffffffffff'
    """
    grey = torch.from_numpy(pixels).float().mean(2)
    cells = F.adaptive_avg_pool2d(grey[None, None], CELLS).flatten() / STEP
    return "".join(f"{int(cell):x}" for cell in cells.tolist())


def recognised(looks: Sequence[str], known: Sequence[str]) -> dict[int, int]:
    """Which of some pictures is which of those that are known, where their looks leave no doubt.

    Args:
        looks: of N pictures; "" for one without.
        known: of M pictures, likewise.

    Returns:
        Numbers of pictures, with the number of the known one: each other's nearest, within `NEAR`, and every other
        known picture clearly further away.

    Example:
        >>> dark, light = "0" * 36, "f" * 36
        >>> recognised([light, "8" * 36], [dark, light])
        {0: 1}
    """
    rows, columns = ([n for n, look in enumerate(some) if _is_look(look)] for some in (looks, known))
    if not rows or not columns:
        return {}
    known_cells = _cells([known[n] for n in columns])
    nearest_to: dict[int, tuple[float, int]] = {}  # known picture: the nearest of those it is the nearest of
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        apart = torch.cdist(_cells([looks[n] for n in some]), known_cells) / CELLS  # root mean square
        best = apart.topk(min(2, len(columns)), 1, largest=False)
        for n, distances, places in zip(some, best.values.tolist(), best.indices.tolist(), strict=True):
            first, second = (*distances, float("inf"))[:2]
            if first <= NEAR and second > CLEAR * first + 0.5:
                nearest_to[places[0]] = min(nearest_to.get(places[0], (first, n)), (first, n))
    return {n: columns[place] for place, (_, n) in nearest_to.items()}


def _is_look(text: str) -> bool:
    return len(text) == CELLS**2 and set(text) <= set("0123456789abcdef")


def _cells(looks: Sequence[str]) -> Tensor:
    return torch.tensor([[int(cell, 16) for cell in look] for look in looks], dtype=torch.float32)
