"""The report as a person and a browser meet it: pages, links, words, weight, and a folder that never is half
there.
"""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from math import nan
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from report_example import (
    CLASSES,
    Number,
    drawn_images,
    example_contents,
    example_pair,
    example_samples,
    sample_of,
)

from interp_cnn import figures
from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.explanation.receptive_field.field import ReceptiveField
from interp_cnn.figures.map_sheet import ColourBar, veil
from interp_cnn.figures.png import save_png
from interp_cnn.report import Contents, Network, write_report
from interp_cnn.report.comparison import pages as pages_module
from interp_cnn.report.comparison.classes import MOST_IN_MATRIX, confusions
from interp_cnn.report.comparison.filters import choices, class_name, network_view
from interp_cnn.report.comparison.first_screen import ahead, few_filters, headline, tiles
from interp_cnn.report.comparison.overview import measure_table, more_measures, parts_tracked
from interp_cnn.report.comparison.pair import middle_filters
from interp_cnn.report.comparison.verdict import verdict
from interp_cnn.report.folder import replaced_folder
from interp_cnn.report.measures import Measure, in_order, measure
from interp_cnn.report.numbers import duration, number, p_value, signed
from interp_cnn.storage.files import plain
from interp_cnn.storage.names import distinct_slugs

SAYS = {"interpretable": ("fox", 0.9), "plain": ("fox", 0.6)}
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """One page: its elements with attributes, its words, and whether every element is closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.elements, self.words, self.open = path, [], [], []
        self.feed(path.read_text("utf-8"))
        self.close()
        assert self.open == [], f"{path.name}: not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"{self.path.name}: </{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def references(self) -> list[str]:
        return [it[key] for _, it in self.elements for key in ("href", "src") if key in it]


@pytest.fixture(scope="module")
def contents() -> Contents:
    return example_contents(filters=12, samples=3, methods=("occlusion", "grad_cam"))


@pytest.fixture(scope="module")
def folder(contents, tmp_path_factory) -> Path:
    return write_report(tmp_path_factory.mktemp("run") / "report", contents).parent


@pytest.fixture(scope="module")
def pages(folder) -> dict[str, Page]:
    """Every page by its place; parsing checks that elements are nested properly."""
    return {str(path.relative_to(folder)): Page(path) for path in sorted(folder.rglob("*.html"))}


def test_there_is_a_page_per_network_filter_and_image(pages):
    assert {"index.html", "filters-interpretable.html", "filters-plain.html", "images.html"} <= pages.keys()
    assert sum(place.startswith("filters/interpretable/") for place in pages) == 12
    assert sum(place.startswith("filters/plain/") for place in pages) == 12
    assert sum(place.startswith("images/") for place in pages) == 3


def test_every_link_and_picture_is_a_file_of_the_report(pages, folder):
    for place, page in pages.items():
        for reference in page.references:
            if reference.startswith(("#", "data:")):
                continue
            target = (folder / place).parent / unquote(reference.split("#")[0])
            assert target.is_file(), f"{place} refers to {reference}"
            assert target.resolve().is_relative_to(folder.resolve())


def test_every_page_is_reached_from_the_first(pages, folder):
    found, ahead = set(), ["index.html"]
    while ahead:
        place = ahead.pop()
        if place not in found:
            found.add(place)
            links = [it["href"] for it in pages[place].all("a") if it["href"].endswith(".html")]
            targets = [((folder / place).parent / link).resolve() for link in links]
            ahead += [str(target.relative_to(folder.resolve())) for target in targets]
    assert found == set(pages)


def test_fragment_links_and_labels_point_to_elements_of_the_page(pages):
    for place, page in pages.items():
        ids = [it["id"] for _, it in page.elements if "id" in it]
        assert len(ids) == len(set(ids)), place
        for _, it in page.elements:
            if it.get("href", "").startswith("#"):
                assert it["href"][1:] in ids
            assert it.get("aria-labelledby", ids[0]) in ids


def test_nothing_is_asked_of_another_host(folder):
    for path in folder.rglob("*"):
        if path.suffix in {".html", ".css", ".js"}:
            text = path.read_text("utf-8")
            for pattern in (
                r"https?:",
                r"(?:src|href)=[\"']//",
                r"@import",
                r"url\(",
                r"\bfetch\(",
                r"XMLHttp",
            ):
                assert not re.search(pattern, text), f"{path.name}: {pattern}"


def test_every_picture_has_words_its_true_shape_and_is_loaded_when_needed(pages, folder):
    for place, page in pages.items():
        for it in page.all("img"):
            assert it["alt"].strip(), place
            with Image.open((folder / place).parent / it["src"]) as image:
                assert int(it["width"]) / int(it["height"]) == pytest.approx(
                    image.width / image.height, rel=0.02
                )
                assert image.width >= int(it["width"])
        if place == "index.html" or place.startswith("filters"):
            lazy = [
                it for it in page.all("img") if "/pair/" not in it["src"]
            ]  # the first screen is there at once
            assert all(it["loading"] == "lazy" for it in lazy)


def test_labels_and_file_names_are_words_and_never_markup(pages, folder):
    for place, page in pages.items():
        scripts = page.all("script")
        assert [it.get("src", "inline").rsplit("/", 1)[-1] for it in scripts] == ["script.js"], place
    assert "<script>alert(1)</script>" in pages["index.html"].text
    assert "photo <1>.jpg" in pages["index.html"].text
    assert (
        "&amp;" in (folder / "filters-plain.html").read_text()
        and "Ente & Gans" in pages["filters-plain.html"].text
    )
    assert all(
        re.fullmatch(r"[A-Za-z0-9._-]+", part)
        for path in folder.rglob("*")
        for part in path.relative_to(folder).parts
    )


def test_hostile_texts_everywhere_stay_words(tmp_path):
    evil = "\"><img src=x onerror=alert(1)> '{{ 7 * 7 }} $x$"
    given = example_contents(filters=3, samples=1)
    networks = [replace(network, name=f"{evil} {n}", layer=evil) for n, network in enumerate(given.networks)]
    networks = [replace(it, filters=it.filters.assign(category=evil), description=evil) for it in networks]
    image, values = given.samples[0].image, np.ones(given.samples[0].image.shape[1:])
    maps = {(networks[0].name, evil): values, (networks[1].name, evil): evil}
    sample = sample_of(image, evil, evil, {it.name: (evil, 0.5) for it in networks}, maps)
    given = replace(
        given,
        title=evil,
        facts={evil: evil},
        classes=[evil] * 4,
        networks=networks,
        pair=example_pair(networks),
        samples=[sample],
        baselines={evil: {"location_instability": Number(0.1)}},
        curves=given.curves.assign(network=evil, quantity=evil),
        reproduction={"command": evil, evil: {evil: evil}},
    )
    index = write_report(tmp_path / "report", given)
    for path in index.parent.rglob("*.html"):
        page = Page(path)
        assert "onerror=alert(1)>" in page.text
        assert "{{ 7 * 7 }}" in page.text
        assert not any("onerror" in it for _, it in page.elements)


def test_the_first_page_names_the_commands_that_show_more(tmp_path):
    contents = example_contents(filters=3, samples=1)
    more = {"Maps of every image": "interp-cnn explain 'a folder & more'"}
    page = Page(write_report(tmp_path / "further", replace(contents, further=more)))
    assert "Maps of every image:" in page.text and more["Maps of every image"] in page.text
    assert "More of these networks" not in Page(write_report(tmp_path / "nothing", contents)).text


def test_the_first_page_says_what_was_trained_what_came_out_and_how_to_repeat_it(pages, contents):
    text = pages["index.html"].text
    for sentence in verdict(contents):
        assert sentence.replace("\u00a0", " ") in text
    for words in (
        "animal parts, 1,797 photographs",
        "1,234,567 parameters",
        "12 filters",
    ):
        assert words in text
    for words in (
        "91.0 %",
        "0.152",
        "image centre",
        "oracle with noise",
        "shuffled images (plain)",
        "−1.0 points",
    ):
        assert words in text
    for words in ("interp-cnn compare data=animal_parts", "2.9.0", "18c73e4", "73 s", "2 cores"):
        assert words in text


def test_a_page_of_filters_can_be_sorted_by_every_measure_and_filtered_by_category(pages, contents):
    page = pages["filters-interpretable.html"]
    measures = [it.get("data-better") for it in page.all("option") if "data-better" in it]
    cards = [it for it in page.all("li") if "data-m" in it]
    assert len(cards) == 12 and len(measures) == 3
    table = contents.networks[0].filters
    assert [it["data-n"] for it in cards] == [str(number_) for number_ in range(12)]
    selected = [it["value"] for it in page.all("option") if "selected" in it]
    assert selected == ["1", "-1"]  # the best by tracking gain first
    for number_, card in enumerate(cards):
        values = [float(text) if text != "-" else nan for text in card["data-m"].split(" ")]
        expected = [table.location_instability[number_], table.tracking_gain[number_]]
        assert values[:2] == pytest.approx(expected, rel=1e-4, nan_ok=True)
        assert card["data-n"] == str(number_)
        assert ("data-s" in card) == (number_ in (0, 11))
    assert {it["data-c"] for it in cards} == {*CLASSES, ""}


def test_a_filter_is_found_by_the_part_that_it_tracks_and_by_no_other(pages, contents):
    cards = [it for it in pages["filters-interpretable.html"].all("li") if "data-m" in it]
    table = contents.networks[0].filters
    expected = table.part.where(table.tracks, "")
    assert [it["data-p"] for it in cards] == expected.tolist()
    counts = expected.value_counts()
    assert (
        f"head {counts['head']}" in pages["index.html"].text and "(of 12 filters)" in pages["index.html"].text
    )


def test_a_filter_page_says_how_many_of_its_strongest_images_show_its_category(pages, contents):
    network = contents.networks[0]
    for number_ in (1, 5):
        category = network.filters.category[number_]
        labels = [CLASSES[label] for label in network.exemplars.labels[number_].tolist()]
        words = f"{labels.count(category)} of 9 show {category}, the filter's class."
        assert words in pages[f"filters/interpretable/{number_:04d}.html"].text


def test_a_class_page_has_its_filters_best_first_and_its_images(pages, contents):
    page = pages["classes/0001.html"]
    for network in contents.networks:
        slug, table = network.name, network.filters
        mine = table[(table.category == "horse") & table.tracking_gain.notna()]
        expected = [
            f"../filters/{slug}/{number:04d}.html"
            for number in mine.sort_values("tracking_gain")["filter"][::-1]
        ]
        cards = [it["href"] for it in page.all("a") if it.get("class") == "card" and slug in it["href"]]
        assert cards == expected
        mean = measure("tracking_gain").write(mine.tracking_gain.mean())
        assert mean in page.text
    images = [it["href"] for it in page.all("a") if it["href"].startswith("../images/0")]
    assert images == ["../images/0001/index.html"]


def test_the_confusion_matrix_names_classes_and_counts_images(pages, contents):
    page = pages["classes.html"]
    for network in contents.networks:
        counts = network.confusion
        for row, column in np.argwhere(counts).tolist():
            words = f"{counts[row, column]} of {counts[row].sum()} {CLASSES[row]}: called {CLASSES[column]}"
            assert words in [it.get("title") for it in page.all("td")]
    cells = [it for it in page.all("td") if it.get("class", "").startswith(("right", "wrong"))]
    assert len(cells) == 2 * len(CLASSES) ** 2


def test_a_count_of_mistakes_leads_to_their_pictures(pages, contents):
    page = pages["classes.html"]
    links = [it["href"] for it in page.all("a") if it["href"].startswith("#interpretable-wrong-")]
    counts = contents.networks[0].confusion * (1 - np.eye(len(CLASSES), dtype=int))
    assert len(links) == len({*links}) == (counts > 0).sum()
    pictures = [it for it in page.all("img") if "/wrong/" in it["src"]]
    assert len(pictures) == sum(len(them) for them in contents.mistakes.values())


def test_images_that_a_network_gets_wrong_come_first_with_what_each_says(pages):
    page = pages["images.html"]
    assert [it["id"] for it in page.all("h2")] == ["contested", "others"]
    links = [it["href"] for it in page.all("a") if it["href"].startswith("images/")]
    assert links == ["images/0002/index.html", "images/0000/index.html", "images/0001/index.html"]
    assert "plain <script>alert(1)</script> (61" in page.text and len(page.all("span")) > 6
    overview = [it["href"] for it in pages["index.html"].all("a") if it["href"].startswith("images/00")]
    assert overview.index("images/0002/index.html") < overview.index("images/0000/index.html")


def test_a_map_that_the_common_scale_blanks_has_a_picture_on_its_own(folder, contents):
    """Of each pair of maps the larger one fills the common scale; the smaller has a second picture where it is pale."""
    own = drawn = 0
    for index, sample in enumerate(contents.samples):
        place = folder / "images" / f"{index:04d}"
        for method in ("occlusion", "grad_cam"):
            scales = {
                one.network: it.scale
                for one in sample.record.answers
                for it in one.maps
                if it.method == method
            }
            for network, scale in scales.items():
                found = (place / f"{network}-{method}-own.png").is_file()
                assert found == (scale < 0.9 * max(scales.values()))
                own, drawn = own + found, drawn + 1
        page = Page(place / "index.html")
        pictures = [it["src"] for it in page.all("img") if it["src"].endswith("-own.png")]
        assert sorted(pictures) == sorted(path.name for path in place.glob("*-own.png"))
    assert 0 < own < drawn
    assert len([it for it in Page(folder / "index.html").all("p") if "data-scales" in it]) == 1


def test_mistakes_are_listed_the_most_frequent_first_and_large_matrices_not_drawn():
    counts = np.array([[5, 0, 1], [3, 2, 0], [0, 0, 4]])
    network = replace(bare().networks[0], confusion=counts)
    given = Contents("t", {}, ["a", "b", "c"], [network])
    view = network_view(network, place=0, slug="x", classes=given.classes, album=None)
    [found] = confusions(given, [view], None, {})
    assert [(it.label, it.answer, it.count, it.of) for it in found.mistakes] == [
        ("b", "a", 3, 5),
        ("a", "c", 1, 6),
    ]
    assert [[cell.count for cell in cells] for _, cells in found.rows] == counts.tolist()
    many = [str(number) for number in range(MOST_IN_MATRIX + 1)]
    given = Contents("t", {}, many, [replace(network, confusion=np.eye(len(many), dtype=int))])
    [found] = confusions(given, [view], None, {})
    assert found.rows == [] and found.mistakes == []
    with pytest.raises(ValueError, match=r"shape \(3, 3\); expected 1 x 1"):
        Contents("t", {}, ["a"], [network])


def test_filters_classes_and_images_lead_to_each_other(pages, contents):
    filter_page = pages["filters/interpretable/0001.html"]
    links = [it["href"] for it in filter_page.all("a")]
    assert "../../classes/0001.html" in links
    names = {it.record.file: f"images/{n:04d}/index.html" for n, it in enumerate(contents.samples)}
    for network in contents.networks:
        found = network.exemplars
        for index in range(len(found)):
            shown = [found.names[image] for image in found.image_numbers[index].tolist() if image >= 0]
            here = {place for name, place in names.items() if name in shown}
            page = pages[f"filters/{network.name}/{index:04d}.html"]
            assert {
                it["href"].removeprefix("../../") for it in page.all("a") if "/images/0" in it["href"]
            } == here
            for place in here:
                back = [it["href"] for it in pages[place].all("a")]
                assert f"../../filters/{network.name}/{index:04d}.html" in back


def test_an_image_page_lists_the_filters_with_the_highest_peaks_on_this_very_image(pages, contents):
    for index, sample in enumerate(contents.samples):
        text = pages[f"images/{index:04d}/index.html"].text
        listed = text.split("Filters that fire here most")[1].split("By their peak on this image")[0]
        for network in contents.networks:
            highest = network.exemplars.scores[:, 0].numpy()
            shares = np.where(highest > 0, sample.peaks[network.name] / np.where(highest > 0, highest, 1), -1)
            order = [number for number in np.argsort(-shares, kind="stable").tolist() if shares[number] > 0]
            words = re.findall(r"(\d+) \((\d+)\s%", listed.split(network.name)[1].split("plain")[0])
            expected = [(str(number), f"{100 * shares[number]:.0f}") for number in order[:12]]
            assert words == expected


def test_a_filter_that_shows_another_class_than_its_own_says_both(pages, contents):
    contradicted = 0
    for network in contents.networks:
        for number_ in range(len(network.filters)):
            labels = [CLASSES[it] for it in network.exemplars.labels[number_].tolist() if it >= 0]
            category = network.filters.category[number_]
            text = pages[f"filters/{network.name}/{number_:04d}.html"].text
            most = max(labels, key=labels.count, default=None)
            differs = bool(category and labels) and labels.count(category) < labels.count(most)
            words = re.search(r"(mostly|most often) (.+?) \((\d) of (\d)\)", text)
            assert bool(words) == differs
            if differs:
                contradicted += 1
                assert words[2] in {it for it in labels if labels.count(it) == labels.count(most)}
                assert (words[1] == "mostly") == (2 * labels.count(most) > len(labels))
                assert [int(words[3]), int(words[4])] == [labels.count(most), len(labels)]
    assert contradicted > 3


def test_a_filter_page_shows_mask_occlusion_and_decode_with_their_words(pages, folder):
    page = pages["filters/interpretable/0001.html"]
    pictures = [Path(it["src"]).name for it in page.all("img")]
    for name in ("mask", "occlusion", "decode", "strongest"):
        assert f"0001-{name}.png" in pictures
    assert "What a decoder draws" in page.text and "through the filter's mask" in page.text
    with Image.open(folder / "figures/filters/interpretable/0001-mask.png") as image:
        assert image.width == 3 * 72 + 4


def test_the_training_its_last_values_and_the_full_configuration_stand_on_the_first_page(pages, folder):
    text = pages["index.html"].text
    for words in (
        "Full configuration: plain",
        "note: <b> & more",
        "20",
        "80 s",
        "61 s",
        "training / validation",
    ):
        assert words in text
    page = (folder / "index.html").read_text()
    table = page.partition('class="plain training"')[2].partition("</table>")[0]
    assert "accuracy" in table and "filter loss" not in table  # that one network alone has, in training alone
    assert (folder / "data/config-plain.yaml").read_text().startswith("seed: 0")
    answers = pd.read_csv(folder / "data/answers-plain.csv")
    assert answers["class"].tolist() == list(CLASSES) and answers.shape == (4, 5)


def test_other_pages_of_the_run_are_in_the_navigation(tmp_path):
    index = write_report(
        tmp_path / "report", replace(bare(), beside={"Patterns & more": "../patterns/index.html"})
    )
    for path in index.parent.rglob("*.html"):
        root = "../" * (len(path.relative_to(index.parent).parts) - 1)
        assert f"{root}../patterns/index.html" in Page(path).references
        assert "Patterns & more" in Page(path).text


def test_a_refused_map_says_why(tmp_path):
    values = np.ones((40, 40))
    maps = {("interpretable", "occlusion"): values, ("plain", "occlusion"): "no rule for <this> layer"}
    sample = sample_of(torch.zeros(3, 40, 40), "a", "fox", SAYS, maps)
    index = write_report(tmp_path / "report", bare(samples=[sample]))
    assert "no map: no rule for <this> layer" in Page(index.parent / "images/0000/index.html").text


def test_measures_that_are_not_in_the_table_stand_below_it_with_what_chance_gives(pages):
    text = pages["index.html"].text
    for words in (
        "Part interpretability, by chance",
        "Detected parts",
        "Something new",
        "Filters with a gain",
    ):
        assert words in text
    heads = [it for it in pages["index.html"].all("th") if it.get("scope") == "col"]
    assert (
        len(heads) == 1 + 5 + 1 + 5 + 1 + 2 + 1 + 5
    )  # network and five measures; again for more baselines; measure, two networks, difference; the last epoch


def test_familiar_measures_come_first_and_chance_follows_what_it_belongs_to():
    names = ["zebra", "part_interpretability_null", "tracking_gain", "accuracy", "part_interpretability"]
    expected = ["accuracy", "tracking_gain", "part_interpretability", "part_interpretability_null", "zebra"]
    assert in_order(names) == expected
    assert measure("part_interpretability_null").write(0.11) == "11.0\u00a0%"
    assert measure("zebra_null").title == "Zebra, by chance"


def test_both_networks_of_a_row_of_maps_share_one_scale(tmp_path):
    strong, weak = np.zeros((40, 40)), np.zeros((40, 40))
    strong[5:10, 5:10], weak[5:10, 5:10] = 2.0, 1.0
    strong[20, 20] = -1e-9
    maps = {("interpretable", "occlusion"): strong, ("plain", "occlusion"): weak}
    sample = sample_of(torch.zeros(3, 40, 40), "a", "fox", SAYS, maps)
    index = write_report(tmp_path / "report", bare(samples=[sample]))
    bar = ColourBar("green-red", (-2.0, 2.0), "")
    for network, values in (("interpretable", strong), ("plain", weak)):
        expected = veil(np.zeros((40, 40, 3), dtype=np.uint8), values, bar)[7, 7].astype(int)
        with Image.open(index.parent / f"images/0000/{network}-occlusion-overlay.png") as image:
            side = image.width / 40
            colour = np.asarray(image.convert("RGB"))[int(7.5 * side), int(7.5 * side)].astype(int)
        assert np.abs(colour - expected).max() <= 3
    assert "−2" in Page(index).text and "+2" in Page(index).text


def test_the_tables_beside_the_pages_hold_the_same_numbers(folder, contents):
    measures = pd.read_csv(folder / "data/measures.csv")
    row = measures.query("name == 'plain' and measure == 'location_instability'").iloc[0]
    assert row.value == pytest.approx(contents.networks[1].summary["location_instability"].value)
    filters = pd.read_csv(folder / "data/filters-interpretable.csv")
    assert filters.tracking_gain.to_numpy() == pytest.approx(
        contents.networks[0].filters.tracking_gain, nan_ok=True
    )
    nested = json.loads((folder / "data/measures.json").read_text())
    assert nested["baselines"]["oracle"]["location_instability"]["low"] == 0.047
    assert nested["differences"]["interpretable minus plain"]["accuracy"]["p"] == 0.41
    assert nested["networks"]["plain"]["accuracy"]["p"] is None
    again = json.loads((folder / "data/reproduction.json").read_text())
    assert again["versions"]["torch"] == "2.9.0" and again["overrides"][0] == "data=animal_parts"
    boxes = pd.read_csv(folder / "data/exemplars-plain.csv")
    assert (boxes.right > boxes.left).all() and boxes.score.min() > 0


@pytest.mark.slow
def test_the_same_contents_give_the_same_files(folder, contents, tmp_path):
    again = write_report(tmp_path / "report", contents).parent
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((folder / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_the_style_sheet_uses_the_colours_of_the_charts_in_both_themes(folder):
    css = (folder / "assets/style.css").read_text()
    for theme in (figures.LIGHT, figures.DARK):
        for colour in (theme.paper, theme.ink, theme.faint, theme.grid, *theme.series):
            assert colour in css


def bare(*names: str, samples=()) -> Contents:
    """A report without charts or exemplars: two filters per network, ranked by one number."""
    table = pd.DataFrame({"filter": [0, 1], "category": [0, None], "score": [1.0, 2.0]})
    summary = {"accuracy": Number(0.9, n=10)}
    networks = [Network(name, "conv", 10, summary, table) for name in names or ("interpretable", "plain")]
    return Contents("Bare", {}, ["fox"], networks, samples=samples)


# --- weight ------------------------------------------------------------------------------------------------


def many_filters(count: int) -> Network:
    """A network of `count` filters with exemplars of drawn images and random maps, made without a network."""
    generator = torch.Generator().manual_seed(0)
    images = {n: (image * 255).byte() for n, image in enumerate(drawn_images(60, 32))}
    numbers = torch.randint(0, 60, (count, 9), generator=generator)
    maps = torch.rand(count, 9, 6, 6, generator=generator)
    found = Exemplars(
        layer="body.3",
        field=ReceptiveField((5, 5), (11, 11), (3, 3), (6, 6), (32, 32)),
        image_numbers=numbers,
        labels=numbers % 10,
        scores=maps.amax(dim=(2, 3)),
        positions=torch.randint(0, 6, (count, 9, 2), generator=generator),
        maps=maps,
        mean_map=maps.mean(dim=1),
        peak_counts=torch.randint(0, 9, (count, 6, 6), generator=generator),
        mean_image=drawn_images(60, 32).mean(dim=0),
        images=images,
        names={n: f"scan {n}" for n in images},
        images_seen=60,
    )
    values = np.random.default_rng(0).uniform(0.05, 0.15, count)
    measures = {"location_instability": values, "tracking_gain": 1 - values / 0.1}
    table = pd.DataFrame({"filter": range(count), "category": np.arange(count) % 10, **measures})
    return Network("interpretable", "body.3", 9, {"accuracy": Number(0.9)}, table, found)


@pytest.mark.slow
def test_pages_with_512_filters_stay_below_one_megabyte(tmp_path):
    network = many_filters(512)
    index = write_report(
        tmp_path / "report", Contents("Many filters", {}, [str(n) for n in range(10)], [network])
    )
    folder = index.parent
    shared = sum(path.stat().st_size for path in (folder / "assets").iterdir())
    for name in ("index.html", "filters-interpretable.html"):
        page = Page(folder / name)
        eager = [it["src"] for it in page.all("img") if it.get("loading") != "lazy"]
        weight = (folder / name).stat().st_size + shared + sum((folder / src).stat().st_size for src in eager)
        assert weight < 1_000_000
        first_page = {src for it in page.all("img") if (src := it["src"])}
        seen = sorted(first_page)[:24] if "filters" in name else first_page
        assert weight + sum((folder / src).stat().st_size for src in seen) < 1_600_000
    assert max(path.stat().st_size for path in folder.rglob("*.html")) < 600_000


# --- less than everything ----------------------------------------------------------------------------------


def test_a_report_of_one_network_without_exemplars_samples_or_curves_is_still_a_report(tmp_path):
    table = pd.DataFrame({"filter": [0, 1], "location_instability": [nan, nan]})
    network = Network("only", "conv", 10, {"accuracy": Number(nan)}, table)
    index = write_report(tmp_path / "report", Contents("Bare", {}, [], [network]))
    page = Page(index)
    assert "Bare" in page.text and page.all("img") == []
    assert not (index.parent / "images.html").exists()
    assert Page(index.parent / "filters/only/0001.html").all("img") == []


def test_a_map_that_one_network_lacks_is_said_to_be_missing(tmp_path):
    maps = {("interpretable", "occlusion"): np.ones((40, 40))}
    sample = sample_of(torch.zeros(3, 40, 40), "a", "fox", SAYS, maps)
    index = write_report(tmp_path / "report", bare(samples=[sample]))
    assert "no map" in Page(index).text


def test_three_networks_stand_side_by_side(tmp_path):
    index = write_report(tmp_path / "report", bare("interpretable", "plain", "mask only"))
    page = Page(index)
    assert (index.parent / "filters-mask-only.html").is_file()
    assert sum(it.get("class") == "network" for it in page.all("section")) == 3
    assert sum("key k2" in it.get("class", "") for it in page.all("span")) == 2


def test_contents_that_do_not_fit_together_are_refused():
    table = pd.DataFrame({"filter": [0]})
    network = Network("a", "conv", 1, {}, table)
    with pytest.raises(ValueError, match="networks: none given"):
        Contents("t", {}, [], [])
    with pytest.raises(ValueError, match="not distinct"):
        Contents("t", {}, [], [network, network])
    with pytest.raises(ValueError, match="expected one called 'filter'"):
        Contents("t", {}, [], [replace(network, filters=table.rename(columns={"filter": "unit"}))])
    with pytest.raises(ValueError, match="1 rows for 2 filters"):
        Contents("t", {}, [], [replace(network, exemplars=many_filters(2).exemplars)])
    with pytest.raises(ValueError, match="map_colours: 'red'"):
        write_report("nowhere", Contents("t", {}, [], [network]), map_colours="red")


# --- the folder --------------------------------------------------------------------------------------------


def test_a_failure_on_the_way_leaves_the_former_report_and_no_litter(tmp_path, monkeypatch):
    target = tmp_path / "report"
    write_report(target, bare())
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    monkeypatch.setattr(pages_module, "sample_views", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(target, bare("other"))
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_new_report_replaces_the_former_one_whole(tmp_path):
    target = tmp_path / "report"
    write_report(target, bare("a", "b", samples=example_samples(drawn_images(1), 1, ("occlusion",))))
    write_report(target, bare("b"))
    assert not (target / "images.html").exists() and not (target / "filters-a.html").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert target.stat().st_mode & 0o777 == 0o777 & ~_umask()


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds other files"), replaced_folder(tmp_path):
        raise AssertionError("must not get here")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_picture_is_saved_whole_and_a_palette_makes_it_smaller(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    save_png(tmp_path / "deep/true.png", rgb)
    save_png(tmp_path / "small.png", rgb, colours=16)
    with Image.open(tmp_path / "deep/true.png") as image:
        assert (np.asarray(image) == rgb).all()
    assert (tmp_path / "small.png").stat().st_size < (tmp_path / "deep/true.png").stat().st_size / 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "small.png"]


def test_json_never_holds_what_json_does_not_know():
    given = {
        "a": nan,
        1: (np.float32(0.5), np.int64(3)),
        "p": Path("x"),
        "n": None,
        "t": True,
        "i": float("inf"),
    }
    assert plain(given) == {"a": None, "1": [0.5, 3], "p": "x", "n": None, "t": True, "i": None}


# --- words -------------------------------------------------------------------------------------------------


def with_numbers(
    first: dict, second: dict, *, differences: dict | None = None, fixed: float = 0.07
) -> Contents:
    """Two networks of ten filters that have nothing but a summary."""
    gains = [0.2] * 4 + [-0.2] * 5 + [nan]
    table = pd.DataFrame({"filter": range(10), "tracking_gain": gains})
    networks = [
        Network(name, "conv", 1, {key: Number(value, n=200) for key, value in summary.items()}, table)
        for name, summary in (("masked", first), ("plain", second))
    ]
    baselines = {"best_constant": {"location_instability": Number(fixed)}}
    return Contents("t", {}, [], networks, baselines, differences or {})


def sentences(contents: Contents) -> str:
    return " ".join(verdict(contents)).replace("\u00a0", " ")


def test_the_verdict_says_when_the_first_network_is_better():
    given = with_numbers(
        {"accuracy": 0.95, "location_instability": 0.06, "tracking_gain": 0.2},
        {"accuracy": 0.90, "location_instability": 0.12, "tracking_gain": -0.5},
        differences={
            "accuracy": Number(0.05, 0.02, 0.08, p=0.004),
            "location_instability": Number(-0.06, p=0.0001),
            "tracking_gain": Number(0.7, p=0.0001),
        },
    )
    text = sentences(given)
    assert "masked network classifies 95.0 % of 200 validation images correctly, the plain one 90.0 %" in text
    assert "5.0 points more, beyond chance (p = 0.004)" in text
    assert "50 % lower, beyond chance (p < 0.001)" in text
    assert "the best fixed spot scores 0.070, which only the masked network beats" in text
    assert "masked network's filters reach +0.200 on average, the plain one's −0.500" in text
    assert "above 0 lie 4 of 10 and 4 of 10 filters" in text


def test_the_verdict_says_plainly_when_it_is_worse_or_when_chance_may_explain_it():
    given = with_numbers(
        {"accuracy": 0.85, "location_instability": 0.15},
        {"accuracy": 0.90, "location_instability": 0.10},
        differences={"accuracy": Number(-0.05, p=0.2), "location_instability": Number(0.05, 0.01, 0.09)},
    )
    text = sentences(given)
    assert "5.0 points fewer, compatible with chance (p = 0.20)" in text
    assert "50 % higher, beyond chance; " in text
    assert "which neither network beats" in text
    assert len(verdict(given)) == 2


def test_without_a_test_the_verdict_says_so_and_without_numbers_nothing():
    given = with_numbers({"accuracy": 0.9, "tracking_gain": nan}, {"accuracy": 0.8})
    assert "10.0 points more, not tested" in sentences(given)
    assert len(verdict(given)) == 1
    assert verdict(with_numbers({}, {})) == []
    alone = replace(given, networks=given.networks[:1])
    assert sentences(alone) == "The masked network classifies 90.0 % of 200 validation images correctly."
    equal = with_numbers({"accuracy": 0.9}, {"accuracy": 0.9})
    assert "no difference" in sentences(equal)


def test_the_headline_says_in_one_sentence_what_the_numbers_say():
    measured = (
        {"accuracy": 0.95, "part_interpretability": 0.79},
        {"accuracy": 0.96, "part_interpretability": 0.5},
    )
    beyond = with_numbers(
        *measured,
        differences={
            "accuracy": Number(-0.004, -0.009, 0.002, p=0.4),
            "part_interpretability": Number(0.29, p=0.001),
        },
    )
    assert headline(beyond).replace("\u00a0", " ") == (
        "The masked network is as accurate as the plain one (95.0 % and 96.0 %); the region of a filter matches one "
        "and the same part in 79.0 % of the images, for the plain one in 50.0 %."
    )
    chance = with_numbers(
        *measured,
        differences={"accuracy": Number(-0.01, p=0.01), "part_interpretability": Number(0.29, -0.1, 0.6)},
    )
    assert "is 1.0 points less accurate than" in headline(chance)
    assert headline(chance).endswith("a difference that chance may explain.")
    shifted = with_numbers({"translation_gain": 0.4}, {"translation_gain": -0.1})
    assert headline(shifted).startswith("Its filters follow shifted content with a gain of +0.400")
    assert (
        "those of the plain one with −0.100, not tested." in headline(shifted)
        and headline(with_numbers({}, {})) == ""
    )


def test_the_headline_calls_networks_equally_accurate_only_where_the_images_can_tell():
    answers = {"accuracy": 0.833}, {"accuracy": 0.9}

    def said(*interval: float, p: float) -> str:
        text = headline(with_numbers(*answers, differences={"accuracy": Number(*interval, n=30, p=p)}))
        return text.replace("\u00a0", " ")

    few = said(-0.067, -0.22, 0.09, p=0.6)
    assert few == (
        "The masked network is right on 83.3 % of 30 images, the plain one on 90.0 %: too few to tell which is more "
        "accurate (difference 6.7 points less, 95 % interval −22.0 to +9.0)."
    )
    assert "as accurate as" in said(-0.002, -0.01, 0.01, p=0.7)
    assert "as accurate as" not in said(-0.002, -0.011, 0.01, p=0.7)
    assert "30 images, the plain one on the same ones" in said(0.0, 0.0, 0.0, p=1.0)
    assert "the plain one on 90.0 %: not tested" in said(-0.067, p=nan)


def test_who_tracks_a_part_is_left_out_where_no_image_says_where_parts_are():
    given = with_numbers({"accuracy": 0.9}, {"accuracy": 0.9})
    table = pd.DataFrame({"filter": [0, 1], "part": [None, None], "tracks": [False, False]})
    unknown = replace(given, networks=[replace(it, filters=table) for it in given.networks])
    assert parts_tracked(unknown) == []
    known = replace(
        unknown, networks=[replace(it, filters=table.assign(part="head")) for it in given.networks]
    )
    assert [words for _, _, words in parts_tracked(known)] == ["none (of 2 filters)"] * 2


def test_measures_that_no_network_knows_are_left_out_and_it_is_said_why(tmp_path):
    unknown = {"location_instability": nan, "tracking_gain": nan, "instability_minimum": nan}
    given = with_numbers({"accuracy": 0.9, **unknown}, {"accuracy": 0.8, **unknown})
    table = measure_table(given)
    assert table is not None and [it.name for it in table.measures] == ["accuracy"]
    assert more_measures(given) == []
    said = "no image says where parts are"
    assert said in write_report(tmp_path / "without", given).read_text("utf-8")
    located = with_numbers({"accuracy": 0.9, "location_instability": 0.1}, {"accuracy": 0.9, **unknown})
    assert said not in write_report(tmp_path / "with", located).read_text("utf-8")


def test_a_tile_is_good_or_bad_only_beyond_chance_and_in_the_direction_of_its_measure():
    given = with_numbers(
        {"accuracy": 0.95, "location_instability": 0.06, "tracking_gain": -0.2},
        {"accuracy": 0.96, "location_instability": 0.10, "tracking_gain": 0.1},
        differences={
            "accuracy": Number(-0.01, p=0.4),
            "location_instability": Number(-0.04, p=0.001),
            "tracking_gain": Number(-0.3, p=0.001),
        },
    )
    found = {it.measure.name: (it.outcome, it.says) for it in tiles(given)}
    assert found == {
        "accuracy": ("open", "no difference beyond chance"),
        "location_instability": ("good", "▼ better (lower)"),
        "tracking_gain": ("bad", "▼ worse (lower)"),
    }
    alone = tiles(replace(given, networks=given.networks[:1], differences={}))
    assert [(len(it.values), it.says) for it in alone] == [(1, "")] * 3
    leads = ahead(given)
    assert [(it.name, [how.name for how in it.measures], it.compared) for it in leads] == [
        ("masked", ["location_instability"], 3),
        ("plain", ["tracking_gain"], 3),
    ]
    masked, plain = (network.summary["location_instability"].value for network in given.networks[:2])
    write = measure("location_instability").write
    assert leads[0].figures == [f"location instability: masked {write(masked)}, plain {write(plain)}"]
    assert ahead(replace(given, networks=given.networks[:1])) == ahead(replace(given, differences={})) == []


def test_parts_are_named_in_the_headline_where_they_are_few():
    given = example_contents(filters=3, samples=1)
    said = {
        parts: headline(replace(given, facts={**given.facts, "parts": parts}))
        for parts in ("none", "{head}, {0}, tail", "a, b, c, d, e")
    }
    assert "one and the same part ({head}, {0} or tail) in" in said["{head}, {0}, tail"]
    assert said["none"] == said["a, b, c, d, e"]


def test_how_right_a_few_filters_are_is_said_where_both_networks_were_asked():
    def reading(network, kept):
        return SimpleNamespace(few=SimpleNamespace(network=network, kept=kept))

    given = example_contents(filters=3, samples=1)
    names = [network.name for network in given.networks[:2]]
    both = [
        reading(names[0], [(1, 0.1), (8, 0.189), (16, 0.5), (128, 0.99)]),
        reading(names[1], [(1, 0.25), (4, 0.5), (8, 0.783), (128, 0.98)]),
    ]
    assert few_filters(replace(given, readings=both)) == (
        f"With each class's strongest 8 filters alone the {names[0]} network is right on 18.9\u00a0% of the images, "
        f"the {names[1]} network is right on 78.3\u00a0%."
    )
    assert few_filters(replace(given, readings=both[:1])) == few_filters(given) == ""


def test_a_tile_says_what_its_numbers_are_measured_in_and_what_no_network_is_needed_for():
    given = with_numbers(
        {"accuracy": 0.95, "location_instability": 0.06, "tracking_gain": 0.2}, {"accuracy": 0.9}
    )
    baselines = {
        "random_cell": {"location_instability": Number(0.1)},
        "oracle": {"location_instability": Number(0.02), "tracking_gain": Number(0.7)},
        "best_constant": {"location_instability": Number(0.05)},
    }
    scales = {it.measure.name: it.scale for it in tiles(replace(given, baselines=baselines))}
    assert scales == {
        "accuracy": "",
        "location_instability": "of the image diagonal; best fixed spot 0.050, oracle 0.020",
        "tracking_gain": "oracle +0.700",
    }


def test_filters_with_the_same_number_share_their_ranks():
    given = example_contents(filters=4, samples=0).networks[0]
    given = replace(
        given, exemplars=None, filters=given.filters.assign(tracking_gain=[0.5, 0.2, 0.5, np.nan])
    )
    view = network_view(given, place=0, slug="x", classes=CLASSES, album=None)
    ranks = [next(row.rank for row in it.rows if row.title == "Tracking gain") for it in view.filters]
    assert ranks == ["1 to 2 of 3", "3 of 3", "1 to 2 of 3", "–"]


def test_a_card_names_the_part_that_the_region_matches_before_the_one_that_is_tracked():
    given = example_contents(filters=4, samples=0).networks[0]
    filters = given.filters.assign(category=CLASSES[0], part="tail", tracks=[True, True, False, False])
    filters["region_part"] = ["head", None, "head", None]
    view = network_view(
        replace(given, filters=filters, exemplars=None), place=0, slug="x", classes=CLASSES, album=None
    )
    assert [it.label.partition(": ")[2] for it in view.filters] == ["head", "tail", "head", ""]


def test_the_first_picture_shows_filters_from_the_middle_that_know_one_class(contents):
    middle = middle_filters(contents.networks)
    for network, row in zip(contents.networks, middle.rows, strict=True):
        labels = network.exemplars.labels[row].tolist()
        counts = [labels.count(value) for value in range(len(CLASSES))]
        assert counts[middle.category] == max(counts)
    first = contents.networks[0]
    shares, firing = first.filters[middle.ranking].to_numpy(), ~first.exemplars.silent.numpy()
    standing = middle.standings[0]
    assert standing.value == shares[middle.rows[0]] and standing.count == (firing & ~np.isnan(shares)).sum()
    assert (shares[firing] > standing.value).sum() < standing.rank <= (shares[firing] >= standing.value).sum()
    assert middle_filters(contents.networks[:1]) is None


def test_the_first_picture_says_for_each_image_whether_the_region_matches_the_part(pages, contents):
    text = pages["index.html"].text
    classes = [it.get("class") for it in pages["index.html"].all("figure")]
    overlaps = [overlap for look in contents.pair.on_parts.values() for overlap in look.overlaps]
    hits = [None if overlap is None else overlap > 0.2 for overlap in overlaps]
    for word, value in (("hit", True), ("miss", False), ("none", None)):
        assert classes.count(word) == hits.count(value) > 0
    assert "matches the head in 3 of these 5" in text and "matches the head in 2 of these 4" in text
    assert text.count("\u2713 overlap 0.60") == 2 and text.count("\u2717 overlap 0.20") == 2


def test_with_the_names_of_classes_only_filters_are_shown_that_show_the_class_they_were_judged_on(contents):
    middle = middle_filters(contents.networks, CLASSES)
    for network, row in zip(contents.networks, middle.rows, strict=True):
        assert network.filters.category[row] == CLASSES[middle.category]
    elsewhere = [replace(it, filters=it.filters.assign(category="nowhere")) for it in contents.networks]
    assert middle_filters(elsewhere, CLASSES) is None


def test_a_region_and_a_part_are_outlined_and_what_lies_inside_keeps_its_colours():
    image = np.random.default_rng(0).integers(0, 200, (40, 40, 3)).astype(np.uint8)
    region, part = np.zeros((2, 40, 40), dtype=bool)
    region[10:20, 10:20] = part[5:30, 25:35] = True
    shown = figures.region_and_part(image, region, part)
    assert (shown[12:18, 12:18] == image[12:18, 12:18]).all()
    assert (shown[10, 10:20] == (255, 214, 10)).all() and (shown[5, 25:35] == (86, 180, 233)).all()
    grey = shown[8:28, 28:32].astype(float)
    assert (grey[..., 0] == grey[..., 1]).all()


def test_the_filter_nearest_to_the_middle_of_those_that_can_be_compared_is_shown(contents):
    """Classes that only one network's filters show are passed over; places count from the middle of all filters."""

    def network(shown, shares):
        exemplars = contents.networks[0].exemplars
        labels = torch.tensor(shown)[:, None].expand(-1, exemplars.labels.shape[1])
        silent = torch.zeros(len(shown), dtype=torch.bool)
        rows = {"labels": labels, "image_numbers": labels * 0 + 1, "scores": torch.ones(labels.shape)}
        filters = pd.DataFrame({"filter": range(len(shown)), "part_interpretability": shares})
        seen = SimpleNamespace(silent=silent, **rows)
        return SimpleNamespace(exemplars=seen, filters=filters, name="x")

    first = network([0, 1, 2, 2, 2], [0.9, 0.8, 0.7, 0.6, 0.5])
    second = network([0, 1, 1, 1, 0], [0.1, 0.5, 0.4, 0.3, 0.2])
    middle = middle_filters([first, second])
    assert middle.ranking == "part_interpretability"  # what the headline says
    assert (middle.category, middle.rows) == (1, (1, 3))  # 2 is nearer, but no filter of the second shows it
    # class 0 lies two places from the middle in both, class 1 one place in the first and none in the second
    assert [(it.value, it.rank, it.count) for it in middle.standings] == [(0.8, 2, 5), (0.3, 3, 5)]


