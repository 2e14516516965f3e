"""TensorBoard in a real browser, opened by the user's command: both kinds of network on every dashboard."""

import json
import signal
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest
from chromium import chromium
from test_dashboard import board_of

pytestmark = [pytest.mark.browser, pytest.mark.slow]
# The projector draws with WebGL, which a headless browser does in software.
FLAGS = "--enable-unsafe-swiftshader --window-size=1500,1100"
PATIENCE = 60  # seconds until a dashboard must show what is looked for
RUNS = ("interpretable", "plain")
FILTERS = 8  # of the top layer of test_training's network
SEEN = """
const words = [], pictures = [];
const walk = node => {
  if (['STYLE', 'SCRIPT', 'NOSCRIPT'].includes(node.tagName)) return;
  if (node.nodeType === 3) words.push(node.textContent);
  if (node.tagName === 'IMG' && node.naturalWidth > 0 && node.offsetParent) pictures.push(node.src);
  if (node.shadowRoot) walk(node.shadowRoot);
  if (node.tagName === 'IFRAME' && node.contentDocument?.body) walk(node.contentDocument.body);
  for (const child of node.childNodes) walk(child);
};
walk(document.body);
return [words.join(' ').replace(/\\s+/g, ' '), pictures];
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of `interp-cnn board` on a short training of each kind; Ctrl-C ends it without a word."""
    folder = tmp_path_factory.mktemp("runs")
    for run in RUNS:
        board_of(folder / run, enabled=run == "interpretable")
    command = [sys.executable, "-m", "interp_cnn", "board", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as board:
        yield next(word for word in board.stdout.readline().split() if word.startswith("http"))
        board.send_signal(signal.SIGINT)
        assert board.wait(PATIENCE) == 0 and board.stderr.read() == ""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile"), FLAGS, logs={"browser": "SEVERE"}) as driver:
        driver.set_script_timeout(PATIENCE)
        yield driver


def data_of(address: str, route: str) -> bytes:
    with urlopen(f"{address}data/plugin/{route}", timeout=PATIENCE) as answer:
        return answer.read()


@pytest.mark.filterwarnings("ignore:The .srun. command", "ignore:.*does not have many workers.*")
@pytest.mark.parametrize(
    ("dashboard", "expected", "drawn"),
    [
        ("timeseries", ("confusion", "train", "val"), 2),
        (
            "scalars&tagFilter=accuracy",
            ("tag: train/accuracy", "tag: val/accuracy", "tag: whole_run/accuracy"),
            0,
        ),
        ("custom_scalars", ("val/accuracy (interpretable)", "val/accuracy (plain)"), 0),
        ("images&tagFilter=masks|maps", ("tag: masks/conv5", "tag: maps/occlusion"), 4),
        ("images&tagFilter=confusion|exemplars", ("tag: confusion", "tag: exemplars/conv5"), 4),
        ("distributions", ("filters/mutual_information", "filters/spatial_entropy"), 0),
        ("pr_curves", ("class/0", "class/9"), 0),
        ("text", ("interpretable", "plain", "network, layers conv5"), 0),
        ("hparams", ("learning_rate", "kind", "whole_run/location_instability", "Trial ID", "0.25000"), 0),
        ("projector", ("2 runs found", "filters_conv5", f"Points: {FILTERS}", "category"), 0),
    ],
)
def test_a_dashboard_shows_both_runs(address, browser, dashboard, expected, drawn):
    browser.get("about:blank")
    browser.get(f"{address}#{dashboard}")
    until = time.monotonic() + PATIENCE
    missing, pictures = list(expected), []
    while (missing or len(pictures) < drawn) and time.monotonic() < until:
        time.sleep(0.5)
        words, pictures = browser.execute_script(SEEN)
        missing = [word for word in (*RUNS, *expected) if word not in words]
    assert not missing, f"{dashboard} lacks {missing}; it says: {words[:1500]}"
    assert len(pictures) >= drawn
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_both_runs_have_curves_of_the_same_name_so_that_they_overlay(address, browser):
    tags = json.loads(data_of(address, "scalars/tags"))
    names = [set(tags[run]) for run in RUNS]
    assert {"train/accuracy", "val/accuracy", "train/task_loss", "val/mutual_information"} <= names[
        0
    ] & names[1]
    for run in RUNS:
        curve = json.loads(data_of(address, f"scalars/scalars?run={run}&tag=train/task_loss"))
        assert len(curve) >= 1


@pytest.mark.parametrize("run", RUNS)
def test_the_projector_gets_a_point_a_name_and_a_picture_for_every_filter(address, run):
    (layer,) = json.loads(data_of(address, f"projector/info?run={run}"))["embeddings"]
    place = f"run={run}&name={layer['tensorName']}"
    assert layer["tensorShape"] == [FILTERS, 10]
    assert len(data_of(address, f"projector/tensor?{place}")) == FILTERS * 10 * 4
    table = data_of(address, f"projector/metadata?{place}").decode().splitlines()
    assert table[0] == "filter\tcategory" and len(table) == FILTERS + 1
    assert data_of(address, f"projector/sprite_image?{place}").startswith(b"\x89PNG")
