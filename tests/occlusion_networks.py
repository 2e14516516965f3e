"""Networks for the tests of occlusion, with random but lively weights."""

import torch
import torch.nn.functional as F
from torch import nn

from interp_cnn.model.templates import undecided_peaks


def small_network(channels: int = 3, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(24, 16, 3),
        nn.LeakyReLU(0.1, inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def five_convolutions(channels: int = 3, classes: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate([(channels, 16), (16, 32), (32, 32), (32, 32), (32, 32)]):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        if number < 2:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))


class Functional(nn.Module):
    """Functional operations, a module used twice, operations in place, buffers, views by size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.again = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.rectifier = nn.ReLU(inplace=True)
        self.register_buffer("mean", torch.rand(1, 3, 1, 1))
        self.register_buffer("std", torch.rand(1, 3, 1, 1) + 0.5)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.weight = nn.Parameter(torch.randn(4, 8 * 9) * 0.1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        x = (images - self.mean) / self.std
        x = F.max_pool2d(F.relu(self.first(x), inplace=True), 2)
        y = self.rectifier(self.again(x))
        y = self.dropout(1 - self.again(y) * self.scale)
        x = x + y
        x += 0.25
        x = F.hardswish(F.avg_pool2d(x - y, 3, 1, 1))
        x = F.adaptive_avg_pool2d(x, (3, 3))
        x = x.view(x.size(0), -1)
        return F.linear(x, self.weight)


class Residual(nn.Module):
    """Strided branches that are added and concatenated; max-pool with overlap; mean over the map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 5, 2, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.left = nn.Sequential(
            nn.Conv2d(16, 20, 3, 2, 1, bias=False),
            nn.BatchNorm2d(20),
            nn.ReLU(),
            nn.Conv2d(20, 20, 3, padding=1),
        )
        self.right = nn.Conv2d(16, 20, 1, 2)
        self.norm = nn.BatchNorm2d(40)
        self.head = nn.Linear(40, 5)

    def forward(self, x):
        x = self.pool(self.stem(x))
        left, right = self.left(x), self.right(x)
        x = F.relu(left + right, inplace=True)
        x = F.silu(self.norm(torch.cat((x, right), dim=1)))
        return self.head(x.mean([2, 3]))


class SqueezeExcite(nn.Module):
    """A gate computed from the whole map, a depthwise convolution, layer norm on channels-last maps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 12, 3, 2, 1)
        self.depthwise = nn.Conv2d(12, 12, 5, padding=2, groups=12)
        self.norm = nn.LayerNorm(12)
        self.mix = nn.Linear(12, 12)
        self.down, self.up = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.last = nn.Conv2d(12, 16, 3, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = F.gelu(self.stem(x))
        y = self.mix(self.norm(self.depthwise(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        x = x + y
        gate = F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        x = F.relu(self.last(gate * x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class TemplateMask(nn.Module):
    """Stands in for the interpretable layer's mask: the map times a cone around its peak."""

    enabled, rectify = True, False

    def forward(self, x):
        return x * self.factors_at(self.positions(x), *x.shape[2:]).to(x)

    def positions(self, x):
        return x.flatten(2).argmax(2)

    def evidence_between(self, positions, others, height, width):
        one, two = (F.one_hot(cells, height * width) for cells in (positions, others))
        return (one - two).unflatten(2, (height, width))

    def undecided(self, x, inexact, rounding):
        return undecided_peaks(x, inexact, rounding)

    def factors_at(self, positions, height, width):
        here = positions.device
        rows, columns = torch.arange(height, device=here)[:, None], torch.arange(width, device=here)
        row, column = positions // width, positions % width
        distance = (rows - row[..., None, None]).abs() + (columns - column[..., None, None]).abs()
        return (1 - 4 * distance / max(height, width)).clamp(min=0)


class Masked(nn.Module):
    """An interpretable network: two masked convolutions, then a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.masked = nn.Sequential(
            nn.Conv2d(12, 16, 3, padding=1),
            nn.ReLU(),
            TemplateMask(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            TemplateMask(),
        )
        self.head = nn.Sequential(
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d((3, 4)),
            nn.Flatten(),
            nn.Linear(192, 32),
            nn.ReLU(),
            nn.Linear(32, 4),
        )

    def forward(self, x):
        return self.head(self.masked(self.body(x)))


def pictures(count: int, size: tuple[int, int] = (64, 64), channels: int = 3, seed: int = 1) -> torch.Tensor:
    """Images with large and small structure in [0, 1]: white noise alone leaves deep layers nearly constant."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, channels, *size)
    for cells, weight in ((1, 0.25), (3, 0.3), (9, 0.25), (31, 0.2)):
        noise = torch.rand(count, channels, cells, cells, generator=generator)
        total += weight * F.interpolate(noise, size, mode="bilinear", align_corners=False)
    return total


def lively(network: nn.Module, size: int = 64) -> nn.Module:
    """Batch norm that matters: random scales, statistics of real activations, then moved away from them.

    Without batch norm, weights that keep the spread of what they read: torchvision's own let an untrained AlexNet
    answer with its biases alone, so that a window moves its logits by a thousandth and a drop is mostly rounding.
    """
    generator = torch.Generator().manual_seed(0)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for layer in () if norms else network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                spread = (2 / layer.weight[0].numel()) ** 0.5
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * spread)
        for norm in norms:
            norm.weight.copy_(torch.rand(norm.weight.shape, generator=generator) + 0.2)
            norm.bias.copy_(torch.randn(norm.bias.shape, generator=generator) * 0.2)
            norm.momentum = 1.0
        for name, module in network.named_modules():
            if name.endswith("bn3"):  # a trained residual branch changes its input a little, not altogether
                module.weight *= 0.3
        network.train()
        first = next(p for p in network.parameters() if p.dim() == 4)
        network(pictures(16, (size, size), first.shape[1], seed=0))
        for norm in norms:
            spread = norm.running_var.sqrt()
            norm.running_mean += torch.randn(spread.shape, generator=generator) * 0.1 * spread
            norm.running_var *= torch.rand(spread.shape, generator=generator) * 0.5 + 0.75
    return network.eval()
