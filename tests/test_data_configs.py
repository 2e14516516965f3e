"""The YAML files of the data group: whole, and as users override them."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from interp_cnn.data.datamodule import PartDataModule

FOLDER = Path(__file__).resolve().parent.parent / "conf" / "data"


def composed(*overrides: str):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(FOLDER.parent), version_base="1.3"):
        return compose(overrides=list(overrides)).data


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_every_file_makes_a_data_module_whose_options_exist(name):
    assert isinstance(instantiate(composed(f"+data={name}"), _convert_="all"), PartDataModule)


def test_the_seed_is_the_commands_unless_it_is_given():
    assert composed("+data=digits").seed == 0
    assert composed("+data=digits", "+seed=7").seed == 7
    assert composed("+data=digits", "+seed=7", "data.seed=3").seed == 3


def test_options_are_plain_overrides(data_root):
    config = composed(
        "+data=animal_parts", f"data.root={data_root / 'animalparts64_small'}", "data.categories=[fox]",
        "data.image_size=32", "data.batch_size=16", "data.augmentation.flip=false",
    )  # fmt: skip
    data = instantiate(config, _convert_="all")
    data.setup()
    assert data.classes == ("negative", "fox") and data.background == 0
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (16, 3, 32, 32) and batch.part_masks.shape == (16, 2, 32, 32)


def test_digits_take_another_canvas_and_more_strokes():
    data = instantiate(
        composed(
            "+data=digits", "data.distractors=6", "data.image_size=64", "data.augmentation={flip: true}"
        ),
        _convert_="all",
    )
    data.setup()
    batch = next(iter(data.val_dataloader()))
    assert batch.images.shape == (64, 1, 64, 64) and data.augmentation.flip
