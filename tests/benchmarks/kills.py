"""Kills trainings, explanations and exports at random moments, goes on, and compares with what was never stopped.

    python tests/benchmarks/kills.py FOLDER [--tries 20] [--signal KILL|TERM] [--commands train explain export]

Imports once and forks for every try, so that a try takes a second or two. Prints a row per try. Every try works in a
folder of its own under the same relative names, so that even the files that quote the command line are the same.
"""

import argparse
import hashlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from interp_cnn.cli import main as cli
from interp_cnn.report.maps import records as explained
from interp_cnn.training import fit as _loaded  # noqa: F401  (the long import, once for all tries)

TRAIN = [
    "train",
    "hydra.run.dir=out",
    "model.widths=[4,6,8,8,8]",
    "training.epochs=4",
    "data.image_size=24",
    "data.scale=[1.5,2.0]",
    "+trainer.limit_train_batches=5",
    "+trainer.limit_val_batches=2",
]
EXPLAIN = [
    "explain",
    "hydra.run.dir=out",
    "methods=[sensitivity_analysis,lrp]",
    "limit=40",
    "batch_size=4",
    "draw=false",
    "device=cpu",
]
EXPORT = [
    "export",
    "hydra.run.dir=log",
    "to=out",
    "images=4",
    "exemplars=3",
    "resamples=20",
    "model_formats=[safetensors]",
]


def started(words: list[str], place: Path) -> int:
    """Process that runs a command line in a folder."""
    place.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(place)
            with (place.parent / f"{place.name}.txt").open("ab") as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
            sys.argv = ["interp-cnn", *words]
            code = cli.main(words)
        except SystemExit as leaving:
            code = leaving.code
        finally:
            sys.stdout.flush()
            os._exit(code)
    return child


def ended(child: int) -> int:
    """Exit code of a process, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finished(words: list[str], place: Path) -> float:
    """Seconds that a command takes which nobody disturbs."""
    before = time.monotonic()
    code = ended(started(words, place))
    assert code == 0, (place.parent / f"{place.name}.txt").read_text()[-2000:]
    return time.monotonic() - before


def weights(place: Path) -> dict[str, str]:
    """The last weights of a run, and the whole table of its epochs."""
    state = torch.load(place / "out" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    found = {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in state.items()}
    return {**found, "metrics.csv": (place / "out" / "metrics.csv").read_text()}


def maps(place: Path) -> dict[str, str]:
    """All maps of an explanation by image and method, and its manifest."""
    found = {
        f"{folder.name}/{name}": hashlib.sha256(values.tobytes()).hexdigest()
        for folder in sorted((place / "out" / "images").iterdir())
        for name, values in explained.read_maps(folder).items()
    }
    return {**found, "manifest.csv": (place / "out" / "manifest.csv").read_text()}


def exported(place: Path) -> dict[str, str]:
    """All files of an export."""
    files = (path for path in sorted((place / "out").rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def tried(words: list[str], read, folder: Path, tries: int, kind: signal.Signals) -> int:
    """How many tries ended with the very bits of an undisturbed run."""
    seconds = finished(words, folder / "whole")
    expected, draw, same, stopped = read(folder / "whole"), random.Random(0), 0, 0
    for number in range(tries):
        place = folder / str(number)
        child = started(words, place)
        moment = draw.uniform(0, seconds)
        time.sleep(moment)
        os.kill(child, kind)
        code = ended(child)
        finished(words, place)
        found = read(place)
        left = [str(path) for path in place.rglob("*.draft")]
        same += found == expected and not left
        stopped += code != 0
        print(
            f"{words[0]} {kind.name} after {moment:.2f} s: exit {code}, equal {found == expected}, left {left}",
            flush=True,
        )
    print(
        f"{words[0]} {kind.name}: {same} of {tries} equal, {stopped} stopped within {seconds:.1f} s",
        flush=True,
    )
    return same


def main() -> None:
    """The commands one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--signal", default="KILL")
    parser.add_argument("--commands", nargs="+", default=["train", "explain", "export"])
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / "network"
    if not (run / "out" / "run.json").is_file():
        finished(TRAIN, run)
    commands = {
        "train": (TRAIN, weights),
        "explain": ([*EXPLAIN, f"run={run / 'out'}"], maps),
        "export": ([*EXPORT, f"run={run / 'out'}"], exported),
    }
    for name in options.commands:
        words, read = commands[name]
        tried(
            words,
            read,
            folder / f"{name}-{options.signal}",
            options.tries,
            signal.Signals[f"SIG{options.signal}"],
        )


if __name__ == "__main__":
    main()
