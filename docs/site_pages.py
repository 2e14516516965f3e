"""Pages of the site that lie elsewhere in the repository, and their links: read by mkdocs (hooks in mkdocs.yml).

README.md is the home page; CONTRIBUTING.md and CHANGELOG.md are pages; notebooks become text, whose code the tests run.
"""

import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
FILES = ("LICENSE", "CITATION.cff")  # linked, as they are


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies elsewhere."""
    for file, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / file).read_text("utf-8")))
    for file in FILES:
        files.append(File.generated(config, f"{file}.txt", content=(ROOT / file).read_text("utf-8")))
    for file in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{file.stem}.md", content=as_text(file)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are in the repository, turned into links of the site."""
    up = "../" * page.file.src_uri.count("/")

    def moved(match: re.Match[str]) -> str:
        target, rest = match[1], match[2]
        within = target.removeprefix("docs/") if page.file.src_uri in PAGES.values() else target
        name = within.removeprefix("../")
        if name in PAGES:
            within = up + PAGES[name]
        elif name in FILES:
            within = f"{up}{name}.txt"
        elif within.endswith(".ipynb"):
            within = within.removesuffix(".ipynb") + ".md"
        return f"]({within}{rest})"

    return re.sub(r"\]\((?!\w+:)([^)#\s]+)([^)]*)\)", moved, markdown)


def as_text(notebook: Path) -> str:
    """A notebook without outputs as Markdown."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    return "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for text, kind in texts)
