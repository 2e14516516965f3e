"""Occlusion of one image on a GPU: all windows in one batch, plain batches, captum; times, errors, memory.

    python tests/benchmarks/gpu_occlusion.py [--small] [--seconds 55]

`occlusion_table` gives the rows for `gpu_check.py`. Times are medians of milliseconds for all windows and all classes
of one image (captum: one class, it needs another run for each further one), the clean pass and the plan apart, on
one machine in one run. Errors are relative to the largest drop of some windows computed one by one in float64. Ratios
stand beside the aims; "before" is what a prototype reached on an H100 (2026-11-25).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]

import torch  # noqa: E402
import torchvision  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from interp_cnn.explanation.network.precision import precision  # noqa: E402
from interp_cnn.explanation.occlusion.fills import as_fill  # noqa: E402
from interp_cnn.explanation.occlusion.occluders import Occluders  # noqa: E402
from interp_cnn.explanation.occlusion.one_batch import kernels  # noqa: E402
from interp_cnn.explanation.occlusion.one_batch.engine import OneBatchOcclusion  # noqa: E402
from interp_cnn.explanation.occlusion.one_batch.replay import Replays  # noqa: E402
from interp_cnn.explanation.occlusion.windows import window_grid  # noqa: E402

PRECISIONS = ("float32", "tf32", "bfloat16")
KINDS = ("eager, torch alone", "eager", "graph", "graph, kernels by trial", "graph of 4 images, each")
CHECKED = 48  # windows that are computed one by one in float64
BOUNDS = {"float32": 1e-5, "tf32": None, "bfloat16": None}


@dataclass(frozen=True)
class Case:
    """One network, image size and grid; aims are ratios: plain float32, captum in TF32, captum in bfloat16."""

    name: str
    side: int
    window: int
    stride: int
    aims: tuple[float, float, float] | None = None
    before: str = ""


CASES = (
    Case("five", 64, 8, 4, (1.0, 15, 25), "one batch 2.1/1.9/1.9, graph 1.17/.75/.61, plain 3.1/1.7/1.5"),
    Case("five", 128, 4, 4, (9, 15, 25), "one batch 4.9/3.7/2.8, graph 4.1/2.8/1.9, plain 40.9/16.7/13.7"),
    Case(
        "resnet18",
        224,
        8,
        8,
        (2.8, 5, 7),
        "one batch 35.1/12.7/8.8, graph 33.9/11.6/7.6, plain 95.6/35.1/26.1",
    ),
    Case("vgg16", 224, 8, 8, (9, 7, 11), "one batch 57.3/23.1/15.1, graph 56.4/22.2/14.1, plain 543/153/103"),
)
SMALL = (Case("five", 32, 8, 8), Case("resnet18", 64, 24, 20))


@dataclass
class Measured:
    """Milliseconds and errors of one case."""

    times: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)


def occlusion_table(
    device: torch.device | str | None = None, *, small: bool = False, seconds: float = 55
) -> Iterator[dict]:
    """Rows what / found / aim / before / missed, as they are measured.

    Args:
        device: the GPU if there is one.
        small: small networks and images, to try the script on any machine.
        seconds: after which cases are left out.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    small = small or device.type == "cpu"
    end = time.monotonic() + seconds
    for case in SMALL if small else CASES:
        label = f"{case.name} {case.side} px {case.window}/{case.stride}"
        if time.monotonic() > end:
            yield {"what": label, "found": "left out: no time", "aim": "", "before": case.before}
            continue
        try:
            yield from rows_of(case, label, device, end)
        except Exception as error:
            found = f"{type(error).__name__}: {str(error)[:200]}"
            yield {"what": label, "found": found, "aim": "runs", "before": "", "missed": True}
        if device.type == "cuda":
            torch.cuda.empty_cache()


