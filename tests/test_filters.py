import math

import pytest
import torch
from sklearn.metrics import mutual_info_score

from interp_cnn.evaluation.filters.selectivity import (
    category_means,
    category_selectivity,
    concentration,
    effective_filters,
    label_information,
    part_coverage,
    redundancy,
    score_correlations,
)


def scored(images=120, filters=6, categories=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(categories, (images,), generator=generator)
    scores = (
        torch.rand(images, filters, generator=generator)
        + (labels.unsqueeze(1) == torch.arange(filters) % 4) * 0.5
    )
    return scores, labels


def test_information_equals_scikit_learn_on_the_same_bins():
    scores, labels = scored()
    scores[:, 1] = (scores[:, 1] * 3).round()  # with ties
    ours = label_information(scores, labels, 4, bins=5)
    for f in range(6):
        values = scores[:, f].tolist()
        binned = [sum(other < value for other in values) * 5 // 120 for value in values]
        for category in range(4):
            expected = mutual_info_score(binned, (labels == category).tolist())
            assert ours[f, category].item() == pytest.approx(expected, abs=1e-12)


def test_a_filter_that_names_a_category_knows_its_entropy_and_a_silent_or_random_one_nothing():
    labels = torch.arange(400) % 4
    generator = torch.Generator().manual_seed(0)
    scores = torch.stack(
        ((labels == 2).float(), torch.zeros(400), torch.rand(400, generator=generator)), dim=1
    )
    found = label_information(scores, labels, 4)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert found[0, 2].item() == pytest.approx(entropy) and found[0].argmax() == 2
    assert found[1].abs().max() < 1e-12
    assert found[2].max() < 3 * 9 / (2 * 400), "the bias of ten bins, not more"


def test_selectivity_by_hand():
    means = torch.tensor([[3.0, 1.0, 0.0, 2.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    found = category_selectivity(means)
    assert found[[0, 1, 3]].tolist() == [0.5, 0.0, 1.0] and found[2].isnan()
    scores, labels = scored()
    means = category_means(scores, labels, 5)
    assert means[4].isnan().all() and means[2, 3].item() == pytest.approx(
        scores[labels == 2, 3].double().mean().item()
    )
    assert torch.equal(category_selectivity(means), category_selectivity(means[:4]))


def test_concentration_is_the_mass_near_the_peak():
    maps = torch.zeros(1, 3, 7, 7)
    maps[0, 0, 3, 3], maps[0, 0, 3, 4], maps[0, 0, 6, 6] = 4.0, 2.0, 2.0
    maps[0, 1] = 1.0
    shares, alive = concentration(maps, width=1.0)
    assert shares[0, 0].item() == pytest.approx(0.75)
    assert shares[0, 1].item() == pytest.approx(3 / 49), "the peak is the first cell, in the corner"
    assert shares[0, 2].isnan() and alive.tolist() == [[True, True, False]]


def test_equal_filters_are_redundant_and_independent_ones_are_not():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(3000, 4, generator=generator)
    copies = torch.cat((base, -2 * base[:, :1] + 3, torch.full((3000, 1), 0.5)), dim=1)
    correlations = score_correlations(copies.split(40))
    assert redundancy(correlations)[[0, 4]].tolist() == pytest.approx([1.0, 1.0])
    assert redundancy(correlations)[1] < 0.1 and redundancy(correlations)[5].isnan()
    assert torch.allclose(correlations[:4, :4], torch.corrcoef(base.double().T), atol=1e-9)
    assert effective_filters(score_correlations([base])) == pytest.approx(4, abs=0.02)
    assert effective_filters(score_correlations([base[:, :1].expand(-1, 5)])) == pytest.approx(1, abs=1e-6)
    assert effective_filters(score_correlations(torch.ones(9, 2).split(4))) == 0


def test_coverage_counts_filters_by_part():
    part, tracks = torch.tensor([0, 0, 2, 2, -1]), torch.tensor([True, False, True, True, True])
    assert part_coverage(part, tracks, ("head", "leg", "tail")) == {"head": 1, "leg": 0, "tail": 2}


def test_too_few_bins_are_refused():
    with pytest.raises(ValueError, match="bins is 1"):
        label_information(*scored(), 4, bins=1)
