"""Does the evidence for a class lie in the tile that shows it? Grids of images with known answers; no annotation.

n x n images that the network tells rightly and confidently are put together into one picture. For the class of a tile,
the grid pointing game (GridPG) takes the share of the map's positive evidence A+ that lies inside the tile:

    GridPG = sum of A+ over the tile / sum of A+ over the picture

M. Boehle, M. Fritz, B. Schiele, "Convolutional dynamic alignment networks", CVPR 2021, section 5.2, and "B-cos
networks", CVPR 2022; S. Rao, M. Boehle, B. Schiele, "Towards better understanding attribution methods", CVPR 2022.
Focus (A. Arias-Duart et al., "Focus! Rating XAI methods and finding biases", FUZZ-IEEE 2022) has two tiles of the class
and two of others, and adds up both.

A map that does not know which class it was asked about (an even map, a random one, an edge detector) gets 1 / n^2 on
average over the tiles of a grid, whatever it shows: its shares add up to 1. A map without positive evidence gets 0, as
in the code of B-cos networks.
"""

import torch
from torch import Tensor


def mosaic(images: Tensor) -> Tensor:
    """Images of a grid, row by row, as one picture: (B, n * n, C, H, W) -> (B, C, n H, n W).

    Example:
        >>> mosaic(torch.arange(4.0).view(1, 4, 1, 1, 1))[0, 0].tolist()
        [[0.0, 1.0], [2.0, 3.0]]
    """
    count, tiles, channels, height, width = images.shape
    side = _side(tiles)
    rows = images.view(count, side, side, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return rows.reshape(count, channels, side * height, side * width)


def tile_shares(maps: Tensor, side: int) -> Tensor:
    """The share of a map's positive evidence in each of n x n tiles, (B, H, W) -> (B, n * n), row by row.

    Where H or W is no multiple of n, a pixel belongs to the tile of its centre.
    """
    positive = maps.double().clamp(min=0)
    rows, columns = (_cover(length, side).to(maps.device) for length in maps.shape[1:])
    inside = (rows @ positive @ columns.T).flatten(1)
    total = inside.sum(1, keepdim=True)
    return torch.where(total > 0, inside / total, 0.0)


def grid_pointing(maps: Tensor, right: Tensor) -> Tensor:
    """The share of positive evidence in the right tiles.

    Args:
        maps: (B, H, W), of the class asked about; what is above 0 speaks for it.
        right: (B, n * n) bool, row by row: the tiles that show the class; one in the grid pointing game, two in Focus.

    Returns:
        (B,) from 0 to 1, float64; 0 where nothing is positive.

    Raises:
        ValueError: tiles that are no square, or not one row for each map.

    Example:
        >>> even = torch.ones(1, 4, 4)
        >>> grid_pointing(even, torch.tensor([[True, False, False, False]])).item()
        0.25
    """
    if right.dtype != torch.bool or right.dim() != 2 or len(right) != len(maps):
        raise ValueError(f"right is {right.dtype} {tuple(right.shape)}; expected bool ({len(maps)}, tiles)")
    return (tile_shares(maps, _side(right.shape[1])) * right.to(maps.device)).sum(1)


def _side(tiles: int) -> int:
    side = round(tiles**0.5)
    if side * side != tiles or side < 1:
        raise ValueError(f"{tiles} tiles; expected a square number, 4 or 9")
    return side


def _cover(length: int, side: int) -> Tensor:
    """(n, length) float64: 1 where a row of pixels belongs to a row of tiles."""
    tile = ((torch.arange(length) + 0.5) * side / length).long()
    return torch.nn.functional.one_hot(tile, side).T.double()
