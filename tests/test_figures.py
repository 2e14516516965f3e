"""Figures: pixel by pixel where pixels have a right answer, by their properties where they are drawn."""

import itertools
import subprocess
import sys
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from report_example import drawn_images

from interp_cnn import figures
from interp_cnn.figures.png import png_bytes

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def luminance(rgb):
    """Relative luminance of sRGB colours (IEC 61966-2-1)."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ LUMINANCE


def curves():
    rows = [
        {"epoch": epoch, "split": split, "quantity": quantity, "value": 1 / (1 + epoch), "network": network}
        for network in ("interpretable", "plain")
        for split in ("train", "val")
        for quantity in ("loss", "accuracy")
        for epoch in range(4)
    ]
    return pd.DataFrame(rows)


# --- colours -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colours", figures.COLOUR_MAPS)
def test_every_colour_map_rises_in_luminance_so_that_it_survives_a_grey_printer(colours):
    rgb = figures.colour_of(np.linspace(-1, 1, 65), limits=(-1, 1), colours=colours)
    assert (np.diff(luminance(rgb)) > 0).all()
    assert luminance(rgb)[-1] - luminance(rgb)[0] > 0.45


def test_signed_maps_are_neutral_grey_at_zero_whatever_their_values():
    for colours in ("green-red", "orange-blue"):
        rgb = figures.colour_of(np.array([-1.0, 0.0, 5.0]), colours=colours)
        assert np.ptp(rgb[1]) <= 2


def test_green_supports_and_red_speaks_against():
    against, supports = figures.colour_of(np.array([-1.0, 1.0]), colours="green-red").astype(int)
    assert supports[1] > supports[0] + 80 and supports[1] > supports[2] + 80
    assert against[0] > against[1] + 60 and against[0] > against[2] + 60


def test_supporting_and_opposing_colours_differ_for_red_green_blind_eyes():
    # Machado, Oliveira, Fernandes 2009, deuteranopia, severity 1, on linear RGB
    deuteranopia = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    for colours in ("green-red", "orange-blue"):
        ends = figures.colour_of(np.array([-1.0, 0.0, 1.0]), colours=colours) / 255
        seen = np.clip((ends**2.2) @ deuteranopia.T, 0, 1) ** (1 / 2.2)
        gaps = np.linalg.norm(np.diff(seen, axis=0), axis=1)
        assert (gaps > 0.3).all()


def test_limits_are_shared_symmetric_for_signed_maps_and_never_empty():
    maps = [np.array([0.5, 2.0]), torch.tensor([-3.0, float("nan")])]
    assert figures.common_limits(maps) == (-3.0, 2.0)
    assert figures.common_limits(maps[:1]) == (0.0, 2.0)
    assert figures.common_limits(maps, colours="green-red") == (-3.0, 3.0)
    assert figures.common_limits([np.zeros(4)]) == (0.0, 1.0)
    assert figures.common_limits([np.zeros(4)], colours="green-red") == (-1.0, 1.0)
    assert figures.common_limits([]) == (0.0, 1.0)


def test_the_same_value_has_the_same_colour_in_every_map_of_one_scale():
    limits = figures.common_limits([np.array([0.0, 1.0]), np.array([0.0, 4.0])])
    one = figures.colour_of(np.array([1.0]), limits=limits)
    other = figures.colour_of(np.array([4.0, 1.0]), limits=limits)
    assert (one[0] == other[1]).all() and (one[0] != other[0]).any()


def test_values_outside_the_limits_take_the_end_colours_and_missing_ones_are_grey():
    values = np.array([-9.0, 0.0, 1.0, 9.0, np.inf, -np.inf, np.nan])
    rgb = figures.colour_of(values, limits=(0, 1))
    assert (rgb[0] == rgb[1]).all() and (rgb[2] == rgb[3]).all()
    assert (rgb[4] == rgb[2]).all() and (rgb[5] == rgb[0]).all()
    assert np.ptp(rgb[6].astype(int)) < 20


def test_an_unknown_colour_map_and_empty_limits_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match="colours: 'rainbow' is not a colour map; expected one of heat"):
        figures.colour_of(np.zeros(2), colours="rainbow")
    with pytest.raises(ValueError, match="limits"):
        figures.colour_of(np.zeros(2), limits=(1.0, 1.0))


# --- pictures ----------------------------------------------------------------------------------------------


def test_images_become_rgb_from_grey_colour_float_and_bytes():
    grey = figures.to_rgb(torch.tensor([[0.0, 1.0], [0.5, 2.0]]))
    assert grey.shape == (2, 2, 3) and grey.dtype == np.uint8
    assert grey[..., 0].tolist() == [[0, 255], [128, 255]]
    colour = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    assert figures.to_rgb(colour)[1, 0].tolist() == [2, 6, 10]
    with pytest.raises(ValueError, match=r"shape \(4, 2, 2\)"):
        figures.to_rgb(np.zeros((4, 2, 2)))


def test_a_box_marks_exactly_the_pixels_that_a_slice_would_take():
    image = np.full((8, 9, 3), 200, dtype=np.uint8)
    drawn = figures.draw_boxes(image, [2, 1, 7, 6], colour=(1, 2, 3))
    marked = (drawn == (1, 2, 3)).all(axis=2)
    expected = np.zeros((8, 9), dtype=bool)
    expected[1:6, 2:7] = True
    expected[2:5, 3:6] = False
    assert (marked == expected).all()
    assert (image == 200).all()


def test_a_box_on_an_enlarged_image_covers_the_enlarged_pixels():
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    drawn = figures.draw_boxes(figures.enlarge(image, 5), [1, 0, 3, 2], scale=5)
    marked = np.argwhere((drawn == (255, 214, 10)).all(axis=2))
    assert marked.min(axis=0).tolist() == [0, 5] and marked.max(axis=0).tolist() == [9, 14]


@pytest.mark.parametrize("box", [[-5, -5, 30, 30], [-9, -9, -4, -4], [50, 50, 60, 60], [3, 3, 3, 3]])
def test_a_box_beyond_the_image_is_cut_and_never_fails(box):
    image = np.zeros((8, 9, 3), dtype=np.uint8)
    assert figures.draw_boxes(image, box).shape == image.shape
    assert figures.spotlight(image, box).shape == image.shape
    piece, inner = figures.crop_around(image, box)
    assert piece.size and inner.shape == (4,)


def test_a_crop_shows_the_box_at_the_place_it_says():
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    for box in ([0, 0, 6, 6], [20, 11, 30, 17], [44, 34, 50, 40]):
        piece, inner = figures.crop_around(image, box)
        assert piece.shape[0] == piece.shape[1] <= 40
        left, top, right, bottom = inner.astype(int)
        assert (piece[top:bottom, left:right] == image[box[1] : box[3], box[0] : box[2]]).all()


def test_an_outline_is_the_border_of_the_mask_and_stays_inside_it():
    mask = np.zeros((7, 7), dtype=bool)
    mask[1:6, 2:6] = True
    drawn = figures.outline(np.zeros((7, 7, 3), dtype=np.uint8), mask, colour=(9, 9, 9))
    marked = (drawn == 9).all(axis=2)
    inner = np.zeros_like(mask)
    inner[2:5, 3:5] = True
    assert (marked == (mask & ~inner)).all()
    with pytest.raises(ValueError, match="mask"):
        figures.outline(np.zeros((5, 7, 3), dtype=np.uint8), mask)


def test_an_overlay_without_opacity_is_the_grey_image_and_with_full_opacity_the_map():
    image = np.random.default_rng(0).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    values = np.arange(36.0).reshape(6, 6)
    assert (figures.overlay(image, values, opacity=1.0) == figures.colour_of(values)).all()
    assert np.ptp(figures.overlay(image, values, opacity=0.0), axis=2).max() == 0
    with pytest.raises(ValueError, match="opacity"):
        figures.overlay(image, values, opacity=1.5)


def test_a_map_is_resized_by_cells_or_smoothly():
    cells = figures.resize_map([[0.0, 1.0]], (2, 4), smooth=False)
    assert cells.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    smooth = figures.resize_map([[0.0, 1.0]], (2, 4))
    assert smooth[0].tolist() == pytest.approx([0, 0.25, 0.75, 1])
    with pytest.raises(ValueError, match="is not a map"):
        figures.resize_map(np.zeros((1, 2, 3)), (4, 4))


def test_a_montage_places_every_image_once_in_reading_order():
    images = [np.full((4, 5, 3), number, dtype=np.uint8) for number in range(5)]
    sheet = figures.montage(images, columns=3, gap=1, background=(77, 77, 77))
    assert sheet.shape == (9, 17, 3)
    for number in range(5):
        row, column = number // 3 * 5, number % 3 * 6
        assert (sheet[row : row + 4, column : column + 5] == number).all()
    assert (sheet[5:, 12:] == 77).all() and (sheet[4] == 77).all()
    with pytest.raises(ValueError, match="images"):
        figures.montage([])


def test_positions_are_drawn_at_their_pixels_and_the_most_frequent_is_largest():
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    drawn = figures.draw_positions(image, [[5.0, 6.0], [12.0, 22.0]], counts=[4, 1], radius=4)
    lit = drawn[..., 0] > 100
    rows, columns = np.nonzero(lit[:, :14])
    assert (rows.mean(), columns.mean()) == pytest.approx((5, 6))
    rows, columns = np.nonzero(lit[:, 14:])
    assert (rows.mean(), columns.mean() + 14) == pytest.approx((12, 22))
    assert lit[:, :14].sum() > 2.5 * lit[:, 14:].sum()
    assert (figures.draw_positions(image, np.zeros((0, 2))) == image).all()


# --- charts ------------------------------------------------------------------------------------------------


def all_charts(theme):
    """One chart of each kind."""
    map_ = np.linspace(-1, 2, 64).reshape(8, 8)
    image = figures.to_rgb(np.full((3, 16, 16), 0.5))
    measure = {"interpretable": [0.08, 0.09, 0.1, float("nan")], "plain": [0.12] * 200}
    lines = {"random cell": 0.15, "constant centre": 0.07, "best fixed spot": 0.0695}
    return {
        "one map": figures.side_by_side([map_], ["$a"], unit="activation", theme=theme),
        "side_by_side": figures.side_by_side(
            [map_, -map_], ["a", "b"], unit="logits", images=[image, image], colours="green-red", theme=theme
        ),
        "distributions": figures.distributions(measure, label="instability", baselines=lines, theme=theme),
        "training_curves": figures.training_curves(curves(), theme=theme),
        "bars": figures.bars(
            {"one": {"$head": 7, "tail": -1}, "other": {"tail": 3}},
            label="filters",
            intervals={"one": {"tail": (-2.5, 0.5)}},
            theme=theme,
        ),
        "contact_sheet": figures.contact_sheet([image] * 5, ["$one$"] * 5, title="$x$", theme=theme),
    }


@pytest.mark.parametrize("theme", [figures.LIGHT, figures.DARK], ids=["light", "dark"])
def test_every_chart_is_rgb_on_the_paper_of_its_theme_and_has_ink(theme):
    paper = np.array([int(theme.paper[i : i + 2], 16) for i in (1, 3, 5)])
    for name, rgb in all_charts(theme).items():
        assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3, name
        assert (rgb[0, 0] == paper).all() and (rgb[-1, -1] == paper).all(), name
        assert (np.abs(rgb.astype(int) - paper).max(axis=2) > 60).sum() > 200, name


def test_charts_are_the_same_pixels_every_time():
    again = all_charts(figures.LIGHT)
    for name, rgb in all_charts(figures.LIGHT).items():
        assert (rgb == again[name]).all(), name


def test_charts_survive_nothing_constant_values_and_one_epoch():
    nothing = {"a": [], "b": [float("nan")]}
    assert figures.distributions(nothing, label="measure").size
    assert figures.distributions({"a": [1.0, 1.0]}, label="measure", baselines={"x": float("nan")}).size
    assert figures.bars({"a": {"head": 0}}, label="filters").size
    assert figures.training_curves(curves().query("epoch == 0")).size
    assert figures.side_by_side([np.zeros((3, 5))], [""], unit="activation").size


def test_a_chart_without_data_or_with_too_few_titles_is_refused():
    with pytest.raises(ValueError, match="curves: columns epoch"):
        figures.training_curves(pd.DataFrame({"epoch": [1]}))
    with pytest.raises(ValueError, match="titles: 1 for 2 maps"):
        figures.side_by_side([np.zeros((2, 2))] * 2, ["a"], unit="x")
    with pytest.raises(ValueError, match="captions: 0 for 1 images"):
        figures.contact_sheet([np.zeros((2, 2, 3), dtype=np.uint8)], [])


def test_dots_of_a_distribution_do_not_lie_on_each_other_more_than_they_must():
    from interp_cnn.figures.charts import _stacked

    places, heights = _stacked(np.full(41, 0.5), 0.0, 1.0, bins=50)
    assert len(set(heights.tolist())) == 41 and np.abs(heights).max() <= 0.42
    places, heights = _stacked(np.linspace(0, 1, 30), 0.0, 1.0, bins=50)
    assert (heights == 0).all() and (np.diff(places) > 0).all()


def test_baseline_labels_of_one_level_never_overlap():
    from interp_cnn.figures.charts import LABELS, _Baselines

    lines = {
        "oracle": 0.049,
        "constant centre": 0.07,
        "best fixed spot": 0.0705,
        "random": 0.15,
        "chance": 0.1495,
    }
    baselines = _Baselines(lines, [np.array([0.03, 0.17])], 760)
    spans = {}
    for name in lines:
        place = (lines[name] - baselines.low) / (baselines.high - baselines.low) * (760 - LABELS)
        length = 6.4 * len(baselines.words(name))
        span = (place - length, place) if baselines.leftward(name) else (place, place + length)
        spans.setdefault(baselines.levels[name], []).append(span)
    for row in spans.values():
        row.sort()
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(row))


def test_figures_import_neither_pyplot_nor_torch():
    unwanted = "{'matplotlib.pyplot', 'torch'} & set(sys.modules)"
    check = f"import sys, interp_cnn.figures; sys.exit(len({unwanted}))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_a_confusion_matrix_is_bright_where_a_row_has_its_images_and_refuses_other_shapes():
    counts = np.array([[9, 1], [0, 10]])
    picture = figures.confusion_matrix(counts, ["fox", "$x$ & <b>"]).astype(int)
    assert picture.shape[2] == 3
    bright = (picture.sum(axis=2) > 600).mean()
    darker = figures.confusion_matrix(np.array([[0, 0], [0, 0]]), ["fox", "$x$ & <b>"]).astype(int)
    assert bright > (darker.sum(axis=2) > 600).mean()
    many = figures.confusion_matrix(np.eye(40, dtype=int), [f"class {number}" for number in range(40)])
    assert min(many.shape[:2]) > 1000
    with pytest.raises(ValueError, match=r"shape \(2, 2\); expected 3 x 3"):
        figures.confusion_matrix(counts, ["a", "b", "c"])


# --- files -------------------------------------------------------------------------------------------------


def test_the_palette_of_a_large_photograph_is_chosen_from_few_pixels_and_hardly_worse():
    image = drawn_images(4, side=90)
    rgb = (torch.cat([*image], 2).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)  # (90, 360, 3)
    rgb = np.concatenate([rgb, rgb[::-1], rgb[:, ::-1]]).repeat(2, 0).repeat(2, 1)
    found = np.asarray(Image.open(BytesIO(png_bytes(rgb, colours=128))).convert("RGB"))
    palette = Image.fromarray(rgb).quantize(128, method=Image.Quantize.MEDIANCUT)
    best = np.asarray(Image.fromarray(rgb).quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB"))
    error, least = (np.square(one.astype(float) - rgb).mean() ** 0.5 for one in (found, best))
    assert error < 1.1 * least + 0.5  # of 255
