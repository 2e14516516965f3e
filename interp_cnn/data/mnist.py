"""MNIST and Fashion-MNIST from torchvision's files, with the distractor strokes and parts of `strokes.py`.

The compressed files are read as they are: nothing is unpacked, so the folder may be read-only. The validation
side is the collection's own test set. By default a scan fills its 28x28 canvas with its own grey values; a
larger canvas places it somewhere, and `scale` and `rotation` enlarge and turn it.

Sources: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document
recognition", Proc. IEEE 1998. H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", arXiv:1708.07747, 2017.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from interp_cnn.data.images import square
from interp_cnn.data.strokes import PEN, CanvasSet

CLASSES = {
    "MNIST": tuple("0123456789"),
    "FashionMNIST": (
        "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
}  # fmt: skip
MOST = 10_000_000  # scans in a file; more is a damaged header


class MnistParts(CanvasSet):
    """One side of MNIST or Fashion-MNIST; see the module.

    Args:
        split: "train" (60,000 scans) or "val" (10,000).
        root: folder that holds `MNIST/raw` or `FashionMNIST/raw`.
        collection: "MNIST" or "FashionMNIST".
        download: fetch missing files through torchvision.
        image_size: side of the canvas in pixels, at least 28 times the smallest scale.
        scale: smallest and largest enlargement.
        rotation: largest turn in degrees, to either side.
        distractors: mean number of strokes per image; 0 draws none.
        redraw: whether training draws new placements and strokes in every epoch.
        split_seed: of the fixed views.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | os.PathLike[str],
        collection: str = "MNIST",
        download: bool = False,
        image_size: int = 28,
        scale: Sequence[float] = (1.0, 1.0),
        rotation: float = 0.0,
        distractors: float = 0.0,
        redraw: bool = True,
        split_seed: int = 0,
    ) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"split={split!r}: expected 'train' or 'val'")
        if collection not in CLASSES:
            raise ValueError(f"collection={collection!r}: expected {' or '.join(CLASSES)}")
        root = Path(root).expanduser()
        raw = root / collection / "raw"
        prefix = "train" if split == "train" else "t10k"
        if download:
            _download(root, collection)
        scans = read_idx(raw / f"{prefix}-images-idx3-ubyte", axes=3)
        labels = read_idx(raw / f"{prefix}-labels-idx1-ubyte", axes=1)
        if len(scans) != len(labels):
            raise ValueError(f"{raw}: {len(scans)} images but {len(labels)} labels for split {split!r}")
        if len(labels) and labels.max() > 9:
            raise ValueError(f"{raw}: label {labels.max()} in split {split!r}, expected 0 to 9")
        super().__init__(
            scans,
            labels,
            full=255,
            pen=1.1,
            classes=CLASSES[collection],
            names=[f"{split}-{index:05d}" for index in range(len(labels))],
            image_size=square(image_size)[0],
            scale=scale,
            rotation=rotation,
            distractors=distractors,
            paper=0.0,
            # cloth is grey, a pen is not: dark garments would have holes at a pen's threshold
            ink=PEN if collection == "MNIST" else 0.05,
            redraw=redraw,
            split_seed=split_seed,
        )


def read_idx(path: Path, *, axes: int) -> NDArray[np.uint8]:
    """An IDX file of bytes, compressed (`path` + ".gz") or not.

    Args:
        path: without ".gz".
        axes: number of axes that the file must have.

    Returns:
        The array of its header's shape.

    Raises:
        FileNotFoundError: if neither file is there.
        ValueError: if the file is damaged or of another kind.
    """
    packed = path.with_name(f"{path.name}.gz")
    source = packed if packed.is_file() else path
    if not source.is_file():
        raise FileNotFoundError(
            f"{packed}: no such file; root should be the folder above {path.parent.parent.name}/raw, "
            "or download=true fetches the files"
        )
    try:
        with gzip.open(source) if source == packed else source.open("rb") as file:
            header = file.read(4 + 4 * axes)
            if len(header) < 4 + 4 * axes or header[:4] != bytes([0, 0, 8, axes]):
                raise ValueError(f"{source}: not an IDX file of bytes with {axes} axes")
            shape = struct.unpack(f">{axes}I", header[4:])
            if shape[0] > MOST or any(side > 1024 for side in shape[1:]):
                raise ValueError(f"{source}: the header promises {'x'.join(map(str, shape))} values")
            count = int(np.prod(shape, dtype=np.int64))
            values = file.read(count + 1)  # one more than there should be, and no more of a file that grows
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{source}: the file is corrupt or truncated ({error})") from error
    if len(values) != count:
        kind = "more" if len(values) > count else "less"
        raise ValueError(f"{source}: {kind} data than the {count} bytes of its header")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _download(root: Path, collection: str) -> None:
    from torchvision import datasets

    try:
        getattr(datasets, collection)(root, download=True)
    except (RuntimeError, OSError) as error:
        raise OSError(f"{collection} could not be fetched into {root}: {error}") from error