def test_a_place_is_lit_where_the_map_is_high_and_keeps_its_colours():
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    values = np.zeros((40, 40), dtype=np.float32)
    values[10:20, 10:20] = 1.0
    shown = figures.lit(image, values, highest=1.0)
    assert (shown[13:17, 13:17] == image[13:17, 13:17]).all()
    outside = shown[25:, 25:].astype(float)
    assert (outside[..., 0] == outside[..., 1]).all()
    grey = image[25:, 25:] @ np.array([0.299, 0.587, 0.114])
    assert outside[..., 0].std() >= 0.7 * grey.std()
    assert (
        figures.lit(image, values * 0, highest=0.0)[..., 0] == figures.lit(image, values, highest=9.0)[..., 0]
    ).all()


def test_the_best_filters_are_the_best_by_the_measure_whatever_its_direction(folder, contents):
    from interp_cnn.report.album import Album

    network = contents.networks[0]
    view = network_view(network, place=0, slug="x", classes=CLASSES, album=Album(folder / ".." / "album"))
    name, groups = choices(view)
    gains = network.filters.tracking_gain
    assert name == "tracking_gain"
    assert [words for words, _ in groups] == ["Best", "In the middle", "Worst"]
    assert [it.number for it in groups[0][1]] == gains.sort_values(ascending=False).index[:3].tolist()
    assert groups[2][1][-1].number == gains.idxmin()
    without = replace(network, filters=network.filters.drop(columns="tracking_gain"), exemplars=None)
    name, groups = choices(network_view(without, place=0, slug="x", classes=CLASSES, album=Album(folder)))
    assert name == "location_instability"
    assert groups[0][1][0].number == network.filters.location_instability.idxmin()


