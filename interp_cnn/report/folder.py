"""Files of a report: PNG, CSV and JSON, and a whole folder that appears at once or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp_cnn.storage.files import DRAFT

GENERATOR = '<meta name="generator" content="interp_cnn">'


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its place when the block ends well and vanishes when it
    fails.

    Raises:
        ValueError: `folder` holds something that is not a report, and so must not be replaced.
    """
    page = folder / "index.html"
    if (
        folder.exists()
        and any(folder.iterdir())
        and not (page.is_file() and GENERATOR in page.read_text("utf-8"))
    ):
        raise ValueError(
            f"folder: {folder} holds other files; expected a new, an empty or an earlier report's folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=DRAFT, dir=folder.parent))
    former = draft.with_name(f"{draft.name}-former{DRAFT}")
    try:
        yield draft
        draft.chmod(0o777 & ~_umask())  # mkdtemp made it for its owner only
        if folder.exists():
            folder.rename(former)
        try:
            draft.rename(folder)
        except OSError:
            if former.exists():
                former.rename(folder)
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
