"""How few filters carry a decision, and whether their shares tell what happens without them.

For every image the logit of the class that the network says is shared out among the filters of the layer
(`filter_contributions`: exactly where the head is linear, else by DeepLIFT, else by LRP).

    decision_filters    filters that carry 90 % of what speaks for the class; the median over the images
    removal_gap         area between the logit's curves when filters are switched off least and most relevant first,
                        over their span: 0 for shares that tell nothing, negative for wrong ones
    share_fidelity      Spearman's correlation of a filter's share with what the logit loses without it alone; 1 by
                        construction where the head is linear

A fixed spot or a random cell has no shares: there is nothing to compare with but other networks.
"""

from __future__ import annotations

import warnings

import torch
from scipy.stats import ConstantInputWarning, spearmanr
from torch import Tensor

from interp_cnn.evaluation.filters.passes import Reader
from interp_cnn.evaluation.statistics import Resampling, Sampled, weighted_mean
from interp_cnn.explanation.decisions.class_filters import by_first_that_works
from interp_cnn.explanation.decisions.removal import filters_for, removal
from interp_cnn.explanation.network.refusals import Refusal

TESTED = 48  # images whose filters are switched off


def decision_figures(reader: Reader, draws: Resampling, *, tested: int = TESTED) -> dict[str, Sampled]:
    """The three measures; none for a network that no method shares out, or images that can be read once only.

    Args:
        reader: of network, layer and images.
        draws: resampling of the images.
        tested: images whose filters are switched off, spread over all.
    """
    needed, gaps, fidelities = [], [], []
    numbers = set(torch.linspace(0, draws.images - 1, min(tested, draws.images)).round().long().tolist())
    seen = 0
    for _, images in reader.batches():
        targets = reader.answers(images)[1].argmax(1)
        try:
            found = by_first_that_works(reader.network, images, targets, layer=reader.layer)
        except (Refusal, ValueError):
            return {}
        needed.append(filters_for(found.shares).double().cpu())
        for place in range(len(images)):
            if seen + place in numbers:
                without = removal(reader.network, images[place], found, number=place)
                gaps.append(without.area)
                fidelities.append(rank_correlation(found.shares[place], without.drops))
        seen += len(images)
    if not needed:  # images that can be read once only
        return {}
    counts = torch.cat(needed).where(torch.cat(needed) > 0, torch.nan)
    rows = draws.rows[:, sorted(numbers)]
    return {
        "decision_filters": Sampled.from_rows(weighted_median(counts, draws.rows), draws, len(counts)),
        "removal_gap": Sampled.from_rows(weighted_mean(torch.tensor(gaps), rows), draws, len(gaps)),
        "share_fidelity": Sampled.from_rows(
            weighted_mean(torch.tensor(fidelities), rows), draws, len(fidelities)
        ),
    }


def weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """(R,) lower median of `values` (N,) under `weights` (R, N); values that are NaN take no part.

    Example:
        >>> weighted_median(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([[1, 1, 1], [5, 1, 1]]))
        tensor([2., 3.], dtype=torch.float64)
    """
    known = values.isfinite()
    if not known.any():
        return torch.full((len(weights),), torch.nan, dtype=torch.float64)
    order = values[known].argsort(stable=True)
    ordered, drawn = values[known][order].double(), weights[:, known][:, order].double().cumsum(1)
    half = drawn[:, -1:] / 2
    return torch.where(half[:, 0] > 0, ordered[(drawn >= half).to(torch.int8).argmax(1)], torch.nan)


def rank_correlation(shares: Tensor, drops: Tensor) -> float:
    """Spearman's correlation; NaN where one of them is the same for all filters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return float(spearmanr(shares.double().cpu(), drops.double().cpu()).statistic)
