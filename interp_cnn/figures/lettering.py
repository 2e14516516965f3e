"""Words in the one typeface that every installation has: letters that it lacks are written as their numbers.

Names of classes and files come in every script, figures are drawn in matplotlib's DejaVu Sans. A letter without a
glyph would be an empty box, the same for all, and a warning for each; its number tells classes apart.
"""

from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font

FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")


def font_file(name: str) -> Path:
    """Where matplotlib keeps one of its fonts."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name


def drawable(text: str) -> str:
    """The text with letters that the typeface lacks as their numbers in angle brackets.

    Example:
        >>> drawable("café"), drawable("猫 (cat)")
        ('café', '<732B> (cat)')
    """
    known = _letters()
    pieces: list[str] = []
    lacking: list[str] = []
    for letter in [*text, ""]:
        if letter and ord(letter) not in known and not letter.isspace():
            lacking.append(f"{ord(letter):04X}")
            continue
        if lacking:
            pieces.append(f"<{' '.join(lacking)}>")
            lacking = []
        pieces.append(letter)
    return "".join(pieces)


@cache
def _letters() -> frozenset[int]:
    """Numbers of the letters that the normal and the bold font have."""
    return frozenset.intersection(*(frozenset(FT2Font(str(font_file(name))).get_charmap()) for name in FONTS))
