"""Why a network decided as it did, as files: a sheet as a picture and its numbers for every image and class.

0000-<class>.png, 0000-<class>.json   of the first image, for the class that the network says, or the image's own
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from numpy.typing import ArrayLike

from interp_cnn.figures.png import png_bytes
from interp_cnn.report.decisions.contents import Decision
from interp_cnn.report.decisions.picture import decision_picture
from interp_cnn.storage.names import distinct_slugs


def decision_files(
    decided: Iterable[tuple[str, ArrayLike, list[Decision]]], *, place: str
) -> Iterator[tuple[str, bytes]]:
    """Names, inside the folder `place`, and contents.

    Args:
        decided: name and pixels (C, H, W) of each image, and the decisions about it.
        place: the folder of the names.
    """
    for number, (name, image, decisions) in enumerate(decided):
        slugs = distinct_slugs([decision.target for decision in decisions])
        for decision, slug in zip(decisions, slugs, strict=True):
            base = f"{place}/{number:04d}-{slug}"
            yield f"{base}.png", png_bytes(decision_picture(decision, image), colours=256)
            record = {"file": name, "label": decision.label, **decision.as_json()}
            yield f"{base}.json", json.dumps(record, indent=1, ensure_ascii=False).encode("utf-8")
