"""Work in parts that are done once: each part's arrays lie in a file, and a study that was stopped goes on after them.

A file carries a fingerprint of all that it depends on, and its part's name; one made otherwise, or damaged, is made
again. Files appear whole or not at all, so that a kill at any moment costs one part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from interp_cnn.storage.files import npz_bytes, read_npz, write_bytes
from interp_cnn.storage.fingerprints import code_of
from interp_cnn.storage.progress import progress_bar

Arrays = dict[str, NDArray]


def fingerprint_of(*parts: object) -> str:
    """A short text that changes with the values and with the code that explains and measures, not with what is told."""
    rooms = ("interp_cnn.explanation", "interp_cnn.evaluation", "interp_cnn.studies")
    code = code_of(*rooms, without=lambda stem: stem.endswith("findings"))
    return hashlib.sha256(f"{parts!r} {code}".encode()).hexdigest()


def done_in_parts(
    folder: Path, fingerprint: str, parts: dict[str, Callable[[], Arrays]], *, label: str
) -> list[Arrays]:
    """Every part's arrays, from its file or made now, with a bar that tells the time that is left."""
    arrays: list[Arrays] = []
    with progress_bar() as bar:
        task = bar.add_task(label, total=len(parts), seen=f"0/{len(parts)} parts")
        for name, make in parts.items():
            arrays.append(_part(folder / f"{name}.npz", f"{fingerprint} {name}", make))
            bar.update(task, completed=len(arrays), seen=f"{len(arrays)}/{len(parts)} parts")
    return arrays


def _part(path: Path, fingerprint: str, make: Callable[[], Arrays]) -> Arrays:
    stored = read_npz(path)
    if stored is not None and str(stored.pop("fingerprint", "")) == fingerprint:
        return stored
    arrays = make()
    write_bytes(path, npz_bytes({"fingerprint": np.array(fingerprint), **arrays}))
    return arrays
