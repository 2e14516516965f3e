"""Files that are whole or not there: written beside their place under another name, then moved into it.

A process that is killed leaves a hidden `.NAME.PID.draft` at worst, which the next one in the same run folder sweeps
away; an error (a full disk) leaves nothing.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAFT = ".draft"
MOMENT = 2  # seconds that a share waits for another one that is just beginning


@contextmanager
def replacing(path: Path, *, lasting: bool = False) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends well and vanishes when it fails.

    Args:
        path: of the file; missing folders are made.
        lasting: wait until the bytes are on the disk, so that a power cut leaves the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}{DRAFT}")
    try:
        yield draft
        if lasting:
            with draft.open("rb") as written:
                os.fsync(written.fileno())
        draft.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # a full disk does not say for which file it has no room
        raise
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8, its line ends as they are."""
    write_bytes(path, text.encode("utf-8"))


def sweep(folder: Path) -> None:
    """Removes what processes that were killed left half written below a folder that nobody else writes to."""
    for draft in [*folder.rglob(f".*{DRAFT}")]:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path, *, part: str = "") -> Iterator[None]:
    """Nobody else writes to a run folder within the block; the lock falls with the process, however that ends.

    Args:
        folder: the run folder.
        part: name of a share of the work; processes with different shares may write side by side.

    Raises:
        ValueError: another process is at work there.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            if part:  # no share holds the folder's own lock, but each asks whether somebody does
                with FileLock(folder / ".lock", timeout=MOMENT):
                    held.enter_context(FileLock(folder / f".lock-{part}", timeout=0))
            else:
                held.enter_context(FileLock(folder / ".lock", timeout=0))
                for share in sorted(folder.glob(".lock-*")):
                    held.enter_context(FileLock(share, timeout=0))
        except Timeout as error:
            raise ValueError(
                f"another interp-cnn is at work in {folder}; wait for its end or give another hydra.run.dir"
            ) from error
        if not part:
            sweep(folder)
        yield


def write_bytes(path: Path, content: bytes) -> None:
    """A file that appears at once: written under a temporary name, then renamed."""
    with replacing(path) as draft:
        draft.write_bytes(content)


@contextmanager
def written_table(path: Path) -> Iterator[Any]:
    """A CSV writer to a file that appears at once, when the block ends well; no row is kept in memory."""
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        yield csv.writer(file, lineterminator="\n")


def npz_bytes(arrays: Mapping[str, NDArray]) -> bytes:
    """Named arrays as a compressed npz file."""
    buffer = BytesIO()
    # as np.savez_compressed, whose older versions cannot refuse Python objects
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(values), allow_pickle=False)
    return buffer.getvalue()


def read_npz(path: Path) -> dict[str, NDArray] | None:
    """The named arrays of an npz file; None where there is none that is whole. Nothing in it is executed."""
    try:
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception:  # of a damaged one almost any: zlib.error, BadZipFile, SyntaxError, tokenize.TokenError
        return None


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
