"""Exports: the manifest, the sheets, the tables, and the network that comes back with the same logits."""

import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from report_example import drawn_images, seen_by_a_random_network

from interp_cnn.cli import config_text
from interp_cnn.commands import export
from interp_cnn.exports import network as networks
from interp_cnn.exports.card import ModelCard, markdown
from interp_cnn.exports.filters import filter_files
from interp_cnn.exports.manifest import MANIFEST, ExportFolder
from interp_cnn.exports.maps import SeenImages, map_files
from interp_cnn.exports.network import network_files
from interp_cnn.exports.sheets import svg_sheet
from interp_cnn.exports.tables import check_formats, table_files
from interp_cnn.runs.pretrained import built, from_pretrained

NETWORK = {
    "name": "small_cnn",
    "num_classes": 3,
    "channels": 1,
    "image_size": [16, 16],
    "mean": [0.2],
    "std": [0.4],
    "layers": None,
    "widths": [4, 4, 4, 6, 6],
    "extra_conv": False,
    "mask": {"beta": 3.0},
}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return built({"network": NETWORK}).eval()


@pytest.fixture
def images():
    return torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def test_the_manifest_has_the_size_and_the_checksum_of_every_file(tmp_path):
    target = ExportFolder(tmp_path)
    assert target.write("table", "key", [("tables/a.csv", b"1\n"), ("b.csv", b"")]) == 2
    files = json.loads((tmp_path / MANIFEST).read_text())["parts"]["table"]["files"]
    assert files["tables/a.csv"] == {"bytes": 2, "sha256": hashlib.sha256(b"1\n").hexdigest()}
    assert (tmp_path / "tables/a.csv").read_bytes() == b"1\n"
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a.csv", "b.csv", MANIFEST]


def test_a_part_is_there_only_with_the_same_key_and_whole_files(tmp_path):
    target = ExportFolder(tmp_path)
    assert not target.has("table", "key")
    target.write("table", "key", [("a.csv", b"1")])
    assert target.has("table", "key")
    assert not target.has("table", "other") and not target.has("model", "key")
    (tmp_path / "a.csv").write_bytes(b"2")
    assert not target.has("table", "key")
    (tmp_path / "a.csv").unlink()
    assert not target.has("table", "key")


def test_what_an_earlier_part_left_goes_and_what_others_wrote_stays(tmp_path):
    target = ExportFolder(tmp_path)
    target.write("filters", "1", [("f/0.png", b"x"), ("f/1.png", b"y")])
    target.write("table", "1", [("t.csv", b"z")])
    target.write("filters", "2", [("f/0.png", b"w")])
    assert not (tmp_path / "f/1.png").exists() and (tmp_path / "t.csv").read_bytes() == b"z"
    assert target.has("filters", "2") and target.has("table", "1")


def test_a_part_that_was_interrupted_is_not_there(tmp_path):
    target = ExportFolder(tmp_path)
    target.write("filters", "1", [("0.png", b"x")])

    def interrupted():
        yield "0.png", b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        target.write("filters", "1", interrupted())
    assert not target.has("filters", "1")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/a", "a\\..\\b", "", ".", "link/a"])
def test_no_name_leads_out_of_the_folder(name, tmp_path):
    inside = tmp_path / "export"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads out of"):
        ExportFolder(inside).write("model", "key", [(name, b"x")])
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_two_parts_cannot_have_one_file(tmp_path):
    target = ExportFolder(tmp_path)
    target.write("filters", "1", [("a", b"x")])
    with pytest.raises(ValueError, match="twice"):
        target.write("table", "1", [("a", b"y")])


def test_a_manifest_that_cannot_be_read_counts_as_none(tmp_path):
    (tmp_path / MANIFEST).write_text('{"parts": {"filters": 3}}')
    assert ExportFolder(tmp_path).parts == {}


def test_an_svg_sheet_has_every_picture_and_escapes_its_captions():
    pictures = [np.full((8, 6, 3), shade, np.uint8) for shade in (0, 128, 255)]
    tree = ElementTree.fromstring(svg_sheet(pictures, ["<a>", "b & c", "d"], columns=2, title="<t>"))
    tag = "{http://www.w3.org/2000/svg}"
    assert [image.find(f"{tag}title").text for image in tree.iter(f"{tag}image")] == ["<a>", "b & c", "d"]
    places = {(image.get("x"), image.get("y")) for image in tree.iter(f"{tag}image")}
    assert len(places) == 3 and float(tree.get("width")) == 2 * 16 + 10


def test_every_filter_has_its_picture_and_its_numbers_in_the_npz():
    found = seen_by_a_random_network(drawn_images(6), 5, seed=1)
    files = dict(filter_files(found, ["fox", "horse", "fox", "", "x"], place="filters", title="t"))
    assert {f"filters/{number:04d}.png" for number in range(5)} < files.keys()
    assert {"filters/sheet-1.png", "filters/sheet-1.svg", "filters/filters.npz"} < files.keys()
    arrays = np.load(BytesIO(files["filters/filters.npz"]), allow_pickle=False)
    for number in range(5):
        for place, image_number in zip(arrays["image"][number], arrays["image_number"][number], strict=True):
            if image_number >= 0:
                assert (arrays["images"][place] == found.images[int(image_number)].numpy()).all()
    assert np.array_equal(arrays["score"], found.scores.numpy())
    assert dict(filter_files(found, [""] * 5, place="filters", title="t")).keys() == files.keys()


