"""Non-negative matrix factorisation of a layer's maps over positions and images.

    cells (N, D)  ~  codes (N, A) @ atoms (A, D)        both >= 0, least squares

Lee and Seung, "Learning the parts of objects by non-negative matrix factorization", Nature 1999; for the maps of a
network Fel et al., "CRAFT: Concept Recursive Activation FacTorization for Explainability", CVPR 2023. CRAFT factorises
crops of one class's images; here cells of all classes share one dictionary, so that an atom can belong to several.
Computed by scikit-learn's coordinate descent, from singular vectors.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from interp_cnn.explanation.concepts.dictionaries import Dictionary

ITERATIONS = 300


def factorised(cells: Tensor, *, atoms: int, seed: int = 0) -> Dictionary:
    """A dictionary of so many atoms; of fewer where the cells need no more.

    Args:
        cells: (N, D), not negative.
        atoms: at most as many as channels.
        seed: of the approximate singular vectors that the search starts from.

    Raises:
        ValueError: no cells, negative ones, or more atoms than channels.

    Example:
        >>> parts = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> found = factorised(torch.rand(100, 2) @ parts, atoms=2)
        >>> found.atoms.shape, (found.atoms.max(dim=1).values > 0.7).all().item()
        (torch.Size([2, 3]), True)
    """
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    check_cells(cells)
    channels = cells.shape[1]
    if not 1 <= atoms <= channels:
        raise ValueError(f"atoms is {atoms}; expected 1 to {channels}, the number of the layer's channels")
    options: dict[str, Any] = {
        "n_components": min(atoms, len(cells)),
        "init": "nndsvda",
        "max_iter": ITERATIONS,
        "tol": 1e-4,
        "random_state": seed,
    }
    model = NMF(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the error that is left over is reported instead
        model.fit(cells.double().numpy())
    found = torch.from_numpy(model.components_).float()
    lengths = found.norm(dim=1, keepdim=True)
    return Dictionary((found / lengths.clamp(min=1e-12))[lengths.flatten() > 0])


def check_cells(cells: Tensor) -> None:
    """Raises ValueError where there is nothing to learn from, or something negative."""
    if not len(cells):
        raise ValueError("there are no cells with an active channel; expected at least 1")
    if bool((cells < 0).any()):
        raise ValueError(f"cells holds {float(cells.min()):.3g}; expected values of at least 0")
