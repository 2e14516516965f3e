"""Time, memory and files of `explain` for more and more MNIST images: is time linear, is memory flat?

    python tests/benchmarks/explain_scaling.py FOLDER MNIST_RAW [--counts 1000 10000 60000]

Writes the training images as PNG files, trains a small network on a few of them and explains folders of 1,000, 10,000
and 60,000 images by sensitivity analysis, without pictures: a process each, one thread. The largest memory is what the
operating system counted (ru_maxrss), the seconds are those of the whole command. Prints a row per folder.
"""

import argparse
import gzip
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = ["methods=[sensitivity_analysis]", "limit=null", "draw=false", "device=cpu", "batch_size=32"]
TRAIN = [
    "train",
    "data=mnist",
    "model.widths=[8,8,8,8,8]",
    "training.epochs=1",
    "+trainer.limit_train_batches=50",
]


def images_of(raw: Path) -> np.ndarray:
    """(60000, 28, 28) uint8."""
    with gzip.open(raw / "train-images-idx3-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)


def write_pictures(images: np.ndarray, folder: Path) -> None:
    """One PNG file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        path = folder / f"{number:05d}.png"
        if not path.exists():
            Image.fromarray(image).save(path)


def run(words: list[str]) -> tuple[float, float, float]:
    """Seconds by the clock, seconds of the processor and the largest memory in MiB of one command."""
    before = time.monotonic()
    child = os.fork()
    if child == 0:
        os.execvp(sys.executable, [sys.executable, "-m", "interp_cnn", *words])
    _, status, usage = os.wait4(child, 0)
    assert status == 0, words
    return time.monotonic() - before, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """A table, and the same as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10000, 60000])
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    network, rows = options.folder / "network", []
    if not (network / "run.json").exists():
        run([*TRAIN, f"data.root={options.raw.parent.parent}", f"hydra.run.dir={network}"])
    images = images_of(options.raw)
    for count in options.counts:
        write_pictures(images[:count], options.folder / f"pictures-{count}")
        place = options.folder / f"explained-{count}"
        words = ["explain", f"run={network}", f"images={options.folder / f'pictures-{count}'}", *WORDS]
        seconds, processor, memory = run([*words, f"hydra.run.dir={place}"])
        rows.append({"images": count, "seconds": seconds, "processor": processor, "MiB": memory})
        print({name: round(value, 1) for name, value in rows[-1].items()}, flush=True)
    (options.folder / "scaling.json").write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
