import pytest
import reference_measures as reference
import torch
import torch.nn.functional as F
from planted import SIZE, PlantedNetwork, planted_images, square_masks

from interp_cnn.evaluation.filters.dissection import NetworkDissection, Overlaps, unique_detectors
from interp_cnn.evaluation.filters.fixed_regions import FixedRegions, fixed_cells
from interp_cnn.evaluation.filters.part_interpretability import PartInterpretability, intersection_over_union
from interp_cnn.evaluation.filters.regions import Boxes, Discs, Interpolation, round_radius
from interp_cnn.evaluation.filters.squares import Squares
from interp_cnn.evaluation.statistics import Sampled, resampling
from interp_cnn.explanation.network.feature_maps import feature_maps
from interp_cnn.explanation.receptive_field.field import ReceptiveField

FIELD = ReceptiveField(stride=(4.0, 4.0), size=(8.0, 8.0), start=(1.5, 1.5), grid=(6, 6), image_size=(24, 24))


def random_maps(images=24, filters=4, parts=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(images, filters, 6, 6, generator=generator).relu()
    masks = torch.zeros(images, parts, 24, 24, dtype=torch.bool)
    corners = torch.randint(20, (images, parts, 2), generator=generator)
    for image in range(images):
        for part in range(parts):
            if (image + part) % 4:
                row, column = corners[image, part].tolist()
                masks[image, part, row : row + 6, column : column + 8] = True
    masks[5] = False
    return maps, torch.arange(images) % 3, masks


def thresholds_of(maps, tail):
    return reference.exact_quantile(maps.transpose(0, 1).flatten(1), tail)


@pytest.mark.parametrize(("tail", "radius"), [(0.02, 5.0), (0.1, 3.0)])
def test_part_interpretability_equals_the_literal_loops(tail, radius):
    maps, labels, masks = random_maps()
    categories = torch.tensor([0, 1, 2, -1])
    measure = PartInterpretability(
        thresholds_of(maps, tail), categories, 3, region=Discs(FIELD, radius), iou=0.1
    )
    for start in range(0, 24, 7):
        batch = slice(start, start + 7)
        measure.update(maps[batch], labels[batch], masks[batch])
    shares = measure.result().shares()[0]
    expected = reference.part_interpretability(
        maps, labels, masks, categories.tolist(), FIELD, radius, tail=tail, iou=0.1
    )
    ours = shares.nan_to_num(nan=-1).amax(dim=1)
    assert ours[:3].tolist() == pytest.approx(expected[:3]) and ours[3] == -1
    assert sum(expected[:3]) > 0


def test_looked_at_one_by_one_the_images_are_covered_as_often_as_the_figure_says():
    maps, labels, masks = random_maps()
    categories = torch.tensor([0, 1, 2, -1])
    measure = PartInterpretability(thresholds_of(maps, 0.1), categories, 3, region=Discs(FIELD, 3.0), iou=0.1)
    measure.update(maps, labels, masks)
    best, part = measure.result().best(resampling(24, resamples=1, seed=0))
    regions = measure.regions()
    assert torch.equal(regions.part, part)
    for number in range(3):
        own = labels == number
        seen, overlaps = regions.look(maps[own, number], masks[own], number)
        shown = [overlap > 0.1 for overlap in overlaps if overlap is not None]
        assert sum(shown) / len(shown) == pytest.approx(float(best[0, number]))
        assert [overlap is None for overlap in overlaps] == [
            not mask.any() for mask in masks[own, part[number]]
        ]
        for map_, region in zip(maps[own, number], seen, strict=True):
            bound = float(regions.thresholds[number])
            assert reference.pixels_of(region) == reference.round_region(map_, bound, FIELD, 3.0)


def test_the_best_fixed_region_equals_the_literal_loops():
    _, labels, masks = random_maps()
    categories = torch.tensor([0, 1, 2, -1, 7])
    region = Discs(FIELD, 3.0)
    measure = FixedRegions(categories, 3, region, iou=0.1)
    for start in range(0, 24, 7):
        measure.update(labels[start : start + 7], masks[start : start + 7])
    expected = []
    for category in range(3):
        shares = [0.0]
        for side, row, column in ((s, r, c) for s in (1, 2, 3) for r in range(7 - s) for c in range(7 - s)):
            map_ = torch.zeros(6, 6)
            map_[row : row + side, column : column + side] = 1
            pixels = reference.round_region(map_, 0.5, FIELD, 3.0)
            for part in range(3):
                shown = [reference.pixels_of(masks[i, part]) for i in range(24) if labels[i] == category]
                hits = [len(pixels & it) / len(pixels | it) > 0.1 for it in shown if it]
                shares.append(sum(hits) / len(hits))
        expected.append(max(shares))
    assert measure.best()[:3].tolist() == pytest.approx(expected) and min(expected) > 0
    assert measure.best()[3:].isnan().all()


def test_a_part_that_stays_where_it_is_is_covered_by_a_fixed_region():
    masks = torch.zeros(10, 1, 24, 24, dtype=torch.bool)
    masks[:, :, 8:16, 4:12] = True
    measure = FixedRegions(torch.tensor([0]), 1, Boxes(FIELD))
    measure.update(torch.zeros(10, dtype=torch.int64), masks)
    assert measure.best().tolist() == [1.0]


@pytest.mark.parametrize(("height", "width", "most"), [(1, 1, 9), (2, 5, 99), (40, 30, 500), (64, 64, 10**9)])
def test_fixed_regions_are_squares_inside_the_grid_and_not_more_than_asked_for(height, width, most):
    cells = fixed_cells(height, width, most=most)
    assert cells.shape[1:] == (height, width) and len(cells) <= most
    sides = cells.any(dim=2).sum(dim=1), cells.any(dim=1).sum(dim=1)
    assert torch.equal(*sides) and torch.equal(cells.sum((1, 2)), sides[0].square())
    assert len(cells.flatten(1).unique(dim=0)) == len(cells)


def test_the_exact_receptive_fields_are_the_union_of_boxes():
    valid = torch.rand(5, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.1
    regions = Boxes(FIELD)(valid)
    expected = torch.zeros(5, 24, 24, dtype=torch.bool)
    for image, row, column in valid.nonzero().tolist():
        left, top, right, bottom = FIELD.boxes(torch.tensor([row, column]), clip=True).int().tolist()
        expected[image, top:bottom, left:right] = True
    assert torch.equal(regions, expected)


def test_discs_are_pixels_within_the_radius_of_a_valid_cell():
    valid = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(1)) < 0.2
    valid[2] = False
    regions = Discs(FIELD, 4.5)(valid)
    for map_, region in zip(valid.float(), regions, strict=True):
        assert reference.pixels_of(region) == reference.round_region(map_, 0.5, FIELD, 4.5)


def test_interpolation_is_torchs_where_cells_are_evenly_spaced():
    maps = torch.rand(3, 6, 6)
    ours = Interpolation(FIELD)(maps)
    theirs = F.interpolate(maps.unsqueeze(1), (24, 24), mode="bilinear", align_corners=False).squeeze(1)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_interpolation_is_anchored_at_the_receptive_field_centres():
    field = ReceptiveField((4.0, 4.0), (7.0, 7.0), (3.0, 0.0), (6, 6), (24, 24))
    ours = Interpolation(field)(torch.eye(36).reshape(36, 6, 6))
    for cell in range(36):
        row, column = 3 + 4 * (cell // 6), 4 * (cell % 6)
        assert ours[cell, row, column] == pytest.approx(1)


def test_dissection_equals_the_literal_loops():
    maps, _, masks = random_maps()
    measure = NetworkDissection(thresholds_of(maps, 0.1), 3, FIELD)
    for start in range(0, 24, 7):
        measure.update(maps[start : start + 7], masks[start : start + 7])
    ious = measure.result().ious()[0]
    expected = reference.dissection_iou(maps, masks, (24, 24), tail=0.1)
    assert torch.allclose(ious, torch.tensor(expected, dtype=torch.float64), atol=1e-12)
    assert ious.max() > 0.05


def planted_maps():
    images, labels, landmarks = planted_images()
    network = PlantedNetwork()
    maps = feature_maps(network, images, "maps")
    field = ReceptiveField((1.0, 1.0), (1.0, 1.0), (0.0, 0.0), (SIZE, SIZE), (SIZE, SIZE))
    return maps, labels, square_masks(landmarks, 2), field


def test_a_filter_on_the_head_covers_it_always_and_a_constant_rarely():
    maps, labels, masks, field = planted_maps()
    categories = torch.tensor([1, 1, 2, 2])
    measure = PartInterpretability(thresholds_of(maps, 0.002), categories, 2, region=Discs(field, 2.5))
    measure.update(maps, labels, masks)
    shares = measure.result().shares()[0]
    assert shares[0, 0] == 1.0 and shares[0, 1] < 0.3
    assert shares[1].max() < 0.3 and shares[3].tolist() == [0.0, 0.0]
    assert measure.null().shares()[0][0, 0] < 0.3, "masks of other images are not where the dot is"


@pytest.mark.parametrize(("covered", "hit"), [(5, False), (6, True), (4, False)])
def test_an_overlap_at_the_threshold_is_no_hit(covered, hit):
    """IoU > 0.2: a region of 5 pixels inside a part of 25 overlaps by exactly one fifth."""
    masks = torch.zeros(1, 1, 24, 24, dtype=torch.bool)
    masks[0, 0, :5, :5] = True
    region = torch.zeros(1, 24, 24, dtype=torch.bool)
    region[0, 0, :5] = True
    region[0, 1, 0] = covered > 5
    region[0, 0, 4] = covered > 4

    pixels = ReceptiveField((1.0, 1.0), (1.0, 1.0), (0.0, 0.0), (24, 24), (24, 24))
    measure = PartInterpretability(torch.zeros(1), torch.tensor([0]), 1, region=Discs(pixels, 0))
    measure.update(region[None].float(), torch.tensor([0]), masks)
    assert measure.result().shares().item() == float(hit)


@pytest.mark.parametrize(("part", "detected"), [(25, 0), (24, 1)])
def test_a_detector_has_an_iou_above_the_threshold(part, detected):
    """IoU > 0.04: one pixel of a part of 25 is exactly the threshold."""
    ious = torch.tensor([[[1 / part]]], dtype=torch.float64)
    assert unique_detectors(ious).item() == detected


def test_an_empty_map_is_a_miss():
    maps, labels, masks, field = planted_maps()
    maps = maps.clone()
    maps[60:, 0] = 0  # filter 0 is silent on half of the images of category 1 (40 to 79)
    measure = PartInterpretability(
        torch.tensor([0.0, 9, 9, 9]), torch.tensor([1, 1, 2, 2]), 2, region=Discs(field, 2.5)
    )
    measure.update(maps, labels, masks)
    assert measure.result().shares()[0][0, 0] == 0.5


def test_the_null_of_dissection_lies_far_below_a_detector():
    maps, _, masks, field = planted_maps()
    blurred = F.avg_pool2d(maps, 5, stride=1, padding=2)
    generator = torch.Generator().manual_seed(0)
    measure = NetworkDissection(thresholds_of(blurred, 0.03), 2, field, generator=generator)
    measure.update(blurred, masks)
    found, null = measure.result().ious()[0], measure.null().ious()[0]
    assert found[0, 0] > 0.4 and null[0, 0] < 0.1
    assert (
        unique_detectors(measure.result().ious()).item() >= 1 > unique_detectors(measure.null().ious()[:, :1])
    )


def test_unique_detectors_are_counted_by_part_not_by_filter():
    ious = torch.tensor([[[0.3, 0.1, 0.0], [0.2, 0.0, 0.0], [0.0, 0.03, 0.0], [0.0, 0.0, 0.0]]])
    assert unique_detectors(ious).tolist() == [1]
    ious[0, 2, 1] = 0.05
    assert unique_detectors(ious).tolist() == [2]


def test_images_without_any_part_take_no_part_in_dissection():
    maps, _, masks = random_maps()
    without = masks.clone()
    without[12:] = False
    all_images, half = (NetworkDissection(thresholds_of(maps, 0.1), 3, FIELD) for _ in range(2))
    all_images.update(maps, without)
    half.update(maps[:12], without[:12])
    assert torch.equal(all_images.result().ious(), half.result().ious())


def test_memory_does_not_grow_and_the_bootstrap_draws_groups():
    maps, labels, masks = random_maps(images=240)
    categories = torch.tensor([0, 1, 2, 0])
    measure = PartInterpretability(thresholds_of(maps, 0.1), categories, 3, region=Discs(FIELD, 3.0), iou=0.1)
    measure.update(maps, labels, masks)
    hits = measure.result()
    assert hits.hits.shape == (100, 4, 3)
    draws = resampling(100, resamples=80)
    rows, part = hits.best(draws)
    assert torch.equal(rows[0], hits.shares()[0].gather(1, part.unsqueeze(1)).squeeze(1))
    estimate = Sampled.from_rows(rows.mean(dim=1), draws, 240).estimate()
    assert estimate.low < estimate.value < estimate.high and estimate.n == 240


def test_group_weights_are_pixel_weights_in_dissection():
    one = Overlaps(
        torch.tensor([[[2.0]], [[0.0]]]).double(),
        torch.ones(2, 1).double() * 4,
        torch.ones(2, 1).double() * 2,
    )
    assert one.ious(torch.tensor([[1.0, 1], [2, 0], [0, 1]])).flatten().tolist() == pytest.approx(
        [0.2, 0.5, 0]
    )


def test_overlap_of_sets():
    field = ReceptiveField((1.0, 1.0), (1.0, 1.0), (0.0, 0.0), (4, 4), (4, 4))
    regions, masks = torch.zeros(2, 4, 4, dtype=torch.bool), torch.zeros(2, 4, 4, dtype=torch.bool)
    regions[0, :2], masks[0, 1:3] = True, True
    cells = Discs(field, 0)  # of one pixel each
    ious = intersection_over_union(cells.pieces(regions), cells.counts(masks), cells.sizes)
    assert ious.tolist() == [[pytest.approx(1 / 3), 0.0], [0.0, 0.0]]
    with pytest.raises(ValueError, match=r"masks are \(5, 5\)"):
        cells.counts(torch.zeros(1, 5, 5, dtype=torch.bool))


@pytest.mark.parametrize("grid", [(6, 6), (1, 5), (4, 1)])
@pytest.mark.parametrize("start", [(1.5, 1.5), (0.0, 3.0), (-2.0, 20.0)])
@pytest.mark.parametrize("stride", [4.0, 2.5])
def test_counting_by_pieces_and_squares_is_counting_pixels(grid, start, stride):
    field = ReceptiveField((stride, stride), (9.0, 7.0), start, grid, (24, 26))
    generator = torch.Generator().manual_seed(3)
    maps = torch.rand(40, *grid, generator=generator)
    masks = torch.rand(3, 24, 26, generator=generator) < 0.3
    masks[2] = False
    thresholds = torch.linspace(0.3, 1.1, 40)
    flat = masks.flatten(1).double()
    for regions in (Discs(field, 4.5), Boxes(field)):
        valid = maps > thresholds[:, None, None]
        covered = regions(valid).flatten(1).double()
        ious = intersection_over_union(regions.pieces(valid), regions.counts(masks), regions.sizes)
        union = covered.sum(1)[:, None] + flat.sum(1) - covered @ flat.T
        assert torch.equal(ious.double(), ((covered @ flat.T).float() / union.float().clamp(min=1)).double())
        assert covered.any()
    dense = Interpolation(field)
    above = (dense(maps) > thresholds[:, None, None]).flatten(1).double()
    squares = Squares(dense)
    inside, sizes = squares.overlaps(maps, thresholds, squares.masks(masks))
    assert torch.equal(inside, above @ flat.T) and torch.equal(sizes, above.sum(1))
    assert 0 < sizes.sum() < above.numel()


def test_the_default_radius_is_two_cells_but_within_the_receptive_field():
    assert round_radius(FIELD) == 4
    assert round_radius(ReceptiveField((16.0, 16.0), (196.0, 196.0), (0.0, 0.0), (14, 14), (224, 224))) == 32
