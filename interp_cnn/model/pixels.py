"""What pixels a network's weights were trained to see, as their library says: mean, standard deviation, size, resizing.

torchvision keeps it in `weights.transforms()`, timm in `pretrained_cfg`. A file of weights says nothing: it is taken
for one of the library's own weights of that network, or weights tuned from them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torchvision

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# torchvision's weights of these networks see pixels from -1 to 1; torchvision normalises them as for ImageNet and
# takes that back inside (`transform_input`), which no file of weights says.
SYMMETRIC = ("googlenet", "inception_v3")
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


class Pixels(NamedTuple):
    """What weights expect.

    Attributes:
        mean: per channel, of pixels in [0, 1].
        std: likewise.
        image_size: side in pixels of the images that they were judged on; None: unknown.
        interpolation: how those were resized, such as "bilinear" or "bicubic"; None: unknown.
        source: who says so.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int | None
    interpolation: str | None
    source: str

    @property
    def statistics(self) -> Statistics:
        """Mean and standard deviation."""
        return self.mean, self.std


LITE_PIXELS = Pixels((0.498,) * 3, (0.502,) * 3, 224, None, "efficientnet_lite0")


def torchvision_pixels(name: str, weights: str | None = None) -> Pixels:
    """What torchvision's weights of a network expect.

    Args:
        name: of the network.
        weights: name of the weights; None, DEFAULT, or a file: torchvision's best ones.

    Example:
        >>> torchvision_pixels("efficientnet_v2_l").mean, torchvision_pixels("resnet18").image_size
        ((0.5, 0.5, 0.5), 224)
    """
    known = torchvision.models.get_model_weights(name)
    chosen = known.__members__.get(str(weights)) or getattr(known, "DEFAULT", None)
    if chosen is None:
        return Pixels(IMAGENET_MEAN, IMAGENET_STD, None, None, "ImageNet's own")
    transforms = chosen.transforms()
    mean, std = tuple(map(float, transforms.mean)), tuple(map(float, transforms.std))
    if name in SYMMETRIC:
        mean, std = (0.5,) * 3, (0.5,) * 3
    size = int(transforms.crop_size[0])
    return Pixels(mean, std, size, transforms.interpolation.value, f"torchvision's {chosen}")


def timm_pixels(known: Mapping[str, Any], name: str) -> Pixels:
    """What timm's weights of a network expect.

    Args:
        known: its `pretrained_cfg`.
        name: of the network.

    Example:
        >>> known = {"mean": (0.5,), "std": (0.5,), "input_size": (1, 32, 32), "interpolation": "bicubic"}
        >>> timm_pixels(known, "tiny").image_size
        32
    """
    size = known.get("input_size")
    side = None if size is None else int(size[-1])
    return Pixels(
        tuple(map(float, known["mean"])),
        tuple(map(float, known["std"])),
        side,
        known.get("interpolation"),
        f"timm's {name}",
    )
