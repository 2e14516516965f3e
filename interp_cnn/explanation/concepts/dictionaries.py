"""Dictionaries: what lies in a cell as a sum of few directions in the channels, and how much of each.

    activations / scale at a cell  ~  sum over atoms of  code * atom        atoms and codes >= 0, atoms of length 1

Nothing is negative, as nothing is in the maps, so an atom brings a share of every activation: that share can be
counted, drawn, and taken out. Two ways to the codes of given atoms:

    without encoder   non-negative least squares, cell by cell (of `factorised`, Lee and Seung 1999; CRAFT 2023)
    with encoder      the `active` largest of  max(encoder @ cell + bias, 0),  all others 0 (of `sparse_dictionary`)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp_cnn.storage.brief import Brief

MOST_CELLS = 10_000  # from which a dictionary is learned
MOST_STEPS, TOLERANCE = 300, 1e-4  # of the least squares: change of a code, relative to the largest one
MAIN_SHARE = 0.5  # of an atom's squared length that its main channels carry


@dataclass(frozen=True, eq=False, repr=False)
class Dictionary(Brief):
    """Directions in the channels of a layer.

    Attributes:
        atoms: (A, D), not negative, of length 1.
        encoder: (A, D); None: codes are non-negative least squares.
        bias: (A,), with an encoder.
        active: atoms of a cell at most, with an encoder.
    """

    atoms: Tensor
    encoder: Tensor | None = None
    bias: Tensor | None = None
    active: int = 0

    def __len__(self) -> int:
        return len(self.atoms)

    def codes(self, cells: Tensor) -> Tensor:
        """(N, A) of cells (N, D), which are activations / scale."""
        if self.encoder is None or self.bias is None:
            return non_negative_codes(cells, self.atoms.to(cells))
        return largest((cells @ self.encoder.to(cells).T + self.bias.to(cells)).relu(), self.active)

    def code_maps(self, scaled: Tensor) -> Tensor:
        """(B, A, h, w) of maps (B, D, h, w), which are activations / scale."""
        codes = self.codes(scaled.movedim(1, 3).flatten(0, 2))  # (B * h * w, A)
        return codes.unflatten(0, (len(scaled), *scaled.shape[2:])).movedim(3, 1)

    def arrays(self) -> dict[str, NDArray]:
        """To keep in a file; `of_arrays` reads them."""
        kept = {"atoms": self.atoms.numpy(), "active": np.array(self.active)}
        if self.encoder is not None and self.bias is not None:
            kept |= {"encoder": self.encoder.numpy(), "bias": self.bias.numpy()}
        return kept

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray], start: str = "") -> Dictionary:
        """From arrays whose names have a common start."""
        atoms, encoder, bias = (
            torch.from_numpy(arrays[start + name]) if start + name in arrays else None
            for name in ("atoms", "encoder", "bias")
        )
        assert atoms is not None  # every dictionary has them
        return cls(atoms, encoder, bias, int(arrays[start + "active"]))

    def main_channels(self, atom: int) -> tuple[int, ...]:
        """The fewest channels that carry half of an atom's squared length, strongest first."""
        squares, order = self.atoms[atom].double().square().sort(descending=True, stable=True)
        before = squares.cumsum(dim=0) - squares
        return tuple(order[before < MAIN_SHARE * squares.sum()].tolist())


def largest(codes: Tensor, count: int) -> Tensor:
    """Codes (N, A) with all but the `count` largest of each row at 0."""
    kept = codes.topk(min(count, codes.shape[1]), dim=1)
    return torch.zeros_like(codes).scatter(1, kept.indices, kept.values)


def non_negative_codes(cells: Tensor, atoms: Tensor) -> Tensor:
    """(N, A) codes >= 0 that minimise |cells - codes @ atoms|^2.

    By accelerated projected gradient (Beck and Teboulle, FISTA, 2009), started anew where it turns back (O'Donoghue and
    Candes, 2015): a product of matrices per step.

    Args:
        cells: (N, D).
        atoms: (A, D), of length 1.
    """
    codes = cells.new_zeros(len(cells), len(atoms))
    there = (cells > 0).any(dim=1)  # others have codes of 0
    if not bool(there.any()) or not len(atoms):
        return codes
    gram, wanted = atoms @ atoms.T, cells[there] @ atoms.T  # (A, A), (N, A)
    step = 1 / torch.linalg.eigvalsh(gram.double())[-1].to(cells)
    here = ahead = wanted.clamp(min=0) * step
    momentum = torch.ones_like(here[:, :1])
    for number in range(MOST_STEPS):
        slope = ahead @ gram - wanted
        there_next = (ahead - step * slope).clamp(min=0)
        moved = there_next - here
        back = ((ahead - there_next) * moved).sum(dim=1, keepdim=True) > 0
        grown = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        ahead = torch.where(back, there_next, there_next + (momentum - 1) / grown * moved)
        momentum = torch.where(back, 1.0, grown)
        here = there_next
        if number % 10 == 9 and bool(moved.abs().max() <= TOLERANCE * here.max()):
            break
    codes[there] = here
    return codes


def sampled_cells(batches: Iterable[Tensor], scale: Tensor, *, generator: torch.Generator) -> Tensor:
    """Cells (n, D) of maps (B, D, h, w), scaled, in which any channel is active; at most `MOST_CELLS`, drawn.

    Args:
        batches: of maps.
        scale: (D,).
        generator: of the draw.
    """
    kept, keys = torch.zeros(0, len(scale)), torch.zeros(0)
    for maps in batches:
        cells = (maps.relu().cpu() / scale[:, None, None]).movedim(1, 3).flatten(0, 2)
        cells = cells[(cells > 0).any(dim=1)]
        kept = torch.cat((kept, cells))
        keys = torch.cat((keys, torch.rand(len(cells), generator=generator)))
        keys, order = keys.sort(descending=True, stable=True)
        keys, kept = keys[:MOST_CELLS], kept[order[:MOST_CELLS]]
    return kept


def unexplained(cells: Tensor, dictionary: Dictionary) -> float:
    """Share of the cells' energy that codes times atoms leave over."""
    left = cells - dictionary.codes(cells) @ dictionary.atoms
    return float(left.square().sum() / cells.square().sum().clamp(min=1e-12))
