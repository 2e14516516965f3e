"""Random networks as people write them: branches, names for the same memory, steps in place, modules used twice.

A network is a program: each instruction reads earlier values and gives one more. `forward` runs the program, so that
`torch.fx` sees the calls and a plain forward pass is the truth.
"""

import random

import torch
import torch.nn.functional as F
from occlusion_networks import TemplateMask
from torch import Tensor, nn

from interp_cnn.model.interpretable_conv import TemplateMask as OwnMask

LARGEST = 40  # channels
SIDE = 5  # cells below which a map is not made smaller


class Program(nn.Module):
    """Instructions (function, numbers of the values it reads), then a head on some of the values."""

    def __init__(self, instructions, parts, head):
        super().__init__()
        self.instructions, self.head = instructions, head
        self.kinds = {name for name, _, _ in instructions}
        called = [function for _, function, _ in instructions if isinstance(function, nn.Module)]
        self.parts = nn.ModuleList(dict.fromkeys([*parts, *called]))

    def forward(self, images):
        values = [images]
        for _, function, reads in self.instructions:
            values.append(function(*(values[number] for number in reads)))
        return self.head(values)


class Head(nn.Module):
    def __init__(self, reads, pools, width, classes):
        super().__init__()
        self.reads, self.pools = reads, pools
        self.linear = nn.Linear(width, classes)

    def forward(self, values):
        vectors = [pool(values[number]) for number, pool in zip(self.reads, self.pools, strict=True)]
        return self.linear(vectors[0] if len(vectors) == 1 else torch.cat(vectors, 1))


POOLS = (
    lambda v: F.adaptive_avg_pool2d(v, 1).flatten(1),
    lambda v: v.mean((2, 3)),
    lambda v: v.mean(3).mean(2),
    lambda v: v.mean(-2, keepdim=True).mean(-1).squeeze(2),
    lambda v: v.amax((2, 3), keepdim=True)[:, :, 0, 0],
    lambda v: F.adaptive_max_pool2d(v, 1).view(v.size(0), -1),
    lambda v: F.adaptive_avg_pool2d(v, (2, 3)).reshape(v.shape[0], -1),
    lambda v: torch.flatten(F.avg_pool2d(v, v.shape[2:]), 1),
    lambda v: v.sum((2, 3)) / 50,
)


class Drawing:
    """Draws one program; `seed` says which."""

    def __init__(self, seed: int, steps: int = 12):
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.values = [
            torch.rand(2, self.random.choice([1, 3, 4]), *self.random.choices(range(14, 23), k=2)).double()
        ]
        self.start = self.values[0].shape
        self.instructions, self.parts, self.used = [], [], []
        for _ in range(steps):
            self.step()

    def network(self) -> Program:
        count = self.random.choice([1, 1, 2, 3])
        maps = list(range(1, len(self.values)))
        reads = sorted({maps[-1], *self.random.sample(maps, min(count, len(maps)))})
        pools = [self.random.choice(POOLS) for _ in reads]
        width = sum(pool(self.values[n].clone()).shape[1] for n, pool in zip(reads, pools, strict=True))
        head = Head(reads, pools, width, 3)
        return Program(self.instructions, self.parts, head).double().eval()

    def step(self):
        for _ in range(20):
            kind = self.random.choice(KINDS)
            latest = [len(self.values) - 1, self.random.randrange(len(self.values))]
            number = self.random.choice([latest[0], latest[0], *latest])
            made = kind(self, self.values[number])
            if made is None:
                continue
            function, others = made if isinstance(made, tuple) else (made, [])
            reads = [number, *others]
            given = [self.values[n].clone() for n in reads]
            try:
                with torch.no_grad():
                    value = function(*given)
            except RuntimeError:  # torch's own: a kernel larger than the map
                continue
            if (
                value.ndim != 4
                or value.shape[1] > LARGEST
                or not min(value.shape[2:]) >= 1
                or max(value.shape[2:]) > 48
            ):
                continue
            self.instructions.append((kind.__name__, function, reads))
            self.values.append(value)
            return

    def keep(self, module: nn.Module) -> nn.Module:
        module = module.double().eval()
        self.parts.append(module)
        return module

    def like(self, value: Tensor) -> list[int]:
        return [n for n, other in enumerate(self.values) if other.shape == value.shape]

    def pick(self, *options):
        return self.random.choice(options)


def convolution(draw, v):
    kernel = draw.pick(1, 2, 3, (3, 1), (2, 3), 5)
    mode = draw.pick("zeros", "zeros", "zeros", "reflect", "replicate", "circular")
    groups = draw.pick(1, 1, 1, v.shape[1])
    out = draw.pick(4, 6, 17) * (groups if groups <= 6 else 1)
    options = {
        "stride": draw.pick(1, 1, 2, (2, 1), 3),
        "padding": draw.pick(0, 1, 1, 2),
        "dilation": draw.pick(1, 1, 2),
    }
    if groups > 1 and out % groups:
        return None
    if draw.pick(0, 0, 0, 1) and options["stride"] == 1:
        options["padding"] = "same"
    module = nn.Conv2d(v.shape[1], out, kernel, groups=groups, padding_mode=mode, **options)
    if (min(v.shape[2:]) < SIDE * 2 and options["stride"] != 1) or min(v.shape[2:]) < SIDE:
        return None
    return draw.keep(module)


