"""Everything that only a GPU can show, in one call of at most five minutes.

    python tests/benchmarks/gpu_check.py [--only SECTION,...] [--out FILE] [--device cuda] [--small]

    correctness   every relevance method, GPU against the CPU's float64: float64 <= 1e-9, float32 <= 1e-4
    occlusion     all windows of one image against plain batches and captum (`gpu_occlusion.occlusion_table`)
    step          a training step, interpretable / plain, and what of it waits for the host
    methods       LRP, DeepLIFT, ... of eight images in forward + backward passes of the same images
    loader        batches of pictures a second that the data modules hand over
    compare       `interp-cnn compare` with no device named, then evaluate, explain and export on its runs

Prints one Markdown table as it goes, each figure beside the aim and beside what was measured before on an H100
(2026-11-25), and ends with code 1 where an aim of correctness is missed or a section fails. `--small` shrinks
everything, to try the script itself on any machine.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]

import torch  # noqa: E402
import torchvision  # noqa: E402
from torch import Tensor, nn  # noqa: E402

SECONDS = 55  # of one section; what is left of it is said to be left out


@dataclass(frozen=True)
class Row:
    """One line of the table; `missed` where an aim of correctness is."""

    what: str
    found: str
    aim: str = ""
    before: str = ""
    missed: bool = False


@dataclass(frozen=True)
class Setting:
    """Where and how large."""

    device: torch.device
    small: bool

    @property
    def side(self) -> int:
        return 64 if self.small else 224


# --- correctness ----------------------------------------------------------------------------------------------------

SLOW_ON_A_CPU = (
    "single_pixel",
    "occlusion_pairs",
    "rise",
    "occlusion_random",
    "smooth_grad",
    "shapley_values",
)


def correctness(setting: Setting) -> Iterator[Row]:
    """Relative to the largest value of the map; the CPU's own float32 beside it says what float32 can hold."""
    from interp_cnn.explanation.methods.registry import METHODS

    begun = time.monotonic()
    cases = [(name, network) for name, network in small_networks(setting)]
    planned = (
        *((name, network, 24, [m for m in METHODS if m != "single_pixel"]) for name, network in cases),
        ("resnet18", large_network("resnet18"), 64, [m for m in METHODS if m not in SLOW_ON_A_CPU]),
        ("vgg16", large_network("vgg16"), 64, [m for m in METHODS if m not in SLOW_ON_A_CPU]),
    )
    for number, (name, network, side, methods) in enumerate(planned):
        end = begun + SECONDS * (number + 1) / len(planned)
        channels = next(network.parameters()).shape[1]
        images = torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(1)).double()
        yield from network_rows(name, network, images, methods, setting, end)
        if setting.small:
            break


def network_rows(name, network, images, methods, setting, end) -> Iterator[Row]:
    worst = {"float64": (0.0, ""), "float32": (0.0, "")}
    refused, late, missed = [], [], []
    targets = torch.tensor([0, 1])
    kinks = []
    rounding = Rounding(network, images, targets, setting.device)
    for method in methods:
        if time.monotonic() > end:
            late.append(method)
            continue
        try:
            exact = map_of(method, network, images, targets, "cpu", torch.float64)
            fixed = exact  # what float32 is compared with
            if method.startswith("lrp"):
                fixed = map_of(method, network, images, targets, "cpu", torch.float64, biases="activations")
            own = map_of(method, network, images, targets, "cpu", torch.float32, biases="activations")
        except ValueError as error:
            refused.append(f"{method} ({str(error)[:60]})")
            continue
        for kind, dtype, aim, truth, biases in (
            ("float64", torch.float64, 1e-9, exact, "auto"),
            ("float32", torch.float32, 1e-4, fixed, "activations"),
        ):
            try:
                found = map_of(method, network, images, targets, setting.device, dtype, biases=biases)
            except Exception as error:
                missed.append(f"{method} {kind}: {type(error).__name__} {str(error)[:120]}")
                continue
            error = apart(found, truth)
            if error > worst[kind][0]:
                worst[kind] = (error, method)
            here = apart(own, fixed) if kind == "float32" else 0.0
            if error <= max(aim, 3 * here):
                continue
            text = f"{method} {kind}: {error:.1e} (CPU float32: {here:.1e}"
            if kind == "float32" and not method.startswith(("lrp", "deeplift")):  # those read the layers
                moves = rounding.moves(method, truth)
                text += f"; rounding of the size that the logits show moves the map by {in_words(moves)}"
                if error <= 3 * max(moves):
                    kinks.append(text + ")")
                    continue
            missed.append(text + ")")
    for kind, aim in (("float64", "1e-9"), ("float32", "1e-4")):
        error, method = worst[kind]
        before = ".15 to .30" if kind == "float32" and name in ("resnet18", "vgg16") else ""
        yield Row(
            f"{name}: worst {kind} map of {len(methods) - len(late)}"
            + (", lrp's biases by activation on both sides" if kind == "float32" else ""),
            f"{error:.1e} ({method})",
            f"<= {aim}",
            before,
        )
    for text in missed:
        yield Row(f"{name}: MISSED", text, missed=True)
    for text in kinks:
        yield Row(f"{name}: above the aim, as rounding itself moves the map", text, "<= 3 x the largest")
    for kind, names in (("refused", refused), ("left out for time", late)):
        if names:
            yield Row(f"{name}: {kind}", ", ".join(names))


