import re
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from interp_cnn.model.interpretable_conv import TemplateMask
from interp_cnn.model.templates import (
    BANK_CELLS,
    distance_kernel,
    evidence_between,
    part_templates,
    peak_positions,
    template_distances,
    windows_at,
)

grids = st.tuples(st.integers(1, 6), st.integers(1, 6))
norms = st.sampled_from(["l1", "l2"])


@settings(max_examples=30, deadline=None)
@given(grid=grids, norm=norms, beta=st.floats(0.5, 8))
def test_templates_equal_the_literal_loops(grid, norm, beta):
    found = part_templates(*grid, beta=beta, norm=norm, dtype=torch.float64)
    np.testing.assert_allclose(found, reference.templates(*grid, beta, norm), atol=1e-12)


def test_positions_run_row_by_row_and_the_negative_template_is_last():
    bank = part_templates(3, 4)
    assert bank.shape == (13, 3, 4)
    for flat in range(12):
        assert bank[flat].flatten().argmax() == flat
        assert bank[flat].max() == 1
    assert (bank[-1] == -1).all()


def test_the_geometry_of_the_publication_at_14_cells():
    row = part_templates(14, 14, beta=4.0)[7 * 14 + 0, 7]  # centre at the left border
    assert row[3] > 0 > row[4]  # crosses zero at 3.5 cells
    assert row[6] > -1 and (row[7:] == -1).all()  # clamped from 7 cells on


def test_tau_scales_both_kinds_of_template():
    tau = 0.5 / 14**2
    assert torch.allclose(part_templates(14, 14, tau=tau), part_templates(14, 14) * tau)


def test_no_two_templates_share_memory_or_values():
    bank = part_templates(4, 4)
    bank[0] = 7
    assert (bank[1:] != 7).all()
    assert len({tuple(t.flatten().tolist()) for t in part_templates(4, 4)}) == 17


def test_every_template_is_a_window_of_one_kernel():
    height, width = 4, 6
    kernel = distance_kernel(height, width)
    assert kernel.shape == (7, 11)
    bank = template_distances(height, width)
    for row in range(height):
        for column in range(width):
            window = kernel[
                height - 1 - row : 2 * height - 1 - row, width - 1 - column : 2 * width - 1 - column
            ]
            assert torch.equal(bank[row * width + column], window)


@pytest.mark.parametrize("grid", [(4, 6), (20, 60)])
def test_windows_of_the_kernel_are_the_templates_distances_on_small_and_large_grids(grid):
    assert (grid[0] * grid[1] > BANK_CELLS) == (grid == (20, 60))
    positions = torch.randint(grid[0] * grid[1], (5, 3), generator=torch.Generator().manual_seed(0))
    found = windows_at(distance_kernel(*grid), positions, *grid)
    rows = torch.arange(grid[0], dtype=torch.float64)[:, None]
    columns = torch.arange(grid[1], dtype=torch.float64)
    for image in range(5):
        for filter_ in range(3):
            row, column = divmod(int(positions[image, filter_]), grid[1])
            expected = torch.hypot(rows - row, columns - column) / max(grid)
            assert torch.allclose(found[image, filter_].double(), expected, atol=1e-6)


def test_a_mask_on_a_large_grid_keeps_nothing_larger_than_the_maps():
    """The bank of 56 x 56 templates has 39 MB, these maps 0.8."""
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            result = function(*arguments, **(keywords or {}))
            if isinstance(result, torch.Tensor):
                sizes.append(result.untyped_storage().nbytes())
            return result

    maps = torch.rand(8, 8, 56, 56)
    with Sizes():
        TemplateMask(8)(maps)
    assert max(sizes) <= maps.numel() * 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"norm": "l3"}, "norm is 'l3'"), ({"beta": 0}, "beta is 0"), ({"height": 0}, "0 x 4")],
)
def test_a_wrong_argument_is_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        part_templates(**{"height": 4, "width": 4, **arguments})


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("grid", [(5, 5), (3, 7)])
def test_the_mask_equals_the_literal_loops(norm, grid):
    maps = torch.rand(4, 3, *grid, dtype=torch.float64).sub(0.3).relu()
    masked = TemplateMask(3, norm=norm, beta=3.0)(maps)
    for image in range(4):
        for filter_ in range(3):
            expected = reference.mask(maps[image, filter_].numpy(), 3.0, norm)
            np.testing.assert_allclose(masked[image, filter_], expected, atol=1e-6)


