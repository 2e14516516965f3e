"""Which parts lie in a window around a filter's position: consistency, stability and purity of prototypes.

- Presence of part k: over the images of the filter's category that show k, the share with k inside the window of
  72 x 72 pixels of 224 (scaled to the image) around the position; a silent filter has no part inside.
- Consistency: whether the presence of some part reaches 0.8; a network's figure is the share of such filters.
- Stability: over the images of the category on which the filter fires, the share with the same parts inside after a
  little noise (`noise`).
- Purity: among a filter's ten strongest annotated images of any category, the share that has its most frequent part
  inside a window of 32 x 32 pixels of 224; left and right parts count as one.

Consistency and stability: Huang, Xue, Huang, Zhang, Song, Jing, Song, "Evaluation and Improvement of Interpretability
for Self-Explainable Part-Prototype Networks", ICCV 2023, section 3. Purity: Nauta, Schlötterer, van Keulen, Seifert,
"PIP-Net: Patch-Based Intuitive Prototypes for Interpretable Image Classification", CVPR 2023, section 5.

A constant spot is perfectly stable, and consistent where a part hardly moves: read them beside the baselines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from interp_cnn.evaluation.filters.location_instability import CHUNK, selections
from interp_cnn.evaluation.filters.noise import StableImages

CONSISTENT = 0.8
WINDOW = 72 / 224  # side, as a share of the image's
PATCH = 32 / 224
STRONGEST = 10

# Beyond the pixel on the window's border: positions are multiples of a stride, landmarks are rounded.
BORDER = 1e-4


def parts_inside(
    positions: Tensor, landmarks: Tensor, image_size: tuple[int, int], *, window: float = WINDOW
) -> Tensor:
    """Whether each part lies in the window around each position.

    Args:
        positions: (N, D, 2) pixels, (row, column).
        landmarks: (N, P, 2) pixels, NaN where unknown: not inside.
        image_size: (H, W).
        window: side, as a share of the image's.

    Returns:
        (N, D, P) bool.

    Example:
        >>> spot, parts = torch.tensor([[[50.0, 50.0]]]), torch.tensor([[[50.0, 86.0], [50.0, 87.0]]])
        >>> parts_inside(spot, parts, (224, 224)).tolist()
        [[[True, False]]]
    """
    half = window * torch.tensor(image_size, dtype=torch.float64) / 2 + BORDER
    away = (landmarks.double().unsqueeze(1) - positions.double().unsqueeze(2)).abs()  # (N, D, P, 2)
    return (away <= half).all(dim=3)


def part_presence(
    positions: Tensor,
    fires: Tensor,
    landmarks: Tensor,
    weights: Tensor | None,
    image_size: tuple[int, int],
) -> Tensor:
    """Presence (P, R, D) of each part, float64; NaN where no image shows it.

    Args:
        positions: (N, D, 2) pixels.
        fires: (N, D) bool, False where the filter is silent and has no position.
        landmarks: (N, P, 2) pixels, NaN where unknown, of images of one category.
        weights: (R, N) how often each image occurs in each resampling; None for every image once (R = 1).
        image_size: (H, W).
    """
    drawn = torch.ones(1, len(positions)) if weights is None else weights
    rows = []
    for part in range(landmarks.shape[1]):
        known = landmarks[:, part].isfinite().all(dim=1)
        counts = drawn[:, known].double()
        inside = parts_inside(positions[known], landmarks[known, part : part + 1], image_size)[..., 0]
        rows.append((counts @ (inside & fires[known]).double()) / counts.sum(dim=1, keepdim=True))
    return torch.stack(rows) if rows else positions.new_zeros(0, len(drawn), positions.shape[1]).double()


def presence_of_spots(
    spots: Tensor, landmarks: Tensor, weights: Tensor | None, image_size: tuple[int, int]
) -> Tensor:
    """Presence (P, R) of each part at the fixed spot of `spots` (M, 2) that is best for it on all images.

    The other arguments are those of `part_presence`.
    """
    shares = []
    for some in spots.split(max(1, CHUNK // max(1, len(landmarks)))):
        everywhere = some.expand(len(landmarks), -1, 2)
        fires = torch.ones(everywhere.shape[:2], dtype=torch.bool)
        shares.append(part_presence(everywhere, fires, landmarks, None, image_size)[:, 0])
    best = torch.cat(shares, dim=1).nan_to_num(nan=-1.0).argmax(dim=1)  # (P,)
    answers = spots[best].expand(len(landmarks), -1, 2)
    fires = torch.ones(answers.shape[:2], dtype=torch.bool)
    presence = part_presence(answers, fires, landmarks, weights, image_size)
    return presence.diagonal(dim1=0, dim2=2).T  # (P, R)


def best_presence(presence: Tensor) -> Tensor:
    """(R, D) presence of the part that each filter shows most often on all images, the first row of (P, R, D)."""
    if len(presence) == 0:
        return presence.sum(dim=0) * torch.nan
    part = presence[:, 0].nan_to_num(nan=-1.0).argmax(dim=0)  # (D,)
    return presence.gather(0, part.expand(1, *presence.shape[1:])).squeeze(0)


def consistency(presence: Tensor) -> Tensor:
    """(R, D) 1 where the presence (P, R, D) of some part reaches `CONSISTENT`, else 0; NaN where none is known."""
    reached = (presence >= CONSISTENT - 1e-9).any(dim=0).double()
    return reached.where(presence.isfinite().any(dim=0), torch.nan)


def sides_merged(parts: Sequence[str]) -> Tensor:
    """(P,) int64: parts that differ by the words left and right alone have one number.

    Example:
        >>> sides_merged(["left eye", "beak", "right eye", "front_left_door"]).tolist()
        [0, 1, 0, 2]
    """
    kinds = [
        re.sub(r"(?:(?<=[\W_])|^)(?:left|right)(?=[\W_]|$)", "", part.lower()).strip(" _-") for part in parts
    ]
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    return torch.tensor([numbers[kind] for kind in kinds], dtype=torch.int64)


def part_purity(
    positions: Tensor,
    scores: Tensor,
    landmarks: Tensor,
    kinds: Tensor,
    weights: Tensor,
    image_size: tuple[int, int],
) -> Tensor:
    """Purity (R, D) under resamplings of the images; NaN for a filter that fires on no annotated image.

    Args:
        positions: (N, D, 2) pixels.
        scores: (N, D); a score of 0 or less is a silent filter's.
        landmarks: (N, P, 2) pixels, NaN where unknown; images without any take no part.
        kinds: (P,) int64, parts of one number count as one (`sides_merged`).
        weights: (R, N) how often each image occurs in each resampling.
        image_size: (H, W).
    """
    annotated = landmarks.isfinite().all(dim=2).any(dim=1)
    if not len(kinds) or not annotated.any():
        return torch.full((len(weights), scores.shape[1]), torch.nan, dtype=torch.float64)
    inside = parts_inside(positions[annotated], landmarks[annotated], image_size, window=PATCH)  # (n, D, P)
    of_kind = torch.stack([inside[..., kinds == kind].any(dim=2) for kind in kinds.unique()])  # (k, n, D)
    return share_of_strongest(of_kind, scores[annotated], weights[:, annotated])


def hits_of_strongest(holds: Tensor, scores: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Of how many of each filter's strongest images every kind holds.

    Args:
        holds: (k, N, D) bool.
        scores: (N, D); images where they are 0 or less do not count.
        weights: (R, N) how often each image occurs in each resampling.

    Yields:
        For chunks of the resamplings the hits (k, r, D), and the number of images (r, D).
    """
    order = scores.argsort(dim=0, descending=True, stable=True)
    fires = scores > 0
    for counts, chosen in selections(order, weights, STRONGEST):
        counted = counts * fires.gather(0, chosen)  # (r, m, D)
        hits = [(counted * some.gather(0, chosen)).sum(dim=1) for some in holds]
        yield torch.stack(hits), counted.sum(dim=1)


