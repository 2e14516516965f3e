"""What a layer's filters look at, as files: contact sheets, a picture per filter, and the numbers behind them.

sheet-1.png, sheet-1.svg, ...   each filter's strongest images, its receptive field outlined
0000.png, 0001.png, ...         the same, a file per filter
filters.npz                     images, labels, peaks, receptive-field boxes, maps, mean maps, peak counts
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.exports.sheets import sheets
from interp_cnn.figures.png import png_bytes
from interp_cnn.report.comparison.filter_sheets import patch_sheet
from interp_cnn.report.words import class_words
from interp_cnn.storage.files import npz_bytes


def filter_files(
    strongest: Exemplars, categories: Sequence[str], *, place: str, title: str
) -> Iterator[tuple[str, bytes]]:
    """Names and contents.

    Args:
        strongest: strongest images of the D filters.
        categories: D, for the captions; empty for none.
        place: the folder of the names.
        title: of the sheets.
    """
    pictures = [patch_sheet(strongest, number) for number in range(len(strongest))]
    captions = [
        f"filter {number}" + (": never fires" if silent else f": {class_words(category)}" if category else "")
        for number, (category, silent) in enumerate(zip(categories, strongest.silent.tolist(), strict=True))
    ]
    yield from sheets(f"{place}/sheet", pictures, captions, title=title)
    for number, picture in enumerate(pictures):
        yield f"{place}/{number:04d}.png", png_bytes(picture, colours=256)
    yield f"{place}/filters.npz", npz_bytes(filter_arrays(strongest, categories))


def filter_arrays(strongest: Exemplars, categories: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of filters.npz, (D, ...) each but for `images` (M, C, H, W), the distinct ones.

    `image` (D, N) is the place in `images` and `image_names` of the n-th strongest, -1 for none.
    """
    numbers = sorted(strongest.images)
    place = {number: index for index, number in enumerate(numbers)} | {-1: -1}
    return {
        "images": np.stack([strongest.images[number].numpy() for number in numbers])
        if numbers
        else np.zeros((0, *strongest.mean_image.shape), np.uint8),
        "image_names": np.array([strongest.names[number] for number in numbers], dtype=np.str_),
        "image": np.vectorize(place.__getitem__, otypes=[np.int64])(strongest.image_numbers.numpy()),
        "image_number": strongest.image_numbers.numpy(),
        "label": strongest.labels.numpy(),
        "score": strongest.scores.numpy(),
        "position": strongest.positions.numpy(),
        "box": strongest.boxes.numpy(),
        "map": strongest.maps.numpy(),
        "mean_map": strongest.mean_map.numpy(),
        "peak_count": strongest.peak_counts.numpy(),
        "mean_image": strongest.mean_image.numpy(),
        "category": np.array(categories, dtype=np.str_),
    }
