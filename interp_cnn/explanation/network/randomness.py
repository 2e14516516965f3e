"""Random numbers that belong to an image: the same whichever images stand beside it.

A method that draws one stream of numbers for a whole batch gives an image another map in another batch. Here every
image has a stream of its own, from a seed and its pixels, so that its map is the same alone, in a batch of any size
and in any order, on any device. Equal images get equal numbers.

    generators = image_generators(images, seed)         one for each image
    noise = normal_noise(images, generators)            the next numbers of each
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def image_generators(images: Tensor, seed: int) -> list[torch.Generator]:
    """A generator for each image, on the CPU, whose numbers depend on the seed and that image alone.

    Args:
        images: (B, ...), the pixels of B images; equal values give equal numbers, whatever their dtype and device.
        seed: any whole number.

    Returns:
        B generators; the caller's random state is not touched.

    Example:
        >>> images = torch.arange(6.0).view(3, 2)
        >>> alone = torch.rand(4, generator=image_generators(images[1:2], seed=7)[0])
        >>> torch.equal(alone, torch.rand(4, generator=image_generators(images, seed=7)[1]))
        True
    """
    return [torch.Generator().manual_seed(image_seed(image, seed)) for image in images]


def image_seed(image: Tensor, seed: int) -> int:
    """A seed of 63 bits from a seed and the pixels of an image (...)."""
    pixels = (image.detach().float() + 0.0).cpu().contiguous()  # + 0.0: minus zero is zero
    digest = hashlib.blake2b(f"{seed} {tuple(pixels.shape)} ".encode(), digest_size=8)
    digest.update(pixels.numpy().tobytes())
    return int.from_bytes(digest.digest(), "little") >> 1


def drawn_seed(generator: torch.Generator | None) -> int:
    """A seed from the next number of a generator; without one always the same: the same map twice unless asked."""
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device))


def normal_noise(images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise like the images (B, ...), image b's the next numbers of generator b."""
    rows = [
        torch.randn(image.shape, generator=generator, dtype=torch.float32)
        for image, generator in zip(images, generators, strict=True)
    ]
    return torch.stack(rows).to(images)
