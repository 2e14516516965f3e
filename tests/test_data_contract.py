"""What every data set keeps to, tried on all of them: the package's and the one of the guide for contributors."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from bird_drawings import drawn_birds
from PIL import Image

from interp_cnn.data.animal_parts import AnimalParts
from interp_cnn.data.augmentation import Augmentation
from interp_cnn.data.car_parts import CarParts
from interp_cnn.data.cub200 import Cub200
from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.digits import DigitsParts
from interp_cnn.data.image_folder import ImageFolderParts
from interp_cnn.data.mnist import MnistParts
from interp_cnn.data.parts import Draw, PartSample, PartSet
from interp_cnn.data.split_record import SplitRecord

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "contributing" / "data_set.md"


def guide_set() -> type[PartSet]:
    """The class of the guide, from its page."""
    [code] = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(code, names)
    return names["Rings"]


def photographs(root: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = ["file,part,x,y"]
    for number in range(24):
        name = f"{('disc', 'bar')[number % 2]}/{number}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(root / name)
        rows.append(f"{name},eye,{number},3")
    (root / "marks.csv").write_text("\n".join(rows), encoding="utf-8")
    return root


QUICK = ("guide", "digits", "folder", "uncached", "birds", "mnist")
SETS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in ("animals", "cars", "fashion"))]


@pytest.fixture(scope="module", params=SETS)
def made(request, tmp_path_factory):
    """(class, options) of a data set."""
    if request.param == "guide":
        return guide_set(), {}
    if request.param == "digits":
        return DigitsParts, {"image_size": 32, "scale": (2, 3)}
    if request.param in ("folder", "uncached"):
        root = photographs(tmp_path_factory.mktemp("folder"))
        cache = "none" if request.param == "uncached" else "memory"
        return ImageFolderParts, {"root": root, "annotations": "marks.csv", "image_size": 16, "cache": cache}
    if request.param == "birds":
        root = drawn_birds(tmp_path_factory.mktemp("birds"))
        return Cub200, {"root": root, "image_size": 24}
    data_root = request.getfixturevalue("data_root")
    return {
        "animals": (
            AnimalParts,
            {"root": data_root / "animalparts64_small", "categories": ["fox"], "image_size": 24},
        ),
        "cars": (CarParts, {"root": data_root / "carparts256", "image_size": 24}),
        "mnist": (MnistParts, {"root": data_root / "mnist"}),
        "fashion": (
            MnistParts,
            {"root": data_root / "mnist", "collection": "FashionMNIST", "distractors": 2},
        ),
    }[request.param]


@pytest.fixture(scope="module")
def sides(made) -> tuple[PartSet, PartSet]:
    dataset, options = made
    return tuple(dataset(split, **options) for split in ("train", "val"))


def equal(one: PartSample, other: PartSample) -> bool:
    for name, value in vars(one).items():
        if isinstance(value, torch.Tensor):
            same = torch.allclose(value.float(), getattr(other, name).float(), rtol=0, atol=0, equal_nan=True)
            if not same:
                return False
        elif value != getattr(other, name):
            return False
    return True


def test_a_sample_is_of_the_one_type(sides):
    for images in sides:
        height, width = images.image_size
        for key in (0, len(images) - 1, -1, Draw(0, 0, 1)):
            sample = images[key]
            assert sample.image.shape == (images.channels, height, width)
            assert sample.image.dtype == torch.float32 and 0 <= sample.image.min() <= sample.image.max() <= 1
            assert isinstance(sample.label, int) and 0 <= sample.label < len(images.classes)
            assert (
                sample.landmarks.shape == (len(images.parts), 2) and sample.landmarks.dtype == torch.float32
            )
            for mask, shape in (
                (sample.part_masks, (len(images.parts), height, width)),
                (sample.object_mask, (height, width)),
                (sample.distractor_mask, (height, width)),
            ):
                assert mask is None or (mask.shape == shape and mask.dtype == torch.bool)
            inside = sample.landmarks[sample.landmarks.isfinite().all(1)]
            assert ((inside >= -0.5) & (inside < torch.tensor([height - 0.5, width - 0.5]))).all()
        with pytest.raises(IndexError):
            images[len(images)]


def test_sides_agree_and_labels_are_known_beforehand(sides):
    train, val = sides
    for name in ("classes", "parts", "background", "channels", "image_size", "mirrored_parts"):
        assert getattr(train, name) == getattr(val, name), name
    for images in sides:
        assert images.labels.dtype == torch.int64 and images.labels.shape == (len(images),)
        first = range(min(5, len(images)))
        assert [images[index].label for index in first] == images.labels[:5].tolist()
    assert train.labels.unique().tolist() == list(range(len(train.classes)))


def test_names_are_unique_printable_and_never_on_both_sides(sides):
    train, val = sides
    names = [*train.names, *val.names]
    assert len({*names}) == len(names) == len(train) + len(val)
    assert all(name.isprintable() and name for name in names)
    assert train[0].name == train.names[0]
    for images in sides:
        assert len(images.contents()) == len(images)


def test_views_depend_on_nothing_but_their_key(made, sides):
    dataset, options = made
    again = dataset("train", **options)
    for key in (3, Draw(5, 1, 3)):
        once = sides[0][key]
        assert equal(once, sides[0][key]) and equal(once, again[key])
        once.image.zero_()  # what a user does with a sample is nobody else's business
        assert equal(sides[0][key], again[key])


def test_landmarks_and_masks_move_with_the_image(sides):
    """A mirrored view of a mirrored-and-marked image: where a part's mask is, its landmark is."""
    images = sides[0]
    images.augmentation = Augmentation(flip=True, shift=0.1, scale=0.1)
    try:
        known = 0
        for index in range(min(len(images), 12)):
            generator = Draw(1, 0, index).generator()
            plain, sample = images.view(index, generator), images[Draw(1, 0, index)]
            moved = sample.landmarks.isfinite().all(1)
            known += int(moved.sum())
            assert not (moved & ~_mirrored_known(plain, images)).any()  # nothing is made up
            if sample.part_masks is not None:
                for part in moved.nonzero().flatten().tolist():
                    rows, columns = sample.part_masks[part].nonzero(as_tuple=True)
                    if len(rows):
                        row, column = sample.landmarks[part].tolist()
                        assert rows.min() - 2 <= row <= rows.max() + 2
                        assert columns.min() - 2 <= column <= columns.max() + 2
        assert known > 0 or not images.parts
    finally:
        images.augmentation = None


