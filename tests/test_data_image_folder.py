"""Image folders of users, with and without landmarks and groups."""

import numpy as np
import pytest
from PIL import Image

from interp_cnn.data.image_folder import ImageFolderParts


@pytest.fixture
def one_folder(tmp_path):
    for label in ("cat", "dog"):
        for index in range(10):
            path = tmp_path / label / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (20, 10), (index, 0, 0)).save(path)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    return tmp_path


@pytest.fixture
def two_folders(tmp_path):
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            path = tmp_path / split / label / "deep" / "a.jpg"
            path.parent.mkdir(parents=True)
            grey = len([*tmp_path.rglob("*.jpg")])
            Image.new("L", (20, 10), grey).save(path)
    return tmp_path


def csv(root, *rows, header="file,part,x,y"):
    (root / "marks.csv").write_text("\n".join([header, *rows]) + "\n")
    return {"root": root, "annotations": "marks.csv", "image_size": 40}


def test_a_share_of_every_class_is_held_out(one_folder):
    train, val = (ImageFolderParts(split, root=one_folder, image_size=8) for split in ("train", "val"))
    assert train.classes == val.classes == ("cat", "dog") and train.background is None
    shares = val.labels.bincount()
    assert (train.labels.bincount() + shares).tolist() == [10, 10] and ((shares >= 1) & (shares <= 4)).all()
    assert len({*train.names, *val.names}) == 20
    assert train.parts == () and train[0].landmarks.shape == (0, 2)
    half = ImageFolderParts("val", root=one_folder, image_size=8, val_fraction=0.5, split_seed=1)
    assert ((half.labels.bincount() >= 3) & (half.labels.bincount() <= 7)).all()


def test_train_and_val_folders_are_the_split(two_folders):
    train, val = (ImageFolderParts(split, root=two_folders, image_size=8) for split in ("train", "val"))
    assert train.names == ["train/cat/deep/a.jpg", "train/dog/deep/a.jpg"]
    assert val.names == ["val/cat/deep/a.jpg", "val/dog/deep/a.jpg"]


def test_landmarks_follow_the_resize_and_several_of_one_part_are_unknown(two_folders):
    marks = csv(
        two_folders,
        "train/cat/deep/a.jpg,eye,0,0",
        "train/cat/deep/a.jpg,tail,19,9",
        "train/dog/deep/a.jpg,eye,3,3",
        "train/dog/deep/a.jpg,eye,6,3",
    )
    images = ImageFolderParts("train", **marks)
    assert images.parts == ("eye", "tail")
    assert images[0].landmarks.tolist() == [[1.5, 0.5], [37.5, 38.5]]  # rows x4, columns x2
    assert images[1].landmarks.isnan().all()
    assert ImageFolderParts("val", **marks).parts == ("eye", "tail")


