"""What mask and loss cost: time of a training step against the plain twin, and memory against one copy of the scores.

    python tests/benchmarks/bench_interpretable_layer.py [--repeats 9] [--device cuda] [--memory]

Steps of both networks are taken in turn in one process, on one thread on the CPU; the ratio is the median of the
ratios of two neighbouring steps. Memory is the peak of fresh processes (Linux).
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from interp_cnn.model.backbones import build_network
from interp_cnn.model.filter_loss import FilterLoss
from interp_cnn.model.interpretable_conv import TemplateMask, kept_feature_maps, template_masks

CPU_CASES = (("small_cnn", 64, 64), ("resnet18", 128, 32), ("vgg16_bn", 64, 32))
PARTS = ("plain", "mask", "loss", "both")
CUDA_CASES = (("resnet18", 224, 64), ("vgg16_bn", 224, 64))


class Step:
    """One training step of one network, as `Classification` takes it."""

    def __init__(self, name: str, size: int, batch: int, device: str, *, interpretable: bool):
        torch.manual_seed(0)
        self.network = build_network(
            name,
            num_classes=8,
            channels=3,
            image_size=(size, size),
            mean=(0.5,),
            std=(0.25,),
            mask={"enabled": interpretable},
        ).to(device, memory_format=torch.channels_last)
        self.masks = template_masks(self.network)
        self.optimizer = torch.optim.AdamW(self.network.parameters())
        self.images = torch.rand(batch, 3, size, size, device=device).contiguous(
            memory_format=torch.channels_last
        )
        self.labels = torch.randint(0, 8, (batch,), device=device)
        self.loss = None
        self.interpretable = interpretable

    def __call__(self) -> None:
        with kept_feature_maps(self.network) as maps:
            logits = self.network(self.images)
            total = torch.nn.functional.cross_entropy(logits, self.labels)
            if self.interpretable:
                for name, mask in self.masks.items():
                    kept = maps[name]
                    if self.loss is None:
                        self.loss = FilterLoss(kept.shape[1], tuple(kept.shape[2:]), num_classes=8).to(
                            kept.device
                        )
                    mask.auxiliary_loss.join(self.loss(kept, self.labels, mask.beta).loss, 0.3)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        if self.images.is_cuda:
            torch.cuda.synchronize()


def step_ratio(name: str, size: int, batch: int, *, repeats: int, device: str) -> tuple[float, float, float]:
    """Median seconds of the plain and the interpretable step, and the median of their ratios."""
    plain, interpretable = (Step(name, size, batch, device, interpretable=on) for on in (False, True))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for repeat in range(repeats + 2):
        for on, step in ((False, plain), (True, interpretable)):
            started = time.perf_counter()
            step()
            if repeat >= 2:
                seconds[on].append(time.perf_counter() - started)
    ratios = [b / a for a, b in zip(seconds[False], seconds[True], strict=True)]
    return statistics.median(seconds[False]), statistics.median(seconds[True]), statistics.median(ratios)


def added_memory(part: str, batch: int = 64, filters: int = 512, side: int = 14) -> float:
    """Peak MiB that a step adds to the maps: below one convolution, with the mask, the loss, both or neither.

    Runs in a process of its own (`peak_of`), whose allocator gives freed memory back at once.
    """
    maps = torch.rand(batch, filters, side, side).requires_grad_()
    labels = torch.arange(batch) % 8
    mask = TemplateMask(filters, rectify=False, enabled=part in ("mask", "both"))
    loss = FilterLoss(filters, (side, side), num_classes=8)
    above = torch.nn.Conv2d(filters, 8, 1)  # keeps its input for the backward pass, as any network does
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")

    def total() -> torch.Tensor:
        value = above(mask(maps)).square().mean()
        if part in ("loss", "both"):
            mask.auxiliary_loss.join(loss(maps, labels, mask.beta).loss, 0.3)
        return value

    mask.keep_maps = part in ("loss", "both")
    total().backward()
    return _status("VmHWM") - before


def peak_of(part: str) -> float:
    """`added_memory` of a fresh process."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--memory-of", part]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise OSError(f"{key} is not in /proc/self/status")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true", help="measure memory only")
    parser.add_argument("--memory-of", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        added_memory(arguments.memory_of, batch=8, filters=32)  # what the first call loads is not counted
        print(added_memory(arguments.memory_of))
        return
    if not arguments.memory:
        print_times(arguments.repeats, arguments.device)
    if arguments.device == "cpu":
        print_memory()


def print_times(repeats: int, device: str) -> None:
    """One line per network."""
    print("| network | pixels | batch | plain s | interpretable s | ratio |")
    print("|---|---|---|---|---|---|")
    for name, size, batch in CPU_CASES if device == "cpu" else CUDA_CASES:
        plain, ours, ratio = step_ratio(name, size, batch, repeats=repeats, device=device)
        print(f"| {name} | {size} | {batch} | {plain:.3f} | {ours:.3f} | {ratio:.3f} |", flush=True)


def print_memory() -> None:
    """What mask and loss add to the plain step, against one copy of the scores (B, D, h w + 1)."""
    peaks = {part: peak_of(part) for part in PARTS}
    scores = 64 * 512 * (14 * 14 + 1) * 4 / 2**20
    print(f"\nB=64, D=512, 14 x 14, float32; one copy of the scores: {scores:.1f} MiB")
    print("| part | peak MiB | more than plain | copies of the scores |")
    print("|---|---|---|---|")
    for part, peak in peaks.items():
        more = peak - peaks["plain"]
        print(f"| {part} | {peak:.1f} | {more:.1f} | {more / scores:.2f} |")


if __name__ == "__main__":
    main()
