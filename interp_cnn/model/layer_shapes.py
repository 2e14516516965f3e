"""The shapes of a network's layers, learned by showing it one black image.

Where the size of its images is given the network is run to its end, so that a wrong size is found here and not
hours later. Where it is not, the run stops at the last of the layers: how many filters they have does not depend
on the size, and a head that is made for another one is never reached.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

DEFAULT_IMAGE_SIZE = (224, 224)  # what most networks for photographs take


def layer_shapes(
    network: nn.Module,
    layers: Sequence[str],
    *,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> dict[str, tuple[int, int, int]]:
    """Output shapes (D, h, w) of named layers for one image size.

    Args:
        network: any network; it comes back in the mode it came in, module by module.
        layers: dotted module names.
        image_size: (H, W); None: 224 x 224, and the network is run only until the layers have answered.
        channels: image channels; None: those of the network's first convolution.

    Raises:
        ValueError: an unknown or unused layer, one whose output is no feature map, or a network that does not run.
    """
    known = dict(network.named_modules())
    for name in layers:
        if name not in known or not name:
            near = [other for other in known if other and other.split(".")[0] == name.split(".")[0]]
            names = ", ".join(near or [child for child, _ in network.named_children()])
            raise ValueError(f"the network has no layer {name!r}; it has {names}")
    if channels is None:
        channels = next((layer.in_channels for layer in known.values() if isinstance(layer, nn.Conv2d)), 3)
    height, width = image_size or DEFAULT_IMAGE_SIZE
    outputs = _outputs(network, layers, (1, channels, height, width), to_the_end=image_size is not None)
    shapes: dict[str, tuple[int, int, int]] = {}
    for name in layers:
        if name not in outputs:
            raise ValueError(f"layer {name!r} is not used in the network's forward pass")
        output = outputs[name]
        if not isinstance(output, Tensor) or output.dim() != 4:
            raise ValueError(f"layer {name!r} does not give a feature map (B, D, h, w)")
        _, filters, rows, columns = output.shape
        shapes[name] = (filters, rows, columns)
    return shapes


class _LayersSeen(Exception):
    """Ends a forward pass when nothing more is to be learned from it."""


def _outputs(
    network: nn.Module, layers: Sequence[str], image_shape: tuple[int, ...], *, to_the_end: bool
) -> dict[str, object]:
    """What the layers give for a black image."""
    outputs: dict[str, object] = {}

    def remember(name):
        def hook(module, inputs, output):
            outputs[name] = output
            if not to_the_end and len(outputs) == len(layers):
                raise _LayersSeen

        return hook

    hooks = [network.get_submodule(name).register_forward_hook(remember(name)) for name in layers]
    modes = {module: module.training for module in network.modules()}
    first = next(network.parameters(), torch.zeros(()))
    try:
        network.eval()
        with torch.no_grad():
            network(torch.zeros(image_shape, device=first.device, dtype=first.dtype))
    except _LayersSeen:
        pass
    except Exception as error:
        size = " x ".join(map(str, image_shape[1:]))
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"the network does not run on an image of {size} (channels x height x width): {reason}; "
            "give the image_size and channels that it takes"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
        for hook in hooks:
            hook.remove()
    return outputs