def share_of_strongest(holds: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
    """Share (R, D) of each filter's strongest images of which the most frequent kind holds, see `hits_of_strongest`.

    The kind is chosen on the first row of `weights`, all images, and kept.
    """
    shares, kind = [], None
    for hits, images in hits_of_strongest(holds, scores, weights):
        kind = hits[:, 0].argmax(dim=0) if kind is None else kind  # (D,)
        shares.append(hits.gather(0, kind.expand(1, *hits.shape[1:])).squeeze(0) / images)
    return torch.cat(shares)


class PartStability(StableImages):
    """Images whose parts inside the window stay the same."""

    def __init__(self, categories: Tensor, image_size: tuple[int, int]) -> None:
        super().__init__(categories)
        self.image_size = image_size

    def update(
        self,
        before: tuple[Tensor, Tensor],
        after: tuple[Tensor, Tensor],
        landmarks: Tensor,
        labels: Tensor,
    ) -> None:
        """Add a batch: positions (B, D, 2) and where the filter fires (B, D), before and after noise; landmarks
        (B, P, 2), labels (B,). Images without a landmark are left out.
        """
        known = landmarks.isfinite().all(dim=2).any(dim=1)
        clean, noisy = (
            parts_inside(places, landmarks, self.image_size) & fires.unsqueeze(2)
            for places, fires in (before, after)
        )
        self.count((clean == noisy).all(dim=2), before[1] & known.unsqueeze(1), labels)
