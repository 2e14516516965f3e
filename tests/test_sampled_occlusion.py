"""Random occlusion against literal sums, ordinary occlusion and closed forms."""

import pytest
import torch
from torch import nn

from interp_cnn.explanation.occlusion.fills import noise
from interp_cnn.explanation.occlusion.maps import occlusion_drops
from interp_cnn.explanation.occlusion.masks import random_windows, rise_masks
from interp_cnn.explanation.occlusion.sampling import BLOCK, UNITS, SampledOcclusion
from interp_cnn.explanation.occlusion.windows import disc, map_of_drops, window_grid

SIZE = (9, 11)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 7 * 9, 3)).double().eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 2, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([2, 0])


def finished(job: SampledOcclusion, samples: int, **options) -> SampledOcclusion:
    for _ in job.run(samples, **options):
        pass
    return job


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("source", [rise_masks(SIZE, cells=3), random_windows(SIZE, window=3, number=2)])
def test_maps_and_errors_are_the_literal_sums(source, score, network, images):
    job = finished(SampledOcclusion(network, images, TARGETS, masks=source, fill=0.3, score=score), 3 * BLOCK)
    masks = torch.cat([source(BLOCK, torch.Generator().manual_seed(job.seed + b)) for b in range(3)]).double()
    with torch.no_grad():
        occluded = torch.stack([network(m * images + (1 - m) * 0.3) for m in masks])  # (N, B, K)
        clean = network(images)
        if score == "probability":
            occluded, clean = occluded.softmax(2), clean.softmax(1)
    for index, target in enumerate(TARGETS):
        scores = occluded[:, index, target, None, None]
        drops = clean[index, target] - scores
        hidden = ((1 - masks) * drops).sum(0) / (1 - masks).sum(0)
        shown = (masks * drops).sum(0) / masks.sum(0)
        rise = (masks * scores).mean(0) / masks.mean(0)
        for unit, expected in (("mean_drop", hidden), ("contrast", hidden - shown), ("rise", rise)):
            torch.testing.assert_close(job.map(unit)[index], expected)
        error = (((1 - masks) * (drops - hidden)) ** 2).sum(0).sqrt() / (1 - masks).sum(0)
        torch.testing.assert_close(job.standard_error("mean_drop")[index], error)


def test_all_single_windows_give_the_ordinary_occlusion_map(network, images):
    grid = window_grid(SIZE, 3, 1, "both")
    windows = torch.stack(
        [~grid.mask(r, c) for r in range(len(grid.row_starts)) for c in range(len(grid.column_starts))]
    )
    windows = windows.float().view(-1, *SIZE)

    def every_window(count, generator):
        every_window.given = getattr(every_window, "given", 0) + count
        return windows[torch.arange(every_window.given - count, every_window.given) % len(windows)]

    assert (
        len(windows) == 143
    )  # 13 x 11; BLOCK = 32 and 143 share no factor, so 143 blocks draw each 32 times
    job = finished(SampledOcclusion(network, images, TARGETS, masks=every_window), 143 * BLOCK)
    drops = occlusion_drops(network, images, window=3, stride=1, overhang="both")
    expected = map_of_drops(grid, drops[torch.arange(2), TARGETS])
    torch.testing.assert_close(job.map("mean_drop"), expected)


def test_on_a_linear_network_the_contrast_of_single_pixels_is_each_ones_term_within_its_errors():
    torch.manual_seed(3)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double()
    image = torch.rand(1, 1, 6, 6, dtype=torch.float64)
    terms = (linear[1].weight[1].view(6, 6) * image[0, 0]).detach()
    independent = lambda count, generator: (torch.rand(count, 6, 6, generator=generator) < 0.5).float()  # noqa: E731
    job = finished(SampledOcclusion(linear, image, torch.tensor([1]), masks=independent), 4096)
    deviations = (job.map("contrast")[0] - terms) / job.standard_error("contrast")[0]
    assert deviations.abs().max() < 4
    assert 0.6 < deviations.std() < 1.4


