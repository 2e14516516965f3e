"""Small networks with everything that trips relevance methods, and torchvision's with weights worth explaining."""

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from interp_cnn.model.templates import undecided_peaks


class Sequence(nn.Sequential):
    """Conv, ReLU, max-pool (also overlapping), linear: what every library should get right."""

    def __init__(self, bias: bool = True, channels: int = 3) -> None:
        super().__init__(
            nn.Conv2d(channels, 8, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(8, 12, 3, bias=bias),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.LazyLinear(10, bias=bias),
        )


class PoolBeforeRelu(nn.Sequential):
    """Max-pool first, ReLU after it, batch norm before both."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 12, 3),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.LazyLinear(10),
        )


class Functional(nn.Module):
    """Functional operations, modules used twice, residual sums, concatenation, overlapping pools, a branch."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.norm1 = nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 8, 3, padding=1, bias=bias)
        self.relu = nn.ReLU(inplace=True)
        self.weight = nn.Parameter(torch.randn(6, 8, 3, 3) / 8)
        self.linear = nn.LazyLinear(20, bias=bias)
        self.linear2 = nn.Linear(20, 5, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.norm1(self.conv1(images)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        y = F.relu(self.twice(x))
        y = self.twice(y)
        y += x
        x = y.relu_()
        if x.shape[0] > 0:  # control flow that a symbolic trace would refuse
            x = torch.cat(
                [F.avg_pool2d(x, 3, stride=2), F.conv2d(x, self.weight, stride=2).clamp(min=0)], dim=1
            )
        x = F.dropout(x, 0.5, self.training)
        x = x.view(x.size(0), -1)
        return self.linear2(torch.relu(self.linear(x)))


class Normalised(nn.Module):
    """A network behind a normalisation of its own, as the project's networks are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


class Masked(nn.Module):
    """A stand-in for a template mask: y = relu(x * M[argmax x]), M falling off around the peak."""

    enabled = rectify = True

    def positions(self, x: Tensor) -> Tensor:
        return x.flatten(2).argmax(2)

    def evidence_between(self, positions: Tensor, others: Tensor, h: int, w: int) -> Tensor:
        one, two = (F.one_hot(cells, h * w).unflatten(2, (h, w)) for cells in (positions, others))
        return one - two

    def undecided(self, x, inexact, rounding):
        return undecided_peaks(x, inexact, rounding)

    def factors_at(self, positions: Tensor, h: int, w: int) -> Tensor:
        row, column = positions // w, positions % w  # (B, D)
        rows = torch.arange(h, device=positions.device) - row[..., None]
        columns = torch.arange(w, device=positions.device) - column[..., None]
        distance = rows.abs()[..., :, None] + columns.abs()[..., None, :]
        return (1 - 1.5 * distance / max(h, w)).clamp(min=0).to(torch.get_default_dtype())

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        return F.relu(x * self.factors_at(self.positions(x), *x.shape[2:]).to(x.dtype))


class Interpretable(nn.Sequential):
    """Two masked layers, as an interpretable network ends."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.ReLU(),
            Masked(),
            nn.Conv2d(12, 12, 3, padding=1),
            nn.ReLU(),
            Masked(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.LazyLinear(6),
        )


def prepared(network: nn.Module, seed: int = 0, size: int = 16, channels: int = 3) -> nn.Module:
    """The network in evaluation mode with seeded weights, biases and running statistics that are not trivial."""
    with torch.no_grad():
        network.eval()(torch.zeros(1, channels, size, size))  # lazy layers take their shape
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=generator) * (2 / fan) ** 0.5
            if module.bias is not None:
                module.bias.data = torch.randn(module.bias.shape, generator=generator) * 0.1
        for parameter in module.parameters(recurse=False):
            if not isinstance(module, nn.Conv2d | nn.Linear):
                parameter.data = torch.randn(parameter.shape, generator=generator) / 8
        if isinstance(module, nn.BatchNorm2d):
            count = module.num_features
            module.running_mean = torch.randn(count, generator=generator) * 0.2
            module.running_var = torch.rand(count, generator=generator) + 0.5
            module.weight.data = torch.randn(count, generator=generator) * 0.2 + 1
            module.bias.data = torch.randn(count, generator=generator) * 0.2
    return network


def torchvision_network(name: str, seed: int = 0) -> nn.Module:
    """A torchvision classifier with 10 classes, random weights, and running statistics measured on noise."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        options = {"init_weights": True} if name == "googlenet" else {}
        network = getattr(torchvision.models, name)(weights=None, num_classes=10, **options)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.6, 1.2)
                module.bias.data.normal_(0, 0.2)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.data.normal_(0, 0.05)
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for module in norms:
            module.momentum = 0.9
        if norms:
            network.train()
            with torch.no_grad():
                for _ in range(3):
                    network(torch.rand(8, 3, 64, 64))
    return network.eval()


def images_and_targets(
    count: int = 3, size: int = 16, classes: int = 5, channels: int = 3, seed: int = 1
) -> tuple[Tensor, Tensor]:
    """Noise images in [0, 1] and a target for each."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, channels, size, size, generator=generator)
    return images, torch.randint(classes, (count,), generator=generator)