def again(draw, v):
    fitting = [
        p
        for p in draw.parts
        if isinstance(p, nn.Conv2d) and p.in_channels == v.shape[1] and p.stride == (1, 1)
    ]
    return draw.pick(*fitting) if fitting and min(v.shape[2:]) > 8 else None


def rectifier(draw, v):
    slope = torch.rand(v.shape[1], dtype=torch.float64)
    return draw.pick(
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Hardswish(inplace=True),
        nn.SiLU(inplace=True),
        F.relu_,
        lambda x: F.relu(x, True),
        lambda x: F.leaky_relu(x, 0.1, True),
        lambda x: F.elu(x, inplace=True),
        torch.relu_,
        torch.tanh,
        lambda x: x.sigmoid(),
        lambda x: x.clamp_(-0.3, 0.6),
        lambda x: x.clamp(min=0.1),
        nn.GELU(),
        draw.keep(nn.PReLU(v.shape[1])),
        lambda x: F.prelu(x, slope),
        lambda x: torch.where(x > 0.2, x, 0.3 * x),
        lambda x: (x > 0.1) * x,
        lambda x: x.masked_fill(x < 0, 0.05),
    )


def alias(draw, v):
    return draw.pick(
        nn.Identity(),
        nn.Dropout(0.5).eval(),
        nn.Dropout2d(0.5, inplace=True).eval(),
        lambda x: x.clone(),
        lambda x: x.contiguous(),
        lambda x: x,
        lambda x: x.double(),
        lambda x: x.to(torch.float64),
        lambda x: F.dropout(x, 0.3, False, True),
        lambda x: x.view(x.shape),
        lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
        lambda x: x.transpose(2, 3).transpose(2, 3),
        lambda x: x[:],
        lambda x: x.flatten(2).view(x.shape),
        lambda x: x.unsqueeze(1).squeeze(1),
        lambda x: x.detach(),
    )


def arithmetic(draw, v):
    channels = torch.rand(v.shape[1], 1, 1, dtype=torch.float64) + 0.3
    whole = torch.rand(v.shape[1:], dtype=torch.float64)
    return draw.pick(
        lambda x: x + 1,
        lambda x: x.add_(0.25),
        lambda x: x.mul_(1.5),
        lambda x: x.sub_(channels).div_(channels),
        lambda x: 1 - x,
        lambda x: x * channels,
        lambda x: (x - channels) / channels,
        lambda x: -x,
        lambda x: x + whole,
        lambda x: x * whole,
        lambda x: x**2,
        lambda x: x * x,
        lambda x: x + x,
        lambda x: x * 2 + channels,
        lambda x: 1 / (x.abs() + 1),
        lambda x: torch.add(x, 0.5, alpha=2),
        lambda x: torch.mul(x, 0.7, out=x),
    )


def norm(draw, v):
    module = draw.keep(nn.BatchNorm2d(v.shape[1]))
    with torch.no_grad():
        module.running_mean.normal_(0, 0.2)
        module.running_var.uniform_(0.5, 2)
        module.weight.uniform_(0.3, 1.5)
        module.bias.normal_(0, 0.3)
    layer = draw.keep(nn.LayerNorm(v.shape[1]))
    group = draw.keep(nn.GroupNorm(1, v.shape[1]))
    return draw.pick(
        module,
        module,
        lambda x: layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        group,
        lambda x: x.softmax(1),
    )


