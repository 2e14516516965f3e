"""The live page in a real browser, opened by the user's command: paint, filters switched off, another image."""

import signal
import subprocess
import sys

import pytest
from chromium import chromium

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PATIENCE = 90


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of `interp-cnn play`; Ctrl-C ends it, and nothing is left behind."""
    folder = tmp_path_factory.mktemp("play")
    command = [sys.executable, "-m", "interp_cnn", "play", "port=0", "limit=12"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield next(word for word in process.stdout.readline().split() if word.startswith("http"))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        assert "looking at filters: 2/2, plain" in process.stderr.read()
    assert not any(folder.iterdir())


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    flags, logs = "--disable-gpu --window-size=1280,1100", {"browser": "ALL"}
    with chromium(tmp_path_factory.mktemp("profile"), flags, logs=logs) as driver:
        yield driver


@pytest.fixture
def page(browser, address):
    """The page, asked and answered once; afterwards nothing was said in the console."""
    browser.get(address)
    until(browser, "return document.body.dataset.ready === 'yes'")
    settled(browser)
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def until(browser, script):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, PATIENCE).until(lambda driver: driver.execute_script(script))


def settled(browser):
    """Until the newest answer has its occlusion map, too."""
    until(
        browser,
        "return document.body.dataset.hidden && document.body.dataset.hidden === document.body.dataset.answered",
    )


def click(browser, id):
    answered = browser.execute_script("return document.body.dataset.answered")
    browser.find_element("id", id).click()
    until(browser, f"return document.body.dataset.answered !== '{answered}'")
    settled(browser)


def text(browser, id):
    return browser.find_element("id", id).text


def test_the_page_says_what_both_networks_say_and_why(page):
    verdict = text(page, "verdict")
    assert verdict.count("says class") == 2 and "no longer" not in verdict
    assert len(page.find_elements("css selector", ".network")) == 2
    assert len(page.find_elements("css selector", "#shelf img")) == 12
    rows = page.find_elements("css selector", "#rows tr")
    assert len(rows) > 6 and rows[-1].text.startswith("logit")
    shown = [float(row.text.split()[-1].replace("\u2212", "-")) for row in rows]
    assert sum(shown[:-1]) == pytest.approx(shown[-1], abs=0.05)
    assert page.execute_script("return document.getElementById('hiding').naturalWidth") > 100
    for width in (1280, 400):
        page.set_window_size(width, 1100)
        fits = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert page.execute_script(fits)


def test_a_filter_that_is_switched_off_takes_its_share_from_the_logit(page):
    logit = "return parseFloat(document.querySelector('#rows .total td:last-child').textContent.replace('\u2212', '-'))"
    before = page.execute_script(logit)
    share = page.execute_script(
        "return parseFloat(document.querySelector('#rows tr td:last-child').textContent.replace('\u2212', '-'))"
    )
    click(page, "strongest")
    assert page.execute_script(logit) == pytest.approx(before - share, abs=0.03)
    assert len(page.find_elements("css selector", "#rows tr.off")) == 1
    click(page, "all-on")
    assert page.execute_script(logit) == pytest.approx(before, abs=0.001)
    assert not page.find_elements("css selector", "#rows tr.off")


def test_paint_changes_what_is_said_and_can_be_taken_back(page):
    from selenium.webdriver import ActionChains

    before = text(page, "networks")
    canvas = page.find_element("id", "paint")
    size = canvas.size
    hand = ActionChains(page).move_to_element_with_offset(canvas, -size["width"] // 4, -size["height"] // 4)
    hand.click_and_hold().move_by_offset(size["width"] // 2, size["height"] // 2).release().perform()
    until(
        page, "return !document.getElementById('undo').disabled && !document.getElementById('clear').disabled"
    )
    settled(page)
    assert text(page, "networks") != before
    click(page, "undo")
    assert text(page, "networks") == before
    click(page, "most")
    assert text(page, "networks") != before
    click(page, "clear")
    assert text(page, "networks") == before


def test_another_image_another_class_another_network(page):
    first = text(page, "verdict")
    answered = page.execute_script("return document.body.dataset.answered")
    page.find_elements("css selector", "#shelf button")[3].click()
    until(page, f"return document.body.dataset.answered !== '{answered}'")
    settled(page)
    assert text(page, "verdict") != first
    page.find_elements("css selector", ".network")[1].find_element("tag name", "button").click()
    until(page, "return document.getElementById('why').textContent.endsWith('plain')")
    page.find_elements("css selector", ".network")[1].find_elements("css selector", ".class")[2].click()
    until(
        page,
        "return document.querySelectorAll('.network')[1].querySelectorAll('.class')[2].ariaPressed === 'true'",
    )
    settled(page)


def test_an_image_of_the_visitors_and_a_file_that_is_none(page, tmp_path):
    from PIL import Image

    Image.new("RGB", (90, 60), "white").save(tmp_path / "blank.png")
    (tmp_path / "notes.png").write_text("words")
    page.find_element("id", "file").send_keys(str(tmp_path / "blank.png"))
    until(page, "return document.querySelector('#shelf [data-name=\"blank.png\"]')?.ariaPressed === 'true'")
    settled(page)
    page.find_element("id", "file").send_keys(str(tmp_path / "notes.png"))
    until(page, "return document.getElementById('trouble').textContent.includes('notes.png: not an image')")
    page.get_log("browser")  # the browser notes the refusal itself
