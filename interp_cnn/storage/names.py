"""Names of files made from names of things: safe, short, distinct."""

from __future__ import annotations

import hashlib
import re
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
