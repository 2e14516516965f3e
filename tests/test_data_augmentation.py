"""Flips, shifts and zooms carry landmarks and masks along."""

import dataclasses
import math

import pytest
import torch
from reference_augmentation import augmented

from interp_cnn.data.augmentation import Augmentation, Changes
from interp_cnn.data.augmentation import mirrored as mirrored_landmarks
from interp_cnn.data.augmentation import moved as moved_landmarks
from interp_cnn.data.digits import DigitsParts
from interp_cnn.data.parts import Draw, PartSample, RawBatch, collate, stacked


def mirrored(sample: PartSample, parts: tuple[int, ...] | None = None) -> PartSample:
    batch = stacked([sample])
    changes = Changes.of(torch.tensor([0]), None if parts is None else torch.tensor(parts))
    landmarks = mirrored_landmarks(batch.landmarks, sample.image.shape[-1], parts)
    return changes(dataclasses.replace(batch, landmarks=landmarks))[0]


def moved(sample: PartSample, *, shift: tuple[float, float], zoom: float) -> PartSample:
    batch, size = stacked([sample]), sample.image.shape[-2:]
    rows, columns = (
        (torch.arange(length, dtype=torch.float64)[None] - (length - 1) / 2 - by) / zoom + (length - 1) / 2
        for length, by in zip(size, shift, strict=True)
    )
    landmarks = moved_landmarks(
        batch.landmarks, size, shift=torch.tensor([shift]), zoom=torch.tensor([zoom], dtype=torch.float64)
    )
    changes = Changes.of(None, None, rows=rows, columns=columns)
    return changes(dataclasses.replace(batch, landmarks=landmarks))[0]


def recoloured(image: torch.Tensor, draws: torch.Tensor, *, strength: float) -> torch.Tensor:
    batch = stacked([PartSample(image, 0, torch.zeros(0, 2))])
    with pytest.MonkeyPatch.context() as patch:
        numbers = iter([torch.zeros(4, dtype=torch.float64), draws])
        patch.setattr(torch, "rand", lambda *_, **__: next(numbers))
        raw = RawBatch(*Augmentation(colour=strength)(batch, [torch.Generator()]))
    return raw.finished().images[0]


def dot(row: int, column: int, *, size=(17, 21)) -> PartSample:
    """One bright pixel that is the image, the object, both parts' masks and the landmark of part 0."""
    mask = torch.zeros(size, dtype=torch.bool)
    mask[row, column] = True
    landmarks = torch.tensor([[row, column], [math.nan, math.nan]], dtype=torch.float32)
    return PartSample(
        mask.float()[None], 0, landmarks, torch.stack([mask, mask]), mask.clone(), mask.clone(), name="dot"
    )


def of_one(change: Augmentation, sample: PartSample, generator: torch.Generator) -> PartSample:
    return RawBatch(*change(stacked([sample]), [generator])).finished()[0]


SETTINGS = [
    Augmentation(flip=True, shift=0.1, scale=0.1),
    Augmentation(flip=True, shift=0.1, scale=0.2, colour=0.4),
    Augmentation(shift=0.3),
    Augmentation(flip=True),
    Augmentation(colour=0.6),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_batch_has_the_bits_of_its_images_one_after_the_other(settings):
    """Digits carry every kind of mask; their parts are given a mirror order that they do not have."""
    images = DigitsParts("val", image_size=40, scale=[2, 3])
    images.mirrored_parts = (2, 1, 0)
    keys = [Draw(3, epoch, index) for epoch in range(2) for index in range(16)]

    def one(key: Draw) -> PartSample:
        generator = key.generator()
        return augmented(settings, images.view(key.index, generator), generator, images.mirrored_parts)

    expected = collate([one(key) for key in keys])
    images.augmentation = settings
    for found in (collate(images.__getitems__(keys)), collate([images[key] for key in keys])):
        for name, value in vars(expected).items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(
                    getattr(found, name), value, rtol=0, atol=0, equal_nan=True, msg=name
                )
            else:
                assert getattr(found, name) == value


def test_an_image_of_bytes_has_the_same_bits_as_one_of_numbers():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    landmarks = torch.zeros(2, 0, 2)
    draws = [Draw(0, 0, index).generator() for index in range(2)]
    batch = stacked([PartSample(image, 0, marks) for image, marks in zip(pixels, landmarks, strict=True)])
    found = RawBatch(*Augmentation(flip=True, colour=0.5)(batch, draws)).finished().images
    draws = [Draw(0, 0, index).generator() for index in range(2)]
    numbers = dataclasses.replace(batch, images=pixels.float() / 255)
    assert torch.equal(
        found, RawBatch(*Augmentation(flip=True, colour=0.5)(numbers, draws)).finished().images
    )
    assert found.dtype == torch.float32 and found.max() <= 1


def test_a_mirror_image_carries_everything():
    sample = mirrored(dot(3, 5))
    assert sample.landmarks[0].tolist() == [3, 15]
    assert sample.landmarks[1].isnan().all()
    for mask in (sample.image[0] > 0, sample.object_mask, sample.distractor_mask, *sample.part_masks):
        assert mask.nonzero().tolist() == [[3, 15]]


def test_mirroring_twice_gives_the_sample_back(digits):
    twice = mirrored(mirrored(digits[0], (2, 1, 0)), (2, 1, 0))
    for before, after in zip(vars(digits[0]).values(), vars(twice).values(), strict=True):
        assert torch.equal(before, after) if isinstance(before, torch.Tensor) else before == after


def test_left_and_right_parts_change_places_in_the_mirror():
    sample = dot(3, 5)
    sample.part_masks[1] = False
    swapped = mirrored(sample, (1, 0))
    assert swapped.landmarks[1].tolist() == [3, 15] and swapped.landmarks[0].isnan().all()
    assert swapped.part_masks.flatten(1).any(1).tolist() == [False, True]


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, 3), (-3, 4), (5, -5)])
def test_a_whole_pixel_shift_moves_pixels_landmarks_and_masks_alike(down, right):
    sample = moved(dot(8, 10), shift=(down, right), zoom=1.0)
    expected = [8 + down, 10 + right]
    assert sample.landmarks[0].tolist() == expected
    for mask in (sample.image[0] > 0.99, sample.object_mask, *sample.part_masks):
        assert mask.nonzero().tolist() == [expected]


