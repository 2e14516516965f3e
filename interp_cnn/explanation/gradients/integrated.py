"""Integrated gradients along the straight line from a baseline to the image, cut where the network needs it.

    A(x) = (x - b) * integral over t in [0, 1] of dF/dx (b + t (x - b))           sums to F(x) - F(b)

Sundararajan et al. 2017 (arXiv 1703.01365). The integral is a sum over pieces of the line, each with the gradient in
its middle. What a piece misses is known, F(end) - F(start) - slope * length, so the pieces that miss most are halved
until the sum of what all of them miss, in which nothing cancels, is small enough.

**Jumps.** A layer that masks its maps around a part (`part_mask`) moves its masks by jumps, and no gradient sees a
jump J of F. A mask of map a moves from cell p to cell q where g = <w, a> passes zero, w being what decides between the
two (a_q - a_p for a mask at the maximum): F has a step J at g = 0, whose integral over the line is

    J (dg/dx * (x - b)) / (rise of g over the piece)                              sums to J where g is straight

What a piece misses is shared out over the maps whose mask moved in it, in proportion to what the move of each does to
F by its slope; where g is not straight, the piece still misses something and is halved again. Where several masks move,
the slopes do not explain what is missing, or a mask moves twice, shares may go to the wrong map: such pieces are halved
too, down to one mask, with a third of the gradients at most.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from interp_cnn.explanation.gradients.pieces import APART, Line, Piece, Point
from interp_cnn.explanation.network.logits import target_logits
from interp_cnn.explanation.network.part_mask import PartMask, is_part_mask
from interp_cnn.explanation.network.refusals import Refusal

log = logging.getLogger(__name__)

FIRST_PIECES = 8  # of every line
BYTES = 2**29  # of shares that are kept at once
MISPLACED = 4.0  # times the tolerance


@dataclass(frozen=True)
class PathIntegral:
    """Integrated gradients of some images.

    Attributes:
        maps: (B, C, H, W).
        missing: (B,) what all pieces miss of the logit's change, added up without signs, as a share of that change, or
            of a tenth of its way up and down along the line where the change is smaller than that.
        pieces: (B,) of the lines.
        passes: (B,) images sent through the network.
    """

    maps: Tensor
    missing: Tensor
    pieces: Tensor
    passes: Tensor


def path_integral(
    network: nn.Module,
    images: Tensor,
    references: Tensor,
    targets: Tensor,
    *,
    tolerance: float,
    max_steps: int,
    batch_size: int,
) -> PathIntegral:
    """Integrated gradients from references to images; the network must be in evaluation mode.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W).
        references: (B, C, H, W).
        targets: (B,) classes.
        tolerance: what may be missing, see `PathIntegral`.
        max_steps: gradients for one image, at most.
        batch_size: images in one pass.
    """
    all_lines: list[Line] = []
    with _mask_calls(network) as calls:
        kept = images[0].numel() * images.element_size() * (max_steps // 2)  # shares of an image's pieces
        group = max(1, min(batch_size, BYTES // kept))
        for start in range(0, len(images), group):
            rows = slice(start, start + group)
            lines = [
                Line(reference, image - reference, target)
                for image, reference, target in zip(
                    images[rows], references[rows], targets[rows], strict=True
                )
            ]
            all_lines += _followed(network, lines, calls, tolerance, max_steps, batch_size)
    return PathIntegral(
        torch.stack(
            [
                torch.stack([piece.measured_share for piece in line.pieces]).double().sum(0).to(images)
                for line in all_lines
            ]
        ),
        torch.tensor([line.missing for line in all_lines], dtype=torch.float64),
        torch.tensor([len(line.pieces) for line in all_lines]),
        torch.tensor([line.passes for line in all_lines]),
    )


def _followed(
    network: nn.Module,
    lines: list[Line],
    calls: list["_Call"],
    tolerance: float,
    max_steps: int,
    batch_size: int,
) -> list[Line]:
    """The lines, with pieces halved until little is missing."""
    places = [k / FIRST_PIECES for k in range(FIRST_PIECES + 1)]
    ends = [(line, place) for line in lines for place in places]
    points: list[Point] = []
    for start in range(0, len(ends), batch_size):
        points += _ends(network, ends[start : start + batch_size], calls)
    fresh: list[tuple[Line, Piece]] = []
    for number, line in enumerate(lines):
        line_points = points[number * len(places) : (number + 1) * len(places)]
        line.pieces = [Piece(*two) for two in pairwise(line_points)]
        line.passes = len(places)
        fresh += [(line, piece) for piece in line.pieces]
    steps = {id(line): 0 for line in lines}
    while fresh:
        for start in range(0, len(fresh), batch_size):
            _measure(network, fresh[start : start + batch_size], calls)
        for line, _ in fresh:
            steps[id(line)] += 1
            line.passes += 1
        fresh = []
        for line in lines:
            left = max_steps - steps[id(line)]
            if line.missing > tolerance:
                worst = line.worst(left // 2, lambda piece: abs(piece.missing))
            elif line.error > MISPLACED * tolerance:  # complete: what is left for the right places is less
                worst = line.worst((left - 2 * max_steps // 3) // 2, lambda piece: piece.error)
            else:
                continue
            for piece in worst:
                place = line.pieces.index(piece)
                halves = piece.halves
                line.pieces[place : place + 1] = halves
                fresh += [(line, half) for half in halves]
    return lines


@dataclass
class _Call:
    """One mask in one pass: the maps that entered it and those that left it."""

    mask: PartMask
    given: Tensor  # (B, D, h, w)
    output: Tensor

    @property
    def rectified(self) -> Tensor:
        return self.given.relu() if self.mask.rectify else self.given


@contextmanager
def _mask_calls(network: nn.Module) -> Iterator[list[_Call]]:
    """The masks that run in the next pass, in order; whoever reads the list empties it."""
    calls: list[_Call] = []
    masks = [module for module in network.modules() if is_part_mask(module) and module.enabled]

    def keep(mask: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(mask, PartMask)  # only they are watched
        calls.append(_Call(mask, given[0], output))

    handles = [mask.register_forward_hook(keep) for mask in masks]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _points(places: Sequence[float], scores: Tensor, calls: Sequence[_Call]) -> list[Point]:
    """What is kept of a pass: a point for each row."""
    positions = [call.mask.positions(call.given.detach()) for call in calls]
    maps = [call.rectified.detach() for call in calls]
    return [
        Point(place, score, [values[row].clone() for values in maps], [centre[row] for centre in positions])
        for row, (place, score) in enumerate(zip(places, scores.double().tolist(), strict=True))
    ]


@torch.no_grad()
def _ends(network: nn.Module, ends: Sequence[tuple[Line, float]], calls: list[_Call]) -> list[Point]:
    """Points of lines, from one pass without gradient."""
    calls.clear()
    images = torch.stack([line.reference + place * line.difference for line, place in ends])
    scores = target_logits(network(images), torch.stack([line.target for line, _ in ends]))
    return _points([place for _, place in ends], scores, calls)


def _measure(network: nn.Module, pieces: Sequence[tuple[Line, Piece]], calls: list[_Call]) -> None:
    """Give pieces their middle, their share of the map and what they miss, from one pass."""
    calls.clear()
    difference = torch.stack([line.difference for line, _ in pieces])
    places = [(piece.start.at + piece.end.at) / 2 for _, piece in pieces]
    share = difference.new_tensor(places)[:, None, None, None]
    with torch.enable_grad():
        images = (torch.stack([line.reference for line, _ in pieces]) + share * difference).requires_grad_()
        scores = target_logits(network(images), torch.stack([line.target for line, _ in pieces]))
        if not scores.requires_grad:
            raise Refusal(
                "network's logits have no gradient with respect to the images (detached on the way?)"
            )
        outputs = [call.output for call in calls]
        gradient, *of_outputs = torch.autograd.grad(
            scores.sum(), [images, *outputs], retain_graph=bool(calls), allow_unused=True
        )
        gradient = checked_gradient(gradient)
        lengths = torch.tensor([piece.length for _, piece in pieces], dtype=torch.float64)
        changes = torch.tensor([piece.end.score - piece.start.score for _, piece in pieces]).double()
        shares = difference * gradient * lengths.to(difference)[:, None, None, None]
        missing = changes - shares.double().sum((1, 2, 3)).cpu()
        moves, doubt = _moves(pieces, calls, of_outputs, missing)
        if moves is not None:
            (of_moves,) = torch.autograd.grad(moves.sum(), images, allow_unused=True)
            if of_moves is not None:
                moved = difference * of_moves * lengths.to(difference)[:, None, None, None]
                shares = shares + moved * _straightened(moved, missing, lengths)[:, None, None, None]
            missing = changes - shares.double().sum((1, 2, 3)).cpu()
    middles = _points(places, scores.detach(), calls)
    for row, (_, piece) in enumerate(pieces):
        piece.middle, piece.share, piece.missing = middles[row], shares[row].detach(), float(missing[row])
        piece.doubt = float(doubt[row])


def _straightened(moved: Tensor, missing: Tensor, lengths: Tensor) -> Tensor:
    """Factors (B,) that make the shares of moves (B, C, H, W) what is missing, in short pieces, where what decides
    about a mask is straight and its rise, a difference of nearly equal values, is known to few digits; 1 in others.
    """
    factor = missing / moved.double().sum((1, 2, 3)).cpu()
    near = (lengths <= APART) & (factor > 0.5) & (factor < 2)
    return torch.where(near, factor, 1.0).to(moved)


def _moves(
    pieces: Sequence[tuple[Line, Piece]],
    calls: Sequence[_Call],
    of_outputs: Sequence[Tensor | None],
    missing: Tensor,
) -> tuple[Tensor | None, Tensor]:
    """What decides about the masks that move within the pieces, times each jump over the rise (None where none moves),
    and how much of the jumps may be given to the wrong one.

    Args:
        pieces: B pieces.
        calls: the masks in the middles' pass.
        of_outputs: slope of the logit by what left each mask, (B, D, h, w) each.
        missing: (B,) what the pieces miss without jumps.
    """
    evidence: list[Tensor] = []  # of each mask at the middle, (B, D)
    rises: list[Tensor] = []
    jumps: list[Tensor] = []  # by the slope
    # within a short piece the first mask that moves moves those behind it
    short = torch.tensor(
        [piece.length <= APART for _, piece in pieces], device=calls[0].given.device if calls else None
    )
    caused = torch.zeros_like(short)
    strays: list[Tensor] = []  # masks that lie elsewhere in the middle: they move twice
    for number, (call, slope) in enumerate(zip(calls, of_outputs, strict=True)):
        before, after = (
            torch.stack([getattr(piece, end).positions[number] for _, piece in pieces])
            for end in ("start", "end")
        )
        if slope is None or bool((before == after).all()):
            continue
        height, width = call.given.shape[2:]
        weights = call.mask.evidence_between(after, before, height, width).to(call.given.dtype)
        maps = call.rectified
        factors = call.mask.factors_at(after, height, width) - call.mask.factors_at(before, height, width)
        rise = [
            (weights[row] * (piece.end.maps[number] - piece.start.maps[number])).sum((1, 2))
            for row, (_, piece) in enumerate(pieces)
        ]
        evidence.append((weights * maps).sum((2, 3)))
        rises.append(torch.stack(rise))
        jump = (slope * factors * maps.detach()).sum((2, 3)) * (before != after)
        jumps.append(jump * ~caused[:, None])
        caused = caused | ((before != after).any(1) & short)
        between = call.mask.positions(call.given.detach())
        strays.append((between != before) & (between != after))
    if not evidence:
        return None, torch.zeros(len(pieces))
    rise, jump = torch.cat(rises, 1), torch.cat(jumps, 1)
    rest = missing.to(jump) - jump.sum(1)
    total = jump.abs().sum(1, keepdim=True)
    doubt = torch.minimum(rest.abs(), total[:, 0]) + (jump.abs() * torch.cat(strays, 1)).sum(1)
    # what is missing in a short piece is a jump: of the one mask that moves, or of several, which shorter pieces tell
    # apart; not where the line leaves a constant baseline: all places of a mask tie there, and all masks move at once
    apart = short.new_tensor([piece.start.at > 0 for _, piece in pieces])
    together = (total[:, 0] - jump.abs().amax(1)) * apart
    doubt = torch.where(short, 0.0, doubt) + together
    jump = jump + rest[:, None] * jump.abs() / total.clamp_min(torch.finfo(total.dtype).tiny)
    known = rise > 1e-6 * rise.abs().amax(1, keepdim=True)
    per_rise = torch.where(known, jump / rise.where(known, torch.ones_like(rise)), 0.0)
    return (torch.cat(evidence, 1) * per_rise).sum(1), doubt


def checked_gradient(gradient: Tensor | None) -> Tensor:
    """The gradient by the images, or a refusal where there is none or it is not finite."""
    if gradient is None:
        raise Refusal("network's logits have no gradient with respect to the images (detached on the way?)")
    if not torch.isfinite(gradient).all():
        raise Refusal("network's gradient with respect to the images is NaN or infinite")
    return gradient
