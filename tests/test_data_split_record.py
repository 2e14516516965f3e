"""Sides that stay when a folder changes, and the record of a training's images."""

import dataclasses
import gzip
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from PIL.PngImagePlugin import PngInfo

from interp_cnn.commands.train import train
from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.digits import DigitsParts
from interp_cnn.data.image_folder import ImageFolderParts
from interp_cnn.data.looks import recognised
from interp_cnn.data.parts import Draw
from interp_cnn.data.samplers import EpochSampler
from interp_cnn.data.split import hashed_sides
from interp_cnn.data.split_record import FILE, SplitRecord
from interp_cnn.runs.folder import load_checkpoint, load_run

CONF = Path(__file__).resolve().parent.parent / "conf"


def picture(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (number % 256, number // 256, 7)).save(path)


def note() -> PngInfo:
    """Other bytes in a file of the same pixels."""
    text = PngInfo()
    text.add_text("comment", "seen before")
    return text


@pytest.fixture
def folder(tmp_path):
    for number in range(80):
        picture(tmp_path / "set" / ("disc", "bar")[number % 2] / f"{number:03}.png", number)
    return tmp_path / "set"


def sides(root, **options) -> tuple[set[str], set[str]]:
    return tuple(
        set(ImageFolderParts(split, root=root, image_size=4, **options).names) for split in ("train", "val")
    )


@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([0.1, 0.2, 0.35, 0.5]))
@settings(max_examples=60, deadline=None)
def test_a_class_of_any_size_has_about_its_share(seed, count, fraction):
    labels = [0] * count + [1] * 200
    held = hashed_sides(labels, [f"{i}.png" for i in range(len(labels))], fraction=fraction, seed=seed)
    for size, part in ((count, held[:count]), (200, held[count:])):
        share = fraction * size
        if size > 1:
            assert 1 <= sum(part) < size
        assert share / 2 - 1 <= sum(part) <= max(2 * share, 1)


def test_shares_of_large_classes_are_close():
    held = hashed_sides([0] * 20_000, [f"{i}.png" for i in range(20_000)], fraction=0.2, seed=0)
    assert abs(sum(held) / 20_000 - 0.2) < 4 * (0.2 * 0.8 / 20_000) ** 0.5


def test_images_that_come_and_go_move_no_other(tmp_path):
    rng = random.Random(0)
    known = [f"{number}.jpg" for number in range(400)]
    before = dict(zip(known, hashed_sides([0] * 400, known, fraction=0.2, seed=3), strict=True))
    for _ in range(20):
        kept = rng.sample(known, rng.randint(200, 400)) + [
            f"new {rng.random()}" for _ in range(rng.randint(0, 99))
        ]
        after = dict(zip(kept, hashed_sides([0] * len(kept), kept, fraction=0.2, seed=3), strict=True))
        assert all(after[name] == before[name] for name in kept if name in before)
    other = dict(zip(known, hashed_sides([0] * 400, known, fraction=0.2, seed=4), strict=True))
    assert other != before


def test_copies_are_on_one_side_and_bring_no_training_image_into_validation(folder, caplog):
    train, val = sides(folder)
    for name in sorted([*train, *val])[::6]:
        path = folder / name
        path.with_name(f"copy of {path.name}").write_bytes(path.read_bytes())
    (folder / "bar" / "twin.png").write_bytes((folder / "disc" / "000.png").read_bytes())
    new_train, new_val = sides(folder)
    assert not new_val & train
    contents = [{(folder / name).read_bytes() for name in side} for side in (new_train, new_val)]
    assert not contents[0] & contents[1]
    assert "1 images are in two classes, such as" in caplog.text


def test_a_training_image_that_is_a_validation_image_is_left_out(tmp_path, caplog):
    for number in range(16):
        picture(
            tmp_path / ("train", "val")[number % 4 == 3] / ("disc", "bar")[number // 8] / f"{number}.png",
            number,
        )
    copy = tmp_path / "train" / "disc" / "copy.png"
    copy.write_bytes((tmp_path / "val" / "disc" / "3.png").read_bytes())
    train, val = sides(tmp_path)
    assert "train/disc/copy.png" not in train and len(train) == 12 and len(val) == 4
    assert "1 training images are validation images too and are left out of training" in caplog.text


def test_a_training_image_with_the_pixels_of_a_validation_image_is_left_out(tmp_path, caplog):
    for number in range(16):
        side = ("train", "val")[number % 4 == 3]
        picture(tmp_path / side / ("disc", "bar")[number // 8] / f"{number}.png", number)
    for ending in ("bmp", "png", "webp"):
        copy = tmp_path / "train" / "disc" / f"found again.{ending}"
        options = {"png": {"pnginfo": note()}, "webp": {"lossless": True}}.get(ending, {})
        Image.open(tmp_path / "val" / "disc" / "3.png").save(copy, **options)
    data = PartDataModule(ImageFolderParts, root=tmp_path, image_size=4)
    data.setup()
    assert len(data.train_set) == 12 and len(data.val_set) == 4
    assert (
        "3 training images have the pixels of validation images and are left out of training" in caplog.text
    )
    uncached = PartDataModule(ImageFolderParts, root=tmp_path, image_size=4, cache="none")
    uncached.setup()
    assert len(uncached.train_set) == 15 and {*uncached.split_record().train.shown} == {""}


def test_one_picture_in_two_formats_is_on_one_side(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / ("disc", "bar")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8))
        image.save(path)
        image.save(path.with_suffix((".jpg", ".BMP", ".tif")[number % 3]))
    train, val = ({Path(name).with_suffix("") for name in side} for side in sides(tmp_path))
    assert train and val and not train & val


def followed(folder, record, **options) -> PartDataModule:
    data = PartDataModule(ImageFolderParts, root=folder, image_size=4, batch_size=8, **options)
    data.follow(record, "the run")
    data.setup()
    return data


@pytest.fixture
def record(folder) -> SplitRecord:
    data = PartDataModule(ImageFolderParts, root=folder, image_size=4)
    data.setup()
    return data.split_record()


def test_a_record_is_read_as_it_was_written_and_small(tmp_path, record):
    record.write(tmp_path)
    assert SplitRecord.read(tmp_path) == record
    assert SplitRecord.read(tmp_path / "nowhere") is None
    many = dataclasses.replace(
        record,
        train=type(record.train)(
            [f"class {i % 9}/image {i:06}.jpg" for i in range(60_000)],
            [0] * 60_000,
            *([f"{random.getrandbits(64):016x}" for _ in range(60_000)] for _ in range(2)),
            [f"{random.getrandbits(144):036x}" for _ in range(60_000)],
        ),
    )
    many.write(tmp_path)
    assert (tmp_path / FILE).stat().st_size < 2_800_000  # two hashes and a look an image


BROKEN = [
    b"",
    b"no gzip",
    *(gzip.compress(text, mtime=0) for text in (b"{", b"[]", b'{"classes": ["a"]}')),
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_damaged_record_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ValueError, match=r"images\.json\.gz is no list of images that a training wrote"):
        SplitRecord.read(tmp_path)


@pytest.mark.parametrize("wrong", [{"labels": [5] * 64}, {"labels": ["0"]}, {"names": [1]}, {"contents": []}])
def test_a_record_with_wrong_columns_is_refused(tmp_path, record, wrong):
    record.write(tmp_path)
    content = json.loads(gzip.decompress((tmp_path / FILE).read_bytes()))
    content["train"].update(wrong)
    (tmp_path / FILE).write_bytes(gzip.compress(json.dumps(content).encode()))
    with pytest.raises(ValueError, match="no list of images"):
        SplitRecord.read(tmp_path)


def test_an_unchanged_folder_gives_the_same_sets_and_no_word(folder, record, caplog):
    data = followed(folder, record)
    assert data.split_record() == record and not data.differences and not caplog.records
    assert isinstance(data.train_set, ImageFolderParts)


def test_new_missing_renamed_and_changed_images_are_said_and_the_sides_stay(folder, record, caplog):
    new = folder / "disc" / "new.png"
    picture(new, 500)
    gone, renamed, changed = record.val.names[:3]
    (folder / gone).unlink()
    (folder / renamed).rename((folder / renamed).with_name("other name.png"))
    picture(folder / changed, 600)
    copied = record.val.names[3]
    (folder / copied).write_bytes((folder / record.train.names[0]).read_bytes())
    data = followed(folder, record)
    [line] = [one.getMessage() for one in caplog.records if "the run" in one.getMessage()]
    for words in (
        "1 new, of neither side and left out (disc/new.png)",
        f"1 missing, and done without ({gone})",
        f"1 renamed, and kept on their side ({renamed} is ",
        f"1 changed, and taken as they are now ({changed})",
        f"1 now the same as training images, and left out of validation ({copied})",
    ):
        assert words in line
    assert data.train_set.names == record.train.names
    assert len(data.val_set) == len(record.val.names) - 2
    assert not {*data.val_set.names} & {*record.train.names, "disc/new.png"}
    sample = data.val_set[1]
    assert sample.name == changed and sample.label == record.val.labels[2]
    assert [len(batch) for batch in data.train_dataloader()] == [8] * (len(data.train_set) // 8)


def pixels(images) -> set[bytes]:
    return {images[index].image.numpy().tobytes() for index in range(len(images))}


def _rename_classes(root, record):
    (root / "disc").rename(root / "Disc")
    (root / "bar").rename(root / "ba\u0301r")


def _rename_one_class(root, record):
    (root / "disc").rename(root / "plate")


def _convert(root, record):
    for path in list(root.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()


def _number_anew(root, record):
    for label in ("disc", "bar"):
        paths = sorted((root / label).iterdir())
        for path, before in zip(paths[1:], paths, strict=False):
            path.replace(before)


def _exchange(root, record):
    for one, other in zip(record.val.names, record.train.names, strict=False):
        contents = (root / one).read_bytes(), (root / other).read_bytes()
        (root / other).write_bytes(contents[0])
        (root / one).write_bytes(contents[1])


def _exchange_classes(root, record):
    (root / "disc").rename(root / "between")
    (root / "bar").rename(root / "disc")
    (root / "between").rename(root / "bar")


def _training_becomes_validation(root, record):
    (root / record.train.names[0]).write_bytes((root / record.val.names[0]).read_bytes())


def _validation_becomes_training(root, record):
    (root / record.val.names[0]).write_bytes((root / record.train.names[0]).read_bytes())


def _both_become_the_same(root, record):
    picture(root / record.train.names[0], 999)
    picture(root / record.val.names[0], 999)


def _encode_anew_and_exchange(root, record):
    _exchange(root, record)
    for path in root.rglob("*.png"):
        Image.open(path).save(path, compress_level=1, pnginfo=note())


def _encode_training_anew_under_a_validation_name(root, record):
    Image.open(root / record.train.names[0]).save(root / record.val.names[0], pnginfo=note())


def _into_other_folders(root, record):
    for name in record.val.names + record.train.names:
        path = root / ("train" if name in record.val.names else "val") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (root / name).rename(path)
    for label in ("disc", "bar"):
        (root / label).rmdir()


CHANGES = (
    _rename_classes,
    _rename_one_class,
    _convert,
    _number_anew,
    _exchange,
    _exchange_classes,
    _training_becomes_validation,
    _validation_becomes_training,
    _both_become_the_same,
    _encode_anew_and_exchange,
    _encode_training_anew_under_a_validation_name,
    _into_other_folders,
)


@pytest.mark.parametrize("change", CHANGES)
def test_no_picture_changes_its_side_whatever_becomes_of_the_folder(folder, record, change):
    before = followed(folder, record)
    trained_on, judged_by = pixels(before.train_set), pixels(before.val_set)
    change(folder, record)
    after = followed(folder, record)
    assert after.differences and after.classes == record.classes
    train, val = pixels(after.train_set), pixels(after.val_set)
    assert not val & trained_on and not train & judged_by and not train & val
    assert len(trained_on - train) <= 2 and len(judged_by - val) <= 2


def noise_pictures(root, count, *, cells, side):
    """A folder of two classes: pictures of so many random cells along a side, drawn at `side` pixels."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = root / ("disc", "bar")[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(path)
    return root


@pytest.fixture
def textured(tmp_path):
    """Pictures that tell their number from afar, as photographs do."""
    return noise_pictures(tmp_path / "textured", 80, cells=6, side=48)


def _store_with_losses(root):
    for path in list(root.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".jpg"), quality=80)
        path.unlink()


def _next_name(root):
    for label in ("disc", "bar"):
        paths = sorted((root / label).iterdir())
        contents = [path.read_bytes() for path in paths]
        for path, content in zip(paths, contents[1:] + contents[:1], strict=True):
            path.write_bytes(content)


def _with_losses_and_numbered_anew(root, record):
    _store_with_losses(root)
    _next_name(root)


def _smaller_and_numbered_anew(root, record):
    for path in root.rglob("*.png"):
        Image.open(path).resize((30, 30), Image.Resampling.BICUBIC).save(path)
    _next_name(root)


def _brighter_and_exchanged(root, record):
    _exchange(root, record)
    for path in root.rglob("*.png"):
        ImageEnhance.Brightness(Image.open(path)).enhance(1.02).save(path)


def _retouched_copies_of_training_under_validation_names(root, record):
    for judged, learned in zip(record.val.names, record.train.names, strict=False):
        picture = Image.open(root / learned).copy()
        picture.putpixel((3, 3), (255, 0, 255))
        picture.save(root / judged)


@pytest.mark.parametrize(
    "change",
    [
        _with_losses_and_numbered_anew,
        _smaller_and_numbered_anew,
        _brighter_and_exchanged,
        _retouched_copies_of_training_under_validation_names,
    ],
)
def test_a_picture_that_is_stored_with_other_pixels_under_another_name_stays_on_its_side(textured, change):
    options = {"root": textured, "image_size": 48, "batch_size": 8}
    before = PartDataModule(ImageFolderParts, **options)
    before.setup()
    record = before.split_record()
    trained_on, judged_by = (
        torch.stack([images[n].image for n in range(len(images))])
        for images in (before.train_set, before.val_set)
    )
    change(textured, record)
    after = PartDataModule(ImageFolderParts, **options)
    after.follow(record, "the run")
    try:
        after.setup()
    except ValueError as refused:
        assert f"none of the {len(judged_by)} validation images" in str(refused)
        return
    assert (
        after.differences and len(after.val_set) == len(judged_by) and len(after.train_set) == len(trained_on)
    )
    for images, own, other in (
        (after.val_set, judged_by, trained_on),
        (after.train_set, trained_on, judged_by),
    ):
        for number in range(len(images)):
            apart = [(images[number].image - side).abs().mean((1, 2, 3)).min() for side in (own, other)]
            assert apart[0] < 0.05 < apart[1]


def test_pictures_that_look_alike_are_known_by_name(folder, record):
    looks = [*record.train.looks, *record.val.looks]
    assert all(looks) and recognised(looks, looks) == {}
    assert recognised(["", "f" * 36], ["", "0" * 36]) == {}
    assert recognised(["0" * 36, "0" * 35 + "1"], ["0" * 36]) == {0: 0}


def test_a_record_without_looks_is_read(tmp_path, record):
    record.write(tmp_path)
    content = json.loads(gzip.decompress((tmp_path / FILE).read_bytes()))
    for side in ("train", "val"):
        del content[side]["looks"]
    (tmp_path / FILE).write_bytes(gzip.compress(json.dumps(content).encode()))
    assert SplitRecord.read(tmp_path) == record


def test_images_of_a_renamed_class_keep_their_label_and_those_of_a_new_one_are_left_out(folder, record):
    moved = record.val.names[0]
    (folder / "novel").mkdir()
    (folder / moved).rename(folder / "novel" / "a.png")
    data = followed(folder, record)
    assert data.differences.missing == [moved] and data.differences.new == ["novel/a.png"]
    (folder / "bar").rename(folder / "pole")
    data = followed(folder, record)
    labels = {name.split("/")[0]: data.val_set.labels[place] for place, name in enumerate(data.val_set.names)}
    assert labels["pole"] == 0 and labels["disc"] == 1


def test_another_set_takes_the_numbers_of_the_classes_from_the_training(tmp_path, record):
    three = dataclasses.replace(record, classes=("arc", "bar", "disc"))
    for number in range(12):
        picture(tmp_path / "others" / ("disc", "bar")[number % 2] / f"x{number}.png", 700 + number)
    data = followed(tmp_path / "others", three)
    assert data.differences is None and data.classes == three.classes
    assert {*data.val_set.labels.tolist()} == {1, 2}
    other = dataclasses.replace(record, classes=("arc", "ball"))
    with pytest.raises(ValueError, match=r"the images are of the classes bar, disc; expected .*arc, ball"):
        followed(tmp_path / "others", other)


def test_a_folder_without_the_training_images_is_refused(folder, record):
    for name in record.train.names:
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"none of the \d+ training images of the run is there"):
        followed(folder, record)


def test_pixels_and_order_of_a_followed_training_are_the_same_to_the_bit(folder, record):
    before = followed(folder, record, augmentation={"flip": True, "shift": 0.2})
    for number in range(30):
        picture(folder / "a new class" / f"{number}.png", 300 + number)
        picture(folder / "bar" / f"0 new {number}.png", 400 + number)
    after = followed(folder, record, augmentation={"flip": True, "shift": 0.2})
    assert after.classes == before.classes == ("bar", "disc")
    for one, other in zip(before.train_dataloader(), after.train_dataloader(), strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        assert one.names == other.names
    assert torch.equal(before.val_set[0].image, after.val_set[0].image)
    key = Draw(0, 1, 2)
    assert torch.equal(before.train_set[key].image, after.train_set[key].image)


def test_a_bad_file_that_came_later_does_no_harm_and_a_known_one_is_refused(folder, record, caplog):
    (folder / "bar" / "half copied.png").write_bytes(b"\x89PNG")
    data = followed(folder, record, on_error="raise")
    assert data.val_set.names == record.val.names and "half copied.png" in caplog.text
    (folder / record.val.names[0]).write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=record.val.names[0]):
        followed(folder, record, on_error="raise")


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty_class(path):
    for one in path.parent.iterdir():
        one.unlink()


DAMAGES = {
    "truncated": (_truncate, "corrupt or truncated|not an image in a known format"),
    "empty file": (lambda path: path.write_bytes(b""), "the file is empty"),
    "text": (lambda path: path.write_text("hello"), "not an image in a known format"),
    "empty class": (_empty_class, "no image .* in this class"),
    "no class": (lambda path: shutil.rmtree(path.parent), "one class only"),
    "no folder": (lambda path: shutil.rmtree(path.parent.parent), "no such folder"),
}


@pytest.mark.parametrize("side", ["train", "val"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_said_with_what_to_do(folder, record, damage, side):
    damaged, said = DAMAGES[damage]
    damaged(folder / getattr(record, side).names[0])
    with pytest.raises(ValueError, match=said) as refused:
        followed(folder, record, on_error="raise")
    sentence = str(refused.value)
    assert "the run needs its images: put them back, remove single files that are damaged, or" in sentence
    assert sentence.endswith("take other images with data.root=...") and "\n" not in sentence


def test_a_folder_without_the_validation_images_is_refused_and_another_set_said(
    folder, record, tmp_path, caplog
):
    for name in record.val.names:
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"none of the \d+ validation images of the run is there"):
        followed(folder, record)
    for number in range(12):
        picture(tmp_path / "others" / ("disc", "bar")[number % 2] / f"x{number}.png", 700 + number)
    data = followed(tmp_path / "others", record)
    assert data.differences is None and len(data.val_set) > 0
    assert "none of the images of the run is there: the data are taken as another set" in caplog.text


def test_an_image_that_moved_to_the_other_folder_stays_on_its_side(tmp_path):
    for number in range(24):
        picture(
            tmp_path / ("train", "val")[number % 4 == 3] / ("disc", "bar")[number // 12] / f"{number}.png",
            number,
        )
    data = PartDataModule(ImageFolderParts, root=tmp_path, image_size=4)
    data.setup()
    record = data.split_record()
    moved = record.train.names[0]
    (tmp_path / moved).rename(tmp_path / moved.replace("train/", "val/"))
    after = followed(tmp_path, record)
    assert moved.replace("train/", "val/") in after.train_set.names
    assert after.val_set.names == record.val.names


def test_sets_that_come_split_keep_their_split_and_have_contents():
    data = PartDataModule(DigitsParts)
    data.setup()
    record = data.split_record()
    again = PartDataModule(DigitsParts)
    again.follow(record, "the run")
    again.setup()
    assert again.split_record() == record and not again.differences
    assert len({*record.train.contents}) > 1400


TINY = ["data.image_size=24", "data.batch_size=8", "model.widths=[4,4,6,8,8]", "training.epochs=1"]


def composed(root, *overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["data=image_folder", f"data.root={root}", *TINY, *overrides])


@pytest.fixture
def large_enough(tmp_path):
    """Pictures of 24 pixels, so that no two are the same when they are resized."""
    return noise_pictures(tmp_path / "set", 40, cells=24, side=24)


def test_a_run_is_judged_by_its_own_images_though_the_folder_has_changed(large_enough, tmp_path, caplog):
    run = train(composed(large_enough), tmp_path / "run")
    trained = load_run(run, checkpoint="last").data
    record = SplitRecord.read(run)
    said = [one.message for one in caplog.records if one.name.startswith("interp_cnn.data")]
    assert record == trained.split_record() and not said
    for number, name in enumerate([*record.val.names[:2], *record.train.names[:6]]):
        (large_enough / name).rename((large_enough / name).with_name(f"0 renamed {number}.png"))
    picture(large_enough / "a new class" / "a.png", 0)
    later = load_run(run, checkpoint="last").data
    assert later.split_record().val.contents == record.val.contents
    assert later.split_record().train.contents == record.train.contents
    assert "8 renamed" in caplog.text and "1 new" in caplog.text
    twin = train(composed(large_enough, "model=plain"), tmp_path / "twin", images_of=run)
    assert SplitRecord.read(twin).val.contents == record.val.contents
    assert load_run(twin, checkpoint="last").data.classes == ("bar", "disc")


@pytest.mark.slow
def test_a_training_goes_on_with_the_images_that_it_began_with(large_enough, tmp_path, caplog):
    straight = train(composed(large_enough, "training.epochs=2"), tmp_path / "straight")
    half = tmp_path / "half"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochSampler, "set_epoch", _stops_in_the_second_epoch)
        with pytest.raises(RuntimeError, match="killed"):
            train(composed(large_enough, "training.epochs=2"), half)
    for number in range(20):
        picture(large_enough / "bar" / f"0 new {number}.png", 400 + number)
    train(composed(large_enough, "training.epochs=2"), half, resume=True)
    assert SplitRecord.read(half) == SplitRecord.read(straight)
    states = [load_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (straight, half)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert "20 new, of neither side and left out" in caplog.text


def _stops_in_the_second_epoch(sampler: EpochSampler, epoch: int) -> None:
    if epoch:
        raise RuntimeError("killed")
    sampler.epoch = epoch


def test_a_run_without_a_list_of_images_says_so(large_enough, tmp_path, caplog):
    run = train(composed(large_enough), tmp_path / "run")
    (run / FILE).unlink()
    load_run(run, checkpoint="last")
    assert "keeps no list of its images" in caplog.text
