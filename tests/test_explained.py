"""What is kept of explained images: folder names, records, plates and pages."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from interp_cnn.figures import map_sheet as plates
from interp_cnn.figures.colours import colour_of, colour_table
from interp_cnn.figures.map_sheet import ColourBar, Group, coarse, map_plate, sheet, shown, value_text, veil
from interp_cnn.report.maps import records as explained
from interp_cnn.report.maps.pages import IMAGES_ON_A_PAGE, About, write_pages
from interp_cnn.report.maps.records import Answer, ClassScore, ImageRecord, Look, MapRecord
from interp_cnn.storage.names import folder_name

GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.random((3, 24, 24)).astype(np.float32)
MAP = (GENERATOR.random((24, 24)) - 0.4).astype(np.float32)


def a_record(file="fox/1.jpg", networks=("plain",), method="lrp", question="q", **changes) -> ImageRecord:
    one = MapRecord(
        method, "logit", True, -0.4, 0.6, 0.5, sum=2.0, expected=2.1, seconds=0.5, forward_passes=3
    )
    scores = [ClassScore("fox", 2.1, 0.8), ClassScore("cat", 0.7, 0.2)]
    answers = [
        Answer(name, "fox", "", 2.1, scores, [replace(one, scale=0.5 + n)]) for n, name in enumerate(networks)
    ]
    return ImageRecord(
        **{
            "file": file,
            "label": "fox",
            "size": (24, 24),
            "question": question,
            "answers": answers,
            **changes,
        }
    )


def keep(folder, record, look=Look()):  # noqa: B008
    maps = {
        explained.map_key(answer.network, one.method, len(record.answers)): MAP
        for answer in record.answers
        for one in answer.maps
        if not one.refused
    }
    size, checksum = explained.write_maps(folder, maps)
    record = replace(record, map_bytes=size, map_sha256=checksum)
    explained.draw(folder, record, look, image=lambda: IMAGE)


# Names


@given(st.lists(st.text(min_size=1), min_size=2, max_size=5, unique=True))
@settings(max_examples=300, deadline=None)
def test_a_folders_name_stays_in_its_place_and_is_never_that_of_another_image(names):
    folders = [folder_name(name) for name in names]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,60}", folder) for folder in folders)
    assert len(set(folders)) == len(names)


def test_a_folders_name_is_stable_and_keeps_the_words():
    assert folder_name("a/Fox 01.JPG") == "fox-01-e7f7ca38d9"
    for hostile in ("../../etc/passwd", "..", "/", "C:\\x", "a\0b", "CON", "\udcff.png"):
        assert re.fullmatch(r"[a-z0-9-]+", folder_name(hostile))


# Records


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = a_record(networks=("interpretable", "plain"))
    keep(tmp_path, record)
    stored = explained.read_record(tmp_path)
    assert explained.maps_are_whole(tmp_path, stored)
    written = {"map_bytes": stored.map_bytes, "map_sha256": stored.map_sha256, "pictures": stored.pictures}
    assert stored == replace(record, **written)
    assert set(explained.read_maps(tmp_path)) == {"interpretable.lrp", "plain.lrp"}
    np.testing.assert_array_equal(explained.read_maps(tmp_path)["plain.lrp"], MAP)


@pytest.mark.parametrize("name", [explained.RECORD, explained.MAPS])
def test_a_record_that_is_cut_off_or_gone_is_no_record(name, tmp_path):
    keep(tmp_path, a_record())
    content = (tmp_path / name).read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 3):
        (tmp_path / name).write_bytes(content[:length])
        assert explained.read_record(tmp_path) is None
    (tmp_path / name).unlink()
    assert explained.read_record(tmp_path) is None


@given(
    content=st.recursive(
        st.none() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
@settings(max_examples=100, deadline=None)
def test_any_other_json_is_no_record(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    (folder / explained.RECORD).write_text(json.dumps(content))
    assert explained.read_record(folder) is None


def test_the_relative_error_is_that_of_the_sum_and_unknown_where_nothing_is_promised():
    one = a_record().answers[0].maps[0]
    assert one.relative_error == pytest.approx(0.1 / 2.1)
    assert np.isnan(replace(one, expected=None).relative_error)
    assert np.isnan(replace(one, sum=None).relative_error)


# Drawing


def test_networks_share_the_scale_of_a_method_and_all_images_do_when_asked():
    record = a_record(networks=("a", "b"))
    assert Look().bar("lrp", record.answers) == ColourBar("green-red", (-1.5, 1.5), "logit")
    assert Look("orange-blue", limits={"lrp": 4.0}).bar("lrp", record.answers).limits == (-4.0, 4.0)
    positive = replace(record.answers[0].maps[0], signed=False)
    answers = [replace(record.answers[0], maps=[positive])]
    assert Look().bar("lrp", answers) == ColourBar("heat", (0.0, 0.5), "logit")


def test_pictures_are_drawn_once_and_again_when_they_are_to_look_different(tmp_path):
    record = a_record()
    keep(tmp_path, record)
    expected = {"image.png", "lrp.png", "lrp-overlay.png", "panel.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == expected
    with Image.open(tmp_path / "lrp-overlay.png") as picture:
        assert picture.size == (240, 240)
    before = (tmp_path / "panel.png").read_bytes()
    (tmp_path / "stale.png").touch()

    def fail():
        raise AssertionError("drawn again")

    explained.draw(tmp_path, explained.read_record(tmp_path), Look(), image=fail)
    for look in (Look("orange-blue"), Look(contours=True), Look(limits={"lrp": 9.0})):
        explained.draw(tmp_path, explained.read_record(tmp_path), look, image=lambda: IMAGE)
        assert (tmp_path / "panel.png").read_bytes() != before
    assert not (tmp_path / "stale.png").exists()
    explained.draw(tmp_path, explained.read_record(tmp_path), Look(), image=lambda: IMAGE)
    assert (tmp_path / "panel.png").read_bytes() == before


def test_cells_show_the_sum_or_the_mean_of_their_pixels():
    values = GENERATOR.random((10, 7))
    added, mean = coarse(values, 4, add_up=True), coarse(values, 4, add_up=False)
    assert added.shape == (10, 7)
    assert added[5, 6] == pytest.approx(values[4:8, 4:7].sum())
    assert mean[9, 0] == pytest.approx(values[8:, :4].mean())
    assert mean.sum() == pytest.approx(values.sum())
    np.testing.assert_array_equal(coarse(values, 1, add_up=True), values)
    record = replace(a_record().answers[0].maps[0], grain=4, cells="sum")
    assert record.drawn_unit == "logit per 4 x 4 pixels"
    assert replace(record, cells="mean").drawn_unit == "logit"


def test_a_veil_is_thin_where_the_map_is_neutral_and_in_the_colours_of_the_bar_where_it_is_strong():
    rgb = np.full((8, 8, 3), 200, dtype=np.uint8)
    values = np.zeros((8, 8))
    values[0, 0], values[0, 1] = 1.0, -1.0
    bar = ColourBar("green-red", (-1.0, 1.0), "logit")
    picture = veil(rgb, values, bar).astype(int)
    support, oppose = colour_of(np.array([1.0, -1.0]), limits=bar.limits, colours=bar.colours).astype(int)
    assert np.abs(picture[0, 0] - support).max() < 20 and np.abs(picture[0, 1] - oppose).max() < 20
    assert np.ptp(picture[4, 4]) <= 1 and picture[4, 4, 0] > 130
    grounds = [np.full((8, 8, 3), grey, np.uint8) for grey in (0, 255)]
    shades = [veil(ground, values, bar) @ np.array([0.299, 0.587, 0.114]) for ground in grounds]
    assert min(shade[0, 0] for shade in shades) > max(shade[4, 4] for shade in shades)  # printed in grey
    assert max(shade[0, 1] for shade in shades) < min(shade[4, 4] for shade in shades)
    outlined = veil(rgb, np.pad(np.ones((4, 4)), 2), bar, contours=True)
    assert (outlined == 255).all(axis=2).any()


def test_a_plate_carries_its_colour_bar_and_the_values_at_its_ends(monkeypatch):
    words = []
    write = plates.ImageDraw.ImageDraw.text

    def note(self, place, text, *rest, **more):
        words.append(text)
        return write(self, place, text, *rest, **more)

    monkeypatch.setattr(plates.ImageDraw.ImageDraw, "text", note)
    bar = ColourBar("orange-blue", (-0.0125, 0.0125), "logit")
    plate = map_plate(MAP, bar, title="lrp for fox")
    assert words == ["lrp for fox", "\u22120.0125", "+0.0125", "0", "logit"]
    table = colour_table("orange-blue", 240)
    rows = [row for row in plate if (row[14 : 14 + 240] == table).all()]
    assert len(rows) == plates.BAR_HEIGHT


def test_numbers_are_short_and_carry_their_sign():
    texts = [value_text(value) for value in (0.0, 1.23456, -0.00123, 1e-7, 12345.0)]
    assert texts == ["0", "+1.23", "\u22120.00123", "+1e-07", "+1.23e+04"]
    assert value_text(0.5, signed=False) == "0.5"


def test_small_images_are_enlarged_by_whole_pixels_and_large_ones_reduced():
    assert shown(np.zeros((48, 40, 3), np.uint8)).shape == (240, 200, 3)
    assert shown(np.zeros((224, 224, 3), np.uint8)).shape == (224, 224, 3)
    assert shown(np.zeros((3000, 1000, 3), np.uint8)).shape == (480, 160, 3)


def test_groups_stand_in_rows_of_about_equal_length():
    groups = [Group(str(number), [np.zeros((100, 100, 3), np.uint8)]) for number in range(9)]
    assert sheet(groups, width=700).shape[:2] == (2 * (125 + 14) + 14, 5 * 114 + 14)
    with pytest.raises(ValueError, match="groups: none given"):
        sheet([])


def test_long_and_odd_words_fit_into_a_plate():
    picture = np.zeros((50, 50, 3), np.uint8)
    bar = ColourBar("heat", (0.0, 1.0), "a very long unit that cannot fit here")
    for title in ("w" * 500, "line\nbreak", "狐 \u202e x", ""):
        assert (
            sheet([Group(title, [picture], [title], bar, title)], title=title, lines=[title]).shape[1] == 78
        )


# Pages


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.images, self.ids, self.scripts = [], [], set(), 0

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        self.links += [attributes[key] for key in ("href", "src") if key in attributes]
        self.scripts += tag == "script"
        if tag == "img":
            self.images.append(attributes)


def parsed(page) -> Links:
    found = Links()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def pages_of(folder, records, look=Look()):  # noqa: B008
    names = [folder_name(record.file) for record in records]
    for name, record in zip(names, records, strict=True):
        keep(folder / "images" / name, record, look)
    about = About(
        "Images <b>", {"network": "plain & <i>"}, {"lrp": "the share's <u>"}, "interp-cnn explain '<x>'"
    )
    return write_pages(folder, names, about, look), names


def test_every_link_of_every_page_leads_to_a_file_and_nothing_is_asked_from_elsewhere(tmp_path):
    first, names = pages_of(tmp_path, [a_record("x/1.png"), a_record("x/2.png", networks=("a", "b"))])
    pages = [first, *(tmp_path / "images" / name / "index.html" for name in names)]
    for page in pages:
        found = parsed(page)
        assert found.images and all(image["alt"] for image in found.images)
        for link in found.links:
            target, _, anchor = link.partition("#")
            if link == "data:,":
                continue
            assert not re.match(r"[a-z]+:|//", link)
            path = (page.parent / unquote(target)).resolve() if target else page
            assert path.is_file() and path.is_relative_to(tmp_path.resolve())
            assert not anchor or anchor in parsed(path).ids
    style = (tmp_path / "assets" / "explained.css").read_text()
    assert "url(" not in style and "@import" not in style


def test_names_of_files_classes_and_networks_stay_words(tmp_path):
    hostile = '"><script>alert(1)</script>&'
    record = a_record(f"{hostile}.png", networks=(hostile,), label=hostile)
    first, [name] = pages_of(tmp_path, [record])
    for page in (first, tmp_path / "images" / name / "index.html"):
        assert parsed(page).scripts == 1  # the report's own
        assert "<script>alert" not in page.read_text()


def test_many_images_are_spread_over_pages(tmp_path):
    count = 2 * IMAGES_ON_A_PAGE + 1
    records = [a_record(f"{number}.png") for number in range(count)]
    names = [folder_name(record.file) for record in records]
    for name, record in zip(names, records, strict=True):
        size, _ = explained.write_maps(tmp_path / "images" / name, {"lrp": MAP})
        explained.write_record(tmp_path / "images" / name, replace(record, map_bytes=size))
    write_pages(tmp_path, names, About("many", {}, {}, ""), Look())
    pages = [tmp_path / name for name in ("index.html", "page-2.html", "page-3.html")]
    linked = [link for page in pages for link in parsed(page).links if link.startswith("images/")]
    assert list(dict.fromkeys(linked)) == [f"images/{name}/index.html" for name in names]
    last = parsed(tmp_path / "images" / names[-1] / "index.html").links
    assert "../../page-3.html" in last and f"../{names[-2]}/index.html" in last
    assert not (tmp_path / "page-4.html").exists()


def test_the_table_has_a_row_for_every_image_network_and_method(tmp_path):
    refused = MapRecord("deeplift", "logit", True, refused="no rule for sort")
    second = a_record("2.png", networks=("a", "b"))
    second.answers[1].maps.append(refused)
    first, names = pages_of(tmp_path, [a_record("1.png"), second])
    table = pd.read_csv(tmp_path / "maps.csv")
    assert table["file"].tolist() == ["1.png", "2.png", "2.png", "2.png"]
    assert table["network"].tolist() == ["plain", "a", "b", "b"]
    assert table["relative_error"][0] == pytest.approx(0.1 / 2.1)
    assert table["refused"].fillna("").tolist() == ["", "", "", "no rule for sort"]
    assert all((tmp_path / place).is_file() for place in table["maps"])
    text = first.read_text()
    assert "1 of 1 images refused" in text
    assert "no rule for sort" in (tmp_path / "images" / names[1] / "index.html").read_text()
