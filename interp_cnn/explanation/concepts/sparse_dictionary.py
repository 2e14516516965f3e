"""A sparse dictionary: an autoencoder of single cells whose code keeps its k largest entries only.

    code = TopK(max(encoder @ cell + bias, 0))        cell ~ sum of code * atom        loss = squared error

Makhzani and Frey, "k-Sparse Autoencoders", ICLR 2014; Gao et al., "Scaling and evaluating sparse autoencoders", 2024
(arXiv 2406.04093): encoder started at the atoms, atoms of length 1, atoms that no cell uses taken up again (there by a
loss of their own, here by moving them to what is explained worst). Otherwise than there atoms are kept non-negative and
nothing is subtracted from a cell first, so that an atom's contribution is a share of the activations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_cnn.explanation.concepts.dictionaries import Dictionary, largest
from interp_cnn.explanation.concepts.factorisation import check_cells

STEPS = 2000
BATCH = 256
RATE = 3e-3  # of Adam, of cells whose mean length is 1; falls to 0 over the last half
REVIVED_EVERY = 200  # steps, in the first half


def sparse_dictionary(
    cells: Tensor, *, atoms: int, active: int, generator: torch.Generator, steps: int = STEPS
) -> Dictionary:
    """A dictionary with an encoder, of so many atoms; of fewer where there are fewer cells.

    Args:
        cells: (N, D), not negative.
        atoms: more than channels are allowed.
        active: atoms of a cell at most.
        generator: of the first atoms and the batches; same seed, same atoms.
        steps: of the optimiser.

    Raises:
        ValueError: no cells, negative ones, or a bound below 1.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> cells = torch.eye(4)[torch.arange(200) % 4]
        >>> found = sparse_dictionary(cells, atoms=4, active=1, generator=generator, steps=200)
        >>> found.codes(torch.eye(4)).gt(0).sum(dim=1)
        tensor([1, 1, 1, 1])
    """
    check_cells(cells)
    if min(atoms, active, steps) < 1:
        raise ValueError(f"atoms is {atoms}, active {active}, steps {steps}; expected at least 1 of each")
    cells = cells.float()
    size = float(cells.norm(dim=1).mean().clamp(min=1e-12))
    cells = cells / size
    decoder = first_atoms(cells, min(atoms, len(cells)), generator)
    encoder, bias = decoder.clone(), torch.zeros(len(decoder))
    parameters = [values.requires_grad_() for values in (decoder, encoder, bias)]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    used = torch.zeros(len(decoder), dtype=torch.bool)
    with torch.enable_grad():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * min(1.0, 2 * (steps - step) / steps)
            batch = cells[torch.randint(len(cells), (BATCH,), generator=generator)]
            codes = largest((batch @ encoder.T + bias).relu(), active)
            left = batch - codes @ decoder
            loss = left.square().sum(dim=1).mean()
            for values, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                values.grad = gradient
            optimizer.step()
            with torch.no_grad():
                _normalise(decoder)
                used |= (codes > 0).any(dim=0)
                if (step + 1) % REVIVED_EVERY == 0:
                    if step < steps // 2:
                        _revive(parameters, optimizer, ~used, batch, left)
                    used[:] = False
    return Dictionary(decoder.detach(), encoder.detach(), bias.detach() * size, active)


def first_atoms(cells: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Directions (count, D) of cells far from each other: each drawn in proportion to its squared sine to the nearest
    one that was drawn before (k-means++ on the sphere).
    """
    directions = cells / cells.norm(dim=1, keepdim=True).clamp(min=1e-12)
    chosen = [int(torch.randint(len(cells), (), generator=generator))]
    away = torch.ones(len(cells))
    while len(chosen) < count:
        away = torch.minimum(away, (1 - (directions @ directions[chosen[-1]]).square()).clamp(min=0))
        away[chosen[-1]] = 0
        weights = away if float(away.sum()) > 0 else torch.ones(len(cells))
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return directions[chosen]


def _normalise(atoms: Tensor) -> None:
    atoms.clamp_(min=0)
    atoms /= atoms.norm(dim=1, keepdim=True).clamp(min=1e-6)


def _revive(
    parameters: list[Tensor], optimizer: torch.optim.Optimizer, dead: Tensor, batch: Tensor, left: Tensor
) -> None:
    """Points dead atoms at what is left over of the cells that are explained worst."""
    numbers = dead.nonzero().flatten()
    decoder, encoder, bias = parameters
    worst = left.square().sum(dim=1).topk(min(len(numbers), len(left))).indices
    numbers = numbers[: len(worst)]
    decoder[numbers] = left[worst].clamp(min=0) + 1e-3 * batch[worst]
    _normalise(decoder)
    encoder[numbers], bias[numbers] = decoder[numbers], 0.0
    for values in parameters:
        for moment in ("exp_avg", "exp_avg_sq"):
            optimizer.state[values][moment][numbers] = 0.0
