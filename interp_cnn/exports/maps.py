"""What a network sees in some images, as files: maps over the pixels, and the maps of its filters.

<method>-1.png, <method>-1.svg   image and map side by side
maps.npz                         images, names, labels, logits; a map per method; the filters' maps of each layer
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp_cnn import figures
from interp_cnn.exports.sheets import sheets
from interp_cnn.report.album import SIDE, within
from interp_cnn.report.words import class_words, method_title
from interp_cnn.storage.files import npz_bytes


@dataclass(frozen=True)
class SeenImages:
    """N images and what a network makes of them.

    Attributes:
        images: (N, C, H, W) in [0, 1].
        names: N.
        labels: N names of classes, empty where not known.
        classes: K names.
        logits: (N, K).
        maps: method -> (N, H, W), of the class that the network predicts.
        feature_maps: layer -> (N, D, h, w).
    """

    images: NDArray[np.float32]
    names: Sequence[str]
    labels: Sequence[str]
    classes: Sequence[str]
    logits: NDArray[np.float32]
    maps: Mapping[str, NDArray[np.float32]]
    feature_maps: Mapping[str, NDArray[np.float32]]


def map_files(seen: SeenImages, *, place: str, title: str) -> Iterator[tuple[str, bytes]]:
    """Names, inside the folder `place`, and contents."""
    predictions = [seen.classes[int(number)] for number in seen.logits.argmax(1)]
    for method, maps in seen.maps.items():
        signed = float(maps.min()) < 0
        pairs, captions = [], []
        for image, label, predicted, values in zip(seen.images, seen.labels, predictions, maps, strict=True):
            colours = "green-red" if signed else "heat"
            limits = figures.common_limits([values], colours=colours)
            picture = within(figures.to_rgb(image), SIDE)
            veiled = figures.overlay(picture, values, limits=limits, colours=colours, smooth=False)
            pairs.append(figures.montage([picture, veiled], columns=2, gap=2))
            scale = f"±{limits[1]:.3g}" if signed else f"0 to {limits[1]:.3g}"
            captions.append(
                f"{class_words(label) or 'image'}, seen as {class_words(predicted)}; scale {scale}"
            )
        words = f"{title}: {method_title(method)} of the predicted class"
        yield from sheets(f"{place}/{method}", pairs, captions, title=words, columns=4)
    arrays = {
        "images": np.round(seen.images * 255).astype(np.uint8),
        "names": np.array(seen.names, dtype=np.str_),
        "labels": np.array(seen.labels, dtype=np.str_),
        "classes": np.array(seen.classes, dtype=np.str_),
        "logits": seen.logits,
        **{f"map_{method}": values for method, values in seen.maps.items()},
        **{f"filters_{layer}": values for layer, values in seen.feature_maps.items()},
    }
    yield f"{place}/maps.npz", npz_bytes(arrays)
