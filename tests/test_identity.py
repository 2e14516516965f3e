"""What images are, in a short text: anything that a sample tells of any of them is in it."""

from dataclasses import replace

import pytest
import torch

from interp_cnn.data.identity import identity_of
from interp_cnn.data.parts import PartSample


def samples() -> list[PartSample]:
    draw = torch.Generator().manual_seed(0)
    return [
        PartSample(
            image=torch.rand(3, 8, 8, generator=draw),
            label=number % 2,
            landmarks=torch.rand(2, 2, generator=draw),
            part_masks=torch.rand(2, 8, 8, generator=draw) > 0.5,
            object_mask=torch.rand(8, 8, generator=draw) > 0.5,
            name=f"{number}.png",
        )
        for number in range(4)
    ]


CHANGES = {
    "pixel": lambda one: replace(one, image=one.image.clone().index_fill_(2, torch.tensor(7), 0.5)),
    "label": lambda one: replace(one, label=1 - one.label),
    "landmark": lambda one: replace(one, landmarks=one.landmarks.flip(0)),
    "no landmark": lambda one: replace(one, landmarks=torch.full((2, 2), torch.nan)),
    "part": lambda one: replace(one, part_masks=~one.part_masks),
    "object": lambda one: replace(one, object_mask=~one.object_mask),
    "no object": lambda one: replace(one, object_mask=None),
    "distractor": lambda one: replace(one, distractor_mask=one.object_mask),
    "name": lambda one: replace(one, name="x.png"),
    "shape": lambda one: replace(one, image=one.image.reshape(3, 4, 16)),
    "layout": lambda one: replace(one, image=one.image.double()),
}


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_told_of_any_image_is_part_of_it(change, number):
    images = samples()
    before = identity_of(images)
    assert before == identity_of(samples())
    images[number] = CHANGES[change](images[number])
    assert identity_of(images) != before


def test_order_and_number_are_part_of_it():
    images = samples()
    assert len({identity_of(some) for some in (images, images[::-1], images[:3], [*images, images[0]])}) == 4


def test_memory_that_is_laid_out_otherwise_is_not():
    images = samples()
    before = identity_of(images)
    images[0] = replace(images[0], image=images[0].image.permute(1, 2, 0).contiguous().permute(2, 0, 1))
    assert identity_of(images) == before
