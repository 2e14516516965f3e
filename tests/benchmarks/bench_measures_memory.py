"""Peak memory of measuring a network, against the number of images (Linux).

    python tests/benchmarks/bench_measures_memory.py [--images 5000 20000 50000] [--filters 512] [--resamples 500]

Images are made batch by batch, the network is one convolution: what grows is what the measures keep. Every size runs
in a fresh process; its peak is above what the process held before, after a run with few images.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.filters.comparison import compare, measure_network

SIDE, CLASSES, BATCH = 4, 8, 100


class Batches:
    """`count` random images with two landmarks each; the same whenever they are read."""

    def __init__(self, count: int):
        self.count = count

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        for start in range(0, self.count, BATCH):
            images = torch.rand(BATCH, 3, SIDE, SIDE, generator=generator)
            landmarks = torch.rand(BATCH, 2, 2, generator=generator) * SIDE
            labels = torch.arange(start, start + BATCH) % CLASSES
            names = [f"{number:06d}" for number in range(start, start + BATCH)]
            yield PartBatch(images, labels, landmarks, None, None, None, names)


class Network(nn.Module):
    """A layer of so many filters and a head."""

    def __init__(self, filters: int):
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(3, filters, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(filters, CLASSES)

    def forward(self, images):
        return self.head(self.maps(images).amax(dim=(2, 3)))


def measure(images: int, filters: int, resamples: int) -> None:
    """All measures, probes and the shuffled baseline, as the command takes them."""
    torch.manual_seed(0)
    measures = measure_network(
        Network(filters),
        Batches(images),
        layer="maps",
        name="network",
        kind="given",
        classes=[str(number) for number in range(CLASSES)],
        parts=("head", "leg"),
        image_size=(SIDE, SIDE),
        resamples=resamples,
    )
    compare([measures])


def status(key: str) -> float:
    """MiB of a line of the process's status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise OSError(f"{key} is not in /proc/self/status")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[5_000, 20_000, 50_000])
    parser.add_argument("--filters", type=int, default=512)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    options = (given.filters, given.resamples)
    if given.one:
        measure(200, given.filters, 20)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before, started = status("VmRSS"), time.perf_counter()
        measure(*given.images, *options)
        print(f"{status('VmHWM') - before:.0f} | {time.perf_counter() - started:.0f}")
        return
    print(
        f"{given.filters} filters, {given.resamples} resamplings\n| images | peak MiB | seconds |\n|---|---|---|"
    )
    for images in given.images:
        command = [sys.executable, __file__, "--one", "--images", str(images)]
        command += ["--filters", str(given.filters), "--resamples", str(given.resamples)]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"| {images} | {found.strip()} |", flush=True)


if __name__ == "__main__":
    main()
