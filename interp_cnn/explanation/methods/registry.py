"""Every map of this room by name, with one call: which pixels made the network give its target class this logit.

    METHODS["occlusion"].maps(network, images, targets, options)        maps (B, H, W) and their sums (B,)

A map adds up the colour channels. Some methods promise what their map sums to (completeness): LRP the logit itself,
the methods with a baseline the logit's change from baseline to image. What the map really sums to is reported beside
it. Occlusion is complete in another unit, the drop divided by the window's area, and is summed in that.

What speaks for one class rather than another is asked of `network.contrast.LogitDifferences`.
"""

from collections.abc import Callable, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from interp_cnn.explanation.baselines import reference_images
from interp_cnn.explanation.gradients import gradients
from interp_cnn.explanation.gradients.finite_differences import single_pixel
from interp_cnn.explanation.gradients.integrated import PathIntegral
from interp_cnn.explanation.methods.method import Method, MethodResult, with_sums
from interp_cnn.explanation.methods.names import check_names, window_of_name
from interp_cnn.explanation.methods.occlusion import (
    MEANINGS,
    OCCLUSION_METHODS,
    UNITS,
    occlusion,
    window_method,
    windows_of,
    worth,
)
from interp_cnn.explanation.methods.options import Options, each_window, occluder_of
from interp_cnn.explanation.network.logits import check_logits, checked_evaluation, scores
from interp_cnn.explanation.propagation.deeplift import deeplift_with_doubts
from interp_cnn.explanation.propagation.lrp import WORTH_SAYING, lrp_with_missing
from interp_cnn.explanation.shapley import default_windows, shapley_values

DEEP = 8  # convolutions: in a network of more, LRP by the rule epsilon is noise


