"""Small grey scans on a larger canvas, with distractor strokes: the drawing behind `digits` and `mnist`.

A scan (a digit, a piece of clothing) is enlarged by cubic splines, turned a little and placed somewhere on
a grey canvas. Then short strokes of the same brightness and thickness are drawn beside it: they are ink, but
they say nothing about the label, so a relevance map that marks them is wrong and the truth is known to the
pixel. The question comes from users who ask which pixels of an MNIST digit a network looks at.

Parts follow from the ink: the bounding box of the scan's ink is cut into three equal bands of rows; the part
is the ink in the band, its landmark the ink-weighted centroid. In "0" the middle landmark lies in the hole.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from interp_cnn.data.parts import Draw, PartSample, PartSet

PARTS = ("top", "middle", "bottom")
PEN = 0.3  # a pixel is ink when the pen covers this share of it; at the smallest scale thin lines stay whole
MARGIN = 2  # rows and columns of paper added around a scan, so that its ink fades out instead of being cut
RIPPLE = 0.08  # splines swing by up to this much beside the ink: taken off again
KEPT = 2048  # fixed views that stay in memory, 20 KB each at 48 pixels
TRIES = 16  # candidate places for a stroke; with all of them on the scan's ink the stroke is left out
POINTS = 16  # points of a stroke: at most 1.5 pixels apart on a 48-pixel canvas
OVERLAP = 0.1  # share of a stroke's points that may lie on the scan's ink
T = np.linspace(0, 1, POINTS)[:, None]  # (POINTS, 1) along a Bezier curve


class CanvasSet(PartSet):
    """Scans placed on a canvas: label, object mask, distractor mask, and the parts top, middle, bottom.

    A fixed view draws from (`split_seed`, index), a random view from the given generator.

    Args:
        scans: (N, h, w) integers, 0 is paper.
        full: the scans' value for full ink.
        pen: half the thickness of a scan's lines in its own pixels; strokes are drawn with the same pen.
        labels: N class indices.
        classes: class names.
        names: N image names.
        image_size: side of the canvas in pixels.
        scale: smallest and largest enlargement of a scan.
        rotation: largest turn in degrees, to either side.
        distractors: mean number of strokes (Poisson); 0 draws none.
        paper: brightness of the empty canvas.
        ink: a pixel belongs to the object when its ink is above this.
        redraw: whether random views differ from the fixed one; False keeps one picture per scan.
        split_seed: of the fixed views.
    """

    parts = PARTS
    channels = 1

    def __init__(
        self,
        scans: NDArray[np.uint8],
        labels: Sequence[int] | NDArray[np.integer],
        *,
        full: int,
        pen: float,
        classes: tuple[str, ...],
        names: Sequence[str],
        image_size: int,
        scale: Sequence[float],
        rotation: float,
        distractors: float,
        paper: float,
        ink: float,
        redraw: bool,
        split_seed: int,
    ) -> None:
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale={list(scale)}: expected the smallest and the largest factor, 0 < a <= b")
        if max(scans.shape[1:]) * scale[0] > image_size:
            raise ValueError(
                f"image_size={image_size}: a scan of {scans.shape[1]}x{scans.shape[2]} pixels at scale "
                f"{scale[0]:g} does not fit; take a larger canvas or a smaller scale"
            )
        if not distractors >= 0:
            raise ValueError(f"distractors={distractors}: the mean number of strokes must be 0 or more")
        if not 0 <= rotation <= 180:
            raise ValueError(f"rotation={rotation}: expected degrees between 0 and 180")
        self.classes = classes
        self.names = list(names)
        self.labels = torch.from_numpy(np.array(labels, dtype=np.int64))
        self.image_size = (image_size, image_size)
        self.scale = (float(scale[0]), float(scale[1]))
        self.rotation = float(rotation)
        self.distractors = float(distractors)
        self.paper = paper
        self.redraw = redraw
        self.split_seed = split_seed
        self.exact = self.scale[0] == self.scale[1] == 1 and self.rotation == 0
        self.scans = scans
        self.full = full
        self.pen = (0.8 * pen * self.scale[0], 1.2 * pen * self.scale[1])
        self.ink = ink
        self._kept: dict[int, PartSample] = {}

    def view(self, index: int, generator: torch.Generator | None) -> PartSample:
        """Scan `index` on its canvas; see `PartSet.view`. The first fixed views are kept."""
        if generator is not None and self.redraw:
            return self._drawn(index, generator)
        if index not in self._kept:
            sample = self._drawn(index, Draw(self.split_seed, 0, index).generator())
            if len(self._kept) >= KEPT:
                return sample
            self._kept[index] = sample
        return self._kept[index]

    def _drawn(self, index: int, generator: torch.Generator) -> PartSample:
        ink = self._placed(self.scans[index] / np.float32(self.full), generator)  # (H, W)
        object_mask = ink > self.ink
        strokes = drawn_strokes(object_mask, mean_number=self.distractors, pen=self.pen, generator=generator)
        landmarks, part_masks = bands(ink, object_mask)
        image = self.paper + (1 - self.paper) * np.maximum(ink, strokes)
        return PartSample(
            image=torch.from_numpy(image[None]),
            label=int(self.labels[index]),
            landmarks=torch.from_numpy(landmarks),
            part_masks=torch.from_numpy(part_masks),
            object_mask=torch.from_numpy(object_mask),
            distractor_mask=torch.from_numpy((strokes > PEN) & ~object_mask),
            name=self.names[index],
        )

    def contents(self) -> list[str]:
        """A hash of every scan."""
        return [hashlib.blake2b(scan.tobytes(), digest_size=8).hexdigest() for scan in self.scans]

    def _placed(self, scan: NDArray[np.float32], generator: torch.Generator) -> NDArray[np.float32]:
        size = self.image_size[0]
        if self.exact:  # whole pixels: the scan's own values, nothing resampled
            rows, columns = scan.shape
            top = int(torch.randint(size - rows + 1, (), generator=generator))
            left = int(torch.randint(size - columns + 1, (), generator=generator))
            canvas = np.zeros((size, size), dtype=np.float32)
            canvas[top : top + rows, left : left + columns] = scan
            return canvas
        grow, turn, down, right = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        scale = min(self.scale[0] + grow * (self.scale[1] - self.scale[0]), size / max(scan.shape))
        angle = np.deg2rad((2 * turn - 1) * self.rotation)
        cosine, sine = np.cos(angle), np.sin(angle)
        rows, columns = scan.shape
        # half the height and width that the turned scan takes up on the canvas
        half_height = scale * (abs(cosine) * rows + abs(sine) * columns) / 2
        half_width = scale * (abs(sine) * rows + abs(cosine) * columns) / 2
        slack = np.maximum([size / 2 - half_height, size / 2 - half_width], 0)
        centre = (size - 1) / 2 + (2 * np.array([down, right]) - 1) * slack
        padded = np.pad(scan, MARGIN)
        to_scan = np.array([[cosine, sine], [-sine, cosine]]) / scale
        middle = (np.array(padded.shape) - 1) / 2
        placed = ndimage.affine_transform(
            padded,
            to_scan,
            offset=middle - to_scan @ centre,
            output_shape=(size, size),
            output=np.float32,
            order=3,
        )
        return np.clip((placed - RIPPLE) / (1 - RIPPLE), 0, 1)


def drawn_strokes(
    object_mask: NDArray[np.bool_],
    *,
    mean_number: float,
    pen: tuple[float, float],
    generator: torch.Generator,
) -> NDArray[np.float32]:
    """Short straight and bent strokes beside an object, as ink in [0, 1].

    Each stroke is a quadratic Bezier curve of 15-35 % of the canvas in length, at most a tenth of it on the
    object, about as bright and as soft at its edge as a scan.

    Args:
        object_mask: (H, W) bool, ink that the strokes keep away from.
        mean_number: of strokes; the number is Poisson distributed.
        pen: smallest and largest half thickness in pixels.
        generator: what the strokes are drawn from.

    Returns:
        (H, W) float32, 0 where there is no stroke.
    """
    height, width = object_mask.shape
    strokes = np.zeros((height, width), dtype=np.float32)
    if mean_number == 0:
        return strokes
    number = int(torch.poisson(torch.tensor(float(mean_number)), generator=generator))
    if number == 0:
        return strokes
    u = torch.rand(number, TRIES, 7, generator=generator, dtype=torch.float64).numpy()
    size = np.array([height, width])
    length = (0.15 + 0.2 * u[..., 2]) * size.min()
    angle = np.pi * u[..., 3]
    direction = np.stack([np.sin(angle), np.cos(angle)], axis=-1)  # (number, TRIES, 2)
    normal = np.stack([direction[..., 1], -direction[..., 0]], axis=-1)
    half = direction * length[..., None] / 2
    inside = np.abs(half) + 2  # keeps both ends, and the pen, on the canvas
    middle = inside + u[..., :2] * np.maximum(size - 1 - 2 * inside, 0)
    bend = np.where(u[..., 4] < 0.5, 0.0, (u[..., 5] - 0.5) * 1.2) * length  # every second stroke is straight
    start, end, control = (
        p[:, :, None] for p in (middle - half, middle + half, middle + bend[..., None] * normal)
    )
    points = (1 - T) ** 2 * start + 2 * T * (1 - T) * control + T**2 * end  # (number, TRIES, POINTS, 2)
    points = np.clip(points, 1, size - 2)

    row, column = np.rint(points).astype(int).transpose(3, 0, 1, 2)
    free = _thickened(object_mask)[row, column].mean(axis=-1) <= OVERLAP  # (number, TRIES)
    for stroke, candidate in enumerate(free.argmax(axis=1)):
        if not free[stroke, candidate]:
            continue
        curve = points[stroke, candidate].astype(np.float32)  # (POINTS, 2)
        half_thickness = pen[0] + (pen[1] - pen[0]) * u[stroke, 0, 6]
        brightness = 0.75 + 0.25 * u[stroke, 1, 6]
        reach = 1.5 * half_thickness  # the edge fades over as many pixels as half the stroke is thick
        top, left = np.maximum(np.floor(curve.min(axis=0) - reach), 0).astype(int)
        bottom, right = np.minimum(np.ceil(curve.max(axis=0) + reach) + 1, size).astype(int)
        rows = (np.arange(top, bottom, dtype=np.float32) - curve[:, :1]) ** 2  # (POINTS, rows of its box)
        columns = (np.arange(left, right, dtype=np.float32) - curve[:, 1:]) ** 2
        distance = np.sqrt((rows[:, :, None] + columns[:, None, :]).min(axis=0))
        ink = np.clip((reach - distance) / half_thickness, 0, 1) * np.float32(brightness)
        box = strokes[top:bottom, left:right]
        np.maximum(box, ink, out=box)
    return strokes


def _thickened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and the pixels beside, above and below it."""
    thick = mask.copy()
    thick[1:] |= mask[:-1]
    thick[:-1] |= mask[1:]
    thick[:, 1:] |= mask[:, :-1]
    thick[:, :-1] |= mask[:, 1:]
    return thick


def bands(
    ink: NDArray[np.float32], object_mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Parts of a piece of ink: three equal bands of rows of its bounding box.

    Args:
        ink: (H, W) in [0, 1].
        object_mask: (H, W) bool, where `ink` counts.

    Returns:
        landmarks (3, 2) float32, the ink-weighted centroid of each band (NaN for a band without ink), and
        part masks (3, H, W) bool.
    """
    landmarks = np.full((len(PARTS), 2), np.nan, dtype=np.float32)
    part_masks = np.zeros((len(PARTS), *ink.shape), dtype=bool)
    inked = np.flatnonzero(object_mask.any(axis=1))
    if len(inked) == 0:
        return landmarks, part_masks
    edges = inked[0] + np.rint(np.linspace(0, inked[-1] + 1 - inked[0], len(PARTS) + 1)).astype(int)
    weight = ink * object_mask
    for part, (first, end) in enumerate(itertools.pairwise(edges)):
        part_masks[part, first:end] = object_mask[first:end]
        band = weight[first:end]
        total = band.sum()
        if total > 0:
            landmarks[part] = (
                band.sum(axis=1) @ np.arange(first, end) / total,
                band.sum(axis=0) @ np.arange(ink.shape[1]) / total,
            )
    return landmarks, part_masks
