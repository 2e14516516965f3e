import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from interp_cnn.evaluation.filters.location_instability import instability_per_part
from interp_cnn.evaluation.statistics import (
    Sampled,
    bca_interval,
    bca_p_value,
    benjamini_hochberg,
    jackknife_error,
    over_seeds,
    paired_permutation_p_value,
    paired_share_difference,
    percentile_interval,
    rank_correlation,
    resampling,
    weighted_mean,
)


def coverage(draw, statistic, truth, trials, images, resamples=300):
    """Share of 95 % intervals that hold the truth."""
    held = 0
    for trial in range(trials):
        generator = torch.Generator().manual_seed(trial)
        sample = draw(images, generator)
        draws = resampling(images, resamples=resamples, seed=1000 + trial)
        estimate = Sampled.from_rows(statistic(sample, draws.rows), draws).estimate()
        held += estimate.low <= truth <= estimate.high
    return held / trials


def exponential(images, generator):
    return torch.empty(images, dtype=torch.float64).exponential_(generator=generator)


def noisy_filter(images, generator):
    """Positions of one filter around landmarks at distances ~ N(20, 3) pixels: instability 0.03 at diagonal
    100.
    """
    landmarks = torch.zeros(images, 1, 2)
    positions = torch.zeros(images, 1, 2, dtype=torch.float64)
    positions[:, 0, 0] = 20 + 3 * torch.randn(images, generator=generator, dtype=torch.float64)
    return positions, torch.rand(images, 1, generator=generator), landmarks


def instability(sample, weights):
    return instability_per_part(*sample, weights, diagonal=100, top_images=10**6).nanmean(dim=0).mean(dim=1)


def test_bca_agrees_with_scipy():
    sample = exponential(80, torch.Generator().manual_seed(5))
    draws = resampling(80, resamples=20000, seed=2)
    ours = Sampled.from_rows(weighted_mean(sample, draws.rows), draws).estimate()
    theirs = scipy.stats.bootstrap(
        (sample.numpy(),), np.mean, n_resamples=20000, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    spread = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * spread)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * spread)
    assert ours.value == pytest.approx(float(sample.mean())) and ours.n == 80
    # and it is not the percentile interval, which is too far to the left for a skewed sample
    low, high = percentile_interval(weighted_mean(sample, resampling(80, resamples=20000, seed=2).bootstrap))
    assert ours.low > float(low) and ours.high > float(high)


def test_bca_on_scipys_own_replicates_is_scipys_interval():
    sample = exponential(30, torch.Generator().manual_seed(6)).numpy()
    theirs = scipy.stats.bootstrap(
        (sample,), np.var, n_resamples=999, method="BCa", rng=np.random.default_rng(1)
    )
    jackknife = torch.tensor([np.var(np.delete(sample, i)) for i in range(30)])
    low, high = bca_interval(float(np.var(sample)), torch.tensor(theirs.bootstrap_distribution), jackknife)
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), rel=1e-6)


def test_intervals_hold_the_truth_at_about_their_level():
    # 60 trials: the share of hits has a standard error of 2.8 points; the slow test below tells more.
    shares = {
        "mean": coverage(exponential, weighted_mean, 1.0, trials=60, images=60),
        "instability": coverage(noisy_filter, instability, 0.03, trials=60, images=60),
    }
    assert all(0.87 <= share <= 0.99 for share in shares.values()), shares


@pytest.mark.slow
def test_intervals_hold_the_truth_at_their_level():
    shares = {
        "mean": coverage(exponential, weighted_mean, 1.0, trials=1000, images=100, resamples=400),
        "instability": coverage(noisy_filter, instability, 0.03, trials=1000, images=100, resamples=400),
    }
    assert all(0.92 <= share <= 0.97 for share in shares.values()), shares


def test_the_permutation_test_rejects_at_its_level_under_exchange_and_nearly_always_for_a_real_difference():
    generator = torch.Generator().manual_seed(0)
    null = [
        paired_permutation_p_value(torch.randn(40, generator=generator), permutations=199, seed=i)
        for i in range(300)
    ]
    assert 0.02 <= sum(p <= 0.05 for p in null) / 300 <= 0.085
    real = [
        paired_permutation_p_value(0.7 + torch.randn(40, generator=generator), permutations=199)
        for _ in range(50)
    ]
    assert sum(p <= 0.05 for p in real) >= 45


def test_the_permutation_test_equals_all_sign_flips_on_a_small_sample():
    differences = torch.tensor([0.3, 1.2, -0.1, 0.8, 0.5, 0.9, -0.4, 0.7])
    flips = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 8)
    exact = ((flips @ differences).abs() >= differences.sum().abs() - 1e-6).double().mean().item()
    assert paired_permutation_p_value(differences, permutations=20000) == pytest.approx(exact, abs=0.006)
    assert paired_permutation_p_value(torch.zeros(5), permutations=99) == 1.0
    certain = paired_permutation_p_value(torch.ones(60), permutations=99)
    assert certain == 1 / 100, "what was observed counts as one permutation: no p-value is 0"
    assert math.isnan(paired_permutation_p_value(torch.tensor([])))


