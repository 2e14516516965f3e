"""The decoder's shapes, scale and masks, and that it learns to invert a known encoder."""

import pytest
import torch
from torch.nn import functional

from interp_cnn.model.upconvolution import Upconvolution, random_masks


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("grid", "image_size"), [((12, 12), (48, 48)), ((7, 5), (50, 33)), ((8, 8), (8, 8)), ((3, 9), (24, 24))]
)
def test_pictures_have_the_images_size_and_range_on_any_grid(grid, image_size):
    torch.manual_seed(0)
    decoder = Upconvolution(6, grid=grid, image_size=image_size, channels=2)
    pictures = decoder(10 * torch.randn(3, 6, *grid, generator=seeded()))
    assert pictures.shape == (3, 2, *image_size)
    assert pictures.min() >= 0 and pictures.max() <= 1


def test_stride_four_takes_two_doublings_and_stays_small():
    decoder = Upconvolution(128, grid=(12, 12), image_size=(48, 48), channels=1)
    assert len(decoder.enlarge) == 2
    assert sum(parameter.numel() for parameter in decoder.parameters()) < 1_700_000


def test_scaling_a_channel_and_its_scale_changes_nothing():
    torch.manual_seed(0)
    plain = Upconvolution(4, grid=(4, 4), image_size=(8, 8)).eval()
    scaled = Upconvolution(
        4, grid=(4, 4), image_size=(8, 8), scale=torch.tensor([1.0, 10.0, 0.1, 3.0])
    ).eval()
    scaled.load_state_dict({**plain.state_dict(), "scale": scaled.scale})
    maps = torch.rand(2, 4, 4, 4, generator=seeded())
    torch.testing.assert_close(plain(maps), scaled(maps * scaled.scale))


def test_windows_lie_mostly_where_something_fires():
    maps = torch.zeros(3000, 4, 6, 6)
    maps[:, 2, 1, 4] = 5.0
    windows = random_masks(maps, generator=seeded(), whole=0.0).amax(dim=1)
    windows = windows[~windows.flatten(1).all(dim=1)]
    three = windows[windows.sum(dim=(1, 2)) == 9]
    assert three[:, 0:3, 3:6].flatten(1).all(dim=1).float().mean() > 0.85  # of those around that cell
    assert windows[:, 5, 0].mean() > 0  # and some elsewhere
    silent = random_masks(0 * maps, generator=seeded(), whole=0.0).amax(dim=1)
    assert silent.mean(dim=0).min() > 0.25 * silent.mean(dim=0).max()


def test_masks_are_windows_channels_or_everything():
    maps = torch.zeros(4000, 10, 9, 8)
    masks = random_masks(maps, generator=seeded(), whole=0.25)
    assert set(masks.unique().tolist()) == {0.0, 1.0} and masks.shape == maps.shape
    window, kept = masks.amax(dim=1), masks.amax(dim=(2, 3))
    assert torch.equal(masks, kept[:, :, None, None] * window[:, None])  # a box times a choice of channels
    windowed, thinned = ~window.flatten(1).all(dim=1) & kept.any(dim=1), ~kept.all(dim=1)
    assert not (windowed & thinned).any()
    assert abs(windowed.float().mean() - 0.5) < 0.04 and abs(thinned.float().mean() - 0.25) < 0.04
    assert abs(kept[thinned].mean() - 0.25) < 0.05  # the mean of u^3
    inside = windowed & ~window[:, [0, -1]].any(dim=(1, 2)) & ~window[:, :, [0, -1]].any(dim=(1, 2))
    cells = window[inside].sum(dim=(1, 2))
    assert cells.min() == 9 and (cells == 9).float().mean() > 0.5 and cells.max() > 12
    assert window[windowed].sum(dim=(1, 2)).min() == 4  # cut at a corner
    assert window[windowed].mean(dim=0).min() > 0.02  # no cell is left out
    assert torch.equal(masks, random_masks(maps, generator=seeded(), whole=0.25))
    assert random_masks(maps[:50], generator=seeded(), whole=1.0).all()


@pytest.mark.slow
def test_it_learns_to_invert_a_known_encoder_from_masked_maps():
    torch.manual_seed(0)
    encoder = torch.nn.Conv2d(1, 16, 4, stride=4)
    images = functional.interpolate(
        torch.rand(64, 1, 4, 4, generator=seeded()), size=(16, 16), mode="nearest"
    )
    maps = encoder(images).detach()
    decoder = Upconvolution(16, grid=(4, 4), image_size=(16, 16), channels=1)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=5e-3)
    generator = seeded(1)
    for _ in range(150):
        masks = random_masks(maps, generator=generator)
        loss = (decoder(maps * masks) - images).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    error = (decoder.eval()(maps) - images).square().mean()
    assert error < 0.25 * images.var()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scale": torch.ones(3)}, r"shape \(3,\); expected \(4,\)"),
        ({"scale": torch.zeros(4)}, "positive"),
        ({"grid": (0, 4)}, r"grid \(0, 4\)"),
    ],
)
def test_wrong_arguments_are_named(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Upconvolution(4, **{"grid": (4, 4), "image_size": (8, 8), **options})
