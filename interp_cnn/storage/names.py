"""Names of files made from names of things: safe, short, distinct."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath


def distinct_slugs(names: Sequence[str]) -> list[str]:
    """Names as parts of file names: lower-case letters, digits and hyphens, each one once."""
    slugs: list[str] = []
    for name in names:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "network"
        while slug in slugs:
            slug += "-2"
        slugs.append(slug)
    return slugs


def folder_name(name: str) -> str:
    """The folder of an image: letters and digits of its name, and a hash of the whole name.

    Stable, different for different names (on file systems that ignore case too), and never outside its place.
    """
    words = re.sub(r"[^a-z0-9]+", "-", PurePosixPath(name).stem.lower()).strip("-")[:40].strip("-") or "image"
    return f"{words}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:10]}"


def printable(text: str) -> str:
    r"""A name from the file system in letters that can be printed, put into a table and written as UTF-8.

    Bytes that are no UTF-8, control characters and those that turn the direction of writing are escaped, and a
    backslash is doubled, so that different names stay different.

    Example:
        >>> printable("caf\udce9.png"), printable("two\nlines"), printable("café 猫.png")
        ('caf\\xe9.png', 'two\\nlines', 'café 猫.png')
    """
    return "".join(map(_printable, text))


def _printable(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python hands on a byte that is no UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    turns = "\u202a" <= letter <= "\u202e" or "\u2066" <= letter <= "\u2069"
    if letter == "\\" or turns or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp"):
        return letter.encode("unicode_escape").decode("ascii")
    return letter
