"""Training images that lose a patch, so that a network knows what an image without it looks like.

With a given probability one of the 4 x 4 patches of an image, each as likely as any other, becomes the mean colour of
the training images. A network that has seen such images answers in its domain when a patch is deleted later, to find
out what that patch was worth (`evaluation.maps.single_deletion`).

Source: R. Hesse, S. Schaub-Meyer, S. Roth, "Benchmarking the attribution quality of vision models", NeurIPS 2024,
section 3; one patch of half of the images, as in the released code.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

PATCHES = 4  # along each side: H // 4 rows and W // 4 columns each; what is left over is never deleted


def delete_patches(images: Tensor, share: float, mean: Sequence[float], generator: torch.Generator) -> Tensor:
    """Images of which some have lost a patch.

    Args:
        images: (B, C, H, W) in [0, 1].
        share: probability that an image loses one.
        mean: what takes its place, one value a channel.
        generator: on the CPU; draws two numbers an image, whatever the share.

    Example:
        >>> images = delete_patches(torch.ones(8, 1, 8, 8), 1.0, [0.0], torch.Generator())
        >>> images.sum((1, 2, 3)).tolist()
        [60.0, 60.0, 60.0, 60.0, 60.0, 60.0, 60.0, 60.0]
    """
    loses = torch.rand(len(images), generator=generator) < share
    patch = torch.randint(PATCHES**2, (len(images),), generator=generator)
    rows, columns = (torch.arange(length) // max(1, length // PATCHES) for length in images.shape[2:])
    deleted = (rows == (patch // PATCHES)[:, None])[:, :, None] & (columns == (patch % PATCHES)[:, None])[
        :, None
    ]
    deleted &= loses[:, None, None]  # (B, H, W)
    colour = images.new_tensor(tuple(mean))[:, None, None]
    return torch.where(deleted[:, None].to(images.device), colour, images)
