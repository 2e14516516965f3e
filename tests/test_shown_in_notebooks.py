"""What values print and what a notebook shows of them: one line, and a picture or table that fetches nothing."""

import base64
import re
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from planted import PlantedNetwork, planted_batches
from torch import nn

import interp_cnn
from interp_cnn.data.parts import PartSample
from interp_cnn.evaluation.filters.comparison import compare
from interp_cnn.figures.notebook import map_png, table_html
from interp_cnn.storage.brief import brief

PICTURE = re.compile(r'src="data:image/png;base64,([^"]+)"')


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


def pictures(html: str) -> list[np.ndarray]:
    assert "http" not in html and "<script" not in html
    return [picture(base64.b64decode(data)) for data in PICTURE.findall(html)]


@pytest.fixture(scope="module")
def measured():
    network = PlantedNetwork().eval()
    batches = list(planted_batches())
    return interp_cnn.evaluate_network(network, batches, layer="maps", resamples=20), network, batches


def test_numbers_and_names_stand_as_they_are_and_tensors_by_their_shape():
    assert brief(torch.zeros(2, 3)) == "(2, 3) float32" and brief(torch.tensor(4)) == "4"
    assert brief(np.zeros((2, 3), np.uint8)) == "(2, 3) uint8" and brief(0.123456) == "0.1235"
    assert brief(["a"]) == "1 entry" and brief({1: 2, 3: 4}) == "2 entries" and brief((1, 2)) == "(1, 2)"
    assert brief(nn.Linear(2, 3)) == "Linear of 9 parameters" and len(brief("x" * 999)) < 60


def test_a_sample_prints_one_line():
    image = torch.rand(1, 48, 48)
    sample = PartSample(**{name: None for name in PartSample.__dataclass_fields__} | {"image": image})
    assert "image=(1, 48, 48) float32" in repr(sample) and len(repr(sample)) < 300


def test_maps_of_an_image_stand_beside_it_and_print_one_line():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    maps = interp_cnn.explain_image(network, torch.rand(3, 8, 8), 2, methods=["lrp", "saliency"])
    assert repr(maps) == "ImageMaps(lrp, saliency; class 2 of an image 3 x 8 x 8)"
    assert list(maps) == ["lrp", "saliency"] and maps["lrp"].values.shape == (8, 8)
    html = maps._repr_html_()
    assert len(pictures(html)) == 1 and "lrp, ±" in html and "saliency, 0 to " in html
    assert repr(maps["lrp"]).startswith("ImageMap(values=(8, 8) float32, sum=") and "\n" not in repr(
        maps["lrp"]
    )
    assert picture(maps["lrp"]._repr_png_()).shape == (240, 240, 3)


def test_a_map_is_green_where_it_speaks_for_the_class_and_red_where_against():
    rgb = picture(map_png(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))).astype(int)
    side = len(rgb) // 2
    good, bad = rgb[side // 2, side // 2], rgb[side // 2, side + side // 2]
    assert good[1] > good[0] and bad[0] > bad[1]


def test_measures_and_a_comparison_are_tables(measured):
    measures, *_ = measured
    assert re.fullmatch(r"NetworkMeasures\(name='network', .*\)", repr(measures)) and "tensor" not in repr(
        measures
    )
    html = measures._repr_html_()
    assert f"<td>{measures.summary['accuracy']}</td>" in html
    comparison = compare([measures])
    assert len(repr(comparison)) < 200
    html = comparison._repr_html_()
    assert "<th>network</th>" in html and "<th>random cell</th>" in html
    assert html.count("<tr>") == 1 + len(
        set(measures.summary) | {key for row in comparison.baselines.values() for key in row}
    )


def test_exemplars_show_images_and_print_shapes(measured):
    _, network, batches = measured
    strongest = interp_cnn.exemplars(network, batches, layer="maps", count=3)
    assert "scores=(" in repr(strongest) and len(repr(strongest)) < 700
    [sheet] = pictures(strongest._repr_html_())
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 3


def test_a_run_says_what_it_is_and_shows_an_image_of_each_class():
    run = interp_cnn.load_run("digits-plain")
    assert "plain small_cnn, 12 epochs, layers conv5" in repr(run) and "\n" not in repr(run)
    html = run._repr_html_()
    assert len(pictures(html)) == 1 and 'alt="0, 1, 2, 3, 4, 5, 6, 7, 8, 9"' in html


def test_what_a_name_holds_is_no_markup():
    assert (
        table_html([["<b>", "&"]])
        == "<table><tbody><tr><td>&lt;b&gt;</td><td>&amp;</td></tr></tbody></table>"
    )
