"""Occlusion drops and maps against Captum, a literal loop and closed forms."""

import pytest
import torch
from torch import nn

from interp_cnn.explanation.occlusion.maps import occlusion_drops, occlusion_map
from interp_cnn.explanation.occlusion.windows import disc, map_of_drops, window_grid


def small_network(channels: int = 3, classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, classes),
    ).double()


def linear_network(channels: int, size: int, classes: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes)).double()


@pytest.mark.parametrize("window, stride", [(4, 4), (5, 3), ((3, 6), (2, 3))])
def test_mean_drop_equals_captum_where_windows_fit(window, stride):
    captum = pytest.importorskip("captum.attr")
    network, images = small_network(), torch.rand(2, 3, 18, 18, dtype=torch.float64)
    targets = torch.tensor([1, 3])
    size = (window, window) if isinstance(window, int) else window
    step = (stride, stride) if isinstance(stride, int) else stride
    # Captum adds cut windows where pixels are left over, so leave none over
    images = images[..., : size[0] + 3 * step[0], : size[1] + 3 * step[1]].contiguous()
    theirs = captum.Occlusion(network).attribute(
        images, (3, *size), strides=(3, *step), target=targets, perturbations_per_eval=4, baselines=0.3
    )
    ours = occlusion_map(network, images, targets, window=window, stride=stride, fill=0.3)
    covered = torch.isfinite(theirs[:, 0])
    torch.testing.assert_close(ours[covered].float(), theirs[:, 0][covered].float(), rtol=1e-6, atol=1e-7)


def test_overhang_at_the_end_equals_captum_where_pixels_are_left_over():
    captum = pytest.importorskip("captum.attr")
    network, images = small_network(), torch.rand(1, 3, 17, 19, dtype=torch.float64)
    theirs = captum.Occlusion(network).attribute(images, (3, 4, 4), strides=(3, 3, 3), target=2)
    drops = occlusion_drops(network, images, window=4, stride=3, overhang="end")
    ours = map_of_drops(window_grid((17, 19), 4, 3, "end"), drops[:, 2])
    torch.testing.assert_close(ours.float(), theirs[:, 0].float(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("overhang", ["none", "end", "both"])
@pytest.mark.parametrize("window", [1, 3, (2, 5), disc(5)])
def test_drops_equal_a_literal_loop_over_masks(window, overhang):
    network, images = small_network(), torch.rand(2, 3, 13, 15, dtype=torch.float64)
    fill = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)[:, None, None]
    drops = occlusion_drops(network, images, window=window, stride=2, fill=fill, overhang=overhang)
    grid = window_grid((13, 15), window, 2, overhang)
    with torch.no_grad():
        for row in range(len(grid.row_starts)):
            for column in range(len(grid.column_starts)):
                mask = grid.mask(row, column)
                expected = network(images) - network(torch.where(mask, fill, images))
                torch.testing.assert_close(drops[:, :, row, column], expected, rtol=1e-9, atol=1e-12)


def test_contributions_of_tiles_sum_to_the_whole_difference_on_a_linear_network():
    network, images = linear_network(2, 12), torch.rand(3, 2, 12, 12, dtype=torch.float64)
    targets = torch.tensor([0, 2, 1])
    with torch.no_grad():
        difference = (network(images) - network(torch.zeros_like(images))).gather(1, targets[:, None])[:, 0]
    for unit in ("contribution", "additive"):
        tiles = occlusion_map(network, images, targets, window=4, stride=4, unit=unit)
        torch.testing.assert_close(tiles.sum((1, 2)), difference)


def test_single_pixel_windows_recover_the_linear_terms():
    network, images = linear_network(1, 8), torch.rand(2, 1, 8, 8, dtype=torch.float64)
    targets = torch.tensor([1, 2])
    terms = (network[1].weight[targets].view(2, 8, 8) * images[:, 0]).detach()
    for unit in ("mean_drop", "contribution", "additive"):
        torch.testing.assert_close(
            occlusion_map(network, images, targets, window=1, stride=1, unit=unit), terms
        )


@pytest.mark.parametrize(
    "window, overhang", [(3, "none"), ((2, 4), "both"), (disc(4), "none"), (disc(5), "both")]
)
def test_the_additive_map_is_the_least_squares_solution_of_smallest_norm(window, overhang):
    grid = window_grid((9, 10), window, 2, overhang)
    incidence = torch.stack(
        [
            grid.mask(r, c).double().flatten()
            for r in range(len(grid.row_starts))
            for c in range(len(grid.column_starts))
        ]
    )
    drops = torch.randn(2, len(grid.row_starts), len(grid.column_starts), dtype=torch.float64)
    expected = (torch.linalg.pinv(incidence) @ drops.flatten(1).T).T.view(2, 9, 10)
    torch.testing.assert_close(map_of_drops(grid, drops, "additive"), expected, rtol=1e-6, atol=1e-8)


def test_the_networks_modes_come_back():
    network = small_network()
    network.train()
    network[0].eval()
    occlusion_drops(network, torch.rand(1, 3, 16, 16, dtype=torch.float64), window=4, stride=4)
    assert network.training and network[1].training and not network[0].training


@pytest.mark.parametrize(
    "options, word",
    [
        ({"window": 0, "stride": 1}, "window"),
        ({"window": 20, "stride": 1}, "window"),
        ({"window": 4, "stride": 0}, "stride"),
        ({"window": 4, "stride": 4, "engine": "magic"}, "engine"),
        ({"window": 4, "stride": 4, "overhang": "left"}, "overhang"),
        ({"window": torch.zeros(3, 3, dtype=torch.bool), "stride": 1}, "window"),
    ],
)
def test_wrong_arguments_are_named_in_one_sentence(options, word):
    with pytest.raises(ValueError, match=f"^{word} "):
        occlusion_drops(small_network(), torch.rand(1, 3, 16, 16, dtype=torch.float64), **options)
