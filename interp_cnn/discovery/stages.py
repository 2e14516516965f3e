"""Stages: results of long work, each in a file that says what it was made from.

A stage is made again when its question differs: other weights, images, settings or code. Files appear whole or not at
all, so that work goes on where it was interrupted. They hold arrays and text; nothing in them is executed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from interp_cnn.storage.files import npz_bytes, read_npz, write_bytes
from interp_cnn.storage.fingerprints import code_of

QUESTION = "question"
Arrays = dict[str, NDArray]


def cached(path: Path, question: Mapping, make: Callable[[], Mapping[str, NDArray]]) -> Arrays:
    """The arrays of a file that answers the same question; else they are made, and written.

    Args:
        path: of the npz file.
        question: plain values, everything that the arrays depend on.
        make: gives them.
    """
    key = json.dumps({**question, "code": code_fingerprint()}, sort_keys=True)
    stored = read_npz(path)
    if stored is not None and str(stored.pop(QUESTION, "")) == key:
        return stored
    made = {name: np.asarray(values) for name, values in make().items()}
    write_bytes(path, npz_bytes({**made, QUESTION: np.array(key)}))
    return made


def code_fingerprint() -> str:
    """The code that answers questions, as a short text."""
    return code_of("interp_cnn.explanation", "interp_cnn.evaluation", "interp_cnn.discovery")[:16]