@pytest.mark.parametrize(("row", "column"), [(8, 10), (2, 4), (13, 17), (8, 3)])
@pytest.mark.parametrize("zoom", [0.8, 1.25, 2.0])
def test_a_zoom_keeps_the_landmark_on_what_it_marks(row, column, zoom):
    sample = dot(row, column)
    for r in range(-1, 2):  # a block, so that it survives being made smaller
        for c in range(-1, 2):
            sample.image[0, row + r, column + c] = 1
            sample.object_mask[row + r, column + c] = True
    after = moved(sample, shift=(0.5, -0.25), zoom=zoom)
    if after.landmarks[0].isnan().any():
        return
    for weight in (after.image[0], after.object_mask.float()):
        rows, columns = torch.meshgrid(torch.arange(17.0), torch.arange(21.0), indexing="ij")
        at_edge = weight[0].any() or weight[-1].any() or weight[:, 0].any() or weight[:, -1].any()
        if not at_edge:
            centroid = torch.stack([(rows * weight).sum(), (columns * weight).sum()]) / weight.sum()
            assert torch.dist(centroid, after.landmarks[0]) < 0.6


def test_a_landmark_that_leaves_the_image_is_unknown_and_its_mask_empty():
    sample = moved(dot(1, 10), shift=(-3, 0), zoom=1.0)
    assert sample.landmarks.isnan().all()
    assert not sample.object_mask.any() and not sample.part_masks.any()


def test_masks_are_false_where_the_view_leaves_the_image():
    sample = dot(8, 10)
    sample.object_mask[:] = True
    after = moved(sample, shift=(4, 0), zoom=1.0)
    assert not after.object_mask[:4].any() and after.object_mask[4:].all()


def test_kinds_of_masks_that_are_not_known_stay_unknown():
    plain = PartSample(torch.rand(3, 8, 8), 0, torch.zeros(0, 2))
    for sample in (mirrored(plain), moved(plain, shift=(1, 1), zoom=1.1)):
        assert sample.part_masks is None and sample.object_mask is None and sample.distractor_mask is None


def test_half_of_the_images_are_mirrored_and_shifts_stay_in_their_range():
    change = Augmentation(flip=True, shift=0.2, scale=0.3)
    sample = dot(8, 10)
    places, flipped = [], 0
    for index in range(400):
        generator = Draw(0, 0, index).generator()
        after = of_one(change, sample, generator)
        places.append(after.landmarks[0])
        only = of_one(Augmentation(flip=True), dot(8, 1), Draw(0, 0, index).generator())
        flipped += int(only.landmarks[0, 1] == 19)
    places = torch.stack(places) - torch.tensor([8.0, 10.0])
    assert places[:, 0].abs().max() <= 0.2 * 17 + 1e-4 and places[:, 0].abs().max() > 0.18 * 17
    assert places[:, 1].abs().max() <= 0.2 * 21 + 1e-4 and places[:, 1].abs().max() > 0.18 * 21
    assert 160 < flipped < 240


def test_the_same_draw_gives_the_same_bits(digits):
    change = Augmentation(flip=True, shift=0.1, scale=0.2)
    first, second = (of_one(change, digits[3], Draw(1, 2, 3).generator()) for _ in range(2))
    assert torch.equal(first.image, second.image) and torch.equal(first.part_masks, second.part_masks)
    assert first.image.min() >= 0 and first.image.max() <= 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"flipp": True}, r"augmentation.flipp: no such augmentation; nearest: flip"),
        ({"shift": 1.5}, r"augmentation.shift=1.5"),
        ({"scale": -0.1}, r"augmentation.scale=-0.1"),
    ],
)
def test_a_wrong_augmentation_is_refused_by_name(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        Augmentation.of(given)


def test_colours_change_as_the_draws_say_and_nothing_else_does():
    image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.4
    grey = recoloured(image, torch.tensor([0.0, 1.0, 0.5, 0.5, 0.5, 0.5]), strength=0.5)
    assert torch.allclose(grey, image.mean(0, keepdim=True).expand(3, 4, 4), atol=1e-6)
    same = recoloured(image, torch.tensor([0.9, 1.0, 0.5, 0.5, 0.5, 0.5]), strength=0.5)
    assert torch.allclose(same, image, atol=1e-6)
    brighter = recoloured(image, torch.tensor([0.9, 0.0, 0.5, 0.5, 0.5, 1.0]), strength=0.5)
    assert torch.allclose(brighter, image * 1.5, atol=1e-5)


def test_a_grey_image_only_changes_its_brightness():
    image = torch.full((1, 2, 2), 0.4)
    found = recoloured(image, torch.tensor([0.0, 1.0, 0.5, 0.5, 0.5, 0.0]), strength=1.0)
    assert torch.allclose(found, torch.full((1, 2, 2), 0.2), atol=1e-6)


def test_a_colour_strength_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"augmentation\.colour=2"):
        Augmentation(colour=2)
