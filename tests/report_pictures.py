"""Pictures of a comparison's report for the README, taken by a browser.

    python tests/report_pictures.py outputs/compare/TIME docs

writes report.png, the top of the first page, and filters.png, the best, middle and worst filters of both networks.
"""

import shutil
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

from interp_cnn.storage.files import write_bytes

FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --hide-scrollbars"
SIZE = (1240, 1040)
MOST_BYTES = 300_000


def browser(profile: str, height: int) -> webdriver.Chrome:
    """A headless chromium with its own profile."""
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}", f"--window-size={SIZE[0]},{height}"]:
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(300)  # of a busy machine
    return driver


def small_png(png: bytes) -> bytes:
    """The same picture, in fewer colours where it is too heavy for a README."""
    picture = Image.open(BytesIO(png)).convert("RGB")
    for colours in (None, 256, 64):
        few = (
            picture
            if colours is None
            else picture.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=0)
        )
        buffer = BytesIO()
        few.save(buffer, "png", optimize=True)
        if buffer.tell() <= MOST_BYTES:
            return buffer.getvalue()
    raise ValueError(f"{buffer.tell():,} bytes with 64 colours; expected at most {MOST_BYTES:,}")


def main(run: Path, to: Path) -> None:
    with tempfile.TemporaryDirectory() as profile:
        driver = browser(profile, 4000)  # high enough that every picture is in view, and so is loaded
        try:
            driver.get((run / "report" / "index.html").resolve().as_uri())
            driver.execute_async_script(
                "const done = arguments[0];"
                "Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode().catch(() => 0); }))"
                ".then(() => done());"
            )
            page = np.asarray(Image.open(BytesIO(driver.get_screenshot_as_png())).convert("RGB"))
            top = BytesIO()
            Image.fromarray(page[: SIZE[1]]).save(top, "png")
            filters = driver.find_element(By.CSS_SELECTOR, "section[aria-labelledby=filters]")
            pictures = {"report.png": top.getvalue(), "filters.png": filters.screenshot_as_png}
        finally:
            driver.quit()
    for name, png in pictures.items():
        write_bytes(to / name, small_png(png))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
