"""GridPG and Focus: against loops over pixels, and what even, random, perfect and empty maps get."""

import pytest
import reference_measures as reference
import torch
from torch import nn

from interp_cnn.evaluation.maps.grid_pointing import grid_pointing, mosaic, tile_shares
from interp_cnn.explanation.decisions.contributions import filter_contributions
from interp_cnn.explanation.decisions.evidence import filter_evidence, filter_maps


def one_hot(tiles: int) -> torch.Tensor:
    return torch.eye(tiles, dtype=torch.bool)


@pytest.mark.parametrize(("side", "size"), [(2, (8, 10)), (3, (9, 9)), (3, (10, 11)), (2, (7, 5))])
def test_shares_are_those_of_the_loop_over_pixels(side, size):
    maps = torch.randn(side**2, *size, generator=torch.Generator().manual_seed(1))
    found = grid_pointing(maps, one_hot(side**2))
    expected = [reference.grid_pointing(one, side, [tile]) for tile, one in enumerate(maps)]
    assert found.tolist() == pytest.approx(expected)
    both = one_hot(side**2) | one_hot(side**2).roll(1, 0)
    expected = [
        reference.grid_pointing(one, side, row.nonzero().flatten().tolist())
        for one, row in zip(maps, both, strict=True)
    ]
    assert grid_pointing(maps, both).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("side", [2, 3])
def test_a_map_that_does_not_know_the_class_gets_chance_and_one_inside_the_tile_everything(side):
    tiles = side**2
    for blind in (torch.ones(6 * side, 6 * side), torch.rand(6 * side, 6 * side)):
        shares = grid_pointing(blind.expand(tiles, -1, -1), one_hot(tiles))
        assert shares.mean().item() == pytest.approx(1 / tiles)
    inside = mosaic(one_hot(tiles).float()[:, :, None, None, None].expand(-1, -1, 1, 6, 6))[:, 0]
    assert grid_pointing(inside - 0.1, one_hot(tiles)).tolist() == [1.0] * tiles
    assert grid_pointing(-inside, one_hot(tiles)).tolist() == [0.0] * tiles  # nothing speaks for the class
    assert grid_pointing(inside, one_hot(tiles).roll(1, 0)).tolist() == [0.0] * tiles


def test_tiles_lie_row_by_row_as_they_are_put_together():
    images = torch.rand(2, 9, 3, 4, 5)
    picture = mosaic(images)
    assert picture.shape == (2, 3, 12, 15)
    assert torch.equal(picture[1, :, 4:8, 10:15], images[1, 5])
    shares = tile_shares(picture.sum(1), 3)
    expected = images.sum((2, 3, 4)).double()
    torch.testing.assert_close(shares, expected / expected.sum(1, keepdim=True), atol=1e-6, rtol=0)


def test_what_is_no_square_of_tiles_is_refused():
    with pytest.raises(ValueError, match="3 tiles; expected a square number"):
        grid_pointing(torch.rand(1, 6, 6), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"right is torch.float32 \(1, 4\); expected bool \(1, tiles\)"):
        grid_pointing(torch.rand(1, 6, 6), torch.ones(1, 4))


def test_filter_evidence_and_filter_maps_are_the_sums_over_filters():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3 * 16, 4)
    network, images = nn.Sequential(*layers), torch.rand(2, 1, 8, 8)
    found = filter_contributions(network, images, torch.tensor([1, 3]), layer="2", method="exact")
    evidence, maps = filter_evidence(found, (8, 8)), filter_maps(found, (8, 8))
    for image in range(2):
        for row in range(8):
            for column in range(8):
                cell = row // 2, column // 2
                parts = [float(found.maps[image, d][cell]) for d in range(3)]
                assert float(evidence[image, row, column]) == pytest.approx(sum(parts), abs=1e-6)
                weighted = 0.0
                for d in range(3):
                    share = max(float(found.maps[image, d].sum()), 0.0)
                    answer = found.activations[image, d]
                    weighted += share * float(answer[cell] / answer.sum()) if answer.any() else 0.0
                assert float(maps[image, row, column]) == pytest.approx(weighted, abs=1e-6)
    assert torch.allclose(evidence.sum((1, 2)) / 4 + found.rest, found.scores, atol=1e-5)
