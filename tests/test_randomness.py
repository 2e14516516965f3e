"""Random numbers of an image: its own, whatever stands beside it."""

import torch

from interp_cnn.explanation.network.randomness import drawn_seed, image_generators, image_seed, normal_noise


def images_of(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 5, 4, generator=torch.Generator().manual_seed(0))


def test_the_noise_of_an_image_is_the_same_alone_in_a_batch_and_in_any_order():
    images, order = images_of(), [2, 0, 3, 1]
    together = normal_noise(images, image_generators(images, 5))
    turned = normal_noise(images[order], image_generators(images[order], 5))
    assert torch.equal(turned, together[order])
    for image, noise in zip(images, together, strict=True):
        assert torch.equal(normal_noise(image[None], image_generators(image[None], 5))[0], noise)
    assert (together[0] - together[1]).abs().max() > 0.1
    assert (normal_noise(images, image_generators(images, 6)) - together).abs().max() > 0.1


def test_dtype_layout_and_the_sign_of_zero_do_not_change_an_images_seed():
    image = images_of()[0]
    image[0, 0, 0] = 0.0
    others = [
        image.double(),
        image.clone().contiguous(memory_format=torch.contiguous_format).mT.contiguous().mT,
    ]
    others.append(torch.where(image == 0, -0.0, image))
    assert {image_seed(one, 3) for one in others} == {image_seed(image, 3)}
    assert image_seed(image.reshape(3, 4, 5), 3) != image_seed(image, 3)


def test_drawing_leaves_the_random_state_of_the_caller():
    before = torch.get_rng_state()
    normal_noise(images_of(), image_generators(images_of(), drawn_seed(None)))
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn_seed(None) == drawn_seed(None) != drawn_seed(torch.Generator().manual_seed(1))