def _added_up(method: Callable, **names: str) -> Callable:
    """A method of (network, images, targets) as one that takes options too and adds up the colour channels.

    Args:
        method: (network, images (B, C, H, W), targets (B,), ...) -> (B, C, H, W) or (B, 1, H, W).
        names: its argument -> the attribute of `Options` that it gets.
    """

    def maps(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> MethodResult:
        given = {argument: getattr(options, attribute) for argument, attribute in names.items()}
        return with_sums(method(network, images, targets, **given).sum(1))

    return maps


def _smooth_grad(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> MethodResult:
    generator = torch.Generator().manual_seed(options.seed)
    more = {"generator": generator, "batch_size": _gradient_batch(images, options)}
    return with_sums(gradients.smooth_grad(network, images, targets, **more).sum(1))


def _integrated_gradients(
    network: nn.Module, images: Tensor, targets: Tensor, options: Options
) -> MethodResult:
    integral = _path_integral(network, images, targets, options)
    notes = [
        f"{pieces} pieces of the line; what each of them misses adds up to {missing:.2%} of the logit's change"
        for pieces, missing in zip(integral.pieces.tolist(), integral.missing.tolist(), strict=True)
    ]
    return with_sums(integral.maps.sum(1), tuple(notes))


def _path_integral(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> PathIntegral:
    batch_size = _gradient_batch(images, options)
    return gradients.integrated_gradients_with_error(
        network,
        images,
        targets,
        baseline=options.baseline,
        max_steps=options.gradients,
        batch_size=batch_size,
    )


def _integrated_gradients_passes(network: nn.Module, images: Tensor, options: Options) -> float:
    """The passes of an image's map, counted on the first image: how many it takes depends on network and image."""
    with checked_evaluation(network), torch.no_grad():
        targets = check_logits(network(images[:1]), 1).argmax(1)
    return float(_path_integral(network, images[:1], targets, options).passes)


def _shapley_passes(size: tuple[int, int], options: Options) -> float:
    """At most: 50 orders of about 14 x 14 windows, and both ends."""
    return float(50 * (default_windows(size) - 1) + 3)


def _gradient_batch(images: Tensor, options: Options) -> int:
    return min(options.batch_size, gradients.gradient_batch(images))


def _shapley_values(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> MethodResult:
    generator = torch.Generator().manual_seed(options.seed)
    more = {"generator": generator, "batch_size": options.batch_size, "baseline": options.baseline}
    return with_sums(shapley_values(network, images, targets, **more).sum(1))


def _grad_cam(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> MethodResult:
    layer = options.layer
    if layer is not None:
        names = [name for name, _ in network.named_modules() if name]
        wrapped = [name for name in names if name == layer or name.endswith(f".{layer}")]
        if not wrapped:
            near = get_close_matches(layer, names, 3, 0.5) or names[-3:]
            raise ValueError(f"the network has no layer {layer!r}; did you mean {' or '.join(near)}?")
        layer = min(wrapped, key=len)
    return with_sums(gradients.grad_cam(network, images, targets, layer=layer))


def _lrp(rule: str) -> Callable:
    def maps(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> MethodResult:
        result = lrp_with_missing(network, images, targets, rule=rule)
        notes = (
            f"{share:.2%} of the logit is missing from the map" if share > WORTH_SAYING else ""
            for share in result.missing.tolist()
        )
        return with_sums(result.maps.sum(1), tuple(notes))

    return maps


def _deeplift(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> MethodResult:
    result = deeplift_with_doubts(network, images, targets, baseline=options.baseline)
    doubt = "the logit changes by no more than the rounding of its parts: the map's sum says nothing"
    notes = tuple(doubt if doubted else "" for doubted in result.only_rounding.tolist())
    return with_sums(result.maps.sum(1), notes)


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
        occlusion,
        MEANINGS["mean_drop"],
        UNITS["mean_drop"],
        cost=windows_of,
        worth=worth,
        total=_change_from("fill"),
        cells="",
    ),
    **OCCLUSION_METHODS,
    "sensitivity_analysis": Method(
        _added_up(gradients.sensitivity_analysis),
        "how strongly a small change of the pixel moves the logit, whichever way (squared gradient)",
        "(logit per brightness)²",
        signed=False,
        cells="mean",
        work=3.0,
    ),
    "saliency": Method(
        _added_up(gradients.saliency),
        "how strongly a small change of the pixel moves the logit, whichever way",
        "logit per brightness",
        signed=False,
        cells="mean",
        work=3.0,
    ),
    "gradient_x_input": Method(
        _added_up(gradients.gradient_x_input),
        "the pixel's brightness times the logit's slope: a first guess at its share of the logit",
        "logit",
        total=_change_from("zero"),
        work=3.0,
    ),
    "smooth_grad": Method(
        _smooth_grad,
        "which way the logit moves when the pixel gets brighter, averaged over noisy copies of the image",
        "logit per brightness",
        cost=lambda size, options: 25.0,
        work=3.0,
        cells="mean",
    ),
    "integrated_gradients": Method(
        _integrated_gradients,
        "the pixel's share of the logit's change on the way from the baseline to the image",
        "logit",
        cost=lambda size, options: 120.0,
        worth=_integrated_gradients_passes,
        work=3.0,
        total=_change_from("baseline"),
    ),
    "lrp": Method(
        _lrp("epsilon"),
        "the pixel's share of the logit, handed back layer by layer (rule epsilon)",
        "logit",
        total=_logit,
        work=8.0,
    ),
    **{
        f"lrp_{rule.replace('-', '_')}": Method(
            _lrp(rule),
            f"the pixel's share of the logit, handed back layer by layer (composite {rule}{why})",
            "logit",
            total=_logit,
            work=8.0,
        )
        for rule, why in {
            "epsilon-plus": "",
            "epsilon-plus-flat": f", in place of rule epsilon, which is noisy behind more than {DEEP} convolutions",
            "epsilon-gamma-box": "",
            "alpha2-beta1": "",
            "z-box": "",
        }.items()
    },
    "deeplift": Method(
        _deeplift,
        "the pixel's share of the logit's change from the baseline to the image, handed back layer by layer (Rescale)",
        "logit",
        total=_change_from("baseline"),
        cost=lambda size, options: 2.0,
        work=5.0,
    ),
    "shapley_values": Method(
        _shapley_values,
        "the average gain in the logit when the pixel's window is uncovered, over all orders of uncovering (sampled)",
        "logit",
        cost=_shapley_passes,
        total=_change_from("baseline"),
    ),
    "single_pixel": Method(
        _added_up(single_pixel, batch_size="batch_size"),
        "how far the logit moves when this pixel alone gets brighter by 0.1, colour by colour",
        "logit per 0.1 brightness",
        cost=lambda size, options: 3.0 * size[0] * size[1] + 1,
        worth=lambda network, images, options: float(images[0].numel() + 1),
        cells="mean",
    ),
    "grad_cam": Method(
        _grad_cam,
        "which cells of the last feature maps speak for the class (coarse, enlarged)",
        "activation x slope",
        signed=False,
        cells="",
        work=3.0,
    ),
    "guided_backprop": Method(
        _added_up(gradients.guided_backprop),
        "edges that excite the units behind the class; shows detail, but hardly depends on the class",
        "guided slope",
        cells="mean",
        work=3.0,
    ),
    "deconvnet": Method(
        _added_up(gradients.deconvnet),
        "the pattern that would excite the units behind the class; hardly depends on the class",
        "guided slope",
        cells="mean",
        work=3.0,
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


def method_named(name: str, options: Options) -> Method:
    """The method of a name, with the unit that the options give it.

    Args:
        name: a key of `METHODS`, or `occlusion_window_` and a size in pixels or as a share of the image.
        options: see `Options`.

    Raises:
        ValueError: no such method.
    """
    window = window_of_name(name)
    if window is not None:
        return window_method(METHODS["occlusion"], options, window)
    if name not in METHODS:
        check_names([name])
    return window_method(METHODS[name], options) if name == "occlusion" else METHODS[name]


def methods_of(names: Sequence[str] | None, networks: Sequence[nn.Module] = ()) -> tuple[str, ...]:
    """The names of the methods that are asked for, each once; the standard set where none is.

    Args:
        names: of methods; None: the standard set.
        networks: whose maps are made. Where one of them is deep, of more than `DEEP` convolutions, the standard set has
            LRP by the composite epsilon-plus-flat in the place of the rule epsilon.

    Raises:
        ValueError: no name, or one that no method has.
    """
    deep = any(
        sum(isinstance(module, nn.modules.conv._ConvNd) for module in network.modules()) > DEEP
        for network in networks
    )
    standard = (name if name != "lrp" or not deep else "lrp_epsilon_plus_flat" for name in STANDARD)
    methods = tuple(standard if names is None else dict.fromkeys(map(str, names)))
    for name in methods:
        method_named(name, Options())
    if not methods:
        raise ValueError(f"methods=[] asks nothing; there are {', '.join(METHODS)}")
    return methods


def with_each_window(methods: tuple[str, ...], options: Options) -> tuple[str, ...]:
    """The methods, and before `occlusion` of several window sizes each size by itself."""
    sizes = each_window(options)
    if "occlusion" not in methods or len(sizes) < 2:
        return methods
    place = methods.index("occlusion")
    apart = tuple(f"occlusion_window_{window_options.window}" for window_options in sizes)
    return (*methods[:place], *apart, *methods[place:])