def test_resamplings_are_drawn_within_strata_and_repeat_with_the_seed():
    strata = torch.tensor([0] * 7 + [1] * 3)
    draws = resampling(10, resamples=50, seed=3, strata=strata)
    assert draws.bootstrap[:, :7].sum(dim=1).eq(7).all() and draws.bootstrap[:, 7:].sum(dim=1).eq(3).all()
    assert torch.equal(draws.bootstrap, resampling(10, resamples=50, seed=3, strata=strata).bootstrap)
    assert not torch.equal(draws.bootstrap, resampling(10, resamples=50, seed=4, strata=strata).bootstrap)
    assert draws.jackknife.shape == (10, 10) and torch.equal(
        draws.jackknife.sum(dim=1), torch.full((10,), 9.0)
    )
    many = resampling(1001, resamples=1).jackknife
    assert many.shape == (100, 1001) and torch.equal((1 - many).sum(dim=0), torch.ones(1001))
    with pytest.raises(ValueError, match="images is 1"):
        resampling(1)


def test_ranks_are_compared_row_by_row_and_a_constant_row_has_no_order():
    """Of four places 1, 2.5, 2.5, 4 and 1, 2, 3, 4 the correlation of ranks is 4.5 / sqrt(4.5 * 5)."""
    first = torch.tensor([[[0.0, 3.0], [3.0, 9.0]], [[1.0, 1.0], [1.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]]])
    second = torch.tensor([[[5.0, 6.0], [7.0, 8.0]], [[1.0, 2.0], [3.0, 4.0]], [[9.0, 8.0], [7.0, -6.0]]])
    tied, constant, opposite = rank_correlation(first, second)
    assert tied.item() == pytest.approx(4.5**0.5 / 5**0.5) and constant.isnan()
    assert opposite.item() == pytest.approx(-1)


def test_a_mean_leaves_out_images_without_a_value():
    values = torch.tensor([1.0, torch.nan, 4.0])
    assert weighted_mean(values, torch.tensor([[1.0, 5, 1], [3, 0, 1]])).tolist() == [2.5, 1.75]


def test_degenerate_samples_give_no_nonsense():
    draws = resampling(9)
    constant = Sampled.from_rows(weighted_mean(torch.full((9,), 2.0), draws.rows), draws).estimate()
    assert (constant.value, constant.low, constant.high) == (2.0, 2.0, 2.0)
    assert all(math.isnan(end) for end in bca_interval(math.nan, torch.rand(9), torch.rand(9)))
    assert bca_interval(5.0, torch.rand(100), torch.rand(9))[1] <= 1.0


def skewed(generator):
    """A value, its replicates and leave-one-out values, some with ties, some on one side of zero only."""
    shift = float(torch.randn((), generator=generator, dtype=torch.float64))
    replicates = torch.randn(199, generator=generator, dtype=torch.float64).exp() - 1.5 + shift
    if torch.rand((), generator=generator) < 0.5:
        replicates = replicates.round()
    value = float(replicates.mean() + 0.2 * torch.randn((), generator=generator, dtype=torch.float64))
    jackknife = value + 0.1 * torch.randn(30, generator=generator, dtype=torch.float64).exp()
    return value, replicates, jackknife


def test_the_p_value_is_the_level_at_which_the_interval_reaches_zero():
    generator = torch.Generator().manual_seed(0)
    inside, seen = 0, 0
    for _ in range(100):
        sample = skewed(generator)
        p = bca_p_value(*sample)
        for level in (0.5, 0.8, 0.95):
            if abs(p - (1 - level)) < 1e-6:
                continue
            low, high = bca_interval(*sample, level=level)
            assert (p < 1 - level) == (low > 0 or high < 0), (sample, p, low, high)
            seen, inside = seen + 1, inside + (low <= 0 <= high)
    assert 0.1 * seen < inside < 0.9 * seen


def test_the_p_value_of_a_normal_mean_is_the_z_tests():
    generator = torch.Generator().manual_seed(3)
    for shift in (0.0, 0.15, 0.3):
        sample = torch.randn(200, generator=generator, dtype=torch.float64) + shift
        draws = resampling(200, resamples=5000, seed=1)
        figure = Sampled.from_rows(weighted_mean(sample, draws.rows), draws)
        z = float(sample.mean() / sample.std(correction=0)) * math.sqrt(200)
        expected = 2 * scipy.stats.norm.sf(abs(z))
        assert figure.p_value() == pytest.approx(expected, rel=0.25, abs=0.004)


