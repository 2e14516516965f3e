"""The smallest edit that silences a filter, against every set of cells of a small grid."""

from itertools import product

import pytest
import torch
from torch import nn

from interp_cnn.explanation.filters.cells import CellGrid, cell_grid, moved_cells, painted_over
from interp_cnn.explanation.filters.silencing import edited_maps, occlusion_order, sizes_up_to, smallest_edit
from interp_cnn.explanation.network.feature_maps import feature_maps_and_logits
from interp_cnn.explanation.occlusion.fills import blur, constant, neighbours
from interp_cnn.model.interpretable_conv import make_interpretable

FILLS = {"neighbours": neighbours(tolerance=1e-5), "blur": blur(5, 2.0), "zero": constant(0)}


def network_of(channels: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3),
    ).eval()  # fmt: skip


def firing(network, layer, channels, seed, side=9):
    """An image on which a filter fires, and the filter."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(50):
        image = torch.rand(channels, side, side, generator=generator)
        maps, _ = feature_maps_and_logits(network, image[None], layer)
        if maps.max() > 0:
            return image, int(maps[0].amax((1, 2)).argmax())
    raise AssertionError("no filter fires")


def by_hand(network, image, number, layer, hidden, fill):
    """The peaks where pixels `hidden` (B, H, W) are replaced."""
    images = image.expand(len(hidden), *image.shape)
    values = fill.replace(images, hidden[:, None], 0).expand_as(images)
    edited = torch.stack([torch.where(there, new, image) for there, new in zip(hidden, values, strict=True)])
    return feature_maps_and_logits(network, edited, layer)[0][:, number].amax((1, 2))


ALL_SETS = torch.tensor(list(product([False, True], repeat=9))).view(512, 3, 3)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_the_edit_silences_and_gives_no_cell_back(fill, channels, masked):
    for seed in range(3):
        network, layer, fill_of = network_of(channels, seed), "3", FILLS[fill]
        if masked:
            make_interpretable(network, ["3"], image_size=(9, 9), channels=channels)
        image, number = firing(network, layer, channels, seed)
        grid = cell_grid((9, 9), 3)
        asked = {"layer": layer, "grid": grid, "fill": fill_of}
        order = occlusion_order(network, image, filters=torch.tensor([number]), **asked)[0]
        edit = smallest_edit(network, image, number, order=order, **asked)
        peaks = by_hand(network, image, number, layer, grid.pixels(ALL_SETS), fill_of)
        assert edit.before == pytest.approx(float(peaks[0]), abs=1e-5)
        silent = peaks < 0.5 * peaks[0]
        if not edit.found:
            assert not edit.cells.any() and not silent[-1] and edit.after == edit.before
            continue
        place = int((edit.cells == ALL_SETS).all((1, 2)).nonzero())
        assert silent[place] and edit.after == pytest.approx(float(peaks[place]), abs=1e-4)
        for row, column in edit.cells.nonzero().tolist():
            less = edit.cells.clone()
            less[row, column] = False
            assert not silent[(less == ALL_SETS).all((1, 2))]
        fewest = int(ALL_SETS.sum((1, 2))[silent].min())
        assert fewest <= int(edit.cells.sum()) <= fewest + 1  # the search is greedy
        edited = painted_over(image, edit.cells[None], grid, fill_of)
        expected = feature_maps_and_logits(network, torch.cat((image[None], edited)), layer)[1]
        torch.testing.assert_close(edit.logits, expected, atol=1e-5, rtol=1e-4)
        maps = edited_maps(network, image, ALL_SETS, number, batch_size=100, **asked)
        torch.testing.assert_close(maps.amax((1, 2)), peaks, atol=1e-4, rtol=1e-3)


def bright(places, side=12):
    image = torch.zeros(1, side, side)
    for row, column in places:
        image[0, row : row + 4, column : column + 4] = torch.eye(4) + torch.eye(4).flip(0)
    return image


def cross_network():
    """Its filter fires for a cross of four pixels."""
    network = nn.Sequential(
        nn.Conv2d(1, 1, 4), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(1, 2)
    )
    cross = torch.eye(4) + torch.eye(4).flip(0)
    with torch.no_grad():
        network[0].weight[0, 0] = cross - (1 - cross)
        network[0].bias.fill_(-6)
    return network.eval()


def test_the_edit_of_a_known_patch_is_the_cells_over_it():
    network, grid = cross_network(), cell_grid((12, 12), 3)
    for places in ([(4, 8)], [(0, 0), (8, 4)]):  # at both places, else it fires at the other
        order = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
        edit = smallest_edit(
            network, bright(places), 0, layer="1", grid=grid, order=order, fill=neighbours(), share=0.5
        )
        assert edit.found and edit.before == 2 and edit.after == 0
        assert edit.cells.nonzero().tolist() == [[row // 4, column // 4] for row, column in places]
        assert grid.share(edit.cells) == pytest.approx(len(places) / 9)


def test_a_filter_that_fires_whatever_is_painted_over_has_no_edit():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten())
    with torch.no_grad():
        network[0].weight.zero_(), network[0].bias.fill_(1)
    edit = smallest_edit(
        network, torch.rand(1, 9, 9), 0, layer="1", grid=cell_grid((9, 9), 3), order=torch.zeros(3, 3),
        fill=neighbours(),
    )  # fmt: skip
    assert not edit.found and not edit.cells.any() and edit.after == edit.before == 1
    assert edit.logits.shape == (2, 81)


@pytest.mark.parametrize("fill", FILLS)
def test_only_the_cells_are_painted_over_as_the_fill_would_on_the_whole_image(fill):
    image, grid = torch.rand(3, 11, 8), CellGrid((11, 8), 3)
    cells = torch.rand(7, *grid.shape) < 0.4
    cells[0] = False
    edited = painted_over(image, cells, grid, FILLS[fill])
    for one, some in zip(edited, cells, strict=True):
        hidden = grid.pixels(some)
        assert torch.equal(one[:, ~hidden], image[:, ~hidden])
        expected = FILLS[fill](image[None], hidden[None, None])[0]
        torch.testing.assert_close(one, expected, atol=1e-3, rtol=1e-3)


def test_cells_are_pixels_and_means_and_shares():
    grid = CellGrid((5, 7), 2)
    assert grid.shape == (3, 4)
    cells = torch.zeros(3, 4, dtype=torch.bool)
    cells[2, 3] = cells[0, 1] = True
    expected = torch.zeros(5, 7, dtype=torch.bool)
    expected[4, 6] = True
    expected[:2, 2:4] = True
    assert torch.equal(grid.pixels(cells), expected) and grid.share(cells) == pytest.approx(5 / 35)
    maps = torch.rand(2, 5, 7)
    means = grid.means(maps)
    assert means.shape == (2, 3, 4)
    torch.testing.assert_close(means[:, 2, 3], maps[:, 4, 6])
    torch.testing.assert_close(means[:, 1, 0], maps[:, 2:4, :2].mean((1, 2)))


def test_the_order_is_the_occlusion_map_in_cells():
    network = network_of(1, 0)
    image, number = firing(network, "3", 1, 0, side=12)
    grid = cell_grid((12, 12), 4)
    order = occlusion_order(
        network, image, layer="3", filters=torch.tensor([number]), grid=grid, fill=constant(0)
    )
    peak = feature_maps_and_logits(network, image[None], "3")[0][0, number].max()
    total, covers = torch.zeros(12, 12), torch.zeros(12, 12)
    for row, column in product((0, 6), (0, 6)):  # windows of 9 pixels, every 6, cut at the border
        hidden = image.clone()
        hidden[:, row : row + 9, column : column + 9] = 0
        total[row : row + 9, column : column + 9] += (
            peak - feature_maps_and_logits(network, hidden[None], "3")[0][0, number].max()
        )
        covers[row : row + 9, column : column + 9] += 1
    literal = (total / covers).view(4, 3, 4, 3).mean((1, 3))
    torch.testing.assert_close(order[0], literal, atol=1e-5, rtol=1e-4)


def test_controls_keep_the_shape_and_lie_elsewhere():
    cells = torch.zeros(6, 6, dtype=torch.bool)
    cells[0, 0] = cells[0, 1] = cells[1, 1] = True
    moved = moved_cells(cells, 8, torch.Generator().manual_seed(0))
    assert moved.shape == (8, 6, 6) and len({tuple(it.flatten().tolist()) for it in moved}) == 8
    for one in moved:
        corner = one.nonzero().amin(0)
        assert (one.nonzero() - corner).tolist() == [[0, 0], [0, 1], [1, 1]]
        assert (one & cells).sum() <= 1
    assert torch.equal(moved, moved_cells(cells, 8, torch.Generator().manual_seed(0)))


def test_controls_of_large_edits_come_in_on_the_other_side():
    cells = torch.zeros(4, 4, dtype=torch.bool)
    cells[0] = cells[3, 0] = True
    moved = moved_cells(cells, 5, torch.Generator().manual_seed(0))
    assert len(moved) and all(one.sum() == 5 and (one & cells).sum() <= 2 for one in moved)
    assert len(moved_cells(torch.ones_like(cells), 5, torch.Generator())) == 0
    assert len(moved_cells(torch.zeros_like(cells), 5, torch.Generator())) == 0
    most = torch.ones_like(cells)
    most[1, 1] = False
    assert all(
        one.sum() == 15 and not torch.equal(one, most) for one in moved_cells(most, 5, torch.Generator())
    )


def test_sizes_end_at_the_largest():
    assert sizes_up_to(1) == [1] and sizes_up_to(144)[-1] == 144
    assert sizes_up_to(144)[:4] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"share": 0}, "share is 0; expected a share of the peak"),
        ({"share": 1.0}, "share is 1.0; expected"),
        ({"order": torch.zeros(2, 3)}, r"order \(2, 3\) and image \(1, 9, 9\) do not fit"),
        ({"image": torch.zeros(1, 9, 9)}, "filter 0 has the peak 0; expected an image on which it fires"),
    ],
)
def test_what_makes_no_sense_is_refused(change, sentence):
    given = {"image": torch.ones(1, 9, 9), "order": torch.zeros(3, 3), **change}
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten())
    nn.init.ones_(network[0].weight)
    with pytest.raises(ValueError, match=sentence):
        smallest_edit(
            network, given.pop("image"), 0, layer="1", grid=cell_grid((9, 9), 3), fill=constant(0), **given
        )


@pytest.mark.parametrize("cells", [1, 10])
def test_a_grid_has_a_few_cells_and_no_more_than_pixels(cells):
    with pytest.raises(ValueError, match=f"cells is {cells}; expected 2 to 9 along images of 9 x 12"):
        cell_grid((9, 12), cells)
