"""The naming test in a real browser, from disk: answered by clicks and keys, and by who knows the key."""

import base64
import json

import pytest
from chromium import chromium
from test_naming import page, planted  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    flags, logs = "--disable-gpu --window-size=1280,900", {"browser": "ALL"}
    with chromium(tmp_path_factory.mktemp("profile"), flags, logs=logs) as driver:
        yield driver


@pytest.fixture
def opened(browser, page):  # noqa: F811
    browser.get(page.as_uri())
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def state(browser):
    return browser.find_element("id", "naming").get_attribute("data-state")


def test_who_knows_the_key_is_right_every_time(opened):
    key = json.loads(base64.b64decode(opened.find_element("id", "key").get_attribute("textContent")))
    opened.find_element("id", "begin").click()
    for number, it in enumerate(key, 1):
        assert opened.find_element("id", "progress").text == f"Question {number} of 6"
        assert opened.execute_script("return document.getElementById('shown').decode().then(() => true)")
        opened.find_elements("css selector", "#candidates button")[it["answer"]].click()
    assert state(opened) == "result"
    assert "interpretable: 4 of 4; <plain>: 2 of 2" in opened.find_element("id", "verdict").text
    saved = opened.execute_script("return [...document.querySelectorAll('#list li')].map(it => it.className)")
    assert saved == ["right"] * 6


def test_keys_answer_and_zero_is_no_answer(opened):
    from selenium.webdriver.common.keys import Keys

    opened.find_element("id", "begin").click()
    body = opened.find_element("tag name", "body")
    for letter in ("x", Keys.ENTER, *"000000"):
        body.send_keys(letter)
    assert state(opened) == "result"
    assert "interpretable: 0 of 4" in opened.find_element("id", "verdict").text
    assert opened.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    opened.find_element("id", "again").click()
    assert state(opened) == "question"
