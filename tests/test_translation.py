import pytest
import torch
from planted import PlantedNetwork, planted_images

from interp_cnn.evaluation.filters.noise import NoiseStability, noisy
from interp_cnn.evaluation.filters.translation import TranslationTest, random_views, view_of
from interp_cnn.evaluation.statistics import resampling
from interp_cnn.explanation.network.feature_maps import feature_maps, peaks

CATEGORIES = torch.tensor([1, 1, 2, 2])


def seen(images, network=None):
    positions, scores = peaks(feature_maps(network or PlantedNetwork(), images, "maps"))
    return positions.float(), scores


@pytest.mark.parametrize("crop", [1.0, 0.8])
def test_it_separates_a_filter_that_tracks_content_from_a_constant(crop):
    images, labels, landmarks = planted_images(per_class=120)
    inner = ((landmarks[:, 0] - 11.5).abs() < 11).all(
        dim=1
    )  # a dot on the border would be repeated beyond it
    images, labels = images[inner], labels[inner]
    view = random_views(images, torch.Generator().manual_seed(0), shift=0.2, crop=crop)
    (before, score), (after, view_score) = seen(images), seen(view.images)
    test = TranslationTest(CATEGORIES)
    for start in range(0, len(images), 50):
        batch = slice(start, start + 50)
        part = view_of(images[batch], view.offset[batch], view.scale[batch])
        test.update(before[batch], after[batch], ((score > 0) & (view_score > 0))[batch], labels[batch], part)
    draws = resampling(100, resamples=1)
    following, gain = test.following(draws)[0], test.gain(draws)[0]
    assert following[0] == pytest.approx(1, abs=0.03) and gain[0] > (0.999 if crop == 1 else 0.85)
    assert following[1] == 0 and gain[1] == pytest.approx(0)
    assert following[3].isnan() and gain[3].isnan()


def test_a_filter_that_wanders_is_worse_than_a_constant():
    images, labels, _ = planted_images(per_class=120)
    generator = torch.Generator().manual_seed(0)
    view = random_views(images, generator)
    before, after = (24 * torch.rand(360, 4, 2, generator=generator) - 0.5 for _ in range(2))
    test = TranslationTest(CATEGORIES)
    test.update(before, after, torch.ones(360, 4, dtype=torch.bool), labels, view)
    assert test.gain(resampling(100, resamples=1))[0].max() < -1


def test_shifts_by_whole_pixels_move_the_image_and_repeat_its_border():
    images = torch.rand(2, 3, 8, 8)
    view = view_of(images, torch.tensor([[2.0, -3.0], [0.0, 0.0]]), torch.ones(2, 1))
    assert torch.allclose(view.images[0, :, :6, 3:], images[0, :, 2:, :5], atol=1e-5)
    assert torch.allclose(view.images[0, :, 6, 3:], images[0, :, 7, :5], atol=1e-5)
    assert torch.allclose(view.images[1], images[1], atol=1e-5)


def test_points_go_where_their_pixels_go():
    images = torch.zeros(1, 1, 32, 32)
    images[0, 0, 9:12, 20:23] = 1.0
    images[0, 0, 10, 21] = 2.0
    view = random_views(images, torch.Generator().manual_seed(3), shift=0.1, crop=0.7)
    place = view.points(torch.tensor([[[10.0, 21.0]]]))[0, 0]
    brightest = view.images[0, 0].flatten().argmax()
    assert (place - torch.tensor([brightest // 32, brightest % 32])).abs().max() <= 0.75
    assert (
        view_of(images, torch.tensor([[12.0, 0]]), torch.ones(1, 1))
        .points(torch.tensor([[[3.0, 5]]]))
        .isnan()
        .all()
    )


def test_the_same_generator_gives_the_same_views():
    images = torch.rand(4, 3, 16, 16)
    one, two = (random_views(images, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one.images, two.images) and one.scale.min() >= 0.85 and one.scale.max() <= 1
    with pytest.raises(ValueError, match=r"crop 1\.2"):
        random_views(images, torch.Generator(), crop=1.2)


def test_sums_by_group_give_the_bootstrap_its_rows():
    images, labels, _ = planted_images(per_class=80)
    view = random_views(images, torch.Generator().manual_seed(0))
    (before, _), (after, _) = seen(images), seen(view.images)
    test = TranslationTest(CATEGORIES)
    test.update(before, after, torch.ones(240, 4, dtype=torch.bool), labels, view)
    draws = resampling(100, resamples=30)
    rows = test.gain(draws)
    assert rows.shape == (131, 4)
    missed, expected = ((draws.rows[7].double() @ sums)[:3] for sums in (test.missed, test.expected))
    assert torch.equal(rows[7, :3], 1 - (missed / expected).sqrt())


def test_a_dot_and_a_constant_stay_where_they_are_under_noise_and_noise_does_not():
    images, labels, _ = planted_images(per_class=100)
    (before, score), (after, noisy_score) = (
        seen(images),
        seen(noisy(images, torch.Generator().manual_seed(0))),
    )
    measure = NoiseStability(CATEGORIES)
    measure.update(before, after, (score > 0) & (noisy_score > 0), labels)
    shares = measure.shares(resampling(100, resamples=1))[0]
    assert shares[:2].tolist() == [1.0, 1.0] and shares[2] < 0.5 and shares[3].isnan()


def test_noise_stays_in_the_range_of_images():
    images = torch.rand(2, 3, 16, 16)
    changed = noisy(images, torch.Generator().manual_seed(0), level=0.3)
    assert changed.min() >= 0 and changed.max() <= 1 and (changed - images).std() > 0.15
