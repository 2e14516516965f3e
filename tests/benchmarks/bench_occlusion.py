"""Occlusion against Captum: time, exactness, multiply-adds and memory, as a Markdown table.

    python tests/benchmarks/bench_occlusion.py [--quick] [--memory] [--only NAME ...] [--images N] [--device cuda]

Every row times, one after the other and repeatedly, Captum's Occlusion with its best `perturbations_per_eval`, a
plain batch of whole forward passes, and ours in float32 and bfloat16; medians of one thread's processor time are
compared. Ours is timed as a user calls it, with tracing, plan and check. Captum is timed for
one class (it needs another run for each further class), ours for all classes. With `--images N` ours is asked for N
images at once, as `explain` does, and its time divided by N: tracing, plan and check are shared. On big networks
Captum and the plain batch run only some of the windows and are scaled up: each window costs them the same.

The "5-conv CNN" is conv3x3 32, pool, 64, pool, 128, 128, 128 (ReLU after each), global average, linear.
The "MNIST CNN" is conv3x3 32, pool, 64, pool, linear 128, linear 10. "LeNet" is conv5x5 6, pool, 16, pool, 120, 84, 10.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from captum.attr import Occlusion
from torch import Tensor, nn

from interp_cnn.evaluation.statistics import rank_correlation
from interp_cnn.explanation.occlusion.job import OcclusionJob
from interp_cnn.explanation.occlusion.maps import occlusion_drops

BATCHES = (8, 16, 32, 64)


def five_convolutions() -> nn.Module:
    """The 5-conv CNN of the module's text."""
    layers: list[nn.Module] = []
    for before, after, pool in [
        (3, 32, True),
        (32, 64, True),
        (64, 128, False),
        (128, 128, False),
        (128, 128, False),
    ]:
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def mnist_cnn() -> nn.Module:
    """The MNIST CNN of the module's text."""
    first = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10))


def lenet() -> nn.Module:
    """LeNet-5 with ReLU and max-pooling."""
    first = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(
        *first, *second, nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)
    )


def torchvision_network(name: str) -> Callable[[], nn.Module]:
    """A randomly initialised network of torchvision's; batch norm takes the statistics of random images."""

    def make() -> nn.Module:
        import torchvision

        network = getattr(torchvision.models, name)(weights=None)
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        if norms:
            with torch.no_grad():
                network.train()(torch.rand(4, 3, 96, 96))
        return network

    return make


@dataclass(frozen=True)
class Case:
    """One row."""

    name: str
    make: Callable[[], nn.Module]
    size: int
    window: int
    stride: int
    channels: int = 3
    captum_batches: int = 0  # batches that Captum runs before it is stopped and scaled; 0: all


CASES = [
    Case("5-conv CNN", five_convolutions, 64, 4, 4),
    Case("5-conv CNN", five_convolutions, 64, 8, 4),
    Case("5-conv CNN", five_convolutions, 64, 16, 4),
    Case("5-conv CNN", five_convolutions, 64, 32, 8),
    Case("5-conv CNN", five_convolutions, 128, 4, 4, captum_batches=4),
    Case("MNIST CNN", mnist_cnn, 28, 1, 1, 1),
    Case("LeNet", lenet, 28, 7, 7, 1),
    Case("LeNet", lenet, 28, 4, 2, 1),
    Case("resnet18", torchvision_network("resnet18"), 224, 8, 8, captum_batches=2),
    Case("resnet18", torchvision_network("resnet18"), 224, 32, 8, captum_batches=2),
    Case("vgg16", torchvision_network("vgg16"), 224, 8, 8, captum_batches=1),
    Case("vgg16", torchvision_network("vgg16"), 224, 32, 8, captum_batches=1),
    Case("mobilenet_v3_small", torchvision_network("mobilenet_v3_small"), 224, 8, 8, captum_batches=3),
    Case("densenet121", torchvision_network("densenet121"), 224, 8, 8, captum_batches=1),
]


class Enough(Exception):
    """Captum has run as many batches as were to be timed."""