def test_beyond_its_draws_a_p_value_is_a_normal_tail_within_their_bound():
    jackknife = torch.linspace(0.9, 1.1, 20).double()
    above = torch.linspace(0.5, 1.5, 499).double()
    tail = 2 * scipy.stats.norm.sf(1 / above.std().item())
    assert bca_p_value(1.0, above, jackknife) == pytest.approx(tail) and tail < 2 / 500
    assert bca_p_value(-1.0, -above, -jackknife) == pytest.approx(tail)
    assert bca_p_value(0.6, above, jackknife) == 2 / 500, "two deviations alone would say more than the bound"
    assert bca_p_value(1.0, torch.ones(499), jackknife) == 2 / 500
    assert Sampled(1.0, above, jackknife, 9).bound == pytest.approx(2 / 500)
    assert bca_p_value(0.0, torch.zeros(50), torch.zeros(9)) == 1.0
    assert math.isnan(bca_p_value(1.0, torch.tensor([]), jackknife))
    assert math.isnan(bca_p_value(math.nan, above, jackknife))


def test_a_difference_is_row_by_row_and_counts_no_more_images_than_the_smaller_side():
    rows, groups = torch.linspace(0, 1, 7).double(), torch.linspace(0, 1, 5).double()
    large, small = Sampled(0.7, rows, groups, 90), Sampled(0.2, rows.square(), groups.square(), 40)
    for first, second in ((large, small), (small, large)):
        found = first - second
        assert found.value == pytest.approx(first.value - second.value) and found.n == 40
        torch.testing.assert_close(found.bootstrap, first.bootstrap - second.bootstrap)
        torch.testing.assert_close(found.jackknife, first.jackknife - second.jackknife)


@pytest.mark.parametrize(
    ("won", "lost"), [(0, 0), (1, 0), (4, 0), (6, 0), (9, 2), (10, 2), (5, 5), (0, 8), (30, 12)]
)
def test_a_paired_difference_of_shares_is_mcnemars_and_its_interval_agrees(won, lost):
    first = torch.cat((torch.ones(won), torch.zeros(lost), torch.ones(50), torch.zeros(7))).bool()
    second = torch.cat((torch.zeros(won), torch.ones(lost), torch.ones(50), torch.zeros(7))).bool()
    estimate, p = paired_share_difference(first, second)
    differ = won + lost
    tail = sum(math.comb(differ, k) for k in range(max(won, lost), differ + 1)) / 2**differ
    assert p == pytest.approx(min(1.0, 2 * tail))
    assert estimate.value == pytest.approx((won - lost) / len(first)) and estimate.n == len(first)
    assert estimate.low <= estimate.value <= estimate.high
    assert (p < 0.05) == (estimate.low > 0 or estimate.high < 0)
    assert (estimate.low == estimate.high) == (differ == 0)


def test_seeds_are_averaged_with_students_interval():
    values = [0.71, 0.74, 0.69]
    estimate = over_seeds([*values, math.nan])
    theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(theirs)) and estimate.n == 3
    assert math.isnan(over_seeds([0.5]).low) and math.isnan(over_seeds([]).value)


def test_false_discovery_control_equals_scipy():
    p = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    assert benjamini_hochberg(p).numpy() == pytest.approx(scipy.stats.false_discovery_control(p.numpy()))
    with_gap = benjamini_hochberg(torch.cat((p, torch.tensor([torch.nan]))))
    assert torch.equal(with_gap[:-1], benjamini_hochberg(p)) and with_gap[-1].isnan()


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = resampling(60)
    left_out = weighted_mean(values, draws.jackknife)
    assert jackknife_error(left_out).item() == pytest.approx(values.std().item() / math.sqrt(60))
    figure = Sampled(float(values.mean()), torch.zeros(0), left_out, 60)
    assert figure.estimate().high - figure.value == pytest.approx(
        1.96 * values.std().item() / math.sqrt(60), rel=1e-3
    )
    z = float(values.mean() / values.std()) * math.sqrt(60)
    assert figure.p_value() == pytest.approx(2 * scipy.stats.norm.sf(abs(z)))
    assert (figure - figure).p_value() == 1.0 and jackknife_error(left_out[:1]).isnan()


def test_the_interval_of_a_share_never_leaves_0_to_1_nor_that_of_a_difference_minus_1_to_1():
    draws = torch.zeros(0)
    few = Sampled(0.95, draws, torch.tensor([1.0, 0.7, 1.0, 0.9]), 20, (0.0, 1.0))
    unlimited = replace(few, limits=(-math.inf, math.inf)).estimate()
    assert unlimited.high > 1 > unlimited.low > 0
    assert few.estimate() == replace(unlimited, high=1.0)
    other = Sampled(0.05, draws, torch.tensor([0.0, 0.5, 0.0, 0.1]), 20, (0.0, 1.0))
    assert other.estimate().low == 0
    difference = few - other
    assert difference.limits == (-1, 1) and difference.estimate().high == 1