def _mirrored_known(plain: PartSample, images: PartSet) -> torch.Tensor:
    known = plain.landmarks.isfinite().all(1)
    return known if images.mirrored_parts is None else known | known[list(images.mirrored_parts)]


def test_loaders_repeat_by_seed_and_a_record_finds_the_same_images(made):
    dataset, options = made
    orders = []
    for seed in (1, 1, 2):
        data = PartDataModule(dataset, batch_size=4, seed=seed, **options)
        data.setup()
        loader = data.train_dataloader()
        order = [draw.index for draw in loader.sampler]
        loader.sampler.set_epoch(1)
        assert order != [draw.index for draw in loader.sampler]
        orders.append(order)
    assert orders[0] == orders[1] != orders[2]
    again = PartDataModule(dataset, batch_size=4, **options)
    again.follow(data.split_record(), "a run")
    again.setup()
    assert SplitRecord.of(again.train_set, again.val_set) == data.split_record() and not again.differences


def test_an_unknown_split_is_refused(made):
    dataset, options = made
    with pytest.raises(ValueError, match="split='test': expected 'train' or 'val'"):
        dataset("test", **options)


def test_the_guide_is_short():
    assert len(GUIDE.read_text(encoding="utf-8").splitlines()) < 60 and os.path.getsize(GUIDE) < 4000
