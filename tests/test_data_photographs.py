"""Somebody's own pictures: which are found, what their pixels are, and which class their folder stands for."""

import numpy as np
import pytest
import torch
from PIL import Image

from interp_cnn.data.photographs import photographs


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "holiday"
    (place / "fox" / "deep").mkdir(parents=True)
    (place / ".thumbs").mkdir()
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(place / "b.png")
    Image.fromarray(rgb).convert("RGBA").save(place / "fox" / "a.PNG")
    Image.fromarray(rgb[..., 0]).save(place / "fox" / "deep" / "c.bmp")
    Image.fromarray(rgb).save(place / ".thumbs" / "b.png")
    (place / "notes.txt").write_text("no picture")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(rgb).save(place / "turned.jpg", exif=turned)
    return place


def test_pictures_are_found_in_all_folders_in_the_order_of_their_names_but_hidden_ones(folder):
    found = photographs(folder)
    assert [one.name for one in found] == ["b.png", "fox/a.PNG", "fox/deep/c.bmp", "turned.jpg"]
    assert [one.label(("fox", "cat")) for one in found] == [None, "fox", "fox", None]
    assert [one.label(("holiday", "deep")) for one in found] == ["holiday", "holiday", "deep", "holiday"]
    [single] = photographs(folder / "fox" / "a.PNG")
    assert (single.name, single.label(("fox",))) == ("a.PNG", "fox")


def test_pixels_are_at_their_own_size_or_the_one_asked_for_in_colour_or_grey(folder):
    plain, _, grey, turned = photographs(folder)
    assert plain.pixels().shape == (3, 20, 30)
    assert turned.pixels().shape == (3, 30, 20)
    assert plain.pixels((8, 9)).shape == (3, 8, 9)
    assert grey.pixels(channels=1).shape == (1, 20, 30)
    torch.testing.assert_close(grey.pixels(channels=1), grey.pixels()[:1])
    weighted = torch.tensor([0.299, 0.587, 0.114]) @ plain.pixels().flatten(1)
    torch.testing.assert_close(plain.pixels(channels=1).flatten(), weighted)
    with pytest.raises(ValueError, match="a picture has 1 or 3 channels, the network wants 4"):
        plain.pixels(channels=4)


def test_a_folder_that_is_not_there_or_has_no_picture_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"images=.*holidy: no such folder; did you mean .*holiday\?"):
        photographs(tmp_path / "holidy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no picture in it .*\.jpg"):
        photographs(tmp_path / "empty")
