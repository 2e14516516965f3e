"""The published layout of CUB-200-2011, as a small folder of drawings."""

import pytest
import torch
from bird_drawings import BOX, drawn_birds, parts_of
from reference_augmentation import mirrored

from interp_cnn.data.cub200 import Cub200

NAMES = ("Black footed Albatross", "Laysan Albatross", "Sooty Albatross")


@pytest.fixture
def birds(tmp_path):
    return drawn_birds(tmp_path)


def test_the_official_split_is_kept_and_species_are_readable(birds):
    train, val = (Cub200(split, root=birds) for split in ("train", "val"))
    assert train.classes == val.classes == NAMES and train.background is None
    assert [name[-8:-4] for name in train.names] == ["0001", "0002", "0003", "0007", "0008", "0009"]
    assert [name[-8:-4] for name in val.names] == ["0004", "0005", "0006", "0010", "0011", "0012"]
    assert val.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_visible_part_lies_where_it_was_drawn_with_the_box_and_without(birds):
    left, top, width, height = BOX
    for number, index in ((4, 0), (5, 1)):
        x, y = parts_of(number)["beak"]
        cut = Cub200("val", root=birds, image_size=60)
        assert cut[index].image.shape == (3, 60, 60)
        row, column = cut[index].landmarks[cut.parts.index("beak")].tolist()
        expected = ((y - top + 0.5) * 60 / height - 0.5, (x - left + 0.5) * 60 / width - 0.5)
        assert (row, column) == pytest.approx(expected)
        brightest = (cut[index].image.sum(0) == cut[index].image.sum(0).max()).nonzero().float().mean(0)
        assert torch.dist(brightest, torch.tensor([row, column])) < 1
        whole = Cub200("val", root=birds, image_size=60, crop_to_box=False)
        row, column = whole[index].landmarks[whole.parts.index("beak")].tolist()
        assert (row, column) == pytest.approx(((y + 0.5) * 60 / 40 - 0.5, x))  # 60 x 40 pixels
        brightest = (whole[index].image.sum(0) == whole[index].image.sum(0).max()).nonzero().float().mean(0)
        assert torch.dist(brightest, torch.tensor([row, column])) < 1


def test_what_is_not_visible_or_outside_the_box_is_unknown(birds):
    val = Cub200("val", root=birds)
    known = val.landmarks.isfinite().all(2)
    of_part = dict(zip(val.parts, known.T.tolist(), strict=True))
    assert of_part["left eye"] == [False, True, False, False, True, False]
    assert of_part["right eye"] == [True] * 6 and of_part["right leg"] == [False] * 6
    assert of_part["left leg"] == [False] * 6  # below the box
    whole = Cub200("val", root=birds, crop_to_box=False)
    assert whole.landmarks[:, whole.parts.index("left leg")].isfinite().all()


def test_merged_sides_are_one_part_that_is_unknown_where_both_show(birds):
    merged = Cub200("val", root=birds, merge_sides=True, crop_to_box=False)
    assert merged.parts == ("beak", "eye", "leg") and merged.mirrored_parts == (0, 1, 2)
    eye = merged.landmarks[:, 1].isfinite().all(1)
    assert eye.tolist() == [True, False, True, True, False, True]
    apart = Cub200("val", root=birds, crop_to_box=False)
    assert torch.equal(merged.landmarks[0, 1], apart.landmarks[0, apart.parts.index("right eye")])


def test_a_mirrored_left_eye_is_a_right_eye(birds):
    val = Cub200("val", root=birds)
    assert val.parts == ("beak", "left eye", "left leg", "right eye", "right leg")
    assert val.mirrored_parts == (0, 3, 4, 1, 2)
    seen, turned = val[1], mirrored(val[1], val.mirrored_parts)
    right = seen.landmarks[3]
    assert turned.landmarks[1].tolist() == pytest.approx([float(right[0]), 127 - float(right[1])])


