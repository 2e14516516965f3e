"""Random small classifiers with the steps that networks of others have: for property tests of every method.

    network = random_network(seed)             images (B, 3, 16, 16) -> logits (B, 5), in evaluation mode
    print(network)                             its steps, in the order in which they run

The same seed gives the same network, whatever torch's global generator says. Each step takes the latest feature maps,
or those and earlier ones (branches). `leave_out` names families that a test is not about.
"""

import random
from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_cnn.model.interpretable_conv import TemplateMask

SIZE, CLASSES, MOST_CHANNELS, LARGEST = 16, 5, 8, 24


class Call(nn.Module):
    """A function as a module, with a name to print."""

    def __init__(self, name: str, function: Callable) -> None:
        super().__init__()
        self.name, self.function = name, function

    def forward(self, *maps: Tensor) -> Tensor:
        return self.function(*maps)

    def extra_repr(self) -> str:
        return self.name


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.squeeze(F.adaptive_avg_pool2d(x, 1)))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each cell, as ConvNeXt has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Coordinates(nn.Module):
    """Two constant maps, each cell's row and column, joined to the others."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (torch.linspace(-1, 1, size).to(x) for size in x.shape[2:])
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        return torch.cat([x, grid.expand(len(x), -1, -1, -1)], 1)


class RandomNetwork(nn.Module):
    """Steps that take the latest feature maps and, some of them, earlier ones."""

    def __init__(self, steps: list[nn.Module], sources: list[tuple[int, ...]], head: nn.Module) -> None:
        super().__init__()
        self.steps, self.sources, self.head = nn.ModuleList(steps), sources, head

    def forward(self, images: Tensor) -> Tensor:
        maps = [images]
        for step, sources in zip(self.steps, self.sources, strict=True):
            maps.append(step(*(maps[source] for source in sources)))
        return self.head(maps[-1])


def _convolution(r: random.Random, c: int) -> nn.Module:
    kernel = r.choice([1, 2, 3, 3, 3, (1, 3), 5])
    depthwise = r.random() < 0.2
    out = c * r.choice([1, 2]) if depthwise else r.randint(2, MOST_CHANNELS)
    groups = c if depthwise else r.choice([1, 1, 2]) if c % 2 == 0 and out % 2 == 0 else 1
    mode = r.choice(["zeros", "zeros", "zeros", "reflect", "replicate", "circular"])
    padding = r.choice([0, 1, 1, 2]) if mode == "zeros" else 1
    return nn.Conv2d(
        c,
        out,
        kernel,
        r.choice([1, 1, 1, 2, 3]),
        padding,
        r.choice([1, 1, 2]),
        groups,
        r.random() < 0.7,
        mode,
    )


def _transposed(r: random.Random, c: int) -> nn.Module:
    stride = r.choice([1, 2, 3])
    return nn.ConvTranspose2d(
        c, r.randint(2, 6), r.choice([1, 2, 3]), stride, r.choice([0, 0, 1]) if stride > 1 else 0,
        r.randint(0, stride - 1), bias=r.random() < 0.7,
    )  # fmt: skip


def _padding(r: random.Random, c: int) -> nn.Module:
    widths = [r.randint(0, 2) for _ in range(4)]
    cut = [r.randint(-1, 2) for _ in range(4)]
    value = r.choice([0.0, 0.7, -0.4])
    return r.choice(
        [
            nn.ZeroPad2d(widths),
            nn.ConstantPad2d(widths, value),
            nn.ReflectionPad2d(1),
            nn.ReplicationPad2d(widths),
            nn.CircularPad2d(1),
            Call(f"pad {cut} {value}", lambda x: F.pad(x, cut, value=value)),
            Call("pad channels", lambda x: F.pad(x, (0, 0, 0, 0, 1, 1))),
        ]
    )


def _norm(r: random.Random, c: int) -> nn.Module:
    groups = 2 if c % 2 == 0 else 1
    return r.choice([nn.BatchNorm2d(c), nn.BatchNorm2d(c), nn.GroupNorm(groups, c), ChannelNorm(c),
                     nn.InstanceNorm2d(c, affine=True)])  # fmt: skip


def _activation(r: random.Random, c: int) -> nn.Module:
    return r.choice(
        [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU(), nn.LeakyReLU(0.1), nn.PReLU(c), nn.ELU(), nn.GELU(), nn.SiLU(),
         nn.Hardswish(), nn.Tanh(), nn.Softplus(), nn.ReLU6(), Call("clamp", lambda x: x.clamp(min=-0.2))]
    )  # fmt: skip


def _pool(r: random.Random, c: int) -> nn.Module:
    return r.choice(
        [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 2, ceil_mode=True),
         nn.MaxPool2d(2, 1, dilation=2), nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1),
         nn.AvgPool2d(3, 2, 1, count_include_pad=False),
         nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d(3)]
    )  # fmt: skip


def _resize(r: random.Random, c: int) -> nn.Module:
    more = [nn.PixelShuffle(2)] if c % 4 == 0 else []
    return r.choice([nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=1.5, mode="bilinear"), nn.PixelUnshuffle(2),
                     Call("every other", lambda x: x[:, :, ::2, 1:]), *more])  # fmt: skip


def _copy(r: random.Random, c: int) -> nn.Module:
    more = [nn.ChannelShuffle(2)] if c % 2 == 0 else []
    return r.choice(
        [nn.Identity(), nn.Dropout(), Call("clone", lambda x: x.clone()), Call("x + 1", lambda x: x + 1),
         Call("2 x", lambda x: 2 * x), Call("flip", lambda x: x.flip(3)), Call("roll", lambda x: x.roll(1, 2)),
         Call("there and back", lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)),
         Call("x += 0.1", lambda x: x.clone().add_(0.1)),
         Call("chunks", lambda x: torch.cat(x.split(1, 1)[::-1], 1)), *more]
    )  # fmt: skip


def _mask(r: random.Random, c: int) -> nn.Module:
    position, norm = r.choice(["argmax", "centroid", "template"]), r.choice(["l1", "l2"])
    beta_rule, strength = r.choice(["fixed", "spread"]), r.choice([1, 1, 0.6])
    return TemplateMask(
        c,
        beta=r.choice([0.8, 1.5, 3.0]),
        norm=norm,
        position=position,
        beta_rule=beta_rule,
        strength=strength,
    )


STEPS: dict[
    str, tuple[float, Callable[[random.Random, int], nn.Module]]
] = {  # weight, (r, channels) -> a step
    "convolution": (5, _convolution),
    "transposed": (0.7, _transposed),
    "padding": (1.5, _padding),
    "norm": (1.5, _norm),
    "activation": (4, _activation),
    "pool": (1.5, _pool),
    "resize": (0.7, _resize),
    "copy": (1.5, _copy),
    "mask": (0.7, _mask),
    "gate": (0.4, lambda r, c: Gate(c)),
    "constants": (0.4, lambda r, c: Coordinates()),
}
BRANCHES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda x, y: x + y,
    "difference": lambda x, y: x - 0.5 * y,
    "cat": lambda x, y: torch.cat([x, y], 1),
    "maximum": torch.maximum,
    "product": lambda x, y: x * y,
}
HEADS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean((2, 3)),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "largest": lambda x: x.amax((2, 3)),
    "all": lambda x: F.adaptive_avg_pool2d(x, 4).flatten(1),
}


def random_network(seed: int, *, steps: int = 10, leave_out: Collection[str] = ()) -> RandomNetwork:
    """A network of about so many steps.

    Args:
        seed: of everything about it.
        steps: how many, before the head.
        leave_out: keys of `STEPS` and `BRANCHES`.
    """
    r = random.Random(seed)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        maps, modules, sources = [torch.rand(2, 3, SIZE, SIZE)], [], []
        while len(modules) < steps:
            step, of = _step(r, maps, leave_out) if modules else (_convolution(r, 3), (0,))
            if len(modules) > 2 and r.random() < 0.1:  # a module used twice
                step, of = r.choice(modules), (len(maps) - 1,)
            _settle(step)
            try:
                step.eval()(
                    *(maps[source][:1].clone() for source in of)
                )  # some norms refuse one image of one cell
                out = step(*(maps[source].clone() for source in of))
            except (
                RuntimeError,
                TypeError,
                ValueError,
                IndexError,
            ):  # a window too large, other channels
                continue
            fits = (
                min(out.shape[2:]) >= 1
                and max(out.shape[2:]) <= LARGEST
                and out.shape[1] <= 3 * MOST_CHANNELS
            )
            if not fits or not out.abs().amax() < 50:
                continue
            if isinstance(step, nn.ReLU) and step.inplace:  # what it overwrites must not be read again
                maps[of[0]] = maps[-1] = out
            maps.append(out)
            modules.append(step)
            sources.append(of)
        name = r.choice(list(HEADS))
        classify = nn.Linear(HEADS[name](maps[-1]).shape[1], CLASSES)
        head = nn.Sequential(Call(name, HEADS[name]), classify)
    return RandomNetwork(modules, sources, head).eval()


def _step(
    r: random.Random, maps: list[Tensor], leave_out: Collection[str]
) -> tuple[nn.Module, tuple[int, ...]]:
    latest = len(maps) - 1
    earlier = [i for i, one in enumerate(maps[1:-1], 1) if one.shape[2:] == maps[-1].shape[2:]]
    if earlier and r.random() < 0.2:
        other, name = r.choice(earlier), r.choice([name for name in BRANCHES if name not in leave_out])
        return Call(name, BRANCHES[name]), (latest, other)
    families = {name: weight for name, (weight, _) in STEPS.items() if name not in leave_out}
    family = r.choices(list(families), list(families.values()))[0]
    return STEPS[family][1](r, maps[-1].shape[1]), (latest,)


def _settle(step: nn.Module) -> None:
    """Statistics and weights of norms that are not trivial, biases that matter."""
    for module in step.modules():
        if isinstance(module, nn.BatchNorm2d) and module.num_batches_tracked == 0:
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(1)
            module.weight.uniform_(0.6, 1.4)
            module.bias.normal_(0, 0.2)
