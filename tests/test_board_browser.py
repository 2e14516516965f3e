"""TensorBoard in a real browser: both kinds of network, with scalars, images, hparams and projector."""

import shutil
import time

import pytest
from test_dashboard import board_of

from interp_cnn.board import serve

pytestmark = [pytest.mark.browser, pytest.mark.slow]
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("chromium and chromium-driver are not installed", allow_module_level=True)

FLAGS = (
    "--headless=new --no-sandbox --disable-dev-shm-usage --enable-unsafe-swiftshader --no-first-run "
    "--window-size=1500,1100 --disable-background-networking --disable-component-update --disable-sync"
)
PATIENCE = 60  # seconds until a dashboard must show what is looked for
WORDS = """
const found = [];
const walk = node => {
  if (node.nodeType === 3) found.push(node.textContent);
  if (['STYLE', 'SCRIPT', 'NOSCRIPT'].includes(node.tagName)) return;
  if (node.tagName === 'IMG' && node.naturalWidth > 0) found.push('[picture]');
  if (node.shadowRoot) walk(node.shadowRoot);
  for (const child of node.childNodes) walk(child);
};
walk(document.body);
return found.join(' ').replace(/\\s+/g, ' ');
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """TensorBoard on a short training of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    for kind, enabled in (("interpretable", True), ("plain", False)):
        board_of(folder / kind, enabled=enabled)
    return serve(folder, 0)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.binary_location = CHROMIUM
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(PATIENCE)
    yield driver
    driver.quit()


@pytest.mark.filterwarnings("ignore:The .srun. command", "ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:html5lib.s sanitizer:DeprecationWarning")  # TensorBoard's own
@pytest.mark.parametrize(
    ("dashboard", "expected"),
    [
        ("timeseries", ("interpretable", "plain", "confusion", "[picture]")),
        ("scalars", ("interpretable", "plain", "val", "train")),
        ("images", ("interpretable", "plain", "masks/conv5", "maps/occlusion", "[picture]")),
        ("hparams", ("learning_rate", "kind", "hp/location_instability", "Trial ID")),
        ("projector", ("filters_conv5", "interpretable", "plain", "Points: 8")),
    ],
)
def test_a_dashboard_shows_both_runs(address, browser, dashboard, expected):
    browser.get("about:blank")
    browser.get(f"{address}#{dashboard}")
    until = time.monotonic() + PATIENCE
    words = ""
    while time.monotonic() < until:
        words = browser.execute_script(WORDS)
        if all(word in words for word in expected):
            return
        time.sleep(0.5)
    missing = [word for word in expected if word not in words]
    raise AssertionError(f"{dashboard} lacks {missing}; it says: {words[:1500]}")
