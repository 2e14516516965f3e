"""What a visitor asks."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


class Outdated(Exception):
    """A newer question has come while this one was being answered."""


@dataclass(frozen=True)
class Question:
    """What a visitor asks.

    Attributes:
        image: its name.
        network: whose decision is taken apart.
        paint: a PNG over the image, None for none.
        off: network -> numbers of its filters that are silent.
        target: the class asked about, by its number; None: the one that the network says.
        rows: filters that are listed, at most: the strongest for the class, a third of them against it.
    """

    image: str
    network: str
    paint: bytes | None = None
    off: Mapping[str, Sequence[int]] = field(default_factory=dict)
    target: int | None = None
    rows: int = 8


def question_of(content: bytes) -> Question:
    """A question as the page writes it.

    Raises:
        ValueError: it is not one.

    Example:
        >>> question_of(b'{"image": "seven", "network": "plain", "off": {"plain": [3]}}').off
        {'plain': (3,)}
    """
    try:
        given = json.loads(content)
        paint = given.get("paint")
        return Question(
            image=str(given["image"]),
            network=str(given["network"]),
            paint=None if paint is None else base64.b64decode(paint, validate=True),
            off={str(name): tuple(map(int, numbers)) for name, numbers in given.get("off", {}).items()},
            target=None if given.get("target") is None else int(given["target"]),
            rows=int(given.get("rows", Question.rows)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise ValueError(
            f"no question: expected JSON with image, network, paint, off, target ({error})"
        ) from error