def test_random_windows_hide_every_pixel_equally_often_and_have_their_shape():
    for window in (3, (2, 5), disc(4)):
        masks = random_windows((8, 10), window=window)(4000, torch.Generator().manual_seed(0))
        cells = float(window.sum()) if isinstance(window, torch.Tensor) else 9 if window == 3 else 10
        height, width = (
            window.shape if isinstance(window, torch.Tensor) else (3, 3) if window == 3 else window
        )
        expected = cells / ((8 + height - 1) * (10 + width - 1))
        assert set(masks.unique().tolist()) == {0.0, 1.0}
        assert ((1 - masks).mean(0) - expected).abs().max() < 5 * (expected / 4000) ** 0.5
        assert (1 - masks).sum((1, 2)).max() == cells


def test_rise_masks_show_the_wanted_share_everywhere_and_are_smooth():
    masks = rise_masks((20, 30), cells=5, shown=0.3)(3000, torch.Generator().manual_seed(0))
    assert masks.min() >= 0 and masks.max() <= 1
    assert (masks.mean(0) - 0.3).abs().max() < 0.05
    assert (masks[:, 1:] - masks[:, :-1]).abs().max() <= 1 / 4 + 1e-5  # one cell is 4 rows


def test_a_run_stops_as_soon_as_the_map_is_certain_enough(network, images):
    masks = random_windows(SIZE, window=3, number=3)
    job = finished(SampledOcclusion(network, images, TARGETS, masks=masks), 100_000, tolerance=0.05)
    assert (job.samples < 20_000).all()
    values, errors = job.map().flatten(1), job.standard_error().flatten(1)
    assert (errors.median(1).values <= 0.05 * (values.amax(1) - values.amin(1))).all()


def test_an_image_that_is_certain_early_stops_early_and_its_map_is_the_same_alone_and_beside_others(
    network, images
):
    options = {"masks": random_windows(SIZE, window=3, number=3), "fill": noise(samples=3)}
    more = torch.cat([images, images.flip(3), 0.2 * images])
    targets = torch.cat([TARGETS] * 3)

    def job(chosen):
        made = SampledOcclusion(network, more[chosen], targets[chosen], **options)
        return finished(made, 4000, tolerance=0.1, unit="mean_drop")

    together = job([4, 0, 3, 1, 5, 2])
    assert len(together.samples.unique()) > 1
    for place, number in enumerate([4, 0, 3, 1, 5, 2]):
        alone = job([number])
        assert together.samples[place] == alone.samples[0]
        for unit in UNITS:
            torch.testing.assert_close(together.map(unit)[place], alone.map(unit)[0], rtol=1e-9, atol=1e-9)


def test_a_resumed_job_ends_with_the_same_bits_as_a_whole_one(network, images):
    options = {"masks": random_windows(SIZE, window=3, number=3), "fill": noise(samples=3)}
    whole = finished(SampledOcclusion(network, images, TARGETS, **options), 6 * BLOCK)
    first = finished(SampledOcclusion(network, images, TARGETS, **options), 2 * BLOCK)
    second = SampledOcclusion(network, images, TARGETS, **options)
    second.load_state_dict(first.state_dict())
    steps = list(second.run(6 * BLOCK))
    assert [(step.done, step.total) for step in steps] == [(n, 4) for n in range(1, 5)]
    for unit in UNITS:
        assert torch.equal(second.map(unit), whole.map(unit))


def test_the_state_of_another_network_and_wrong_words_are_refused(network, images):
    masks = random_windows(SIZE, window=3)
    job = SampledOcclusion(network, images, TARGETS, masks=masks)
    other = SampledOcclusion(network, images.flip(0), TARGETS, masks=masks)
    with pytest.raises(ValueError, match=r"^state must come from"):
        job.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match=r"^score must be one of"):
        SampledOcclusion(network, images, TARGETS, masks=masks, score="odds")
    with pytest.raises(ValueError, match=r"^unit must be one of"):
        job.map("drop")
    with pytest.raises(ValueError, match=r"^shown must be between"):
        rise_masks(SIZE, shown=1.0)
    with pytest.raises(ValueError, match=r"^number must be"):
        random_windows(SIZE, window=3, number=0)
