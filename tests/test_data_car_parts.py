"""Cars with part masks: a small folder made here, and the real one."""

import numpy as np
import pytest
import torch
from PIL import Image
from reference_augmentation import mirrored

from interp_cnn.data.car_parts import CarParts, largest_piece

HEADER = "file,mask,split,part_id,part,x,y,area"


@pytest.fixture
def folder(tmp_path):
    def make(rows=None, value=1):
        ids = np.zeros((8, 8), dtype=np.uint8)
        ids[2:4, 0:2], ids[2:4, 6:8], ids[6:8, 3:5] = value, 2, 4
        for name in ("a", "b"):
            Image.fromarray(ids).save(tmp_path / f"{name}_mask.png")
            Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / f"{name}.png")
        rows = rows or [
            f"{name}.png,{name}_mask.png,{split},{part}"
            for name, split in (("a", "train"), ("b", "test"))
            for part in (
                "1,front_left_door,0.125,0.375,0.06",
                "2,front_right_door,0.875,0.375,0.06",
                "4,hood,0.5,0.875,0.06",
            )
        ]
        (tmp_path / "parts.csv").write_text("\n".join([HEADER, *rows]) + "\n")
        return tmp_path

    return make


def test_masks_and_landmarks_come_from_the_part_numbers(folder):
    cars = CarParts("val", root=folder(), image_size=16)
    assert cars.parts == ("front_left_door", "front_right_door", "hood")
    car = cars[0]
    assert car.part_masks.sum((1, 2)).tolist() == [16, 16, 16]
    for mask, landmark in zip(car.part_masks, car.landmarks, strict=True):
        assert mask.nonzero().float().mean(0).tolist() == landmark.tolist()
    assert torch.equal(car.object_mask, car.part_masks.any(0))
    assert cars.classes[car.label] == "side"  # two doors, one hood


def test_a_mirrored_left_door_is_a_right_door(folder):
    cars = CarParts(root=folder(), image_size=16)
    assert cars.mirrored_parts == (1, 0, 2)
    car = cars[0]
    assert torch.equal(mirrored(car, cars.mirrored_parts).part_masks, car.part_masks)  # made symmetric
    assert torch.allclose(mirrored(car, cars.mirrored_parts).landmarks, car.landmarks)


def test_the_wheel_is_the_largest_piece_and_unknown_among_equals():
    mask = np.zeros((10, 10), dtype=bool)
    assert np.isnan(largest_piece(mask)).all()
    mask[1:4, 1:4] = True
    assert largest_piece(mask) == (2, 2)
    mask[7:9, 7:9] = True  # 4 of 9 pixels: a far wheel
    assert largest_piece(mask) == (2, 2)
    mask[6:9, 6:9] = True
    assert np.isnan(largest_piece(mask)).all()


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("a.png,a_mask.png,valid,1,hood,0.5,0.5,0.1", "line 2: split is 'valid', expected train or test"),
        (
            "a.png,a_mask.png,train,1,hood,1.5,0.5,0.1",
            r"line 2 \(a.png\): x is '1.5', expected a number from 0 to 1",
        ),
        ("a.png,a_mask.png,train,1,hood,,0.5,0.1", r"line 2 \(a.png\): x is ''"),
        ("a.png,a_mask.png,train,300,hood,0.5,0.5,0.1", r"line 2 \(a.png\): part_id is '300'"),
        ("a.png,a_mask.png,train,1,hood,0.5,0.5,0.1", r"line 2: .*a_mask.png has a pixel value that no part"),
        ("a.png,../m.png,train,1,hood,0.5,0.5,0.1", r"line 2: file '../m.png' is not a path below"),
        ("a.png,none.png,train,1,hood,0.5,0.5,0.1", r"line 2: .*none.png: no such image file"),
    ],
)
def test_a_wrong_line_is_refused_with_file_and_line(folder, row, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=rf"parts\.csv, {sentence}"):
        CarParts(root=folder([row]))


def test_one_number_for_two_parts_is_refused(folder):
    rows = ["a.png,a_mask.png,train,1,hood,0.5,0.5,0.1", "a.png,a_mask.png,train,1,trunk,0.5,0.5,0.1"]
    with pytest.raises(ValueError, match="line 3: part 'trunk' and its part_id do not match"):
        CarParts(root=folder(rows))


def test_a_bad_picture_or_mask_is_left_out_on_request(folder):
    root = folder()
    (root / "a_mask.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"parts\.csv, line 2: .*a_mask\.png"):
        CarParts(root=root)
    cars = CarParts(root=root, on_error="skip")
    assert len(cars) == 0 and len(cars.labels) == 0
    assert [bad.path.endswith("a_mask.png") for bad in cars.skipped] == [True]
    assert len(CarParts("val", root=root, on_error="skip")) == 1


@pytest.mark.slow
def test_real_centroids_lie_where_the_masks_are(data_root):
    cars = CarParts("val", root=data_root / "carparts256", image_size=128)
    assert len(cars) == 100 and len(cars.parts) == 18
    assert cars.labels.bincount().tolist() == [74, 18, 8]
    apart = []
    for car in map(cars.__getitem__, range(0, 100, 5)):
        for part, (mask, landmark) in enumerate(zip(car.part_masks, car.landmarks, strict=True)):
            if cars.parts[part] != "wheel" and mask.sum() > 20:
                apart.append(float(torch.dist(mask.nonzero().float().mean(0), landmark)))
    assert len(apart) > 100 and np.median(apart) < 0.3 and max(apart) < 3
