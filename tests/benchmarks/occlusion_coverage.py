"""Which of torchvision's architectures are occluded incrementally, as a Markdown table.

    python tests/benchmarks/occlusion_coverage.py [--size 64] [--only NAME ...]

One network of each family with random weights, batch norm with the statistics of random images, in double precision.
"Rules" are the steps that a delta can pass before the first call without a rule, of all steps between image and logits;
the error is the largest difference to one forward pass per window, over the largest drop, everything that has a rule
running incrementally. Windows are a quarter of the image, side by side.
"""

from __future__ import annotations

import argparse
import warnings

import torch
import torchvision
from torch import Tensor, nn

from interp_cnn.explanation.occlusion.fills import as_fill
from interp_cnn.explanation.occlusion.incremental.engine import IncrementalOcclusion
from interp_cnn.explanation.occlusion.incremental.tracing import Untraceable
from interp_cnn.explanation.occlusion.maps import occlusion_drops
from interp_cnn.explanation.occlusion.occluders import Occluders
from interp_cnn.explanation.occlusion.windows import window_grid

ARCHITECTURES = [
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet18",
    "googlenet",
    "efficientnet_b0",
    "regnet_y_400mf",
    "alexnet",
    "densenet121",
    "resnet50",
    "resnext50_32x4d",
    "vgg11_bn",
    "convnext_tiny",
    "swin_t",
    "maxvit_t",
    "vit_b_32",
    "inception_v3",
]
SIDES = {"inception_v3": 96, "maxvit_t": 224, "vit_b_32": 224}  # what they take at least


def lively(name: str, size: int) -> nn.Module:
    """The network in evaluation mode; batch norm has seen random images, and nothing is multiplied by nearly zero."""
    torch.manual_seed(0)
    more = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    network = getattr(torchvision.models, name)(weights=None, **more)
    for parameter in network.parameters():  # ViT's last layer and ConvNeXt's branches start at nothing
        if float(parameter.detach().abs().max()) < 1e-3 and parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            network.train()(torch.rand(4, 3, size, size))
    return network.eval().double()


def incremental(network: nn.Module, images: Tensor, window: int) -> tuple[Tensor, IncrementalOcclusion]:
    """Drops with everything incremental that can be, and the engine."""
    grid = window_grid(tuple(images.shape[2:]), window, window)
    engine = IncrementalOcclusion(network, grid, images, every_step=True)
    clean = engine.clean(images)
    drops = torch.zeros(*clean.logits.shape, len(grid.rows), len(grid.columns), dtype=images.dtype)
    occluders = Occluders(images, grid, as_fill(0.0))
    for batch in engine.batches(len(images)):
        for part in engine.drops(clean, batch, occluders.changes):
            rows, columns = part.index()
            drops[part.images.start : part.images.stop, :, rows, columns] = part.drops
    return drops, engine


def row(name: str, size: int) -> str:
    """One row of the table."""
    side = max(size, SIDES.get(name, 0))
    network = lively(name, side)
    images = torch.rand(1, 3, side, side, dtype=torch.float64)
    try:
        with torch.no_grad():
            drops, engine = incremental(network, images, side // 4)
    except Untraceable as reason:
        return f"| {name} | {side} | plain passes | | {str(reason)[:60]} |"
    expected = occlusion_drops(network, images, window=side // 4, stride=side // 4, engine="dense")
    error = float((drops - expected).abs().max() / expected.abs().max())
    capable, steps = len(engine.graph.capable()) - 1, len(engine.graph.steps) - 1
    kind = "fully" if capable == steps else "partly" if capable else "plain passes"
    stops = ", ".join(dict.fromkeys(engine.graph.unknown()))
    return f"| {name} | {side} | {kind}, {capable} of {steps} | {error:.0e} | {stops[:60]} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--only", nargs="*", default=ARCHITECTURES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| network | pixels | steps with rules | error, float64 | where it stops |")
    print("|---|---|---|---|---|")
    for name in options.only:
        print(row(name, options.size), flush=True)


if __name__ == "__main__":
    main()
