"""Scans on a canvas: placement, strokes, parts."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from interp_cnn.data.digits import DigitsParts
from interp_cnn.data.parts import Draw
from interp_cnn.data.strokes import PEN, CanvasSet, bands, drawn_strokes


@pytest.fixture(scope="module")
def views(digits):
    return [digits[index] for index in range(len(digits))]


def test_the_split_holds_out_a_fifth_of_every_class_and_no_scan_twice(digits):
    train = DigitsParts("train")
    assert len(train) + len(digits) == 1797
    assert not set(train.names) & set(digits.names)
    share = digits.labels.bincount() / (digits.labels.bincount() + train.labels.bincount())
    assert ((share - 0.2).abs() < 0.01).all()
    names = DigitsParts("val", split_seed=1).names
    assert names != digits.names and DigitsParts("val", split_seed=1).names == names


def test_every_view_has_the_promised_shapes_types_and_ranges(digits, views):
    for view in views[:50]:
        assert view.image.shape == (1, 48, 48) and view.image.dtype == torch.float32
        assert view.image.min() >= 0 and view.image.max() <= 1
        assert view.part_masks.shape == (3, 48, 48) and view.part_masks.dtype == torch.bool
        assert view.landmarks.shape == (3, 2) and view.landmarks.dtype == torch.float32
        assert view.object_mask.any()
    assert digits.classes == tuple("0123456789") and digits.background is None
    assert digits.parts == ("top", "middle", "bottom")


def test_digits_differ_in_size_and_place(views):
    rows = [view.object_mask.any(1).nonzero().flatten() for view in views]
    heights = torch.tensor([int(row[-1] - row[0]) for row in rows])
    tops = torch.tensor([int(row[0]) for row in rows])
    assert heights.min() < 22 and heights.max() > 28
    assert tops.min() <= 2 and tops.max() >= 20


def test_the_whole_digit_stays_on_the_canvas():
    """Ink placed on a canvas of the same scale has the area that a placement in the middle has."""
    small, large = (DigitsParts("val", image_size=size, distractors=0) for size in (48, 120))
    for index in range(60):
        key = Draw(5, 0, index)
        area = int(small[key].object_mask.sum()), int(large[key].object_mask.sum())
        assert abs(area[0] - area[1]) <= 0.1 * area[1] + 6


def test_strokes_lie_beside_the_digit_and_are_as_bright(views):
    touched, bright = [], []
    for view in views:
        assert not (view.distractor_mask & view.object_mask).any()
        if view.distractor_mask.any():
            bright.append(view.image[0][view.distractor_mask].max())
        alone = view.image[0][view.object_mask].max()
        assert alone > 0.7
        touched.append(view.distractor_mask.any())
    assert np.mean(touched) > 0.9  # exp(-3) of the pictures draw no stroke
    assert 0.75 < np.mean(bright) < 1


def test_ink_outside_the_masks_is_only_a_soft_edge(views):
    for view in views:
        rest = view.image[0][~view.object_mask & ~view.distractor_mask]
        assert rest.max() <= 0.2 + 0.8 * PEN + 1e-6


def test_the_number_of_strokes_has_the_mean_that_was_asked_for():
    empty = np.zeros((200, 200), dtype=bool)
    generator = torch.Generator().manual_seed(0)
    one = np.mean(
        [
            (drawn_strokes(empty, mean_number=1, pen=(1, 1), generator=generator) > 0.3).sum()
            for _ in range(400)
        ]
    )
    four = np.mean(
        [
            (drawn_strokes(empty, mean_number=4, pen=(1, 1), generator=generator) > 0.3).sum()
            for _ in range(400)
        ]
    )
    assert 3.3 < four / one < 4.7  # strokes cross now and then


def test_without_distractors_no_stroke_is_drawn():
    plain = DigitsParts("val", distractors=0)
    assert not any(plain[index].distractor_mask.any() for index in range(40))


def test_the_digit_is_the_same_with_and_without_strokes(digits):
    plain = DigitsParts("val", distractors=0)
    for index in range(20):
        assert torch.equal(plain[index].object_mask, digits[index].object_mask)
        assert torch.equal(plain[index].landmarks, digits[index].landmarks)


def test_strokes_keep_away_from_the_object_even_on_a_full_canvas():
    full = np.ones((48, 48), dtype=bool)
    generator = torch.Generator().manual_seed(0)
    assert not drawn_strokes(full, mean_number=20, pen=(1, 2), generator=generator).any()
    half = np.zeros((48, 48), dtype=bool)
    half[:, :24] = True
    strokes = drawn_strokes(half, mean_number=40, pen=(1, 2), generator=generator) > PEN
    assert strokes.any() and (strokes & half).sum() < 0.15 * strokes.sum()


def test_random_views_repeat_by_key_and_change_with_the_epoch():
    train = DigitsParts("train")
    again = DigitsParts("train")
    assert torch.equal(train[Draw(1, 2, 3)].image, again[Draw(1, 2, 3)].image)
    assert not torch.equal(train[Draw(1, 2, 3)].image, train[Draw(1, 3, 3)].image)
    assert not torch.equal(train[Draw(1, 2, 3)].image, train[Draw(0, 2, 3)].image)
    fixed = DigitsParts("train", redraw=False)
    assert torch.equal(fixed[Draw(1, 2, 3)].image, fixed[3].image)


def test_fixed_views_are_the_same_whether_they_were_kept_or_drawn_and_nobody_can_change_them(monkeypatch):
    kept, drawn = DigitsParts("val"), DigitsParts("val")
    monkeypatch.setattr("interp_cnn.data.strokes.KEPT", 1)
    for number in (3, 5, 3, 5, -1):
        first, again = kept[number], kept[number]
        assert torch.equal(first.image, drawn[number].image) and torch.equal(
            first.part_masks, again.part_masks
        )
        first.image.zero_()
        assert torch.equal(kept[number].image, again.image) and again.image.any()


def test_the_parts_are_the_ink_in_three_bands_of_its_box(views):
    """A second, literal derivation, pixel by pixel."""
    for view in views[:40]:
        rows, columns = view.object_mask.nonzero(as_tuple=True)
        top, height = int(rows.min()), int(rows.max() - rows.min()) + 1
        edges = [top + round(height * k / 3) for k in range(4)]
        assert torch.equal(view.part_masks.any(0), view.object_mask)
        assert view.part_masks.sum(0).max() == 1
        for part in range(3):
            inside = (rows >= edges[part]) & (rows < edges[part + 1])
            mask = torch.zeros_like(view.object_mask)
            mask[rows[inside], columns[inside]] = True
            assert torch.equal(view.part_masks[part], mask)


def test_a_landmark_is_the_ink_weighted_centroid_of_its_band():
    ink = np.zeros((9, 5), dtype=np.float32)
    ink[0, 1], ink[2, 3] = 1.0, 0.5  # top: rows 0-2
    ink[4, 2] = 0.7  # middle: rows 3-5
    ink[8, 0], ink[8, 4] = 0.4, 0.4  # bottom: rows 6-8
    landmarks, masks = bands(ink, ink > 0.3)
    assert landmarks == pytest.approx(np.array([[2 / 3, 5 / 3], [4, 2], [8, 2]]))
    assert masks.sum(axis=(1, 2)).tolist() == [2, 1, 2]


def test_a_band_without_ink_has_no_landmark():
    ink = np.zeros((9, 5), dtype=np.float32)
    landmarks, masks = bands(ink, ink > 0.3)
    assert np.isnan(landmarks).all() and not masks.any()
    ink[0, 0] = ink[8, 0] = 1
    landmarks, _ = bands(ink, ink > 0.3)
    assert np.isnan(landmarks).all(axis=1).tolist() == [False, True, False]


def canvas(scans: np.ndarray, **changes) -> CanvasSet:
    options = dict(
        full=16, pen=0.5, classes=("a",), names=[str(i) for i in range(len(scans))], image_size=24,
        scale=(1, 1), rotation=0, distractors=0, paper=0.0, ink=0.3, redraw=True, split_seed=0,
    )  # fmt: skip
    return CanvasSet(scans, [0] * len(scans), **(options | changes))


def test_at_scale_one_the_scan_keeps_its_own_values():
    scans = load_digits().images[:20].astype(np.uint8)
    for index in range(20):
        image = canvas(scans)[index].image[0]
        windows = image.unfold(0, 8, 1).unfold(1, 8, 1)
        assert (windows == torch.from_numpy(scans[index] / 16)).all(-1).all(-1).any()


def test_a_scan_enlarged_in_the_middle_is_itself_again_when_made_small():
    scans = load_digits().images[:20].astype(np.uint8)
    enlarged = canvas(scans, image_size=24, scale=(3, 3))  # fills the canvas: one placement only
    for index in range(20):
        shrunk = torch.nn.functional.avg_pool2d(enlarged[index].image, 3)[0]
        correlation = np.corrcoef(shrunk.flatten(), scans[index].ravel())[0, 1]
        assert correlation > 0.97


def test_a_turned_scan_turns_about_its_middle_and_keeps_its_ink():
    scan = np.zeros((1, 9, 9), dtype=np.uint8)
    scan[0, 4, 1:8] = 16  # a horizontal bar, in the middle of its scan
    straight = canvas(scan, image_size=18, scale=(2, 2))[0].image.sum()
    turned = canvas(scan, image_size=18, scale=(2, 2), rotation=90)
    grid = torch.stack(torch.meshgrid(torch.arange(18.0), torch.arange(18.0), indexing="ij"))
    slopes = []
    for epoch in range(30):
        ink = turned[Draw(0, epoch, 0)].image[0]
        assert abs(ink.sum() / straight - 1) < 0.1
        middle = (grid * ink).sum((1, 2)) / ink.sum()
        assert (middle - 8.5).abs().max() < 0.1
        spread = ((grid - middle[:, None, None]) ** 2 * ink).sum((1, 2))
        slopes.append(float(spread[0] / spread[1]))
    assert min(slopes) < 0.25 and max(slopes) > 4


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"split": "test"}, "split='test': expected 'train' or 'val'"),
        ({"distractors": -1}, "distractors=-1"),
        ({"scale": (4, 2)}, r"scale=\[4, 2\]"),
        ({"scale": (2,)}, "scale="),
        ({"image_size": 16}, "image_size=16: a scan of 8x8 pixels at scale 2.5 does not fit"),
        ({"rotation": -3}, "rotation=-3"),
    ],
)
def test_a_wrong_option_is_refused_by_name(option, sentence):
    with pytest.raises(ValueError, match=sentence):
        DigitsParts(**option)
