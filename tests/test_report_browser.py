"""The report in a real browser, opened from disk: sorting, filtering, keys, themes, and nothing in the
console.
"""

import pytest
from chromium import chromium
from report_example import CLASSES, example_contents

from interp_cnn.report import write_report

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def contents():
    return example_contents(filters=12, samples=3)


@pytest.fixture(scope="module")
def report(contents, tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("browser") / "report", contents).parent


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    flags, logs = "--disable-gpu --window-size=1280,900", {"browser": "ALL", "performance": "ALL"}
    with chromium(tmp_path_factory.mktemp("profile"), flags, logs=logs) as driver:
        yield driver


@pytest.fixture
def show(browser, report):
    """Opens a page, whole; afterwards nothing was said in the console."""
    from selenium.webdriver.support.ui import WebDriverWait

    def opened(place: str):
        file, _, fragment = place.partition("#")
        address = (report / file).as_uri()
        browser.get(f"{address}#{fragment}" if fragment else address)
        there = "return document.readyState === 'complete' && location.href.split('#')[0] === arguments[0];"
        WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(there, address))
        return browser

    yield opened
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def choose(browser, name: str, value: str) -> None:
    """Sets a field of the grid's form as a person would, with the event that follows."""
    browser.execute_script(
        "const field = document.querySelector('[data-tools]').elements[arguments[0]];"
        "if (field.type === 'checkbox') field.checked = arguments[1] === '1'; else field.value = arguments[1];"
        "field.dispatchEvent(new Event('input', {bubbles: true}));",
        name,
        value,
    )


def shown(browser) -> list[int]:
    """Numbers of the cards that can be seen, in their order."""
    return browser.execute_script(
        "const cards = [...document.querySelectorAll('[data-grid] > li')];"
        "return cards.filter(card => card.offsetParent).map(card => Number(card.dataset.n));"
    )


def test_every_page_opens_with_all_its_pictures_and_without_a_word_in_the_console(show, report):
    for place in (
        "index.html",
        "filters-plain.html",
        "filters/plain/0003.html",
        "images.html",
        "images/0001/index.html",
        "classes.html",
        "classes/0001.html",
    ):
        browser = show(place)
        broken = browser.execute_async_script(
            "const done = arguments[0]; const images = [...document.images].filter(i => i.offsetParent);"
            "images.forEach(i => { i.loading = 'eager'; });"
            "const failed = images.map(i => i.decode().then(() => null, () => i.src));"
            "Promise.all(failed).then(all => done(all.filter(Boolean)));"
        )
        assert broken == [], place
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), place


def test_nothing_but_files_is_asked_for(show, browser):
    browser.get_log("performance")
    show("index.html")
    events = " ".join(entry["message"] for entry in browser.get_log("performance"))
    assert '"url":"file://' in events
    assert '"url":"http' not in events


def test_filters_are_sorted_by_a_measure_the_better_ones_first_and_the_unknown_last(show, contents):
    browser = show("filters-interpretable.html")
    gains = contents.networks[0].filters.tracking_gain
    known = gains.dropna().sort_values(ascending=False).index.tolist()
    assert shown(browser) == [*known, 0, 11], "the better ones first, unasked"
    choose(browser, "sort", "-1")
    assert shown(browser) == list(range(12))
    choose(browser, "sort", "1")
    assert shown(browser) == [*known, 0, 11]
    choose(browser, "order", "1")
    assert shown(browser) == [*known[::-1], 0, 11]


def test_filters_are_found_by_value_category_part_number_and_by_firing_at_all(show, contents):
    browser = show("filters-interpretable.html")
    unasked = shown(browser)
    choose(browser, "sort", "-1")
    table = contents.networks[0].filters
    choose(browser, "silent", "1")
    assert shown(browser) == list(range(1, 11))
    choose(browser, "category", CLASSES[2])
    assert shown(browser) == table.index[table.category == CLASSES[2]].tolist()
    assert browser.find_element("css selector", "[data-shown]").text == "3 of 12 filters"
    choose(browser, "category", "")
    choose(browser, "part", "head")
    assert shown(browser) == table.index[table.tracks & (table.part == "head")].tolist()
    choose(browser, "part", "")
    choose(browser, "sort", "1")
    choose(browser, "low", "0.1")
    gains = table.tracking_gain
    assert shown(browser) == gains[gains >= 0.1].sort_values(ascending=False).index.tolist()
    choose(browser, "low", "")
    choose(browser, "unit", "7")
    assert shown(browser) == [7]
    choose(browser, "unit", "99")
    assert shown(browser) == []
    browser.find_element("css selector", "[data-reset]").click()
    assert browser.execute_async_script("setTimeout(arguments[0], 50)") is None
    assert shown(browser) == unasked


def test_a_choice_is_kept_in_the_address_and_comes_back_with_it(show, browser):
    show("filters-interpretable.html")
    choose(browser, "category", "fox")
    choose(browser, "sort", "0")
    fragment = browser.current_url.partition("#")[2]
    first = shown(browser)
    show("index.html")
    show(f"filters-interpretable.html#{fragment}")
    assert shown(browser) == first and len(first) == 2