def test_captions_say_what_a_number_is():
    found = seen_by_a_random_network(drawn_images(6), 5, seed=1)
    sheet = dict(filter_files(found, ["3", "fox", "8", "", "5"], place="f", title="t"))[
        "f/sheet-1.svg"
    ].decode()
    captions = [
        "filter 0: never fires",
        "filter 1: fox",
        "filter 2: class 8",
        "filter 3",
        "filter 4: never fires",
    ]
    assert found.silent.tolist() == [True, False, False, False, True]
    assert all(f">{caption}<" in sheet for caption in captions)
    seen = SeenImages(
        images=np.zeros((2, 1, 8, 8), np.float32),
        names=["a", "b"],
        labels=["3", ""],
        classes=["3", "fox"],
        logits=np.eye(2, dtype=np.float32),
        maps={
            "grad_cam": np.full((2, 8, 8), 2.0, np.float32),
            "lrp": np.full((2, 8, 8), -1.0, np.float32),
        },
        feature_maps={},
    )
    files = {
        name: content.decode("utf-8", "ignore") for name, content in map_files(seen, place="m", title="t")
    }
    assert ">class 3, seen as class 3; scale 0 to 2<" in files["m/grad_cam-1.svg"]
    assert ">image, seen as fox; scale ±1<" in files["m/lrp-1.svg"]
    assert "t: LRP of the predicted class" in files["m/lrp-1.svg"]


def test_tables_come_back_as_they_were_in_every_format():
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    table = pd.DataFrame({"filter": [0, 1], "category": ["fox", None], "gain": [0.5, float("nan")]})
    files = dict(table_files({"filters": table}, ["csv", "parquet"], place="tables"))
    assert list(files) == ["tables/filters.csv", "tables/filters.parquet"]
    pd.testing.assert_frame_equal(pd.read_parquet(BytesIO(files["tables/filters.parquet"])), table)
    again = pd.read_csv(BytesIO(files["tables/filters.csv"]))
    assert again["gain"].tolist()[0] == 0.5 and again["filter"].tolist() == [0, 1]


def test_the_network_comes_back_from_safetensors_with_the_same_logits(network, images, tmp_path):
    files = network_files(
        network, images, {"network": NETWORK, "classes": list("abc")}, ["safetensors"], place="model"
    )
    ExportFolder(tmp_path).write("model", "key", files)
    again = from_pretrained(tmp_path / "model")
    assert torch.equal(again(images), network(images))
    assert json.loads((tmp_path / "model/config.json").read_text())["largest_relative_error"] == {
        "model.safetensors": 0.0
    }


@pytest.mark.slow
def test_torch_export_and_onnx_give_the_same_logits_for_any_number_of_images(network, images, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    files = dict(
        network_files(network, images, {"network": NETWORK}, ["torch_export", "onnx"], place="model")
    )
    session = runtime.InferenceSession(files["model/model.onnx"], providers=["CPUExecutionProvider"])
    program = torch.export.load(BytesIO(files["model/model.pt2"])).module()
    with torch.no_grad():
        for count in (1, 3, 4):
            logits = network(images[:count])
            torch.testing.assert_close(program(images[:count]), logits)
            [found] = session.run(None, {"images": images[:count].numpy()})
            torch.testing.assert_close(torch.from_numpy(found), logits, atol=1e-5, rtol=1e-4)


def test_a_file_that_gives_other_logits_is_refused(network, images):
    other = {"network": {**NETWORK, "mask": {"beta": 1.0}}}
    network.conv5.mask.beta.fill_(9.0)
    files = network_files(network, images, {"network": NETWORK}, ["safetensors"], place="model")
    assert dict(files)  # the steepness is a buffer and comes back
    other["network"]["std"] = [0.4]
    other["network"]["mask"] = {"enabled": False}
    with pytest.raises(ValueError, match="its logits differ"):
        dict(network_files(network, images, other, ["safetensors"], place="model"))


@pytest.mark.parametrize("check", [check_formats, networks.check_formats])
def test_an_unknown_format_is_refused_with_those_that_there_are(check):
    with pytest.raises(ValueError, match="no format 'exe'; there are"):
        check(["exe"])


def test_a_format_that_nothing_installed_can_write_names_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"interp-cnn\[parquet\]"):
        check_formats(["parquet"])
    with pytest.raises(ValueError, match=r"interp-cnn\[onnx\]"):
        networks.check_formats(["onnx"])


def test_a_card_escapes_what_a_run_says():
    card = ModelCard(
        "<b>", "a|b", {"x": "[y]"}, ["fox", "*dog*"], {}, {"model.pt2": 1e-7}, "interp-cnn export"
    )
    text = markdown(card)
    assert "&lt;b&gt;" in text and "a\\|b" in text and "\\*dog\\*" in text and "\\[y\\]" in text
    assert "torch.export.load" in text and "## Measures" not in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images": None}, None),
        ({"images": 0}, "images=0: expected 1 or more, or null for all"),
        ({"images": "few"}, "images=few: expected 1 or more, or null for all"),
        ({"exemplars": None}, "exemplars=None: expected 1 or more"),
    ],
)
def test_counts_of_an_export_are_numbers_or_all_images(settings, said):
    with initialize_config_dir(str(config_text.config_folder()), version_base="1.3"):
        config = compose("export", overrides=["run=mine"])
    config = OmegaConf.merge(config, settings)
    if said is None:
        export._check(config)
        return
    with pytest.raises(ValueError, match=re.escape(said)):
        export._check(config)
