"""What the images of a data set are, as a short text: by it results that are kept say what they were made from."""

import hashlib
from dataclasses import fields

from torch import Tensor
from torch.utils.data import Dataset

from interp_cnn.data.parts import PartSample


def identity_of(images: Dataset[PartSample]) -> str:
    """A text that changes with the order of the images and with anything that a sample tells: pixels, label, name,
    landmarks and masks. Every image is read.
    """
    content = hashlib.blake2b(digest_size=16)
    for number in range(len(images)):  # pyright: ignore[reportArgumentType]: data sets here have a length
        sample = images[number]
        for field in fields(sample):
            value = getattr(sample, field.name)
            shape = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            content.update(f"{field.name} {shape};".encode(errors="surrogateescape"))
            if isinstance(value, Tensor):
                content.update(value.contiguous().numpy().tobytes())
    return content.hexdigest()