def test_numbers_are_written_as_people_read_them():
    assert [number(it) for it in (0.0834, -0.0004, 12.345, 12345.6, -3.0)] == [
        "0.083",
        "0.000",
        "12.3",
        "12,346",
        "−3.000",
    ]
    assert [signed(it, 3) for it in (0.05, -0.05, 0.0001)] == ["+0.050", "−0.050", "0.000"]
    assert measure("accuracy").write(0.9724) == "97.2\u00a0%"
    assert measure("accuracy").write_difference(-0.0061) == "−0.6\u00a0points"
    assert measure("tracking_gain").write(0.05) == "+0.050"
    assert measure("accuracy").write(nan) == measure("accuracy").write(None) == "–"
    assert measure("accuracy").write_interval(Number(0.9, 0.88, 0.92)) == "88.0 to 92.0"
    assert measure("strange_one") == Measure("strange_one", "Strange one")
    assert [p_value(Number(0.0, p=it)).replace("\u00a0", " ") for it in (0.0004, 0.0123, 0.41, nan)] == [
        "p < 0.001",
        "p = 0.012",
        "p = 0.41",
        "",
    ]
    assert [duration(it) for it in (0.84, 73.4, 725, 7800)] == ["0.8 s", "73 s", "12 min 5 s", "2 h 10 min"]


def test_categories_are_named_from_names_and_numbers():
    assert class_name("fox", CLASSES) == "fox"
    assert class_name(1, CLASSES) == class_name(np.int64(1), CLASSES) == class_name(1.0, CLASSES) == "horse"
    assert class_name(None, CLASSES) == class_name(nan, CLASSES) == class_name(-1, CLASSES) == ""
    assert class_name(9, CLASSES) == "class 9"


def test_network_names_become_distinct_file_names():
    assert distinct_slugs(["Plain!", "plain", "../../etc", "日本"]) == ["plain", "plain-2", "etc", "network"]


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask
