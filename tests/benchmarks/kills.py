"""Kills a training and an explanation at random moments, goes on, and compares with what was never stopped.

    python tests/benchmarks/kills.py FOLDER [--tries 20] [--signal KILL|TERM]

Imports once and forks for every try, so that a try takes a second or two. Prints a row per try.
"""

import argparse
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from interp_cnn import cli
from interp_cnn.report import explained
from interp_cnn.training import run as _loaded  # noqa: F401  (the long import, once for all tries)

TRAIN = [
    "train",
    "model.widths=[4,6,8,8,8]",
    "training.epochs=4",
    "data.image_size=24",
    "data.scale=[1.5,2.0]",
]
EXPLAIN = [
    "explain",
    "methods=[sensitivity_analysis,lrp]",
    "limit=60",
    "batch_size=4",
    "draw=false",
    "device=cpu",
]


def started(words: list[str], log: Path) -> int:
    """Process that runs a command line."""
    child = os.fork()
    if child == 0:
        with log.open("ab") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        sys.argv = ["interp-cnn", *words]
        code = cli.main(words)
        os._exit(code)
    return child


def finished(words: list[str], log: Path) -> float:
    """Seconds that a command takes which nobody disturbs."""
    before = time.monotonic()
    _, status = os.waitpid(started(words, log), 0)
    assert status == 0, log.read_text()[-2000:]
    return time.monotonic() - before


def weights(folder: Path) -> dict:
    """The last weights of a run."""
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def maps(folder: Path) -> dict:
    """All maps of an explanation by image and method."""
    return {
        f"{place.name}/{name}": torch.from_numpy(np.ascontiguousarray(values))
        for place in sorted((folder / "images").iterdir())
        for name, values in explained.read_maps(place).items()
    }


def tried(words: list[str], read, folder: Path, tries: int, kind: signal.Signals) -> int:
    """How many tries ended with the very bits of an undisturbed run."""
    log = folder / "log.txt"
    seconds = finished([*words, f"hydra.run.dir={folder}/whole"], log)
    expected, draw, same = read(folder / "whole"), random.Random(0), 0
    for number in range(tries):
        place = folder / str(number)
        line = [*words, f"hydra.run.dir={place}"]
        child = started(line, log)
        moment = draw.uniform(0, seconds)
        time.sleep(moment)
        os.kill(child, kind)
        _, status = os.waitpid(child, 0)
        finished(line, log)
        found = read(place)
        equal = found.keys() == expected.keys() and all(
            torch.equal(found[key], expected[key]) for key in found
        )
        left = [str(path) for path in place.rglob("*.draft")]
        same += equal and not left
        print(
            f"{words[0]} {kind.name} after {moment:.2f} s: status {status}, equal {equal}, left {left}",
            flush=True,
        )
    return same


def main() -> None:
    """Both commands, the number of tries that ended equal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--signal", default="KILL")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    kind = signal.Signals[f"SIG{options.signal}"]
    for words, read in ((TRAIN, weights), ([*EXPLAIN, f"run={options.folder}/train/whole"], maps)):
        place = options.folder / words[0]
        place.mkdir()
        print(
            f"{words[0]}: {tried(words, read, place, options.tries, kind)} of {options.tries} equal",
            flush=True,
        )


if __name__ == "__main__":
    main()