def test_the_mask_keeps_the_peak_and_its_height_is_one():
    maps = torch.rand(8, 4, 6, 6)
    masked = TemplateMask(4)(maps)
    assert torch.equal(masked.amax((2, 3)), maps.amax((2, 3)))


def test_an_all_zero_map_stays_zero_without_gradient():
    maps = torch.zeros(1, 2, 4, 4, requires_grad=True)
    masked = TemplateMask(2)(maps)
    masked.sum().backward()
    assert (masked == 0).all()
    assert maps.grad.isfinite().all()
    assert (maps.grad == 0).all()


def test_a_negative_activation_never_turns_positive():
    maps = torch.full((1, 1, 5, 5), -2.0)
    maps[0, 0, 0, 0] = 1.0
    masked = TemplateMask(1)(maps)
    assert (masked >= 0).all()
    assert (masked[0, 0, 2:, 2:] == 0).all()


def test_the_mask_is_a_constant_for_the_gradient():
    mask = TemplateMask(2, rectify=False)
    maps = torch.rand(3, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(3, 2, 4, 5, dtype=torch.float64)
    (mask(maps) * weights).sum().backward()
    masks = mask.masks_at(peak_positions(maps.detach()), 4, 5)
    assert torch.allclose(maps.grad, weights * masks)
    assert torch.autograd.gradcheck(mask, maps.detach().requires_grad_())


def test_a_disabled_mask_is_the_identity():
    maps = torch.rand(2, 3, 4, 4)
    assert torch.equal(TemplateMask(3, enabled=False)(maps), maps)


def test_the_centroid_lies_between_two_equal_blobs_and_the_argmax_on_one():
    maps = torch.zeros(1, 1, 1, 9)
    maps[0, 0, 0, 0] = maps[0, 0, 0, 8] = 1
    assert peak_positions(maps).item() == 0
    assert peak_positions(maps, position="centroid").item() == 4


@pytest.mark.parametrize("size", [(6, 11), (7, 14), (4, 28)])
def test_the_centroid_of_a_symmetric_map_does_not_hang_on_rounding(size):
    value = torch.rand(40, 3, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    maps = value.expand(-1, -1, *size)
    wanted = [int(torch.tensor((side - 1) / 2).round()) for side in size]
    for same in (
        maps.contiguous(),
        maps.float().contiguous(),
        maps.contiguous(memory_format=torch.channels_last),
        maps * (1 + 1e-7 * torch.rand(40, 3, *size)),
    ):
        assert (peak_positions(same, position="centroid") == wanted[0] * size[1] + wanted[1]).all()
        for number in range(3):
            assert torch.equal(
                peak_positions(same[number : number + 1], position="centroid"),
                peak_positions(same, position="centroid")[number : number + 1],
            )


def test_positions_of_an_empty_map_are_defined():
    empty = torch.zeros(1, 1, 3, 5)
    assert peak_positions(empty).item() == 0
    assert peak_positions(empty, position="centroid").item() in (7, 12)


def test_the_spread_rule_narrows_templates_for_sharp_maps_and_widens_them_for_broad_ones():
    sharp, broad = torch.zeros(1, 1, 14, 14), torch.ones(1, 1, 14, 14)
    sharp[0, 0, 6, 6] = 1
    masks = [TemplateMask(1, beta_rule="spread") for _ in range(2)]
    for _ in range(200):
        for mask, maps in zip(masks, (sharp, broad), strict=True):
            mask.match_spread(maps)
    assert masks[0].beta.item() == pytest.approx(6, abs=1e-3)
    assert masks[1].beta.item() == pytest.approx(3, abs=1e-3)


@pytest.mark.parametrize("offset", [(1, 1), (1, 0), (2, 0), (0, 1), (3, 2)])
def test_the_spread_rule_aims_at_six_over_the_spread_in_cells(offset):
    maps = torch.zeros(1, 1, 15, 15)
    for sign in (-1, 1):  # two peaks around the middle: their spread is their distance from it
        maps[0, 0, 7 + sign * offset[0], 7 + sign * offset[1]] = 1
    mask = TemplateMask(1, beta_rule="spread")
    mask.match_spread(maps, rate=1.0)
    spread = (offset[0] ** 2 + offset[1] ** 2) ** 0.5
    assert mask.beta.item() == pytest.approx(min(6.0, max(3.0, 6 / spread)))


def test_flipping_a_map_flips_its_mask():
    maps = torch.rand(2, 3, 5, 7)
    mask = TemplateMask(3)
    assert torch.allclose(mask(maps.flip(-1)), mask(maps).flip(-1))
    assert torch.allclose(mask(maps.flip(-2)), mask(maps).flip(-2))


def test_the_template_position_is_the_best_template_for_one_and_for_many_steepnesses():
    maps = torch.rand(3, 2, 5, 6, dtype=torch.float64)
    found = peak_positions(maps, position="template", beta=3.0)
    templates = part_templates(5, 6, beta=3.0, dtype=torch.float64)[:-1]
    for image in range(3):
        for channel in range(2):
            scores = [float((maps[image, channel] * template).sum()) for template in templates]
            assert found[image, channel] == max(range(30), key=scores.__getitem__)
    assert torch.equal(found, peak_positions(maps, position="template", beta=torch.full((2,), 3.0)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_of_templates_that_fit_a_symmetric_map_equally_well_the_first_is_the_position_in_any_batch(
    norm, dtype
):
    ramp = torch.linspace(-1, 1, 10, dtype=dtype).relu()
    maps = torch.stack([ramp[:, None].expand(10, 10), ramp.expand(10, 10), torch.ones(10, 10, dtype=dtype)])[
        None
    ]
    beta = torch.tensor([0.8, 1.0, 1.5], dtype=dtype)
    found = peak_positions(maps, position="template", beta=beta, norm=norm)
    row, column = found // 10, found % 10
    assert column[0, 0] == row[0, 1] == 4 and found[0, 2] == 44  # of two middle cells the first
    for noise in torch.rand(5, 7, 3, 10, 10, generator=torch.Generator().manual_seed(0)).to(dtype):
        batch = torch.cat([noise, maps, noise])
        assert torch.equal(peak_positions(batch, position="template", beta=beta, norm=norm)[7:8], found)


@pytest.mark.parametrize("position", ["argmax", "centroid", "template"])
@pytest.mark.parametrize("size", [(5, 7), (6, 4)])
def test_the_evidence_between_two_positions_decides_as_the_positions_do(position, size):
    maps = torch.rand(6, 3, *size, generator=torch.Generator().manual_seed(0)).pow(4)
    options = {"position": position, "beta": torch.tensor([2.0, 3.0, 5.0]), "norm": "l1"}
    found = peak_positions(maps, **options)
    for other in range(maps[0, 0].numel()):
        others = torch.full_like(found, other)
        evidence = (evidence_between(found, others, size, **options) * maps).sum((2, 3))
        assert (evidence[found == other] == 0).all() and (evidence[found != other] > 0).all()


def test_the_template_is_written_once():
    package = Path(__file__).resolve().parent.parent / "interp_cnn"
    equation = re.compile(r"1(\.0)? - (self\.)?(beta|steepness)\S* \* ")
    written = [
        path.name
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if equation.search(line.split("#")[0]) and "clamp" in line
    ]
    assert set(written) <= {"feature_maps.py", "templates.py"} and written.count("templates.py") == 1
