"""One image, explained by several methods with one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.methods.registry import methods_of
from interp_cnn.explanation.methods.run import ImageMap, asked
from interp_cnn.explanation.network.logits import checked_evaluation


class ImageMaps(dict[str, ImageMap]):
    """The maps of one image by the names of their methods; in a notebook they stand beside the image.

    Attributes:
        image: (C, H, W).
        target: the class that is explained.
    """

    def __init__(self, maps: Mapping[str, ImageMap], *, image: Tensor, target: int) -> None:
        super().__init__(maps)
        self.image, self.target = image, target

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.image.shape))
        return f"ImageMaps({', '.join(self)}; class {self.target} of an image {size})"

    def _repr_html_(self) -> str:
        from interp_cnn.figures.notebook import maps_html

        values = {name: found.values for name, found in self.items()}
        return maps_html(self.image, values, [found.note for found in self.values()])


def explain_image(
    network: nn.Module,
    image: Tensor,
    target: int | None = None,
    *,
    methods: Sequence[str] | None = None,
    options: Options | None = None,
) -> ImageMaps:
    """What speaks for and against a class in one image, by several methods.

    Args:
        network: images (B, C, H, W) -> logits (B, K); used in evaluation mode and handed back as it came.
        image: (C, H, W) or (1, C, H, W), on the network's device.
        target: the class that is explained; by default the network's answer.
        methods: names, see `interp_cnn.explanation.methods.registry.METHODS`; by default the standard set.
        options: windows, baselines and the like.

    Returns:
        method -> its map: `values` (H, W), colour channels added up, their `sum`, what it should be (`expected`, None
        where the method promises nothing) and a `note` on how far it can be trusted. A notebook shows all beside the
        image.

    Raises:
        ValueError: not one image, an unknown method or class, or a method that cannot answer for this network.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> maps = explain_image(network, torch.rand(3, 8, 8), methods=["lrp", "saliency"])
        >>> maps["lrp"].values.shape
        torch.Size([8, 8])
    """
    images = image[None] if image.dim() == 3 else image
    if images.dim() != 4 or len(images) != 1:
        raise ValueError(f"image has shape {tuple(image.shape)}; expected one image (C, H, W)")
    if target is None:
        with checked_evaluation(network), torch.no_grad():
            target = int(network(images).argmax(1))
    targets = torch.tensor([target], device=images.device)
    options = options or Options()
    maps: dict[str, ImageMap] = {
        name: asked(name, network, images, targets, options)[0]  # type: ignore[misc]  # raises, never answers a text
        for name in methods_of(methods, [network])
    }
    return ImageMaps(maps, image=images[0], target=int(target))
