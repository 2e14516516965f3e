"""Which files below a folder are pictures: one rule for data sets and for `images=DIR`.

- Links are followed. A folder that can be reached in several ways is read once, by its own name where it lies below
  the folder itself, so that links in a circle end.
- What is hidden stays hidden: names that begin with a dot (`.ipynb_checkpoints`, `._a.jpg`) and the folders that
  archives and file servers add (`__MACOSX`, `@eaDir`), at any depth. The folder asked for may be hidden itself.
- Files with the endings of `SUFFIXES` are pictures; `say_left_out` puts the others into one line.
- A picture is called by its path below the folder in letters that can be printed and written as UTF-8.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from interp_cnn.data.images import SUFFIXES
from interp_cnn.storage.names import printable

log = logging.getLogger(__name__)
ADDED_BY_OTHERS = ("__MACOSX", "__pycache__", "@eaDir")
# what lies beside pictures and nobody takes for one
NOTES = (
    ".txt",
    ".csv",
    ".json",
    ".jsonl",
    ".md",
    ".xml",
    ".yaml",
    ".yml",
    ".ini",
    ".db",
    ".html",
    ".pdf",
    ".py",
)


@dataclass(frozen=True)
class ListedFile:
    """A file below a folder.

    Attributes:
        path: of the file.
        name: its path from the folder, with forward slashes, in letters that can be printed.
    """

    path: Path
    name: str

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of the folders between the folder asked for and the file, outermost first."""
        return tuple(self.name.split("/")[:-1])


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out without a word."""
    return name.startswith(".") or name in ADDED_BY_OTHERS


def subfolders(place: Path) -> list[Path]:
    """The folders in a folder that are not hidden, links to folders among them, in order."""
    return sorted(path for path in place.iterdir() if not hidden(path.name) and path.is_dir())


def pictures_in(place: Path) -> tuple[list[ListedFile], list[Path]]:
    """The pictures below a folder in the order of their names, and the files that were left out; see the module.

    Raises:
        OSError: a folder that cannot be read.
    """
    pictures, others = [], []
    for path in _files(place):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            others.append(path)
        else:
            pictures.append(ListedFile(path, printable(path.relative_to(place).as_posix())))
    return sorted(pictures, key=lambda file: Path(file.name)), others


def say_left_out(place: str | os.PathLike[str], read: int, others: Iterable[Path]) -> None:
    """One line on the files beside the pictures, unless they are mere notes."""
    others = [path for path in others if path.suffix.lower() not in NOTES]
    if not others:
        return
    endings = Counter(map(_ending, others))
    listed = ", ".join(f"{ending} ({count})" for ending, count in endings.most_common(6))
    log.warning(
        "%s: %d of %d files left out: %s; images end in %s",
        printable(str(place)), len(others), read + len(others), listed, ", ".join(SUFFIXES),
    )  # fmt: skip


def _ending(path: Path) -> str:
    if not path.is_file():
        return "no file" if path.exists() else "a broken link"
    suffix = printable(path.suffix.lower())
    return f"ending {suffix}" if suffix else "no ending"


def _files(place: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones; folders that are linked come after those that lie there."""
    seen: set[tuple[int, int]] = set()
    waiting, linked = [place], []
    while waiting or linked:
        folder = waiting.pop() if waiting else linked.pop(0)
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for path in sorted(folder.iterdir(), reverse=True):
            if hidden(path.name):
                continue
            if not path.is_dir():
                yield path
            elif path.is_symlink():
                linked.append(path)
            else:
                waiting.append(path)