class Watched(nn.Module):
    """The network, timing whole batches and stopping after some of them."""

    def __init__(self, network: nn.Module, batches: int) -> None:
        super().__init__()
        self.network, self.batches = network, batches
        self.marks: list[tuple[float, int]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Logits; the first call is the clean image."""
        if self.batches and len(self.marks) > self.batches:
            self.marks.append((seconds(), 0))
            raise Enough
        logits = self.network(images)
        synchronise(images.device)
        self.marks.append((seconds(), len(images)))
        return logits


def seconds() -> float:
    """Processor time of this process, which runs one thread: other work on the machine does not count."""
    return time.perf_counter() if torch.cuda.is_initialized() else time.process_time()


def synchronise(device: torch.device) -> None:
    """Wait for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def captum_seconds(network: nn.Module, image: Tensor, case: Case, batch: int) -> float:
    """Captum's time for all windows of one class."""
    watched = Watched(network, case.captum_batches)
    shape, strides = (case.channels, case.window, case.window), (case.channels, case.stride, case.stride)
    start = seconds()
    try:
        with torch.no_grad():
            Occlusion(watched).attribute(
                image, shape, strides=strides, target=0, perturbations_per_eval=batch
            )
    except Enough:
        first, last = watched.marks[0][0], watched.marks[-1][0]
        windows = sum(number for _, number in watched.marks[1:])
        side = -(-(case.size - case.window) // case.stride) + 1
        return (last - first) / windows * side**2
    synchronise(image.device)
    return seconds() - start


def plain_seconds(network: nn.Module, image: Tensor, windows: int, batch: int) -> float:
    """Whole forward passes in batches, nothing else."""
    images = image.repeat(min(batch, windows), 1, 1, 1)
    start = seconds()
    with torch.no_grad():
        network(images)
    synchronise(image.device)
    return (seconds() - start) / len(images) * windows


def our_seconds(network: nn.Module, images: Tensor, case: Case, precision: str) -> tuple[float, Tensor]:
    """Ours per image, with everything that a call does, and the drops of the first image."""
    start = seconds()
    drops = occlusion_drops(network, images, window=case.window, stride=case.stride, precision=precision)
    synchronise(images.device)
    return (seconds() - start) / len(images), drops[:1]


def row(case: Case, repeats: int, device: str, number: int) -> str:
    """One row of the table; ours for so many images at once."""
    torch.manual_seed(0)
    network = case.make().eval().to(device)
    images = torch.rand(number, case.channels, case.size, case.size, device=device)
    image = images[:1]
    job = OcclusionJob(network, image, window=case.window, stride=case.stride)
    cost = job.cost()
    bound = cost.forward_passes / cost.forward_equivalents if cost.forward_equivalents else 1.0
    captum = {batch: [] for batch in BATCHES}
    plain = {batch: [] for batch in BATCHES}
    ours, rough = [], []
    for _ in range(repeats):
        taken, drops = our_seconds(network, images, case, "float32")
        ours.append(taken)
        taken, rough_drops = our_seconds(network, images, case, "bfloat16")
        rough.append(taken)
        for batch in BATCHES:
            captum[batch].append(captum_seconds(network, image, case, batch))
            plain[batch].append(plain_seconds(network, image, cost.windows, batch))
    best, batch = min((statistics.median(times), batch) for batch, times in captum.items())
    plainest = min(statistics.median(times) for times in plain.values())
    fast, faster = statistics.median(ours), statistics.median(rough)
    ranks = rank_correlation(rough_drops.flatten(0, 1), drops.flatten(0, 1)).mean()
    return (
        f"| {case.name} | {case.size} | {case.window}/{case.stride} | {cost.windows} | {best:.3g} s ({batch}) "
        f"| {bound:.1f}x | {best / plainest:.2f}x | **{best / fast:.1f}x** | {best / faster:.1f}x "
        f"| {error(network, image, case, drops):.1e} | {ranks:.3f} | {job.engine} |"
    )


def error(network: nn.Module, image: Tensor, case: Case, drops: Tensor) -> float:
    """Largest difference to whole forward passes in double precision at three windows, over the largest drop."""
    rows, columns = drops.shape[2:]
    chosen = {(0, 0), (rows // 2, columns // 2), (rows // 3, columns - 1)}
    exact, image = network.double(), image.double()
    worst = 0.0
    with torch.no_grad():
        clean = exact(image)
        for r, c in chosen:
            hidden = image.clone()
            top, left = r * case.stride, c * case.stride
            hidden[..., top : top + case.window, left : left + case.window] = 0
            worst = max(worst, float((drops[:, :, r, c] - (clean - exact(hidden))).abs().max()))
    network.float()
    return worst / float(drops.abs().max())


def peak_megabytes(case: Case, engine: str) -> float:
    """Growth of the process' peak memory while one map is computed, beyond network and image."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_grown, (CASES.index(case), engine))


def _grown(number: int, engine: str) -> float:
    torch.set_num_threads(1)
    case = CASES[number]
    network = case.make().eval()
    image = torch.rand(1, case.channels, case.size, case.size)
    with torch.no_grad():
        network(image)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if engine == "captum":
        captum_seconds(network, image, case, 32)
    else:
        our_seconds(network, image, case, engine)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small networks, fewer repeats")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    parser.add_argument("--only", nargs="*", default=[], help="names of networks")
    parser.add_argument("--images", type=int, default=1, help="ours for so many images at once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [case for case in CASES if not options.only or case.name in options.only]
    if options.quick and not options.only:
        cases = [case for case in cases if case.size < 128]
    if options.memory:
        print("| network | image | window/stride | captum (32) | ours float32 | ours bfloat16 |")
        print("|---|---|---|---|---|---|")
        for case in cases:
            sizes = " | ".join(f"{peak_megabytes(case, e):.0f} MB" for e in ("captum", "float32", "bfloat16"))
            print(f"| {case.name} | {case.size} | {case.window}/{case.stride} | {sizes} |", flush=True)
        return
    print(
        "| network | image | window/stride | windows | captum (batch) | multiply-add bound | plain batch "
        "| ours float32 | ours bfloat16 | max error float32 | rank correlation bfloat16 | engine |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for case in cases:
        heavy = case.size > 128
        repeats = options.repeats or (1 if heavy else 3 if options.quick else 7)
        print(row(case, repeats, options.device, options.images), flush=True)


if __name__ == "__main__":
    main()