def rows_of(case: Case, label: str, device: torch.device, end: float) -> Iterator[dict]:
    network, image = network_of(case.name).to(device), picture(case.side).to(device)
    measured = Measured()
    with torch.no_grad():
        for name in PRECISIONS:
            one_batch(case, network, image, name, measured, end)
        plain(case, network, image, measured)
        captum(case, network, image, measured, end)
    times = measured.times

    def listed(kind: str) -> str:
        return " / ".join(
            f"{times[f'{kind} {name}']:.2f}" if f"{kind} {name}" in times else "-" for name in PRECISIONS
        )

    windows = len(window_grid((case.side, case.side), case.window, case.stride))
    yield {
        "what": f"{label} ({windows} windows), ms float32 / TF32 / bf16: plain batches",
        "found": listed("plain"),
    }
    for kind in KINDS:
        yield {"what": f"{label}: one batch, {kind}", "found": listed(kind), "before": case.before}
    yield {
        "what": f"{label}: clean pass; plan float32",
        "found": f"{listed('clean')}; {times['plan']:.0f}",
        "before": "2 - 7",
    }
    memory = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in measured.memory.items())
    yield {"what": f"{label}: GiB of one batch", "found": memory, "before": "3.4 (resnet18)"}
    for name in PRECISIONS:
        bound, error = BOUNDS[name], measured.errors[name]
        missed = bound is not None and not error <= bound
        what = f"{label}: {name} against float64, relative to the largest drop"
        yield {
            "what": what,
            "found": f"{error:.1e}",
            "aim": f"<= {bound:g}" if bound else "",
            "missed": missed,
        }
    best = {
        name: min(times[f"{kind} {name}"] for kind in ("eager", "graph") if f"{kind} {name}" in times)
        for name in PRECISIONS
    }
    pairs = [("plain float32", best["float32"], "plain float32 / one batch float32", 0)]
    pairs += [("captum tf32", best["tf32"], "captum TF32 / one batch TF32", 1)]
    pairs += [("captum tf32", best["bfloat16"], "captum TF32 / one batch bf16", 2)]
    for kind, own, text, number in pairs:
        if kind in times:
            aim = f">= {case.aims[number]:g}x" if case.aims else ""
            yield {"what": f"{label}: {text}", "found": f"{times[kind] / own:.1f}x", "aim": aim}


def one_batch(
    case: Case, network: nn.Module, image: Tensor, name: str, measured: Measured, end: float
) -> None:
    grid = window_grid((case.side, case.side), case.window, case.stride)
    dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
    device = image.device
    with precision("tf32" if name == "tf32" else "float32"):
        start = time.perf_counter()
        engine = OneBatchOcclusion(network, grid, image, dtype=dtype)
        wait(device)
        measured.times.setdefault("plan", (time.perf_counter() - start) * 1000)
        measured.times[f"clean {name}"] = milliseconds(lambda: engine.clean(image), device)
        capacity = engine.capacity(device)
        for kind, images in (
            ("eager", image),
            ("graph of 4 images, each", image.expand(4, -1, -1, -1).contiguous()),
        ):
            clean, occluders = engine.clean(images), Occluders(images, grid, as_fill(0.0))
            batches = engine.batches(len(images), max(capacity, 1))

            def run(clean=clean, occluders=occluders, batches=batches) -> list:
                return [
                    part for batch in batches for part in engine.drops(clean, batch, occluders.listed_changes)
                ]

            engine.replays.record = False
            if kind == "eager":
                with without_triton():
                    measured.times[f"eager, torch alone {name}"] = milliseconds(run, device)
                reset_memory(device)
                measured.times[f"eager {name}"] = milliseconds(run, device)
                measured.memory[name] = most_memory(device)
                measured.errors[name] = error_of(case, network, image, run())
            if device.type != "cuda":
                continue
            engine.replays.record = True
            run(), run()
            if engine.replays.record:  # recording did not fail
                key = "graph" if kind == "eager" else kind
                measured.times[f"{key} {name}"] = milliseconds(run, device) / len(images)
                measured.errors[name] = max(measured.errors[name], error_of(case, network, image, run()))
            if kind == "eager" and name == "float32" and time.monotonic() < end - 20:
                engine.replays = Replays(engine.program)
                engine.replays.try_kernels = True
                run(), run()
                measured.times[f"graph, kernels by trial {name}"] = milliseconds(run, device)
                engine.replays = Replays(engine.program)


