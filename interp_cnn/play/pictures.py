"""Paint on images, and pictures as the page takes them: PNG in a `data:` address."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

_OPAQUE = 128  # of 255: half covered pixels at the edge of a brush are painted or not, never mixed


def painted(image: Tensor, paint: bytes | None) -> Tensor:
    """An image with a layer of paint on it; pixels without paint keep their values to the last bit.

    Args:
        image: (C, H, W) in [0, 1].
        paint: a PNG of H x W pixels whose alpha says where paint is; None: none.

    Returns:
        (C, H, W), a new tensor where there is paint; grey images take the mean of red, green and blue.

    Raises:
        ValueError: no PNG, or of another size.
    """
    if paint is None:
        return image
    try:
        with Image.open(io.BytesIO(paint), formats=("PNG",)) as layer:
            size, wanted = layer.size, (image.shape[2], image.shape[1])
            if size != wanted:
                raise ValueError(
                    f"paint: {size[0]} x {size[1]} pixels, the image has {wanted[0]} x {wanted[1]}"
                )
            pixels = np.asarray(layer.convert("RGBA"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError("paint: expected a PNG") from error
    colours = torch.from_numpy(pixels[..., :3].astype(np.float32) / 255).permute(2, 0, 1)
    if len(image) == 1:
        colours = colours.mean(0, keepdim=True)
    covered = torch.from_numpy(pixels[..., 3] >= _OPAQUE).to(image.device)
    return torch.where(covered, colours.to(image), image)


def png_address(picture: NDArray[np.uint8]) -> str:
    """RGB (H, W, 3) as `data:image/png;base64,...`."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
