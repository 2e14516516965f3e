"""Nodes of the explanatory graph in one layer: where each filter's parts are expected, and how far they stray.

A filter's map is a density of activation entities. Each is explained by one of the filter's M nodes V or by none:

    P(p) = 1 / (M + 1) * [ sum_V N(p | m_V, s_V^2) + tau ]        F(p) = max(map, 0) / scale entities at p

with m_V where node V is expected on this image. Expectation: the share of V in every cell. Maximisation: the mean
of node V moves by the mean of p - m_V, its deformation s_V becomes the spread, held within bounds.

Positions are (row, column) relative to the map's size, centres of cells, so that layers of different size share
them and a density of 1 is "anywhere". The Gaussians are products of a row and a column, so the sums over cells
are matrix products and no (image, filter, node, cell) array is built.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK_CELLS = 1 << 23  # image x filter x node x cell that are searched for the best cell at a time


class NodeSums(NamedTuple):
    """Sums over images and cells for every node (D, M): shares of entities, their displacement from where they
    were expected (D, M, 2), its squared length, and log-likelihood (a number).
    """

    mass: Tensor
    displacement: Tensor
    squared: Tensor
    log_likelihood: Tensor


def cell_positions(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Relative rows (h,) and columns (w,) of the cells' centres."""
    return (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width


def node_sums(entities: Tensor, expected: Tensor, deformation: Tensor, *, tau: float) -> NodeSums:
    """One expectation step.

    Args:
        entities: (N, D, h, w), F.
        expected: (N, D, M, 2), where each node is expected on each image.
        deformation: (D, M), s.
        tau: density of "no node".
    """
    rows, columns = cell_positions(*entities.shape[2:])
    nodes = expected.shape[2]
    row_offsets = rows - expected[..., :1]  # (N, D, M, h)
    column_offsets = columns - expected[..., 1:]  # (N, D, M, w)
    height_factor = _gaussian(row_offsets, deformation)
    width_factor = _gaussian(column_offsets, deformation)
    density = height_factor.transpose(2, 3) @ width_factor + tau  # (N, D, h, w)
    weights = entities / density
    by_row = (
        width_factor @ weights.transpose(2, 3)
    ) * height_factor  # (N, D, M, h), shares summed over columns
    by_column = (height_factor @ weights) * width_factor  # (N, D, M, w)
    displacement = torch.stack(
        [(by_row * row_offsets).sum((0, 3)), (by_column * column_offsets).sum((0, 3))], dim=2
    )
    squared = (by_row * row_offsets.square()).sum((0, 3)) + (by_column * column_offsets.square()).sum((0, 3))
    log_likelihood = (entities * (density / (nodes + 1)).log()).sum()
    return NodeSums(by_row.sum((0, 3)), displacement, squared, log_likelihood)


def node_positions(entities: Tensor, expected: Tensor, deformation: Tensor) -> tuple[Tensor, Tensor]:
    """Where each node is on each image: the cell with the largest F(p) N(p | m, s^2).

    Returns:
        positions (N, D, M, 2), relative, and scores (N, D, M) in units of F: F(p) times the Gaussian over its
        height at the mean. A map of zeros has its nodes where they are expected, with score 0.
    """
    height, width = entities.shape[2:]
    rows, columns = cell_positions(height, width)
    positions, scores = [], []
    step = max(1, CHUNK_CELLS // max(1, expected[0, ..., 0].numel() * height * width))
    for here, there in zip(entities.split(step), expected.split(step), strict=True):
        row_factor = _gaussian(rows - there[..., :1], deformation)
        column_factor = _gaussian(columns - there[..., 1:], deformation)
        support = row_factor.unsqueeze(4) * column_factor.unsqueeze(3) * here.unsqueeze(2)  # (n, D, M, h, w)
        best, cell = support.flatten(3).max(dim=3)
        position = torch.stack((rows[cell // width], columns[cell % width]), dim=3)
        positions.append(torch.where(best.unsqueeze(3) > 0, position, there))
        scores.append(best * 2 * torch.pi * deformation.square())
    return torch.cat(positions), torch.cat(scores)


def _gaussian(offsets: Tensor, deformation: Tensor) -> Tensor:
    """One-dimensional normal density of offsets (N, D, M, cells)."""
    spread = deformation.unsqueeze(2)
    return torch.exp(-0.5 * (offsets / spread).square()) / (spread * (2 * torch.pi) ** 0.5)
