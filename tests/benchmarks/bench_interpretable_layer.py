"""What mask and loss cost: time of a training step against the plain twin, and memory against one copy of the scores.

    python tests/benchmarks/bench_interpretable_layer.py [--repeats 9] [--device cuda]

Steps of both networks are taken in turn in one process, on one thread on the CPU; the ratio of the medians counts.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from interp_cnn.model.backbones import build_network
from interp_cnn.model.filter_loss import FilterLoss
from interp_cnn.model.interpretable_conv import TemplateMask, kept_feature_maps, template_masks

CPU_CASES = (("small_cnn", 64, 64), ("resnet18", 128, 32), ("vgg16_bn", 64, 32))
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
                    total = total + 0.1 * self.loss(kept, self.labels, mask.beta).loss
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


def memory_of_loss_and_mask(batch: int = 64, filters: int = 512, side: int = 14) -> tuple[float, float]:
    """Peak MiB that forward and backward of mask and loss add to the maps and their gradient, and the lower bound."""
    maps = torch.rand(batch, filters, side, side)
    labels = torch.randint(0, 8, (batch,))
    mask, loss = TemplateMask(filters, rectify=False), FilterLoss(filters, (side, side), num_classes=8)
    gradient = torch.ones_like(maps)

    def once() -> None:
        leaf = maps.detach().requires_grad_()
        masked = mask(leaf)
        value = loss(leaf, labels, mask.beta).loss
        torch.autograd.backward([masked, value], [gradient, torch.ones(())])

    once()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    once()
    scores = batch * filters * (side * side + 1) * 4 / 2**20
    kept_by_any_network = maps.numel() * 4 / 2**20  # the gradient of the maps
    return _status("VmHWM") - before - kept_by_any_network, scores


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise OSError(f"{key} is not in /proc/self/status")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | pixels | batch | plain s | interpretable s | ratio |")
    print("|---|---|---|---|---|---|")
    for name, size, batch in CPU_CASES if arguments.device == "cpu" else CUDA_CASES:
        plain, ours, ratio = step_ratio(name, size, batch, repeats=arguments.repeats, device=arguments.device)
        print(f"| {name} | {size} | {batch} | {plain:.3f} | {ours:.3f} | {ratio:.3f} |", flush=True)
    if arguments.device == "cpu":
        peak, bound = memory_of_loss_and_mask()
        print(
            f"\nloss and mask at B=64, D=512, 14 x 14: {peak:.0f} MiB, one copy of the scores {bound:.0f} MiB, "
        )
        print(f"ratio {peak / bound:.2f}")


if __name__ == "__main__":
    main()