def apart(found: Tensor, exact: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((found - exact).abs().max() / exact.abs().max().clamp(min=1e-30))


def in_words(values: list[float]) -> str:
    return ", ".join(f"{value:.1e}" for value in sorted(values))


class Rounding:
    """How far a method's map moves by rounding of the size that the device's float32 has, measured in float64.

    Every convolution and linear layer gets noise relative to what it adds up, so large that the logits move as far as
    they move on the device. Where a map has jumps (equal winners of a maximum, a unit at zero, a piece of a path
    on the other side of a kink), no precision but the exact one finds them where float64 does.
    """

    def __init__(self, network: nn.Module, images: Tensor, targets: Tensor, device: torch.device) -> None:
        self.network, self.images, self.targets, self.device = network, images, targets, device
        self._size: float | None = None

    def moves(self, method: str, exact: Tensor, draws: int = 6) -> list[float]:
        """Relative to the largest value, of several draws."""
        found = []
        for seed in range(draws):
            with noise_behind_layers(self.network, self.size, seed, self.device):
                found.append(
                    apart(
                        map_of(
                            method,
                            self.network,
                            self.images,
                            self.targets,
                            self.device,
                            torch.float64,
                            biases="activations",
                        ),
                        exact,
                    )
                )
        return found

    @property
    def size(self) -> float:
        """Noise with which the logits move as far as in float32 on the device; known once it was asked for."""
        if self._size is None:
            from interp_cnn.explanation.network.precision import precision

            with torch.no_grad(), precision("float32"):
                exact = self._logits(torch.float64)
                error = apart(self._logits(torch.float32), exact)
                trial = 2.0**-24
                moved = []
                for seed in range(6):
                    with noise_behind_layers(self.network, trial, seed, self.device):
                        moved.append(apart(self._logits(torch.float64), exact))
            self._size = trial * error / max(statistics.median(moved), 1e-30)
        return self._size

    def _logits(self, dtype: torch.dtype) -> Tensor:
        return self.network.to(self.device, dtype)(self.images.to(self.device, dtype)).double().cpu()


@contextmanager
def noise_behind_layers(network: nn.Module, size: float, seed: int, device: torch.device) -> Iterator[None]:
    """What weighted layers return, with uniform noise of `size` times the root mean square of their values."""
    generator = torch.Generator(device).manual_seed(seed)

    def noisy(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        drawn = torch.rand(output.shape, generator=generator, device=output.device, dtype=output.dtype)
        return output + (2 * drawn - 1) * size * output.detach().square().mean().sqrt()

    layers = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(noisy) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def map_of(
    method: str, network: nn.Module, images: Tensor, targets: Tensor, device, dtype, *, biases: str = "auto"
) -> Tensor:
    """(B, H, W) in float64 on the CPU; `biases` of LRP, whose `auto` decides by the precision."""
    from interp_cnn.explanation.gradients.gradients import integrated_gradients
    from interp_cnn.explanation.methods.options import OcclusionOptions, Options
    from interp_cnn.explanation.methods.registry import method_named
    from interp_cnn.explanation.propagation.lrp import lrp
    from interp_cnn.explanation.shapley import shapley_values

    few = OcclusionOptions(samples=64, tolerance=None, audit=4, levels=1)
    options = Options(window=6, stride=4, batch_size=64, seed=0, occlusion=few)
    there = network.to(device, dtype)
    pixels, targets = images.to(device, dtype), targets.to(device)
    if method.startswith("lrp"):
        rule = method.removeprefix("lrp").removeprefix("_").replace("_", "-") or "epsilon"
        return lrp(there, pixels, targets, rule=rule, biases=biases).sum(1).double().cpu()
    if method == "integrated_gradients":  # as many steps on both sides
        return integrated_gradients(there, pixels, targets, steps=27).sum(1).double().cpu()
    if method == "shapley_values":
        return shapley_values(there, pixels, targets, features=8, orders=4).sum(1).double().cpu()
    found = method_named(method, options).maps(there, pixels, targets, options)
    return found.maps.double().cpu()


def small_networks(setting: Setting) -> Iterator[tuple[str, nn.Module]]:
    from interp_cnn.model.backbones import build_network

    for position in ("argmax", "centroid", "template"):
        torch.manual_seed(0)
        network = build_network(
            "small_cnn", num_classes=4, channels=1, image_size=(24, 24), mean=(0.5,), std=(0.25,),
            widths=(8, 12, 12, 16, 16), mask={"position": position},
        )  # fmt: skip
        yield f"small_cnn, masks by {position}", lively(network, 24, 1)


def large_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return lively(getattr(torchvision.models, name)(weights=None, num_classes=10), 64, 3)


def lively(network: nn.Module, side: int, channels: int) -> nn.Module:
    """The network with weights that keep its signals alive, in evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.05)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.2)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = 0.9
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(8, channels, side, side))
    return network.eval().requires_grad_(False)


# --- occlusion ------------------------------------------------------------------------------------------------------


def occlusion(setting: Setting) -> Iterator[Row]:
    """The table of `gpu_occlusion`: rows of (what, found, aim, before, missed) or plain texts."""
    from gpu_occlusion import occlusion_table

    for row in occlusion_table():
        if isinstance(row, dict):
            yield Row(**{name: row[name] for name in Row.__dataclass_fields__ if name in row})
        elif isinstance(row, list | tuple):
            yield Row(*map(str, row[:4]), missed=bool(row[4]) if len(row) > 4 else False)
        else:
            yield Row("occlusion", str(row))


# --- training step --------------------------------------------------------------------------------------------------


def step(setting: Setting) -> Iterator[Row]:
    """Medians of neighbouring steps in bfloat16 autocast, as Lightning takes them on a GPU."""
    before = {"resnet18": "1.68 - 1.83", "vgg16_bn": "1.27", "small_cnn": "2.8"}
    aims = {"resnet18": "<= 1.10", "vgg16_bn": "<= 1.05"}
    cases = (("resnet18", 224, 64), ("vgg16_bn", 224, 64), ("small_cnn", 64, 64))
    for name, side, batch in cases[2:] if setting.small else cases:
        steps = [TrainingStep(name, side, batch, setting.device, enabled=on) for on in (True, False)]
        times = in_turn(steps, setting, repeats=3 if setting.small else 25)
        ratio = statistics.median(one / other for one, other in zip(*times, strict=True))
        middle = [statistics.median(each) for each in times]
        yield Row(
            f"step {name} {side} px batch {batch}: interpretable / plain",
            f"{ratio:.3f} ({middle[0]:.2f} / {middle[1]:.2f} ms)", aims.get(name, ""), before[name],
        )  # fmt: skip
        launches = [launches_of(one, setting) for one in steps]
        waits = [waits_of(one, setting) for one in steps]
        places = f" ({', '.join(sorted(set(waits[0])))})" if waits[0] else ""
        yield Row(
            f"step {name}: kernel launches; waits for the GPU",
            f"{launches[0]} / {launches[1]}; {len(waits[0])}{places} / {len(waits[1])}", "waits 0",
            {"resnet18": "634 / 202; 2", "small_cnn": "590 / 75; 2"}.get(name, ""),
        )  # fmt: skip


class TrainingStep:
    """One training step of `Classification`, without a Trainer around it."""

    def __init__(self, name: str, side: int, batch: int, device: torch.device, *, enabled: bool) -> None:
        from interp_cnn.model.backbones import build_network
        from interp_cnn.training.classification import Classification

        torch.manual_seed(0)
        network = build_network(
            name,
            num_classes=8,
            channels=3,
            image_size=(side, side),
            mean=(0.5,),
            std=(0.25,),
            mask={"enabled": enabled},
        )
        self.module = Classification(
            network, num_classes=8, image_size=(side, side), channels=3, loss_weight={"ratio": 0.1 if enabled else 0.0},
            **({} if enabled else {"filter_loss": {}}),
        ).to(device)  # fmt: skip
        self.module.train()
        self.module.log = lambda *arguments, **options: None
        self.module._trainer = SimpleNamespace(
            num_training_batches=100,
            max_epochs=10,
            current_epoch=3,
            global_step=300,
            estimated_stepping_batches=1000,
        )
        self.optimizer = self.module.configure_optimizers()["optimizer"]
        self.batch = SimpleNamespace(
            images=torch.rand(batch, 3, side, side, device=device),
            labels=torch.randint(0, 8, (batch,), device=device),
        )
        self.device = device

    def __call__(self) -> None:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss = self.module.training_step(self.batch, 7)
        loss.backward()
        self.module.on_after_backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def launches_of(run: Callable[[], None], setting: Setting) -> int:
    """Kernels launched in one call."""
    from torch.profiler import ProfilerActivity, profile

    run()
    synchronise(setting.device)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.device.type == "cuda" else [])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profile(activities=kinds) as found:
            run()
            synchronise(setting.device)
    events = found.key_averages()
    return sum(
        one.count
        for one in events
        if one.key.startswith(("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch"))
    )


def waits_of(run: Callable[[], None], setting: Setting) -> list[str]:
    """Places at which the host waits for the GPU in one call."""
    if setting.device.type != "cuda":
        return []
    run()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return [f"{Path(one.filename).name}:{one.lineno}" for one in heard if "synchronizing" in str(one.message)]


# --- methods --------------------------------------------------------------------------------------------------------


def methods(setting: Setting) -> Iterator[Row]:
    """Eight images on resnet18, in units of one forward + backward pass of the same eight images in float32.

    LRP and DeepLIFT replay a question that came before; as they are, they are timed too.
    """
    from interp_cnn.explanation.gradients.gradients import (
        grad_cam,
        integrated_gradients,
        sensitivity_analysis,
    )
    from interp_cnn.explanation.network.precision import precision
    from interp_cnn.explanation.propagation import recordings
    from interp_cnn.explanation.propagation.deeplift import deeplift
    from interp_cnn.explanation.propagation.lrp import lrp
    from interp_cnn.explanation.shapley import shapley_values

    network = large_network("resnet18").to(setting.device)
    images = torch.rand(8, 3, setting.side, setting.side, device=setting.device)
    targets = torch.arange(8, device=setting.device)
    arguments = network, images, targets

    def one_pass() -> None:
        pixels = images.clone().requires_grad_()
        torch.autograd.grad(network(pixels).gather(1, targets[:, None]).sum(), pixels)

    with precision("float32"):
        unit = milliseconds(one_pass, setting)
    yield Row("forward + backward, 8 images, float32", f"{unit:.2f} ms", "", "4.0 ms (TF32)")
    cases = {
        "sensitivity analysis": (lambda: sensitivity_analysis(*arguments), "", "6.6 ms"),
        "Grad-CAM": (lambda: grad_cam(*arguments), "", ""),
        "LRP epsilon": (lambda: lrp(*arguments), "<= 4", "38.5 ms"),
        "LRP epsilon-plus-flat": (lambda: lrp(*arguments, rule="epsilon-plus-flat"), "<= 4", ""),
        "DeepLIFT": (lambda: deeplift(*arguments), "<= 4", "31.7 ms"),
        "integrated gradients, 27 steps": (
            lambda: integrated_gradients(*arguments, steps=27, batch_size=216),
            "",
            "",
        ),
        "Shapley, 2 orders of 16 windows": (
            lambda: shapley_values(*arguments, features=setting.side // 4, orders=2, batch_size=256),
            "",
            "",
        ),
    }
    for name, (run, aim, before) in cases.items():
        try:
            found = milliseconds(run, setting, repeats=5)
        except Exception as error:
            yield Row(
                f"{name}, 8 images", f"{type(error).__name__}: {str(error)[:100]}", aim, before, missed=True
            )
            continue
        yield Row(f"{name}, 8 images", f"{found / unit:.1f} passes ({found:.1f} ms)", aim, before)
        if name.startswith(("LRP", "DeepLIFT")):
            replays, recordings.replays_on = recordings.replays_on, lambda device: False
            try:
                found = milliseconds(run, setting, repeats=5)
            finally:
                recordings.replays_on = replays
            yield Row(f"{name}, not replayed", f"{found / unit:.1f} passes ({found:.1f} ms)", "", before)


# --- loader ---------------------------------------------------------------------------------------------------------


def loader(setting: Setting) -> Iterator[Row]:
    """Epochs as the Trainer would take them: drawn digits, then pictures from files, with and without a cache."""
    for workers in ("auto", 0):
        yield from epochs_of("digits", {"workers": workers}, setting)
    with tempfile.TemporaryDirectory() as place:
        photographs(Path(place), 8 if setting.small else 512)
        for cache in ("memory", "none"):
            change = {"root": place, "cache": cache, "workers": "auto"}
            yield from epochs_of("image_folder", change, setting, f", cache={cache}")


def epochs_of(name: str, change: dict, setting: Setting, words: str = "") -> Iterator[Row]:
    from omegaconf import OmegaConf

    from interp_cnn.runs.folder import build_data

    config = OmegaConf.load(HERE.parent.parent / f"conf/data/{name}.yaml")
    config = OmegaConf.merge(config, {"seed": 0, **change})
    begun = time.perf_counter()
    data = build_data(config)
    strategy = SimpleNamespace(root_device=setting.device)  # `auto` asks where the training computes
    data.trainer = SimpleNamespace(strategy=strategy, training=True)
    batches = data.train_dataloader()
    ready, speeds = time.perf_counter() - begun, []
    for _ in range(2 if setting.small else 3):
        start, count = time.perf_counter(), 0
        for batch in batches:
            data.on_after_batch_transfer(data.transfer_batch_to_device(batch, setting.device, 0), 0)
            count += 1
        synchronise(setting.device)
        speeds.append(count / (time.perf_counter() - start))
    yield Row(
        f"{name}{words}, workers={change['workers']} ({batches.num_workers}): "
        f"batches of {batches.batch_size} a second in epochs 1, 2, ...",
        f"{', '.join(f'{speed:.0f}' for speed in speeds)} (made in {ready:.1f} s)",
        "> 85 (a step of small_cnn takes 11.7 ms)", "8 steps a second in all",
    )  # fmt: skip


def photographs(folder: Path, count: int) -> None:
    """Pictures of noise, 500 x 375, in two classes."""
    from PIL import Image

    for number in range(count):
        place = folder / f"class_{number % 2}"
        place.mkdir(exist_ok=True)
        pixels = torch.randint(
            0, 256, (12, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number)
        )
        Image.fromarray(pixels.numpy()).resize((500, 375)).save(place / f"{number}.jpg")


# --- compare --------------------------------------------------------------------------------------------------------


def compare(setting: Setting) -> Iterator[Row]:
    """The commands, each as a user types it, without a word about devices."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "compare"
        gpu = setting.device.type == "cuda"
        few = ["resamples=50", "sample_images=4", "methods=[occlusion,lrp,deeplift,grad_cam]"]
        small = [*few, "training.epochs=1" if setting.small else "training.epochs=2"]
        if setting.small:
            plans = [("1 epoch of digits", [*small, "model.widths=[4,6,8,8,8]"], 150)]
        else:  # what a user gets who says nothing, if it is done in a minute
            plans = [
                ("as many epochs of digits as nothing said gives", [], 60),
                ("2 epochs of digits", small, 60),
            ]
        for words, arguments, limit in plans:
            try:
                seconds, log = command("compare", *arguments, f"hydra.run.dir={folder}", limit=limit)
                break
            except TooLate as late:
                yield Row(f"compare, {words}, no device named", f"not done after {late} s")
                folder = Path(place) / "compare-small"
        else:
            raise TimeoutError("compare was never done in time")
        trained = accelerator(folder / "interpretable")
        yield Row(
            f"compare, {words}, no device named", f"{seconds:.0f} s, trained on {trained}",
            "ends; gpu" if gpu else "ends", "traceback after the first epoch", missed=gpu and trained != "gpu",
        )  # fmt: skip
        for line in log.splitlines():
            if "batches a second" in line:
                yield Row("compare: training", line.strip().replace("|", "/"), "", "8 steps a second")
        runs = f"[{folder}/interpretable,{folder}/plain]"
        for name, arguments in {
            "evaluate": [f"runs={runs}", "resamples=50"],
            "explain": [f"run={folder}/interpretable", "limit=4", "draw=false"],
            "explain what=[patterns]": [
                f"run={folder}/interpretable",
                "what=[patterns]",
                "patterns.images=200",
            ],
            "export": [
                f"run={folder}/interpretable",
                "images=4",
                "resamples=50",
                "what=[filters,maps,model]",
            ],
        }.items():
            try:
                seconds, _ = command(name.split()[0], *arguments, *output(name, place), limit=40)
            except (RuntimeError, TooLate) as error:
                yield Row(name, str(error), "ends", missed=True)
                continue
            yield Row(f"{name}, no device named", f"{seconds:.0f} s", "ends")


def output(name: str, place: str) -> list[str]:
    return [] if name == "export" else [f"hydra.run.dir={place}/{name.split()[0]}-{len(name)}"]


class TooLate(Exception):
    """A command that was stopped."""


def command(*words: str, limit: float) -> tuple[float, str]:
    """Seconds of one command, and what it said."""
    start = time.perf_counter()
    line = [sys.executable, "-m", "interp_cnn", *words]
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=limit, cwd=HERE.parent.parent, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise TooLate(f"{limit:.0f}") from late
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stderr.strip()[-600:]}")
    return time.perf_counter() - start, done.stdout + done.stderr


def accelerator(run: Path) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.load(run / "config.yaml").trainer.accelerator


# --- time -----------------------------------------------------------------------------------------------------------


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(run: Callable[[], object], setting: Setting, repeats: int = 10) -> float:
    """Median of some calls after two others."""
    return statistics.median(in_turn([run], setting, repeats=2 if setting.small else repeats)[0])


def in_turn(runs: list[Callable[[], object]], setting: Setting, repeats: int) -> list[list[float]]:
    """Milliseconds of each call, the calls taken in turn."""
    for run in runs:
        for _ in range(1 if setting.small else 5):
            run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for own, run in zip(times, runs, strict=True):
            synchronise(setting.device)
            start = time.perf_counter()
            run()
            synchronise(setting.device)
            own.append(1000 * (time.perf_counter() - start))
    return times


SECTIONS = {
    "correctness": correctness,
    "step": step,
    "methods": methods,
    "occlusion": occlusion,
    "loader": loader,
    "compare": compare,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help=f"sections, separated by commas: {', '.join(SECTIONS)}")
    parser.add_argument("--out", type=Path, help="file for the table, written after every section")
    parser.add_argument("--device", help="default: cuda where there is one")
    parser.add_argument("--small", action="store_true", help="try the script itself")
    given = parser.parse_args()
    names = given.only.split(",") if given.only else list(SECTIONS)
    if unknown := set(names) - set(SECTIONS):
        parser.error(f"--only: {', '.join(unknown)}; expected some of {', '.join(SECTIONS)}")
    device = torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu" and not (given.small or given.device):
        parser.error("no GPU here; --small tries the script on the processor")
    setting = Setting(device, given.small)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    lines = [f"{card}, torch {torch.__version__}, {time.strftime('%Y-%m-%d %H:%M')}", ""]
    lines += ["| | found | aim | before (H100, 2026-11-25) |", "|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    failed = False
    for name in names:
        start = time.perf_counter()
        try:
            for row in SECTIONS[name](setting):
                failed |= row.missed
                lines.append(f"| {row.what} | {row.found} | {row.aim} | {row.before} |")
                print(lines[-1], flush=True)
        except Exception as error:
            failed = True
            text = " ".join(str(error).split()).replace("|", "/")
            lines.append(f"| {name}: FAILED | {type(error).__name__}: {text[:400]} | | |")
            print(lines[-1], flush=True)
            traceback.print_exc()
        lines.append(f"| {name} in all | {time.perf_counter() - start:.0f} s | < 60 s | |")
        print(lines[-1], flush=True)
        if given.out:
            given.out.write_text("\n".join(lines) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
