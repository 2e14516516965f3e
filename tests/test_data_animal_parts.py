"""The Animal-Part folder format: a small folder made here, and the real one."""

import numpy as np
import pytest
import torch
from PIL import Image

from interp_cnn.data.animal_parts import AnimalParts
from interp_cnn.data.datamodule import PartDataModule

HEADER = "file,wnid,name,label,split_by_photo," + ",".join(
    f"{part}_{column}" for part in ("head", "leg") for column in ("n", "x", "y", "w", "h", "multi")
)
ROWS = [
    "f/1.png,n1,fox,1,train,1,0.25,0.5,0.5,0.25,,0,,,,,",
    "f/2.png,n1,fox,1,val,2,,,,,0.1 0.1 0.2 0.2;0.9 0.9 0.2 0.2,1,0.5,0.5,,,",
    "h/1.png,n2,horse,1,train,0,,,,,,0,,,,,",
    "h/2.png,n2,horse,1,val,0,,,,,,0,,,,,",
    "neg/1.png,neg,negative,-1,train,0,,,,,,0,,,,,",
    "neg/2.png,neg,negative,-1,val,0,,,,,,0,,,,,",
]


@pytest.fixture
def folder(tmp_path):
    def make(rows=ROWS, header=HEADER):
        for row in ROWS:
            path = tmp_path / row.split(",")[0]
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (len(str(path)) % 256, 20, 30)).save(path)
        (tmp_path / "annotations.csv").write_text("\n".join([header, *rows]) + "\n")
        return tmp_path

    return make


def test_one_category_is_learned_against_the_negatives(folder):
    animals = AnimalParts("train", root=folder(), categories=["fox"], image_size=16)
    assert animals.classes == ("negative", "fox") and animals.background == 0
    assert animals.names == ["f/1.png", "neg/1.png"] and animals.labels.tolist() == [1, 0]
    assert animals.parts == ("head", "leg") and animals.image_size == (16, 16)


@pytest.mark.parametrize(
    ("categories", "negatives", "classes", "background"),
    [
        (None, "auto", ("fox", "horse"), None),
        (["horse", "n1"], "auto", ("horse", "fox"), None),
        (None, True, ("negative", "fox", "horse"), 0),
        ("horse", True, ("negative", "horse"), 0),
    ],
)
def test_classes_follow_from_categories_and_negatives(folder, categories, negatives, classes, background):
    animals = AnimalParts("val", root=folder(), categories=categories, negatives=negatives)
    assert (animals.classes, animals.background) == (classes, background)
    assert sorted(animals.labels.tolist()) == list(range(len(classes)))


def test_a_centre_becomes_a_pixel_and_a_box_the_pixels_inside_it(folder):
    fox = AnimalParts("train", root=folder(), categories="fox", image_size=16)[0]
    assert fox.landmarks[0].tolist() == [0.5 * 16 - 0.5, 0.25 * 16 - 0.5]
    assert fox.landmarks[1].isnan().all() and not fox.part_masks[1].any()
    rows, columns = fox.part_masks[0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 9, 0, 7)
    assert rows.float().mean() == fox.landmarks[0, 0] and columns.float().mean() == fox.landmarks[0, 1]
    assert fox.object_mask is None and fox.distractor_mask is None


def test_a_part_that_occurs_twice_has_masks_and_no_landmark(folder):
    fox = AnimalParts("val", root=folder(), categories="fox", image_size=20)[0]
    assert fox.landmarks[0].isnan().all()
    assert fox.part_masks[0].sum() == 4 * 4 + 4 * 4
    assert fox.landmarks[1].tolist() == [9.5, 9.5] and fox.part_masks[1].any()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"categories": ["foks"]}, r"annotations\.csv has no 'foks'; nearest: fox"),
        ({"categories": []}, r"categories=\[\]"),
        ({"categories": "fox", "negatives": False}, "nothing to tell apart"),
        ({"negatives": "maybe"}, "negatives='maybe'"),
        ({"split": "test"}, "split='test'"),
        ({"on_error": "drop"}, "on_error='drop'"),
        ({"image_size": -1}, "image_size=-1"),
    ],
)
def test_a_wrong_option_is_refused_by_name(folder, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        AnimalParts(root=folder(), **options)


@pytest.mark.parametrize(
    ("line", "old", "new", "sentence"),
    [
        (2, "fox,1,", "fox,7,", "line 2: label is '7', expected 1 or -1"),
        (3, ",val,", ",test,", "line 3: split_by_photo is 'test', expected train or val"),
        (2, "0.25,0.5", "1.25,0.5", r"line 2 \(f/1.png\): head lies at x=1.25, y=0.5, outside the image"),
        (2, "1,0.25,0.5", "1,,0.5", r"line 2 \(f/1.png\): head lies at x=nan"),
        (2, "0.25,0.5", "left,0.5", "line 2: head_x is 'left', expected a number"),
        (2, "f/1.png", "../1.png", r"line 2: file '\.\./1\.png' is not a path below"),
        (2, "f/1.png", "f/9.png", r"line 2: .*f/9\.png: no such image file"),
        (3, "0.9 0.9 0.2 0.2", "0.9 0.9", "line 3 .*head_multi has '0.9 0.9', expected 'x y w h'"),
        (3, ";0.9 0.9 0.2 0.2", "", "line 3 .*head_n is 2, but head_multi lists 1"),
    ],
)
def test_a_wrong_line_is_refused_with_file_and_line(folder, line, old, new, sentence):
    rows = list(ROWS)
    assert old in rows[line - 2]
    rows[line - 2] = rows[line - 2].replace(old, new, 1)
    root = folder(rows)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"annotations\.csv, {sentence}"):
        for split in ("train", "val"):
            AnimalParts(split, root=root)


