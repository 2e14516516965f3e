"""How far each method's map is from summing to what it must: ours, captum's and zennit's, network by network.

    python tests/benchmarks/relevance_table.py
    python tests/benchmarks/relevance_table.py --networks resnet18 densenet121

LRP must sum to the target logit (conservation), DeepLIFT and integrated gradients to its change from a black image
(completeness). A cell is the largest relative error over the images, or the error that the library raises. Random
weights, running statistics measured on noise, 64 x 64 pixels, single precision.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from captum import attr
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from relevance_networks import (
    Functional,
    PoolBeforeRelu,
    Sequence,
    images_and_targets,
    prepared,
    torchvision_network,
)
from test_deeplift import OverlappingPools, Smooth
from test_relevance import by_zennit

from interp_cnn.explanation.gradients.gradients import integrated_gradients
from interp_cnn.explanation.propagation.deeplift import deeplift
from interp_cnn.explanation.propagation.lrp import lrp
from interp_cnn.model.backbones import build_network

SIZE = 64
TORCHVISION = (
    "alexnet",
    "vgg11_bn",
    "vgg16",
    "resnet18",
    "resnet50",
    "densenet121",
    "mobilenet_v3_small",
    "convnext_tiny",
)


def interpretable() -> nn.Module:
    options = {"num_classes": 10, "channels": 3, "image_size": (SIZE, SIZE), "mean": (0.5,), "std": (0.25,)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_network("small_cnn", layers=["conv4.1", "conv5"], **options)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ReLU, average pooling": lambda: prepared(Smooth(), size=SIZE),
    "ReLU, max-pooling": lambda: prepared(Sequence(), size=SIZE),
    "max-pooling, ReLU": lambda: prepared(PoolBeforeRelu(), size=SIZE),
    "overlapping pools": lambda: prepared(OverlappingPools(), size=SIZE),
    "functional, reused, residual": lambda: prepared(Functional(), size=SIZE),
    "template masks": lambda: prepared(interpretable(), size=SIZE),
    **{name: lambda name=name: torchvision_network(name) for name in TORCHVISION},
}


def lrp_by_zennit(name: str, share: bool = True) -> Callable:
    return lambda network, images, targets: by_zennit(network, images, targets, name, share=share)


def by_captum(name: str, **options) -> Callable:
    def attributed(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        leaf = images.clone().requires_grad_()
        return getattr(attr, name)(network).attribute(leaf, target=targets, **options).detach()

    return attributed


def ours(method: Callable, **options) -> Callable:
    return lambda network, images, targets: method(network, images, targets, **options)


METHODS: dict[str, tuple[bool, dict[str, Callable]]] = {  # whether the logit counts from a black image
    "LRP epsilon": (
        False,
        {
            "ours": ours(lrp),
            "zennit, biases share": lrp_by_zennit("epsilon"),
            "zennit": lrp_by_zennit("epsilon", share=False),
            "captum": by_captum("LRP"),
        },
    ),
    **{
        f"LRP {name}": (False, {"ours": ours(lrp, rule=name), "zennit, biases share": lrp_by_zennit(theirs)})
        for name, theirs in (
            ("epsilon-plus-flat", "epsilon_plus_flat"),
            ("epsilon-gamma-box", "epsilon_gamma_box"),
            ("alpha2-beta1", "epsilon_alpha2_beta1"),
        )
    },
    "DeepLIFT": (True, {"ours": ours(deeplift), "captum": by_captum("DeepLift")}),
    "integrated gradients": (
        True,
        {
            "ours, until complete to 1 %": ours(integrated_gradients, max_steps=243),
            "captum, 50 steps": by_captum("IntegratedGradients", n_steps=50, internal_batch_size=64),
        },
    ),
}


def error(method: Callable, network: nn.Module, images: Tensor, targets: Tensor, from_black: bool) -> str:
    with torch.no_grad():
        expected = network(images).gather(1, targets[:, None])[:, 0]
        if from_black:
            expected = expected - network(torch.zeros_like(images)).gather(1, targets[:, None])[:, 0]
    try:
        sums = method(network, images, targets).double().sum((1, 2, 3))
    except Exception as refusal:
        return type(refusal).__name__
    largest = float(((sums - expected) / expected).abs().max())
    return f"{largest:.0e}" if largest < 1e-3 or largest > 100 else f"{100 * largest:.2g} %"


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=NETWORKS)
    arguments.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    asked = arguments.parse_args()
    warnings.simplefilter("ignore")
    columns = [(name, whose) for name in asked.methods for whose in METHODS[name][1]]
    print("| network | " + " | ".join(f"{name}: {whose}" for name, whose in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for network_name in asked.networks:
        images, targets = images_and_targets(2, SIZE, 5)
        cells = []
        for name, whose in columns:
            from_black, methods = METHODS[name]
            network = NETWORKS[network_name]()  # afresh: captum's LRP leaves its hooks behind when it fails
            cells.append(error(methods[whose], network, images, targets, from_black))
        print(f"| {network_name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