def test_the_category_of_a_filter_leads_to_all_filters_of_that_category(show, browser, contents):
    show("filters/interpretable/0003.html").find_element("partial link text", "All filters of").click()
    categories = contents.networks[0].filters.category
    assert shown(browser) == categories.index[categories == categories[3]].tolist()


def test_arrow_keys_walk_through_filters_and_typing_does_not(show, browser):
    from selenium.webdriver.common.keys import Keys

    show("filters/plain/0003.html")
    browser.find_element("tag name", "body").send_keys(Keys.ARROW_RIGHT)
    assert browser.current_url.endswith("filters/plain/0004.html")
    browser.find_element("tag name", "body").send_keys(Keys.ARROW_LEFT)
    browser.find_element("tag name", "body").send_keys(Keys.ARROW_LEFT)
    assert browser.current_url.endswith("filters/plain/0002.html")


def test_the_theme_follows_the_system_until_someone_chooses_and_stays_chosen(show, browser):
    def ground() -> str:
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    def charts() -> list[str]:
        script = "return [...document.querySelectorAll('.chart img')].filter(i => i.offsetParent).map(i => i.className)"
        return browser.execute_script(script)

    for system, other in (("light", "dark"), ("dark", "light")):
        media = {"features": [{"name": "prefers-color-scheme", "value": system}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        show("index.html")
        browser.execute_script("localStorage.clear()")
        show("index.html")
        before = ground()
        assert set(charts()) == {f"on-{system}"}
        browser.find_element("css selector", "[data-theme-toggle]").click()
        assert ground() != before and set(charts()) == {f"on-{other}"}
        show("images.html")
        assert ground() != before
        browser.execute_script("localStorage.clear()")


def test_maps_are_shown_on_one_scale_or_each_on_its_own(show, browser):
    def shown() -> tuple[int, int]:
        script = "return [...document.querySelectorAll(arguments[0])].filter(it => it.offsetParent).length"
        return tuple(browser.execute_script(script, name) for name in (".on-shared", ".on-own img"))

    show("index.html")
    common, own = shown()
    assert common > 0 and own == 0
    button = browser.find_element("css selector", "[data-scales] button")
    button.click()
    assert shown() == (0, common) and button.get_attribute("aria-pressed") == "true"
    button.click()
    assert shown() == (common, 0)


def test_everything_is_reached_with_the_tab_key(show, browser):
    from selenium.webdriver.common.keys import Keys

    show("filters-interpretable.html")
    seen = []
    for _ in range(22):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        seen.append(
            browser.execute_script(
                "const e = document.activeElement; return e.name || e.className || e.textContent"
            )
        )
    for name in (
        "skip",
        "Overview",
        "theme",
        "sort",
        "order",
        "low",
        "high",
        "category",
        "part",
        "unit",
        "silent",
        "card",
    ):
        assert name in seen


def test_a_telephone_shows_every_page_without_scrolling_sideways(show, browser):
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for place in (
            "index.html",
            "filters-plain.html",
            "filters/plain/0003.html",
            "images.html",
            "images/0001/index.html",
            "classes.html",
            "classes/0001.html",
        ):
            show(place)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, place
            cut = browser.execute_script(
                "const seen = [...document.querySelectorAll('.chart img, .shares img, .measures .value')];"
                "const ends = tag => tag.getBoundingClientRect();"
                "const outside = tag => tag.offsetParent && (ends(tag).right > 391 || ends(tag).left < -1);"
                "return seen.filter(outside).map(tag => tag.outerHTML);"
            )
            assert cut == [], place
            squashed = browser.execute_script(
                "const pictures = [...document.images].filter(it => it.offsetParent && it.naturalWidth);"
                "const ratio = it => it.width / it.height / (it.naturalWidth / it.naturalHeight);"
                "return pictures.filter(it => Math.abs(ratio(it) - 1) > 0.1).map(it => it.src);"
            )
            assert squashed == [], place
        show("index.html")
        said = "return getComputedStyle(document.querySelector('.measures td'), '::before').content;"
        assert browser.execute_script(said) == '"Accuracy"'
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_label_that_fits_on_a_card_is_not_cut_by_what_its_images_show(show, browser):
    for place in ("index.html", "filters-interpretable.html", "filters-plain.html"):
        show(place)
        assert browser.execute_script("return document.querySelectorAll('.card small').length") > 0, place
        cut = browser.execute_script(
            "const fits = tag => tag.scrollWidth + 50 < tag.parentElement.clientWidth;"
            "const cut = tag => tag.scrollWidth > tag.clientWidth;"
            "const tags = [...document.querySelectorAll('.card .tag')];"
            "return tags.filter(tag => fits(tag) && cut(tag)).map(tag => tag.textContent);"
        )
        assert cut == [], place