def test_missing_columns_folders_and_tables_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match="line 1: no column 'wnid'"):
        AnimalParts(root=folder(header=HEADER.replace("wnid", "id")))
    with pytest.raises(FileNotFoundError, match="root=nowhere: no such folder"):
        AnimalParts(root="nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"annotations\.csv: no such annotation file"):
        AnimalParts(root=tmp_path / "empty")


def test_without_negatives_in_the_table_one_category_is_refused(folder):
    with pytest.raises(ValueError, match="no row has label -1"):
        AnimalParts(root=folder(ROWS[:4]), categories="fox")


def test_bad_images_stop_the_reading_or_are_left_out(folder):
    root = folder()
    (root / "f" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"annotations\.csv, line 2: .*1\.png: the file is empty"):
        AnimalParts(root=root)
    animals = AnimalParts(root=root, negatives=True, on_error="skip")
    assert animals.names == ["h/1.png", "neg/1.png"] and animals.labels.tolist() == [2, 0]
    assert len(animals.landmarks) == 2 and animals.skipped[0].path.endswith("1.png")
    with pytest.raises(ValueError, match="no training image of class 'fox'"):
        PartDataModule(AnimalParts, root=root, on_error="skip").setup()


def test_the_real_foxes_have_the_published_counts(data_root):
    train, val = (
        AnimalParts(s, root=data_root / "animalparts64_small", categories=["fox"]) for s in ("train", "val")
    )
    assert len(train) + len(val) == 286 + 1000
    landmarks = torch.cat([train.landmarks, val.landmarks])
    assert (~landmarks[..., 0].isnan()).sum(0).tolist() == [211, 143]
    known = landmarks[~landmarks.isnan()]
    assert known.min() >= -0.5 and known.max() <= 63.5
    negatives = train.labels == 0
    assert train.landmarks[negatives].isnan().all()
    assert not set(train.names) & set(val.names)


def test_a_real_box_lies_around_its_real_centre(data_root):
    animals = AnimalParts("val", root=data_root / "animalparts64_small", categories=["fox", "horse"])
    checked = 0
    for sample in map(animals.__getitem__, range(len(animals))):
        for landmark, mask in zip(sample.landmarks, sample.part_masks, strict=True):
            if not landmark.isnan().any():
                assert mask[tuple(landmark.round().long().clamp(0, 63).tolist())]
                checked += 1
    assert checked > 20


def test_real_pixels_are_those_of_the_file(data_root):
    root = data_root / "animalparts64_small"
    animals = AnimalParts("train", root=root, categories=["fox"])
    stored = np.array(Image.open(root / animals.names[0]).convert("RGB"))
    assert torch.equal((animals[0].image * 255).round().byte().permute(1, 2, 0), torch.from_numpy(stored))


@pytest.mark.slow
def test_damaged_tables_are_read_or_refused_in_one_sentence(folder):
    """Bytes changed, cut, doubled, lines mixed up: never another exception."""
    csv = folder() / "annotations.csv"
    original = csv.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        data = bytearray(original)
        for _ in range(int(rng.integers(1, 4))):
            place, length = int(rng.integers(len(data))), int(rng.integers(1, 12))
            kind = rng.integers(4)
            if kind == 0:
                data[place] = int(rng.integers(256))
            elif kind == 1:
                del data[place : place + length]
            elif kind == 2:
                data[place:place] = data[place : place + length]
            else:
                data[place : place + 1] = rng.choice([b'"', b",", b"\n", b"nan", b"-", b"1e999", b";", b".."])
        csv.write_bytes(bytes(data))
        try:
            animals = AnimalParts("train", root=csv.parent)
            assert all(
                sample.image.isfinite().all() for sample in map(animals.__getitem__, range(len(animals)))
            )
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            assert "\n" not in str(error) and (
                "annotations.csv" in str(error) or "nothing to tell" in str(error)
            )
    assert 100 < refused < 500


def test_every_second_photograph_with_a_landmark_can_be_held_out(folder):
    header = HEADER + ",photo"
    rows = [f"{row},{photo}" for row, photo in zip(ROWS, "abcdef", strict=True)]
    rows += [f"f/1.png,n1,fox,1,train,1,0.25,0.5,0.5,0.25,,0,,,,,,{photo}" for photo in "gghi"]
    root = folder(rows, header)
    sides = {
        split: AnimalParts(split, root=root, held_out="parts", image_size=16) for split in ("train", "val")
    }
    # with a landmark: a, g (twice), h, i, of which a and h are held out
    assert [len(sides[split]) for split in ("train", "val")] == [4, 4]
    assert len(AnimalParts("val", root=root, image_size=16)) == 2
    with pytest.raises(ValueError, match="expected split or parts"):
        AnimalParts("val", root=root, held_out="photos")
    with pytest.raises(ValueError, match="no column photo"):
        AnimalParts("val", root=folder(), held_out="parts")