def pool(draw, v):
    if min(v.shape[2:]) < SIDE + 2:
        return None
    return draw.pick(
        nn.MaxPool2d(2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(3, 1, 1),
        nn.MaxPool2d(3, 1, dilation=2, padding=1),
        nn.MaxPool2d((3, 2), (2, 1)),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(3, 1, 1),
        nn.AdaptiveAvgPool2d((4, 5)),
        nn.AdaptiveMaxPool2d((4, 5)),
        lambda x: F.max_pool2d(x, 3, 2),
        lambda x: F.adaptive_avg_pool2d(x, x.shape[2:]),
    )


def padding(draw, v):
    left, right, top, bottom = (draw.pick(0, 1, 2) for _ in range(4))
    sides = (left, right, top, bottom)
    if min(v.shape[2:]) < SIDE or max(v.shape[2:]) > 28:
        return None
    return draw.pick(
        nn.ZeroPad2d(sides),
        nn.ConstantPad2d(sides, 0.7),
        nn.ReflectionPad2d(sides),
        nn.ReplicationPad2d(sides),
        nn.CircularPad2d(sides),
        lambda x: F.pad(x, sides),
        lambda x: F.pad(x, (left, right)),
        lambda x: F.pad(x, (-1, 1, 0, 2), value=0.2),
        lambda x: F.pad(x, sides, mode="reflect"),
        lambda x: F.pad(x, sides, mode="circular"),
        lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
    )


def moved(draw, v):
    C, h, w = v.shape[1:]
    parts = 2 if C % 2 == 0 else 1
    return draw.pick(
        lambda x: x[:, :, 1:, :-1],
        lambda x: x[..., 1:],
        lambda x: x[:, :, ::2, 1::2] if min(h, w) > 2 * SIDE else x[:, :, :, 1:],
        lambda x: x.roll((2, -1), (2, 3)),
        lambda x: x.flip(3),
        lambda x: x.flip(1),
        lambda x: x[:, : (C + 1) // 2],
        lambda x: x[:, -1].unsqueeze(1),
        lambda x: x[:, [0, C - 1, 0]],
        lambda x: x.chunk(parts, 1)[-1],
        lambda x: torch.cat(x.chunk(parts, 1)[::-1], 1),
        lambda x: x.split([1, C - 1], 1)[1] if C > 1 else x,
        lambda x: x.view(x.size(0), parts, C // parts, h, w).transpose(1, 2).reshape(x.shape),
        lambda x: (
            x.reshape(-1, parts, C // parts, h, w).permute(0, 2, 1, 3, 4).contiguous().view(-1, C, h, w)
        ),
        nn.ChannelShuffle(parts),
        lambda x: x.transpose(2, 3),
        lambda x: x.narrow(3, 1, w - 1),
        lambda x: x.roll(1, 1),
    )


def resampled(draw, v):
    if max(v.shape[2:]) > 20:
        return None
    transposed = nn.ConvTranspose2d(
        v.shape[1],
        4,
        draw.pick(2, 3, 4),
        draw.pick(1, 2, (2, 1)),
        draw.pick(0, 1),
        dilation=draw.pick(1, 1, 2),
    )
    more = nn.ConvTranspose2d(v.shape[1], 4, 3, 2, 1, output_padding=1)
    options = [
        draw.keep(transposed),
        draw.keep(more),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        lambda x: F.interpolate(x, size=(11, 13), mode="bilinear"),
        lambda x: F.interpolate(x, size=(11, 13)),
        lambda x: F.interpolate(x, scale_factor=(2, 1), mode="nearest"),
        lambda x: F.interpolate(x, size=(9, 9), mode="bicubic"),
    ]
    if v.shape[1] % 4 == 0:
        options += [nn.PixelShuffle(2), lambda x: F.pixel_shuffle(x, 2)]
    if all(side % 2 == 0 for side in v.shape[2:]) and min(v.shape[2:]) >= 2 * SIDE:
        options += [nn.PixelUnshuffle(2)]
    return draw.pick(*options)


def gate(draw, v):
    down, up = draw.keep(nn.Conv2d(v.shape[1], 3, 1)), draw.keep(nn.Conv2d(3, v.shape[1], 1))
    return draw.pick(
        lambda x: x * up(F.relu(down(F.adaptive_avg_pool2d(x, 1)))).sigmoid(),
        lambda x: up(F.relu(down(x.mean((2, 3), keepdim=True)))).sigmoid() * x,
        lambda x: x * x.mean(1, keepdim=True),
    )


def masked(draw, v):
    if min(v.shape[2:]) < 3:
        return None
    return draw.keep(draw.pick(TemplateMask(), OwnMask(v.shape[1]), OwnMask(v.shape[1], position="centroid")))


def joined(draw, v):
    others = draw.like(v)
    number = draw.pick(*others)
    function = draw.pick(
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a * b,
        lambda a, b: a.add_(b),
        lambda a, b: torch.add(a, b, alpha=0.5),
        lambda a, b: torch.maximum(a, b),
        lambda a, b: torch.minimum(b, a),
        lambda a, b: a / (b.abs() + 1),
        lambda a, b: torch.cat([a, b], 1),
        lambda a, b: torch.cat((b, a), dim=-3),
        lambda a, b: torch.stack([a, b], 1).sum(1),
        lambda a, b: a.clone().mul_(b),
        in_place_sum,
    )
    return function, [number]


def in_place_sum(a, b):
    a += b
    return a


def concatenated(draw, v):
    others = [n for n, other in enumerate(draw.values) if other.shape[2:] == v.shape[2:]]
    return (lambda a, b: torch.cat([a, b], 1)), [draw.pick(*others)]


KINDS = (
    *(convolution,) * 4,
    *(rectifier,) * 3,
    *(alias,) * 3,
    *(joined,) * 3,
    *(
        again,
        arithmetic,
        arithmetic,
        norm,
        pool,
        pool,
        padding,
        moved,
        moved,
        resampled,
        gate,
        masked,
        concatenated,
    ),
)