def plain(case: Case, network: nn.Module, image: Tensor, measured: Measured) -> None:
    grid = window_grid((case.side, case.side), case.window, case.stride)
    windows = [(a, b) for a in range(len(grid.row_starts)) for b in range(len(grid.column_starts))]
    occluders = Occluders(image, grid, as_fill(0.0))
    size = min(256 if image.device.type == "cuda" else 32, len(windows))
    occluded = occluders.occluded(0, windows[:size])  # made once: the forward passes alone are timed
    share = len(windows) / size
    for name in PRECISIONS:
        own = network if name != "bfloat16" else network.bfloat16()
        batch = occluded.to(next(own.parameters()).dtype).contiguous(memory_format=torch.channels_last)
        with precision("tf32" if name == "tf32" else "float32"):
            measured.times[f"plain {name}"] = share * milliseconds(
                lambda b=batch, own=own: own(b), image.device
            )
    network.float()


def captum(case: Case, network: nn.Module, image: Tensor, measured: Measured, end: float) -> None:
    try:
        from captum.attr import Occlusion
    except ImportError:
        return
    window = (3, case.window, case.window)
    explain = Occlusion(network)
    best = float("inf")
    for at_once in (64, 256) if image.device.type == "cuda" else (32,):
        if time.monotonic() > end:
            break
        with precision("tf32"), warnings.catch_warnings():
            warnings.simplefilter("ignore")

            def run(at_once=at_once) -> Tensor:
                return explain.attribute(
                    image, window, (3, case.stride, case.stride), target=0, perturbations_per_eval=at_once
                )

            best = min(best, milliseconds(run, image.device, repeats=2))
    if best < float("inf"):
        measured.times["captum tf32"] = best


def error_of(case: Case, network: nn.Module, image: Tensor, parts: list) -> float:
    """The largest error of some windows of the first image, relative to their largest drop in float64."""
    grid = window_grid((case.side, case.side), case.window, case.stride)
    windows = [(a, b) for a in range(len(grid.row_starts)) for b in range(len(grid.column_starts))]
    chosen = windows[:: max(1, len(windows) // CHECKED)]
    own = double_of(network)
    occluders = Occluders(image.double(), grid, as_fill(0.0))
    clean = own(image.double())
    expected = {}
    for first in range(0, len(chosen), 16):
        some = chosen[first : first + 16]
        expected |= dict(zip(some, clean - own(occluders.occluded(0, some)), strict=True))
    largest = max(float(drops.abs().max()) for drops in expected.values())
    worst, seen = 0.0, 0
    for part in parts:
        if part.images.start != 0:
            continue
        for number, window in enumerate(zip(part.rows, part.columns, strict=True)):
            if window in expected:
                worst = max(worst, float((part.drops[0, :, number].double() - expected[window]).abs().max()))
                seen += 1
    assert seen == len(chosen), f"{seen} of {len(chosen)} windows came"
    return worst / largest


_DOUBLES: dict[int, nn.Module] = {}


def double_of(network: nn.Module) -> nn.Module:
    """The same network in float64; copied once."""
    import copy

    if id(network) not in _DOUBLES:
        _DOUBLES.clear()
        _DOUBLES[id(network)] = copy.deepcopy(network).double()
    return _DOUBLES[id(network)]


@contextmanager
def without_triton() -> Iterator[None]:
    usable, kernels.usable = kernels.usable, lambda delta: False
    try:
        yield
    finally:
        kernels.usable = usable


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "five":
        from bench_occlusion import five_convolutions

        return five_convolutions().eval()
    network = getattr(torchvision.models, name)(weights=None)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:  # running statistics of some images, that values neither fade nor explode
        for module in norms:
            module.momentum = None
        with torch.no_grad():
            network.train()(torch.rand(4, 3, 96, 96))
    else:
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
    return network.eval()


def picture(side: int) -> Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def milliseconds(function: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
    """Median; a first call is not counted, and slow ones are repeated less."""
    function()
    wait(device)
    times: list[float] = []
    while len(times) < repeats and (len(times) < 3 or sum(times) < 1.5):
        start = time.perf_counter()
        function()
        wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def most_memory(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=55)
    chosen = parser.parse_args()
    for row in occlusion_table(small=chosen.small, seconds=chosen.seconds):
        print(
            "| "
            + " | ".join(str(row.get(name, "")) for name in ("what", "found", "aim", "before", "missed"))
            + " |",
            flush=True,
        )
