"""Every fill as it is said to be, and through both engines."""

import pytest
import torch
from occlusion_networks import lively, pictures, small_network

from interp_cnn.explanation.occlusion import fills
from interp_cnn.explanation.occlusion.maps import multi_scale_maps, occlusion_drops, occlusion_map
from interp_cnn.explanation.occlusion.windows import disc, window_grid

IMAGES = pictures(2, (22, 24)).double()
POOL = torch.rand(5, 3, 22, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
FILLS = {
    "constant": fills.constant(0.7),
    "per channel": fills.per_channel([0.1, 0.5, 0.9]),
    "image mean": fills.image_mean(),
    "data-set mean": fills.dataset_mean([0.4, 0.5, 0.3]),
    "blur": fills.blur(5, 2.0),
    "noise": fills.noise(samples=2),
    "shuffled": fills.shuffled(samples=2),
    "neighbours": fills.neighbours(tolerance=1e-12),
    "other images": fills.other_images(POOL, samples=2),
    "inverted": fills.inverted(),
    "custom": fills.as_fill(lambda images, hidden: images.flip(3) * (1 + hidden.double().mean())),
}


@pytest.mark.parametrize("name", FILLS)
def test_every_fill_hides_the_same_in_both_engines_and_in_a_literal_loop(name):
    network, fill = lively(small_network()).double(), FILLS[name]
    options = {"window": disc(7), "stride": (6, 7), "fill": fill, "overhang": "both"}
    found = {e: occlusion_drops(network, IMAGES, engine=e, **options) for e in ("dense", "incremental")}
    grid = window_grid((22, 24), disc(7), (6, 7), "both")
    with torch.no_grad():
        for row, column in [(0, 0), (1, 2), (2, 1), (len(grid.rows) - 1, len(grid.columns) - 1)]:
            mask = grid.mask(row, column)
            # what looks at the hidden pixels alone is given their rectangle, so that it draws the same
            box = (..., slice(*grid.rows[row]), slice(*grid.columns[column])) if fill.reach == 0 else ...
            occluded = []
            for sample in range(fill.samples):
                image = IMAGES.clone()
                image[box] = fill(IMAGES[box], mask[box], sample)
                occluded.append(network(image))
            expected = network(IMAGES) - torch.stack(occluded).mean(0)
            for drops in found.values():
                torch.testing.assert_close(drops[:, :, row, column], expected, rtol=1e-8, atol=1e-10)


def hidden_values(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Some hidden cells' old and new values, (B, C, cells) each."""
    mask = window_grid((22, 24), 6, 5).mask(2, 1)
    return IMAGES[..., mask], FILLS[name](IMAGES, mask)[..., mask]


def test_fills_put_in_what_their_names_say():
    means = IMAGES.mean((2, 3))[..., None].expand(-1, -1, 36)
    torch.testing.assert_close(hidden_values("image mean")[1], means)
    assert (hidden_values("constant")[1] == 0.7).all()
    assert (hidden_values("data-set mean")[1][:, 2] == 0.3).all()
    old, new = hidden_values("inverted")
    torch.testing.assert_close(new, 1 - old)
    old, new = hidden_values("shuffled")
    assert not torch.equal(old, new) and torch.equal(old.sort(2).values, new.sort(2).values)
    order = {tuple((old[0, c] == value).nonzero()[0, 0].item() for value in new[0, c]) for c in range(3)}
    assert len(order) == 1  # whole pixels change places
    new, mask = hidden_values("other images")[1], window_grid((22, 24), 6, 5).mask(2, 1)
    assert any(torch.equal(new[0], other[:, mask]) for other in POOL)
    new = hidden_values("noise")[1]
    assert new.min() >= 0 and new.max() <= 1 and torch.equal(new[0], new[1]) and new.std() > 0.2


def test_neighbours_solve_the_mean_of_eight_at_every_hidden_pixel():
    mask = window_grid((22, 24), 6, 5).mask(2, 1)
    filled = FILLS["neighbours"](IMAGES, mask)
    weights = {
        (a, b): 1 / 6 if 0 in (a, b) else 1 / 12 for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)
    }
    for row, column in mask.nonzero().tolist():
        mean = sum(weight * filled[:, :, row + a, column + b] for (a, b), weight in weights.items())
        torch.testing.assert_close(filled[:, :, row, column], mean, rtol=1e-8, atol=1e-10)


def test_scales_are_the_single_maps_and_can_be_averaged_as_contributions():
    torch.manual_seed(0)
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 24, 2)).double()
    images, targets = pictures(2, (24, 24)).double(), torch.tensor([1, 0])
    maps = multi_scale_maps(linear, images, targets, windows=[4, (8, 6)], strides=[4, (8, 6)])
    for values, window in zip(maps, [4, (8, 6)], strict=True):
        alone = occlusion_map(linear, images, targets, window=window, stride=window, unit="contribution")
        assert torch.equal(values, alone)
    with torch.no_grad():
        change = (linear(images) - linear(torch.zeros_like(images)))[torch.arange(2), targets]
    torch.testing.assert_close(maps.mean(0).sum((1, 2)), change)
    with pytest.raises(ValueError, match=r"^windows and strides must be equally many"):
        multi_scale_maps(linear, images, targets, windows=[4], strides=[])
