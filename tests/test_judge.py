import pytest
import torch

from interp_cnn.evaluation.filters.judge import Judge
from interp_cnn.evaluation.statistics import Sampled, resampling

SIZE = (90, 0)  # a diagonal of 90 pixels
CELLS = torch.cartesian_prod(torch.arange(4.0, 64, 8), torch.arange(4.0, 64, 8))


def noisy_trackers(categories, images, seed):
    """Two filters per category at a fixed offset from a head, with noise: instability sd / diagonal *
    1.02.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(categories).repeat_interleave(images)
    count = len(labels)
    heads = 32 + 8 * torch.randn(count, 1, 2, generator=generator)
    noise = 4 * torch.randn(count, 2 * categories, 2, generator=generator)
    positions = heads + torch.tensor([30.0, 0.0]) + noise
    judge = Judge(heads, labels, CELLS, image_size=SIZE)
    scores = torch.rand(count, 2 * categories, generator=generator)
    return judge, positions, scores, torch.arange(categories).repeat_interleave(2)


def coverages(trials, images, resamples):
    """Share of 95 % intervals that hold: the true instability; the gain to expect at this number of
    images.
    """
    far = torch.tensor([30.0, 0.0]) + 4 * torch.randn(
        1_000_000, 2, generator=torch.Generator().manual_seed(0)
    )
    truth = float(torch.hypot(*far.double().unbind(dim=1)).std()) / 90
    held, gains = 0, []
    for trial in range(trials):
        judge, positions, scores, owners = noisy_trackers(8, images, seed=trial)
        draws = resampling(len(judge.labels), resamples=resamples, seed=trial, strata=judge.labels)
        judgement = judge.measure(positions, scores, owners, draws.rows)
        instability = Sampled.from_rows(judgement.instability.nanmean(dim=1), draws).estimate()
        held += instability.low <= truth <= instability.high
        gains.append(Sampled.from_rows(judgement.gain.nanmean(dim=1), draws).estimate())
    expected = sum(gain.value for gain in gains) / trials
    return held / trials, sum(gain.low <= expected <= gain.high for gain in gains) / trials


def test_few_images_per_category_still_give_intervals_that_hold_the_truth():
    # Resampled standard deviations are biased low by 1 / n per category; eight categories of twenty images each
    # would add up to intervals that miss one time in five, if bootstrap rows did not count pairs of different images.
    shares = coverages(trials=30, images=20, resamples=120)
    assert all(0.85 <= share <= 1.0 for share in shares), shares


@pytest.mark.slow
@pytest.mark.parametrize(("images", "least"), [(20, 0.88), (100, 0.91)])
def test_intervals_of_a_network_hold_the_truth_at_their_level(images, least):
    # 1000 trials gave .917 and .914 with twenty images per category (a standard deviation of twenty is itself
    # biased by 1 / 80, and no bootstrap knows), .947 and .933 with a hundred.
    shares = coverages(trials=200, images=images, resamples=150)
    assert all(least <= share <= 0.98 for share in shares), shares


def test_each_filter_is_judged_on_its_own_category():
    judge, positions, scores, owners = noisy_trackers(3, 20, seed=0)
    whole = judge.measure(positions, scores, owners)
    alone = Judge(judge.landmarks[20:40], judge.labels[20:40], CELLS, SIZE)
    part = alone.measure(positions[20:40, 2:4], scores[20:40, 2:4], owners[2:4])
    assert torch.equal(whole.instability[:, 2:4], part.instability)
    assert torch.equal(whole.best_constant[:, 2:4], part.best_constant)
    nobody = judge.measure(positions, scores, torch.full((6,), -1))
    assert nobody.instability.isnan().all() and nobody.gain.isnan().all()


def test_rows_of_ones_give_the_figures_of_all_images():
    judge, positions, scores, owners = noisy_trackers(3, 20, seed=1)
    plain = judge.measure(positions, scores, owners)
    ones = judge.measure(positions, scores, owners, torch.ones(2, 60))
    for row in (0, 1):
        assert torch.allclose(ones.instability[row], plain.instability[0], atol=1e-12)
        assert torch.allclose(ones.gain[row], plain.gain[0], atol=1e-9)


def test_the_steadiest_category_is_one_with_landmarks():
    judge, positions, scores, _ = noisy_trackers(3, 20, seed=2)
    landmarks = judge.landmarks.clone()
    landmarks[judge.labels == 0] = torch.nan
    judge = Judge(landmarks, judge.labels, CELLS, SIZE)
    assert judge.categories() == [1, 2]
    each = torch.stack([judge.instability(positions, scores, torch.full((6,), k))[0] for k in (1, 2)])
    assert torch.equal(judge.steadiest_category(positions, scores), 1 + each.argmin(dim=0))
    unknown = Judge(landmarks * torch.nan, judge.labels, CELLS, SIZE)
    assert unknown.steadiest_category(positions, scores).tolist() == [-1] * 6


def test_offset_gain_is_zero_for_every_constant_and_one_at_a_fixed_offset():
    judge, _, scores, owners = noisy_trackers(3, 40, seed=3)
    heads = judge.landmarks
    for place in ((0.0, 0.0), (31.5, 31.5), (400.0, -70.0)):
        constant = torch.tensor(place).expand(120, 6, 2)
        assert judge.measure(constant, scores, owners).offset_gain.abs().max() < 1e-9
    tracking = judge.measure(heads.expand(120, 6, 2) + torch.tensor([9.0, -4.0]), scores, owners)
    assert tracking.offset_gain.min() > 1 - 1e-6
    wandering = judge.measure(64 * torch.rand(120, 6, 2), scores, owners)
    assert wandering.offset_gain.max() < 0


def test_offset_gain_equals_the_variances_by_hand():
    judge, positions, scores, owners = noisy_trackers(2, 30, seed=4)
    found = judge.measure(positions, scores, owners).offset_gain[0, 0]
    for f, owner in enumerate(owners.tolist()):
        mine = judge.labels == owner
        heads, offsets = (
            judge.landmarks[mine, 0].double(),
            (judge.landmarks[mine, 0] - positions[mine, f]).double(),
        )
        expected = 1 - (offsets.var(dim=0).sum() / heads.var(dim=0).sum()).sqrt()
        assert found[f].item() == pytest.approx(expected.item(), abs=1e-6)


def test_constants_far_to_the_side_win_distances_but_not_offsets():
    """A head that moves along the rows only, seen from the far left, hardly changes its distance."""
    generator = torch.Generator().manual_seed(0)
    heads = torch.stack((64 * torch.rand(100, 1, generator=generator), torch.full((100, 1), 60.0)), dim=2)
    judge = Judge(heads, torch.zeros(100, dtype=torch.int64), torch.tensor([[31.5, -3000.0]]), SIZE)
    noisy = heads + 3 * torch.randn(100, 1, 2, generator=generator)
    judgement = judge.measure(noisy, torch.rand(100, 1), torch.tensor([0]))
    assert judgement.gain.item() < 0 and judgement.offset_gain.item() > 0.7
