"""Feature maps of a named layer, and where each map has its peak.

A layer is named by its dotted module name (`network.get_submodule`). Its feature maps are that module's
output, of shape (B, D, h, w); a filter's inferred position on an image is the cell of its map's maximum
(Zhang, Wu, Zhu, "Interpretable Convolutional Neural Networks", CVPR 2018, section 3), and the maximum is the
filter's score on that image.

Everything runs in evaluation mode, in the chosen precision and without gradients, and leaves every module in the
mode in which it was found, also where only a part of the network was in training mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from interp_cnn.explanation.network.layers import layer_name
from interp_cnn.explanation.network.precision import chosen_precision


def feature_maps(network: nn.Module, images: Tensor, layer: str | nn.Module) -> Tensor:
    """Feature maps of `layer` on `images`.

    Args:
        network: any classifier, images (B, C, H, W) to logits (B, K).
        images: (B, C, H, W).
        layer: dotted name of a module whose output has the shape (B, D, h, w), or the module itself.

    Returns:
        (B, D, h, w), detached.

    Raises:
        ValueError: unknown layer, a layer that did not run, or one whose output is no map.
    """
    return feature_maps_and_logits(network, images, layer)[0]


@torch.no_grad()
def feature_maps_and_logits(
    network: nn.Module, images: Tensor, layer: str | nn.Module
) -> tuple[Tensor, Tensor]:
    """Feature maps (B, D, h, w) of `layer` and the logits (B, K), from one forward pass.

    A module that runs more than once in a pass gives its last output.
    """
    return differentiable_maps_and_logits(network, images, layer)


def differentiable_maps_and_logits(
    network: nn.Module, images: Tensor, layer: str | nn.Module
) -> tuple[Tensor, Tensor]:
    """The same, with the gradient to the images."""
    if images.ndim != 4:
        raise ValueError(f"images has shape {tuple(images.shape)}; expected (B, C, H, W)")
    layer = layer_name(network, layer)
    module = named_layer(network, layer)
    outputs: dict[str, Tensor] = {}

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        # An in-place ReLU that follows would overwrite the very output that we were asked for.
        outputs["maps"] = output.clone() if isinstance(output, Tensor) else output

    handle = module.register_forward_hook(keep)
    try:
        with evaluation_mode(network):
            logits = network(images)
    finally:
        handle.remove()
    maps = outputs.get("maps")
    if maps is None:
        raise ValueError(f"layer {layer!r} did not run in the network's forward pass")
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(f"layer {layer!r} gives {shape}; expected feature maps of shape (B, D, h, w)")
    return maps, logits


def peaks(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Cell and value of each map's maximum.

    Args:
        maps: (B, D, h, w).

    Returns:
        positions (B, D, 2), int64, (row, column) of the grid, and scores (B, D). Among equal maxima the first
        in row-major order counts, so an all-zero map has its peak at (0, 0) with score 0.
    """
    if maps.ndim != 4:
        raise ValueError(f"maps has shape {tuple(maps.shape)}; expected (B, D, h, w)")
    width = maps.shape[3]
    flat = maps.flatten(2)  # (B, D, h*w)
    flat_positions = flat.argmax(dim=2)  # the first among equal maxima, as torch promises
    scores = flat.gather(2, flat_positions.unsqueeze(2)).squeeze(2)  # (B, D)
    positions = torch.stack((flat_positions // width, flat_positions % width), dim=2)
    return positions, scores


def named_layer(network: nn.Module, layer: str) -> nn.Module:
    """The module called `layer`; a ValueError names the nearest existing ones."""
    modules = dict(network.named_modules())
    if layer in modules and layer:
        return modules[layer]
    from difflib import get_close_matches

    names = [name for name in modules if name]
    near = get_close_matches(layer, names, n=4, cutoff=0.3) or names[:8]
    raise ValueError(f"layer {layer!r} is not a module of the network; expected e.g. {', '.join(near)}")


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and the chosen precision inside the block; afterwards every module has the mode it had.

    Inside the block the network is handed copies of its images: one that writes into them (`x.sub_(mean)`) changes
    neither the caller's images nor what it is asked next.
    """
    training = {module: getattr(module, "training", False) for module in network.modules()}
    if any(training.values()):
        with suppress(NotImplementedError):  # what torch.export made has one mode, whatever the flag says
            network.eval()
    hook = None if _hand_copies in network._forward_pre_hooks.values() else _copies_for(network)
    try:
        with chosen_precision(), torch.compiler.set_stance("force_eager"):  # compiled code cannot be watched
            yield
    finally:
        if hook is not None:
            hook.remove()
        for module, mode in training.items():
            if getattr(module, "training", mode) != mode:
                module.training = mode


def _copies_for(network: nn.Module) -> RemovableHandle:
    if isinstance(network, torch.jit.ScriptModule):  # takes no hooks of its own
        # pyright: ignore below: the stub lets no hook hand out other inputs, as torch documents
        return register_module_forward_pre_hook(
            lambda module, given: _hand_copies(module, given) if module is network else None  # pyright: ignore[reportArgumentType]
        )
    return network.register_forward_pre_hook(_hand_copies)


def _hand_copies(network: nn.Module, given: tuple) -> tuple:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in given)