@pytest.mark.parametrize(
    ("categories", "classes"),
    [
        ([3, 1], (NAMES[2], NAMES[0])),
        (["Laysan Albatross", "001.Black_footed_Albatross"], (NAMES[1], NAMES[0])),
        (["2", "Sooty_Albatross", 2], (NAMES[1], NAMES[2])),
    ],
)
def test_species_are_chosen_by_name_or_number(birds, categories, classes):
    train = Cub200(root=birds, categories=categories)
    assert train.classes == classes and len(train) == 4
    assert sorted(set(train.labels.tolist())) == [0, 1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"split": "test"}, "split='test': expected 'train' or 'val'"),
        ({"categories": ["Lasan Albatros", 1]}, r"classes\.txt has no 'Lasan Albatros'; nearest: Laysan Alb"),
        ({"categories": [1, 201]}, r"classes\.txt has no 201"),
        ({"categories": 1}, "categories=1: there is nothing to tell apart"),
        ({"categories": []}, r"categories=\[\]: there is nothing to tell apart"),
        ({"image_size": 0}, "image_size=0"),
        ({"on_error": "drop"}, "on_error='drop'"),
        ({"root": "nowhere"}, "root=nowhere: no such folder; it should hold images.txt"),
    ],
)
def test_a_wrong_option_is_refused_by_name(birds, options, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        Cub200(**{"root": birds, **options})


@pytest.mark.parametrize(
    "name",
    [
        "classes.txt",
        "images.txt",
        "image_class_labels.txt",
        "train_test_split.txt",
        "bounding_boxes.txt",
        "parts/parts.txt",
        "parts/part_locs.txt",
    ],
)
def test_a_file_that_is_missing_empty_or_no_text_is_named(birds, name):
    file = birds / name
    for content, sentence in ((b"\xff\xfe\x00", "not a text file"), (b"\n", "the file has no line")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: {sentence}"):
            Cub200(root=birds)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: no such file; CUB-200-2011 comes with it"):
        Cub200(root=birds)


@pytest.mark.parametrize(
    ("name", "line", "content", "sentence"),
    [
        ("images.txt", 2, "2", "line 2: '2', expected 2 fields"),
        ("images.txt", 2, "one a.jpg", "line 2: 'one', expected a whole number"),
        ("images.txt", 2, "1 b.jpg", "line 2: number 1 stands in a line before"),
        ("images.txt", 1, "1 ../a.jpg", r"line 1: file '\.\./a\.jpg' is not a path below"),
        ("images.txt", 1, "1 a\x07.jpg", "line 1: .* characters that cannot be printed"),
        ("images.txt", 1, "1 none.jpg", r"line 1: .*none\.jpg: no such image file"),
        ("image_class_labels.txt", 3, "3 9", "line 3: 9, expected a number from 1 to 3"),
        ("image_class_labels.txt", 3, "", "no line for image 3 of images.txt"),
        ("train_test_split.txt", 1, "1 2", "line 1: 2, expected a number from 0 to 1"),
        ("train_test_split.txt", 1, "99 1", "no line for image 1 of"),
        ("bounding_boxes.txt", 1, "1 0 0 0 5", "line 1: a box of 0 x 5 pixels"),
        ("bounding_boxes.txt", 1, "1 0 0 wide 5", "line 1: '0 0 wide 5', expected lengths in pixels"),
        ("bounding_boxes.txt", 1, "1 0 0 nan 5", "line 1: '0 0 nan 5', expected lengths in pixels"),
        ("bounding_boxes.txt", 1, "1 70 0 5 5", "the bounding box 70 0 5 5 lies outside .*60 x 40 pixels"),
        ("parts/part_locs.txt", 1, "1 77 3 3 1", "line 1: image 1, part 77, visible '1'; expected an image"),
        ("parts/part_locs.txt", 1, "1 1 3 3", "line 1: '1 1 3 3', expected 5 fields"),
        ("parts/part_locs.txt", 1, "1 1 left 3 1", "line 1: 'left', expected lengths in pixels"),
    ],
)
def test_a_damaged_line_is_refused_with_file_and_line(birds, name, line, content, sentence):
    file = birds / name
    lines = file.read_text().splitlines()
    lines[line - 1] = content
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        Cub200(root=birds)


def test_a_bad_image_is_left_out_on_request(birds):
    train = Cub200(root=birds)
    broken = birds / "images" / train.names[0]
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"images\.txt, line 1: .*jpg: the image is corrupt"):
        Cub200(root=birds)
    left = Cub200(root=birds, on_error="skip")
    assert left.names == train.names[1:] and len(left.skipped) == 1
    assert torch.equal(left.landmarks.nan_to_num(), train.landmarks[1:].nan_to_num())
    again = Cub200(root=birds, on_error="skip", cache="memory", crop_to_box=False)
    assert torch.equal(
        again[0].image, Cub200(root=birds, on_error="skip", cache="none", crop_to_box=False)[0].image
    )
