"""Which files below a folder are pictures: links, hidden folders, endings, names that are no UTF-8."""

import os

import pytest
from PIL import Image

from interp_cnn.data.folders import pictures_in
from interp_cnn.data.image_folder import ImageFolderParts
from interp_cnn.data.photographs import photographs
from interp_cnn.storage.names import printable


def picture(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (number % 256, number // 256, 7)).save(path)
    return path


def names(place) -> list[str]:
    return [file.name for file in pictures_in(place)[0]]


def test_linked_folders_and_files_are_read_once_and_circles_end(tmp_path):
    far, near = tmp_path / "far", tmp_path / "near"
    for number in range(3):
        picture(far / f"{number}.png", number)
        picture(near / "own" / f"{number}.png", number + 3)
    (near / "linked").symlink_to(far)
    (near / "again").symlink_to("linked")
    (near / "a.png").symlink_to(far / "0.png")
    for circle in (near / "up", near / "own" / "self", far / "back"):
        circle.symlink_to(near)
    (near / "gone").symlink_to(tmp_path / "nowhere")
    (near / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = names(near)
    assert [name for name in found if name.startswith("own")] == [f"own/{number}.png" for number in range(3)]
    assert len(found) == 7 and "a.png" in found  # each folder under one of its names
    assert [one.name for one in photographs(near)] == found
    back = [f"back/{name}" for name in found if name.startswith("own") or name == "a.png"]
    assert names(near / "linked") == ["0.png", "1.png", "2.png", *back]


def test_linked_folders_are_images_of_their_class(tmp_path):
    for number in range(12):
        picture(tmp_path / "set" / ("disc", "bar")[number % 2] / f"{number}.png", number)
        picture(tmp_path / "far" / f"{number}.png", number + 50)
    (tmp_path / "set" / "disc" / "more").symlink_to(tmp_path / "far")
    (tmp_path / "set" / "ring").symlink_to(tmp_path / "far")
    (tmp_path / "set" / "bar" / "circle").symlink_to(tmp_path / "set")
    sides = [ImageFolderParts(split, root=tmp_path / "set", image_size=4) for split in ("train", "val")]
    assert sides[0].classes == ("bar", "disc", "ring")
    discs = {name for side in sides for name in side.names if name.startswith("disc")}
    assert len(discs) == 6 + 12


HIDDEN = (
    ".ipynb_checkpoints/a.png",
    "._a.png",
    ".a.png",
    "__MACOSX/a.png",
    "deep/.thumbs/a.png",
    "@eaDir/a.png/b.png",
)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_what_is_hidden_is_no_image_in_data_sets_or_folders(tmp_path, hidden):
    for number in range(8):
        picture(tmp_path / "set" / ("disc", "bar")[number % 2] / f"{number}.png", number)
    picture(tmp_path / "set" / "disc" / hidden, 77)
    if "deep" not in hidden:  # a class of hidden images only is refused
        picture(tmp_path / "set" / hidden, 78)
    sides = [ImageFolderParts(split, root=tmp_path / "set", image_size=4) for split in ("train", "val")]
    assert sum(map(len, sides)) == 8 and sides[0].classes == ("bar", "disc")
    assert len(photographs(tmp_path / "set")) == 8
    asked = tmp_path / ".hidden"
    picture(asked / "a.png")
    assert len(photographs(asked)) == 1  # the folder that is asked for may be hidden


def test_files_left_out_are_said_in_one_line(tmp_path, caplog):
    for name in ("a.png", "b.heic", "c.HEIC", "d", "notes.txt", "marks.csv"):
        picture(tmp_path / "x.png").rename(tmp_path / name)
    (tmp_path / "e.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "f.png")
    assert [one.name for one in photographs(tmp_path)] == ["a.png"]
    [line] = [record.getMessage() for record in caplog.records]
    assert (
        "5 of 6 files left out: ending .heic (2), no file (1), a broken link (1), no ending (1); images end in .jpg"
        in line
    )


ODD = [
    b"caf\xe9",
    b"two\nlines",
    b"tab\t",
    b"esc\x1b[31m",
    "turned\u202egnp".encode(),
    b"back\\slash",
    b"\xff\xfe",
]


@pytest.mark.parametrize("odd", ODD)
def test_a_name_that_cannot_be_printed_is_escaped_and_read(tmp_path, odd):
    for number in range(8):
        picture(tmp_path / "set" / ("disc", "bar")[number % 2] / f"{number}.png", number)
    os.rename(
        tmp_path / "set" / "disc" / "0.png", os.fsencode(tmp_path / "set" / "disc") + b"/" + odd + b".png"
    )
    os.rename(tmp_path / "set" / "bar", os.fsencode(tmp_path / "set") + b"/" + odd)
    sides = [ImageFolderParts(split, root=tmp_path / "set", image_size=4) for split in ("train", "val")]
    seen = [*sides[0].names, *sides[1].names, *sides[0].classes, *(one.name for one in photographs(tmp_path))]
    assert sum(map(len, sides)) == 8 and len({*sides[0].names, *sides[1].names}) == 8
    for name in seen:
        name.encode("utf-8")
        assert name.isprintable(), name


def test_a_bad_file_with_such_a_name_is_refused_in_words_that_can_be_printed(tmp_path):
    for number in range(4):
        picture(tmp_path / ("disc", "bar")[number % 2] / f"{number}.png", number)
    with open(os.fsencode(tmp_path / "disc") + b"/caf\xe9.png", "wb") as file:
        file.write(b"broken")
    with pytest.raises(ValueError, match=r"caf\\xe9\.png: not an image") as caught:
        for split in ("train", "val"):
            ImageFolderParts(split, root=tmp_path, image_size=4)
    str(caught.value).encode("utf-8")
    sides = [ImageFolderParts(s, root=tmp_path, image_size=4, on_error="skip") for s in ("train", "val")]
    [bad] = [bad for side in sides for bad in side.skipped]
    f"{bad.path} {bad.reason}".encode()


def test_different_names_stay_different():
    given = ["caf\udce9", "caf\\xe9", "café", "a\nb", "a\\nb", "a\\\\nb", "\udcff", "ÿ"]
    assert len({printable(name) for name in given}) == len(given)
    assert printable("café 猫 صورة.png") == "café 猫 صورة.png"


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for number in range(8):
        picture(tmp_path / "set" / ("disc", "bar")[number % 2] / f"{number}.png", number)
    assert len(photographs("~/set")) == 8
    assert len(ImageFolderParts("train", root="~/set", image_size=4)) > 0


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("training", "validation"),
        ("train", "valid"),
        ("Train", "Test"),
        ("train", "test"),
        ("training", "val"),
    ],
)
def test_folders_named_like_sides_are_sides(tmp_path, train, val):
    for number in range(8):
        side, label = (train, val)[number % 4 == 3], ("disc", "bar")[number // 4]
        picture(tmp_path / side / label / f"{number}.png", number)
    sides = [ImageFolderParts(split, root=tmp_path, image_size=4) for split in ("train", "val")]
    assert sides[0].classes == ("bar", "disc") and [len(side) for side in sides] == [6, 2]
    assert all(name.startswith(f"{val}/") for name in sides[1].names)


def test_a_third_side_is_not_used_and_that_is_said(tmp_path, caplog):
    for number in range(12):
        picture(
            tmp_path / ("train", "val", "test")[number % 3] / ("disc", "bar")[number // 6] / f"{number}.png",
            number,
        )
    sides = [ImageFolderParts(split, root=tmp_path, image_size=4) for split in ("train", "val")]
    assert [len(side) for side in sides] == [4, 4]
    assert "train and val are used, test not" in caplog.text


def test_a_class_may_be_called_train(tmp_path):
    for number in range(12):
        picture(tmp_path / ("car", "train")[number % 2] / f"{number}.png", number)
    assert ImageFolderParts("train", root=tmp_path, image_size=4).classes == ("car", "train")
