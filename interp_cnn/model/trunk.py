"""A pretrained network cut at a layer, with new layers of one's own behind it.

The publication puts one new 3 x 3 convolution behind the last convolutions of a network with ImageNet weights; its
filters are the interpretable ones. Cut at stride 16, a map of 224 pixels still has 14 x 14 cells: a filter can point.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import create_feature_extractor

STRIDE = 18  # at most, in pixels, of the default layer: 16, and a little for networks without padding
CELLS = 8  # at least, along each side of its map


class Cut(NamedTuple):
    """A layer at which a network is cut, and its map: filters, rows, columns."""

    layer: str
    filters: int
    rows: int
    columns: int


@torch.no_grad()
def default_cut(body: nn.Module, image_size: tuple[int, int]) -> Cut:
    """The deepest layer at stride 16 or less whose map has 8 x 8 cells or more.

    Only whole blocks are asked: layers that stand in plain sequences, not inside of a block of another kind; and
    nothing from the last weighted layer on, which is the network's own head.

    Args:
        body: images (1, C, H, W) -> logits.
        image_size: (H, W) of the images.

    Raises:
        ValueError: no layer has such a map, or the network does not take images of this size.

    Example:
        >>> import torchvision
        >>> default_cut(torchvision.models.resnet18(), (224, 224))
        Cut(layer='layer3', filters=256, rows=14, columns=14)
    """
    head = weighted_layers(body)[-1]
    reached_head = False

    def note(name: str, module: nn.Module, output: object) -> None:
        nonlocal reached_head
        reached_head = reached_head or name == head
        if not reached_head and not isinstance(module, nn.Dropout | nn.Identity):
            cuts.extend(_cut(name, output, image_size))

    cuts: list[Cut] = []
    hooks = []
    for name, module in body.named_modules():
        if name and _in_plain_sequences(body, name):
            hooks.append(
                module.register_forward_hook(
                    lambda module, _inputs, output, name=name: note(name, module, output)
                )
            )
    was_training = body.training
    try:
        body.eval()(torch.zeros(1, input_channels(body) or 3, *image_size))
    except Exception as error:  # of somebody else's forward
        raise ValueError(
            f"{type(body).__name__} does not take images of {image_size[0]} x {image_size[1]} pixels: {error}"
        ) from error
    finally:
        body.train(was_training)
        for hook in hooks:
            hook.remove()
    if not cuts:
        raise ValueError(
            f"{type(body).__name__} has no layer at stride 16 with {CELLS} x {CELLS} cells for images of "
            f"{image_size[0]} x {image_size[1]} pixels; name one with model.trunk=LAYER, or take larger images"
        )
    return cuts[-1]


def cut_at(body: nn.Module, layer: str) -> nn.Module:
    """The part of a network up to a layer, with the same weights: images -> that layer's output.

    Args:
        body: a network that torch.fx can follow.
        layer: dotted name of a module.

    Raises:
        ValueError: no such layer, or a network that cannot be followed.
    """
    names = dict(body.named_modules())
    if layer not in names:
        near = [name for name in names if name and name.endswith(layer.rpartition(".")[2])][:6] or list(
            names
        )[1:7]
        raise ValueError(
            f"model.trunk={layer}: {type(body).__name__} has no such layer; it has {', '.join(near)}, ..."
        )
    was_training = body.training
    try:
        extractor = create_feature_extractor(body.eval(), {layer: "map"}, suppress_diff_warning=True)
    except Exception as error:  # fx raises many kinds, from within somebody else's forward
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(
            f"model.trunk={layer}: {type(body).__name__} cannot be cut ({reason}); give model.trunk=null and "
            "model.layers=[LAYER] to keep it whole"
        ) from error
    finally:
        body.train(was_training)
    graph = extractor.graph
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = (output.args[0]["map"],)
    graph.eliminate_dead_code()
    trunk = fx.GraphModule(extractor, graph, class_name=type(body).__name__)
    trunk.delete_all_unused_submodules()
    return trunk


@torch.no_grad()
def width_of(trunk: nn.Module, layer: str, image_size: tuple[int, int]) -> int:
    """How many channels a trunk's maps have.

    Raises:
        ValueError: its layer gives no maps, or none of more than one cell.
    """
    was_training = trunk.training
    maps = trunk.eval()(torch.zeros(1, input_channels(trunk) or 3, *image_size))
    trunk.train(was_training)
    if not isinstance(maps, Tensor) or maps.dim() != 4 or min(maps.shape[2:]) < 2:
        shape = tuple(maps.shape[1:]) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(
            f"model.trunk={layer} gives {shape}; expected maps (filters, rows, columns) of several cells"
        )
    return maps.shape[1]


class Extended(nn.Module):
    """A trunk with new convolutions behind it, their average, and one linear layer.

    Args:
        trunk: normalised images (B, 3, H, W), or of as many channels as it takes -> maps (B, D, h, w).
        width: D.
        num_classes: number of logits K.
        normalise: images in [0, 1] -> what the trunk expects.
        filters: of each new 3 x 3 convolution.
        grey: whether images have one channel, which the trunk then sees three times.
        trunk_layer: name of the layer at which the trunk ends.
    """

    def __init__(
        self,
        trunk: nn.Module,
        width: int,
        num_classes: int,
        *,
        normalise: nn.Module,
        filters: Sequence[int],
        grey: bool = False,
        trunk_layer: str = "",
    ):
        super().__init__()
        self.grey = grey
        self.trunk_layer = trunk_layer
        self.normalise = normalise
        self.trunk = trunk
        inputs = (width, *filters[:-1])
        self.new = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
                )
                for before, after in zip(inputs, filters, strict=True)
            )
        )
        self.average = nn.AdaptiveAvgPool2d(1)
        self.scale = nn.BatchNorm2d(filters[-1])  # behind masks averages are small
        self.head = nn.Linear(filters[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] to logits (B, K)."""
        if self.grey:
            images = images.expand(-1, 3, -1, -1)
        maps = self.new(self.trunk(self.normalise(images)))
        return self.head(self.scale(self.average(maps)).flatten(1))


def _in_plain_sequences(body: nn.Module, name: str) -> bool:
    """Whether all modules around a layer are plain containers."""
    parent = name.rpartition(".")[0]
    while parent:
        if not isinstance(body.get_submodule(parent), nn.Sequential | nn.ModuleList | nn.ModuleDict):
            return False
        parent = parent.rpartition(".")[0]
    return True


def input_channels(body: nn.Module) -> int | None:
    """C of a network's images, by its first convolution; None without one."""
    first = next((module for module in body.modules() if isinstance(module, nn.Conv2d)), None)
    return None if first is None else first.in_channels


def weighted_layers(body: nn.Module) -> list[str]:
    """Names of the linear and convolutional layers, in the order in which they were made."""
    return [name for name, module in body.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def _cut(name: str, output: object, image_size: tuple[int, int]) -> list[Cut]:
    if not (isinstance(output, Tensor) and output.dim() == 4):
        return []
    filters, *cells = output.shape[1:]
    strides = [pixels / count for pixels, count in zip(image_size, cells, strict=True)]
    alike = max(strides) <= 1.5 * min(strides)  # maps with the channels behind are none
    return [Cut(name, filters, *cells)] if alike and max(strides) <= STRIDE and min(cells) >= CELLS else []
