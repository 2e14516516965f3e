"""The line from a baseline to an image, cut into pieces: what each piece adds to a map, and what it misses."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

SHORTEST = 2.0**-14  # of a line; below, rounding is all that a piece misses
APART = 2.0**-8  # of a line; a mask that moves within less behind another one is moved by it
SPLIT = 0.25  # pieces that miss at least this share of what the worst one misses are halved together
# of a logit's way up and down along the line: the least that what is missing is compared with
CANCELLED = 0.1


@dataclass
class Point:
    """A point of a line: where, the target's logit, and the maps that enter each mask there."""

    at: float
    score: float
    maps: list[Tensor]  # (D, h, w) each
    positions: list[Tensor]  # (D,) each


@dataclass
class Piece:
    """A piece of a line, with what it adds to the map once its middle is known."""

    start: Point
    end: Point
    middle: Point | None = None
    share: Tensor | None = None  # (C, H, W)
    missing: float = 0.0
    doubt: float = 0.0  # what moves of masks did, and may go to the wrong one

    @property
    def error(self) -> float:
        """What is missing or may be misplaced."""
        return abs(self.missing) + self.doubt

    @property
    def measured_share(self) -> Tensor:
        """(C, H, W) what it adds to the map, known with its middle."""
        assert self.share is not None
        return self.share

    @property
    def length(self) -> float:
        return self.end.at - self.start.at

    @property
    def halves(self) -> tuple["Piece", "Piece"]:
        assert self.middle is not None
        return Piece(self.start, self.middle), Piece(self.middle, self.end)


@dataclass
class Line:
    """The line of one image."""

    reference: Tensor  # (C, H, W)
    difference: Tensor
    target: Tensor
    pieces: list[Piece] = field(default_factory=list)
    passes: int = 0

    @property
    def missing(self) -> float:
        """What the pieces miss, as a share of the change."""
        return self._share(sum(abs(piece.missing) for piece in self.pieces))

    @property
    def error(self) -> float:
        """What is missing or may be misplaced, likewise."""
        return self._share(sum(piece.error for piece in self.pieces))

    def _share(self, part: float) -> float:
        if not part > 0:
            return 0.0
        change = abs(self.pieces[-1].end.score - self.pieces[0].start.score)
        way = sum(abs(piece.end.score - piece.start.score) for piece in self.pieces)
        # a logit that stays what it is stays so up to its rounding
        rounding = torch.finfo(self.difference.dtype).eps * max(abs(piece.end.score) for piece in self.pieces)
        whole = max(change, CANCELLED * way, rounding)
        return part / whole if whole else math.inf

    def worst(self, most: int, error: Callable[[Piece], float]) -> list[Piece]:
        """The pieces to halve next, at most so many."""
        long = [piece for piece in self.pieces if piece.length > SHORTEST and error(piece)]
        long.sort(key=error, reverse=True)
        return [piece for piece in long[: max(0, most)] if error(piece) >= SPLIT * error(long[0])]
