"""The documentation as a site: built strictly, complete, and nothing in it is fetched from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import interp_cnn
from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.methods.registry import METHODS

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = re.compile(r"(https?:)?//")
IMAGE = (224, 224)


class Loads(HTMLParser):
    """Addresses that a browser fetches for a page by itself; links are not."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "link" and values.get("rel") not in ("prev", "next", "canonical"):
            self.addresses.append(values.get("href") or "")
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed", "object"):
            self.addresses += [values[name] for name in ("src", "srcset", "data") if values.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="mkdocs (group docs) is not installed")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings (group docs) is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_strictly_and_asks_nobody(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text("utf-8"))
        assert loads.addresses
        assert [it for it in loads.addresses if ELSEWHERE.match(it)] == [], page
    for sheet in site.rglob("*.css"):
        found = re.findall(r"url\(([^)]*)\)|@import ([^;]*)", sheet.read_text("utf-8"))
        assert [it for it in found if any(ELSEWHERE.match(part.strip("'\" ")) for part in it)] == [], sheet


@pytest.mark.slow
def test_every_page_of_the_repository_is_on_the_site(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file(), page
    home = (site / "index.html").read_text("utf-8")
    assert "uv run interp-cnn compare" in home and 'href="measures.html"' in home
    assert "0.2.0" in (site / "changelog.html").read_text("utf-8")
    public = (site / "reference/public.html").read_text("utf-8")
    assert public.count("&gt;&gt;&gt;") >= len(interp_cnn.__all__) - 1  # examples, as code


def test_the_reference_has_every_public_name():
    listed = re.findall(r"^::: (\S+)$", (ROOT / "docs/reference/public.md").read_text("utf-8"), re.M)
    places = [
        f"{getattr(interp_cnn, name).__module__}.{name}"
        for name in interp_cnn.__all__
        if name != "__version__"
    ]
    assert sorted(listed) == sorted(places)


def test_the_page_on_methods_lists_every_one_with_what_it_costs_and_promises():
    page = (ROOT / "docs/which_method.md").read_text("utf-8")
    rows = {
        cells[0].strip("`"): cells
        for cells in ([it.strip() for it in line.strip("|").split(" | ")] for line in page.splitlines())
        if len(cells) == 5 and cells[0].startswith("`")
    }
    assert list(rows) == list(METHODS)
    for name, method in METHODS.items():
        _, passes, complete, signed, _ = rows[name]
        assert passes == f"{method.cost(IMAGE, Options()):,.0f}"
        assert signed == ("yes" if method.signed else "no")
        promised = method.total is not None
        assert promised == (complete != "no"), name


def test_every_term_of_the_glossary_stands_in_order_and_has_a_page():
    rows = re.findall(
        r"^\| \[([^]]+)\]\(([^)]+)\) \| .", (ROOT / "docs/glossary.md").read_text("utf-8"), re.M
    )
    assert len(rows) > 30
    assert [term for term, _ in rows] == sorted((term for term, _ in rows), key=str.lower)
    for _, page in rows:
        assert (ROOT / "docs" / page).is_file()