def test_a_landmark_stays_on_its_pixel_when_the_camera_was_turned(tmp_path):
    pixels = np.zeros((30, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 8  # seen upright after a turn by 90 degrees counter-clockwise: 30 wide, 60 high
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for index in range(2):
            pixels[8:12, 40:44] = 255 - 2 * index - (label == "b")
            Image.fromarray(pixels).save(tmp_path / label / f"{index}.png", exif=exif)
    marks = csv(tmp_path, *(f"{label}/{index}.png,spot,9.5,17.5" for label in "ab" for index in range(2)))
    sample = ImageFolderParts("val", **marks, val_fraction=0.5)[0]
    bright = (sample.image[0] > 0.9).nonzero().float()
    assert len(bright) > 2 and (bright.mean(0) - sample.landmarks[0]).abs().max() < 0.7


def test_groups_stay_on_one_side(one_folder):
    rows = [f"cat/{index}.png,,,,film{index // 2}" for index in range(10)]
    marks = csv(one_folder, *rows, header="file,part,x,y,group")
    for seed in range(5):
        val = ImageFolderParts("val", **marks, split_seed=seed, val_fraction=0.4)
        films = [int(name[4]) // 2 for name in val.names if name.startswith("cat")]
        assert 2 <= len(films) <= 7 and all(films.count(film) == 2 for film in films)
        assert val.parts == ()


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("cat/99.png,eye,1,1", r"line 2: no image 'cat/99.png' in a class folder .*; nearest: cat/"),
        (
            "cat/1.png,eye,20,1",
            r"line 2 \(cat/1.png\): eye lies at x=20, y=1, outside the image of 20x10 pixels",
        ),
        ("cat/1.png,eye,-1,1", r"line 2 \(cat/1.png\): eye lies at x=-1"),
        ("cat/1.png,eye,,1", r"line 2 \(cat/1.png\): eye lies at x=nan"),
        ("cat/1.png,eye,a,1", r"line 2: x is 'a', expected a number"),
        ("../cat/1.png,eye,1,1", r"line 2: file '../cat/1.png' is not a path below"),
    ],
)
def test_a_wrong_line_is_refused_with_file_and_line(one_folder, row, sentence):
    marks = csv(one_folder, row)
    with pytest.raises(ValueError, match=rf"marks\.csv, {sentence}"):
        for split in ("train", "val"):
            ImageFolderParts(split, **marks)


def test_a_group_on_both_sides_or_with_two_names_is_refused(two_folders):
    header = "file,part,x,y,group"
    marks = csv(two_folders, "train/cat/deep/a.jpg,,,,g", "val/cat/deep/a.jpg,,,,g", header=header)
    with pytest.raises(ValueError, match="group 'g' has images in train and in val"):
        ImageFolderParts(**marks)
    marks = csv(two_folders, "train/cat/deep/a.jpg,,,,g", "train/cat/deep/a.jpg,,,,h", header=header)
    with pytest.raises(ValueError, match=r"line 3 .*group 'h', but 'g' in a line before"):
        ImageFolderParts(**marks)


def test_folders_that_make_no_data_set_are_refused(tmp_path, two_folders):
    with pytest.raises(FileNotFoundError, match="root=nowhere"):
        ImageFolderParts(root="nowhere")
    with pytest.raises(FileNotFoundError, match="no such annotation file"):
        ImageFolderParts(root=two_folders, annotations="marks.csv")
    (two_folders / "val" / "dgo").mkdir()
    with pytest.raises(ValueError, match=r"dgo: no image"):
        ImageFolderParts(root=two_folders)
    Image.new("L", (2, 2)).save(two_folders / "val" / "dgo" / "a.png")
    with pytest.raises(ValueError, match="class 'dgo' has no training images; nearest: dog"):
        ImageFolderParts(root=two_folders)
    lone = tmp_path / "lone" / "train"
    lone.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"lone/val: no such folder"):
        ImageFolderParts(root=tmp_path / "lone")
    with pytest.raises(FileNotFoundError, match="folder of images per class, there is none"):
        ImageFolderParts(root=lone)
    Image.new("L", (2, 2)).save(tmp_path / "train" / "cat" / "deep" / "b.png")
    with pytest.raises(ValueError, match="one class only, 'deep'"):
        ImageFolderParts(root=tmp_path / "train" / "cat")


def test_bad_images_stop_the_reading_or_are_left_out(one_folder):
    (one_folder / "cat" / "3.png").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"cat/3\.png"):
        for split in ("train", "val"):
            ImageFolderParts(split, root=one_folder)
    sets = [ImageFolderParts(split, root=one_folder, on_error="skip") for split in ("train", "val")]
    assert sum(map(len, sets)) == 19
    assert [bad.path.endswith("cat/3.png") for part_set in sets for bad in part_set.skipped] == [True]


def test_photographs_keep_their_proportions_and_landmarks_go_with_them(tmp_path):
    for label in ("cat", "dog"):
        for index in range(4):
            pixels = np.zeros((20, 40, 3), dtype=np.uint8)
            pixels[4:7, 22:25] = 255  # about (5, 23)
            (tmp_path / label).mkdir(exist_ok=True)
            pixels[0, 0] = index
            Image.fromarray(pixels).save(tmp_path / label / f"{index}.png")
    names = [f"{label}/{index}.png" for label in ("cat", "dog") for index in range(4)]
    rows = [row for name in names for row in (f"{name},spot,23,5", f"{name},tail,3,5")]
    images = ImageFolderParts("train", fit="crop", **csv(tmp_path, *rows))
    sample = images[0]
    bright = (sample.image.mean(0) > 0.5).nonzero().float()
    assert (bright.mean(0) - sample.landmarks[0]).abs().max() < 0.3
    height, width = (bright.max(0).values - bright.min(0).values + 1).tolist()
    assert height == width == 6  # three pixels, twice as large
    assert sample.landmarks[1].isnan().all()  # cut off
    squeezed = ImageFolderParts("train", root=tmp_path, image_size=40)[0].image.mean(0) > 0.5
    assert squeezed.any(1).sum() > squeezed.any(0).sum()
    with pytest.raises(ValueError, match=r"data\.fit=stretch: expected crop or squeeze"):
        ImageFolderParts("train", root=tmp_path, fit="stretch")
