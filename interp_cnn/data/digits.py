"""Real handwritten digits, no file needed: scikit-learn's 1,797 scans of 8x8 pixels on a 48x48 canvas.

Every scan is enlarged smoothly, turned a little, placed at random, and surrounded by distractor strokes
(`canvas.py` says how and why). A fifth of the scans of every class is held out for validation; their places
and strokes never change. In training they are drawn anew in every epoch unless `redraw` is off.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository
1998 (CC BY 4.0), the test set of it that scikit-learn carries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from interp_cnn.data.split import held_out
from interp_cnn.data.strokes import PEN, CanvasSet


class DigitsParts(CanvasSet):
    """The scans of one side of the split; see the module.

    Args:
        split: "train" or "val".
        image_size: side of the canvas in pixels.
        scale: smallest and largest size of a scan's pixel on the canvas.
        rotation: largest turn in degrees, to either side.
        distractors: mean number of strokes per image; 0 draws none.
        redraw: whether training draws new placements and strokes in every epoch.
        split_seed: decides which scans are held out and how fixed views look.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        image_size: int = 48,
        scale: Sequence[float] = (2.5, 4.0),
        rotation: float = 15.0,
        distractors: float = 3.0,
        redraw: bool = True,
        split_seed: int = 0,
    ) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"split={split!r}: expected 'train' or 'val'")
        scans = load_digits()
        assert isinstance(scans, Bunch)  # a tuple only with return_X_y
        validation = np.array(held_out(scans.target, range(len(scans.target)), fraction=0.2, seed=split_seed))
        chosen = np.flatnonzero(validation == (split == "val"))
        super().__init__(
            scans.images[chosen].astype(np.uint8),
            scans.target[chosen],
            full=16,
            pen=0.5,
            classes=tuple("0123456789"),
            names=[f"scan-{index:04d}" for index in chosen],
            image_size=image_size,
            scale=scale,
            rotation=rotation,
            distractors=distractors,
            paper=0.2,
            ink=PEN,
            redraw=redraw,
            split_seed=split_seed,
        )
