"""Time of every relevance method against captum's and zennit's, and against one forward and backward pass.

    flock /tmp/heavy.lock python tests/benchmarks/bench_relevance.py --network resnet18 --images 4 --rounds 3

One thread, the methods interleaved, medians; a Markdown table. `forward + backward` is a training step's: the
gradients of weights and images. zennit's rules share the biases out (`zero_params="bias"`), as ours do. Captum's
integrated gradients, SmoothGrad and Shapley values get our number of steps, samples and orders, and the batch size that
suits them.
"""

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
from captum import attr

sys.path.insert(0, str(Path(__file__).parents[1]))

from relevance_networks import torchvision_network
from test_relevance import by_zennit

from interp_cnn.explanation.gradients import gradients
from interp_cnn.explanation.propagation.deeplift import deeplift
from interp_cnn.explanation.propagation.lrp import lrp
from interp_cnn.explanation.shapley import shapley_values

LAST = {"resnet18": "layer4", "vgg16": "features.29"}


def jobs(network, images, targets) -> dict[str, tuple]:
    """Name of the method: ours, theirs (None where there is none that works), whose."""
    squares = torch.arange(images.shape[2]) // (images.shape[2] // 4)
    squares = squares[:, None] * 4 + squares
    noise = float(0.15 * (images.amax() - images.amin()))

    def forward_backward():
        leaf = images.clone().requires_grad_()
        network(leaf).gather(1, targets[:, None]).sum().backward()
        network.zero_grad()

    def theirs(name, **options):
        leaf = images.clone().requires_grad_()
        return lambda: getattr(attr, name)(network).attribute(leaf, target=targets, **options)

    def grad_cam():
        maps = attr.LayerGradCam(network, network.get_submodule(LAST[network.name])).attribute(
            images, target=targets
        )
        return attr.LayerAttribution.interpolate(maps, tuple(images.shape[2:]), "bilinear")

    def smooth_grad():
        tunnel = attr.NoiseTunnel(attr.Saliency(network))
        return tunnel.attribute(
            images, target=targets, nt_samples=8, nt_samples_batch_size=2, stdevs=noise, abs=False
        )

    def zennit(name):
        return lambda: by_zennit(network, images, targets, name)

    def ours(method, **options):
        return lambda: method(network, images, targets, **options)

    return {
        "forward + backward": (forward_backward, None, ""),
        "forward + backward, images only": (ours(gradients._gradient), None, ""),
        "sensitivity analysis": (ours(gradients.sensitivity_analysis), theirs("Saliency"), "captum"),
        "saliency": (ours(gradients.saliency), theirs("Saliency"), "captum"),
        "gradient x input": (ours(gradients.gradient_x_input), theirs("InputXGradient"), "captum"),
        "guided back-propagation": (ours(gradients.guided_backprop), theirs("GuidedBackprop"), "captum"),
        "deconvnet": (ours(gradients.deconvnet), theirs("Deconvolution"), "captum"),
        "Grad-CAM": (ours(gradients.grad_cam, layer=LAST[network.name]), grad_cam, "captum"),
        "SmoothGrad, 8 samples": (
            ours(gradients.smooth_grad, samples=8, batch_size=2 * len(images)),
            smooth_grad,
            "captum",
        ),
        "integrated gradients, 16 steps": (
            ours(gradients.integrated_gradients, steps=16, batch_size=8),
            theirs("IntegratedGradients", n_steps=16, internal_batch_size=8),
            "captum",
        ),
        "DeepLIFT": (ours(deeplift), theirs("DeepLift"), "captum"),
        "Shapley values, 16 windows, 2 orders": (
            ours(shapley_values, features=images.shape[2] // 4, orders=2, batch_size=8),
            theirs(
                "ShapleyValueSampling",
                feature_mask=squares[None, None],
                n_samples=2,
                perturbations_per_eval=8 // len(images),
            ),
            "captum",
        ),
        "LRP epsilon": (ours(lrp), zennit("epsilon"), "zennit"),
        "LRP epsilon, biases by contributions": (
            ours(lrp, biases="contributions"),
            zennit("epsilon"),
            "zennit",
        ),
        "LRP epsilon, biases by activations": (ours(lrp, biases="activations"), zennit("epsilon"), "zennit"),
        "LRP epsilon-plus-flat": (ours(lrp, rule="epsilon-plus-flat"), zennit("epsilon_plus_flat"), "zennit"),
        "LRP epsilon-gamma-box": (ours(lrp, rule="epsilon-gamma-box"), zennit("epsilon_gamma_box"), "zennit"),
        "LRP alpha2-beta1": (ours(lrp, rule="alpha2-beta1"), zennit("epsilon_alpha2_beta1"), "zennit"),
    }


def timed(job) -> float:
    start = time.perf_counter()
    try:
        job()
    except RuntimeError as error:
        if "inplace" not in str(error) and "hook" not in str(error):
            raise
        return float("nan")
    return time.perf_counter() - start


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--network", choices=LAST, default="resnet18")
    arguments.add_argument("--images", type=int, default=4)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--only", default="", help="methods whose names contain this")
    asked = arguments.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    network = torchvision_network(asked.network)
    network.name = asked.network
    images = torch.rand(asked.images, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(asked.images)
    work = {
        name: job
        for name, job in jobs(network, images, targets).items()
        if asked.only in name or name == "forward + backward"
    }
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(asked.rounds):
        for name, job in work.items():
            for which in (0, 1):
                if job[which] is not None:
                    times.setdefault((name, which), []).append(timed(job[which]))
    median = {key: statistics.median(seconds) for key, seconds in times.items()}
    unit = median["forward + backward", 0]
    print(f"{asked.network}, {asked.images} images 3 x 224 x 224, one thread, medians of {asked.rounds}\n")
    print(
        "| method | seconds | forward + backward passes | theirs, seconds | ours / theirs |\n|---|---|---|---|---|"
    )
    for name, (_, other, whose) in work.items():
        seconds = median[name, 0]
        beside = "| |"
        if other is not None:
            them = median[name, 1]
            beside = (
                f"| {whose} {them:.2f} | {seconds / them:.2f} |"
                if them == them
                else f"| {whose}: RuntimeError | |"
            )
        print(f"| {name} | {seconds:.2f} | {seconds / unit:.2f} {beside}")


if __name__ == "__main__":
    main()
