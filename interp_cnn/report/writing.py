"""Files of a report: PNG, CSV and JSON, and a whole folder that appears at once or not at all."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from interp_cnn.files import DRAFT, replacing

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


def write_bytes(path: Path, content: bytes) -> None:
    """A file that appears at once: written under a temporary name, then renamed."""
    with replacing(path) as draft:
        draft.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """A text in UTF-8."""
    write_bytes(path, content.encode("utf-8"))


@contextmanager
def written_table(path: Path) -> Iterator[Any]:
    """A CSV writer to a file that appears at once, when the block ends well; no row is kept in memory."""
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        yield csv.writer(file, lineterminator="\n")


def save_png(path: Path, rgb: NDArray, *, colours: int | None = None, photograph: bool = True) -> None:
    """A picture as a PNG file, see `png_bytes`."""
    write_bytes(path, png_bytes(rgb, colours=colours, photograph=photograph))


def png_bytes(rgb: NDArray, *, colours: int | None = None, photograph: bool = True) -> bytes:
    """An (H, W, 3) uint8 picture as PNG; with `colours` (at most 256) reduced to a palette, a third of the
    size.

    Colours of a map come from one scale: an octree finds them three times as fast as the median cut, which photographs
    need.
    """
    image = Image.fromarray(rgb)
    if colours is not None and photograph:
        # Every third pixel is enough to choose the palette: no eye sees the difference.
        few = image.resize((-(-image.width // 3), -(-image.height // 3)), Image.Resampling.NEAREST)
        palette = few.quantize(colours, method=Image.Quantize.MEDIANCUT)
        image = image.quantize(palette=palette, dither=Image.Dither.NONE)
    elif colours is not None:
        image = image.quantize(colours, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


def npz_bytes(arrays: Mapping[str, NDArray]) -> bytes:
    """Named arrays as a compressed npz file."""
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def save_json(path: Path, values: Any) -> None:
    """Values as indented JSON; what is no finite number becomes null, what JSON does not know its text."""
    write_text(path, json.dumps(plain(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain(values: Any) -> Any:
    """Values made of dictionaries, lists, texts, finite numbers, booleans and None only."""
    if isinstance(values, Mapping):
        return {str(key): plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple | set):
        return [plain(value) for value in values]
    if values is None or isinstance(values, str | bool | int):
        return values
    try:
        number = float(values)
    except (TypeError, ValueError):
        return str(values)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and not isinstance(values, float) else number


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def folder_name(name: str) -> str:
    """The folder of an image: letters and digits of its name, and a hash of the whole name.

    Stable, different for different names (on file systems that ignore case too), and never outside its place.
    """
    words = re.sub(r"[^a-z0-9]+", "-", PurePosixPath(name).stem.lower()).strip("-")[:40].strip("-") or "image"
    return f"{words}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:10]}"
