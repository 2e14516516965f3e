"""Every map of this room by name, with one call: which pixels made the network give its target class this logit.

    METHODS["occlusion"].maps(network, images, targets, options)        maps (B, H, W) and their sums (B,)

A map adds up the colour channels. Some methods promise what their map sums to (completeness): LRP the logit itself,
the methods with a baseline the logit's change from baseline to image. What the map really sums to is reported beside
it. Occlusion is complete in another unit, the drop divided by the window's area, and is summed in that.

What speaks for one class rather than another is asked of `differences.LogitDifferences`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

import torch
from torch import Tensor, nn

from interp_cnn.explanation import gradients
from interp_cnn.explanation.deeplift import deeplift
from interp_cnn.explanation.logits import scores
from interp_cnn.explanation.occlusion_job import OcclusionJob
from interp_cnn.explanation.options import Options, occluder_of, window_of
from interp_cnn.explanation.perturbation import single_pixel
from interp_cnn.explanation.reference_images import reference_images
from interp_cnn.explanation.relevance import lrp
from interp_cnn.explanation.shapley import shapley_values
from interp_cnn.explanation.windows import map_of_drops, window_grid


class Found(NamedTuple):
    """What a method's function finds.

    Attributes:
        maps: (B, H, W).
        sums: (B,).
        passes: the work in forward passes, where it is not the images that the network was sent.
    """

    maps: Tensor
    sums: Tensor
    passes: float | None = None


@dataclass(frozen=True)
class Method:
    """One way to ask.

    Attributes:
        maps: (network, images (B, C, H, W), targets (B,), options) -> what it finds.
        meaning: what a pixel's value says, for people.
        unit: of the values.
        signed: whether values below zero speak against the class.
        cells: what several pixels together say: the "sum" of their values (shares), the "mean" (slopes), or "" where
            neighbours say much the same anyway.
        cost: about how many forward passes an image takes, for estimates.
        total: (network, images, targets, options) -> (B,), what the maps should sum to; None: nothing.
    """

    maps: Callable[[nn.Module, Tensor, Tensor, Options], Found]
    meaning: str
    unit: str
    signed: bool = True
    cells: str = "sum"
    cost: Callable[[tuple[int, int], Options], float] = lambda size, options: 3.0
    total: Callable[[nn.Module, Tensor, Tensor, Options], Tensor] | None = None


def _occlusion(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> Found:
    size = tuple(images.shape[2:])
    window, stride = window_of(options, size)
    fill = occluder_of(images, options)
    job = OcclusionJob(network, images, window=window, stride=stride, fill=fill, overhang="end")
    for _ in job.run():
        pass
    own = job.drops[torch.arange(len(images)), targets.to(job.drops.device)]  # (B, rows, columns)
    sums = map_of_drops(job.grid, own, "contribution").double().sum((1, 2))
    passes = job.cost().forward_equivalents if job.engine == "incremental" else None
    return Found(map_of_drops(job.grid, own), sums, passes)


def _occlusion_cost(size: tuple[int, int], options: Options) -> float:
    return float(len(window_grid(size, *window_of(options, size), "end")))


def _with_sums(maps: Tensor) -> Found:
    return Found(maps, maps.double().sum((1, 2)))


def _added_up(method: Callable, **names: str) -> Callable:
    """A method of (network, images, targets) as one that takes options too and adds up the colour channels.

    Args:
        method: (network, images (B, C, H, W), targets (B,), ...) -> (B, C, H, W) or (B, 1, H, W).
        names: its argument -> the attribute of `Options` that it gets.
    """

    def maps(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> Found:
        given = {argument: getattr(options, attribute) for argument, attribute in names.items()}
        return _with_sums(method(network, images, targets, **given).sum(1))

    return maps


def _smooth_grad(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> Found:
    generator = torch.Generator().manual_seed(options.seed)
    more = {"generator": generator, "batch_size": options.batch_size}
    return _with_sums(gradients.smooth_grad(network, images, targets, **more).sum(1))


def _shapley_values(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> Found:
    generator = torch.Generator().manual_seed(options.seed)
    more = {"generator": generator, "batch_size": options.batch_size, "baseline": options.baseline}
    return _with_sums(shapley_values(network, images, targets, **more).sum(1))


def _grad_cam(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> Found:
    layer = options.layer
    if layer is not None:
        names = [name for name, _ in network.named_modules() if name]
        wrapped = [name for name in names if name == layer or name.endswith(f".{layer}")]
        if not wrapped:
            near = get_close_matches(layer, names, 3, 0.5) or names[-3:]
            raise ValueError(f"the network has no layer {layer!r}; did you mean {' or '.join(near)}?")
        layer = min(wrapped, key=len)
    return _with_sums(gradients.grad_cam(network, images, targets, layer=layer)[:, 0])


def _lrp(rule: str) -> Callable:
    return _added_up(lambda network, images, targets: lrp(network, images, targets, rule=rule))


def _logit(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> Tensor:
    return scores(network, images, targets)


def _change_from(attribute: str) -> Callable:
    """The logit's change from a reference image, which `options` names, to the image."""

    def change(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> Tensor:
        if attribute == "fill":
            fill, everything = occluder_of(images, options), torch.ones_like(images[:, :1], dtype=torch.bool)
            references = [fill(images, everything, sample) for sample in range(fill.samples)]
        else:
            references = reference_images(images, "zero" if attribute == "zero" else options.baseline)
        before = [scores(network, reference.expand_as(images), targets) for reference in references]
        return scores(network, images, targets) - torch.stack(before).mean(0)

    return change


METHODS: dict[str, Method] = {
    "occlusion": Method(
        _occlusion,
        "how far the logit falls, on average, when a window over the pixel is hidden",
        "logit drop",
        cost=_occlusion_cost,
        total=_change_from("fill"),
        cells="",
    ),
    "sensitivity_analysis": Method(
        _added_up(gradients.sensitivity_analysis),
        "how strongly a small change of the pixel moves the logit, whichever way (squared gradient)",
        "(logit per brightness)²",
        signed=False,
        cells="mean",
    ),
    "saliency": Method(
        _added_up(gradients.saliency),
        "how strongly a small change of the pixel moves the logit, whichever way",
        "logit per brightness",
        signed=False,
        cells="mean",
    ),
    "gradient_x_input": Method(
        _added_up(gradients.gradient_x_input),
        "the pixel's brightness times the logit's slope: a first guess at its share of the logit",
        "logit",
        total=_change_from("zero"),
    ),
    "smooth_grad": Method(
        _smooth_grad,
        "which way the logit moves when the pixel gets brighter, averaged over noisy copies of the image",
        "logit per brightness",
        cost=lambda size, options: 75.0,
        cells="mean",
    ),
    "integrated_gradients": Method(
        _added_up(gradients.integrated_gradients, baseline="baseline", batch_size="batch_size"),
        "the pixel's share of the logit's change on the way from the baseline to the image",
        "logit",
        cost=lambda size, options: 120.0,
        total=_change_from("baseline"),
    ),
    "lrp": Method(
        _lrp("epsilon"),
        "the pixel's share of the logit, handed back layer by layer (rule epsilon)",
        "logit",
        cost=lambda size, options: 8.0,
        total=_logit,
    ),
    **{
        f"lrp_{rule.replace('-', '_')}": Method(
            _lrp(rule),
            f"the pixel's share of the logit, handed back layer by layer (composite {rule})",
            "logit",
            cost=lambda size, options: 8.0,
            total=_logit,
        )
        for rule in ("epsilon-plus", "epsilon-plus-flat", "epsilon-gamma-box", "alpha2-beta1", "z-box")
    },
    "deeplift": Method(
        _added_up(deeplift, baseline="baseline"),
        "the pixel's share of the logit's change from the baseline to the image, handed back layer by layer (Rescale)",
        "logit",
        cost=lambda size, options: 10.0,
        total=_change_from("baseline"),
    ),
    "shapley_values": Method(
        _shapley_values,
        "the average gain in the logit when the pixel's window is uncovered, over all orders of uncovering (sampled)",
        "logit",
        cost=lambda size, options: 50.0 * 196,
        total=_change_from("baseline"),
    ),
    "single_pixel": Method(
        _added_up(single_pixel, batch_size="batch_size"),
        "how far the logit moves when this pixel alone gets brighter by 0.1, colour by colour",
        "logit per 0.1 brightness",
        cost=lambda size, options: 3.0 * size[0] * size[1],
        cells="mean",
    ),
    "grad_cam": Method(
        _grad_cam,
        "which cells of the last feature maps speak for the class (coarse, enlarged)",
        "activation x slope",
        signed=False,
        cells="",
    ),
    "guided_backprop": Method(
        _added_up(gradients.guided_backprop),
        "edges that excite the units behind the class; shows detail, but hardly depends on the class",
        "guided slope",
        cells="mean",
    ),
    "deconvnet": Method(
        _added_up(gradients.deconvnet),
        "the pattern that would excite the units behind the class; hardly depends on the class",
        "guided slope",
        cells="mean",
    ),
}

STANDARD = (
    "occlusion",
    "sensitivity_analysis",
    "gradient_x_input",
    "integrated_gradients",
    "lrp",
    "deeplift",
    "grad_cam",
    "guided_backprop",
)
