"""The sample type, batches, draws and the split."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_cnn.data.parts import Draw, PartSample, PartSet, collate
from interp_cnn.data.split import held_out


def sample(**changes) -> PartSample:
    plain = PartSample(torch.zeros(1, 4, 5), 1, torch.full((2, 2), torch.nan), name="a")
    return dataclasses.replace(plain, **changes)


def test_a_batch_stacks_every_field_and_knows_its_length():
    masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    batch = collate([sample(part_masks=masks, label=3), sample(part_masks=~masks, name="b")])
    assert len(batch) == 2
    assert batch.images.shape == (2, 1, 4, 5)
    assert batch.labels.tolist() == [3, 1] and batch.labels.dtype == torch.int64
    assert batch.landmarks.shape == (2, 2, 2)
    assert batch.part_masks.shape == (2, 2, 4, 5)
    assert batch.part_masks[1].all() and not batch.part_masks[0].any()
    assert batch.object_masks is None and batch.distractor_masks is None
    assert batch.names == ["a", "b"]


def test_a_batch_moves_to_a_device_with_all_its_tensors():
    batch = collate([sample(object_mask=torch.ones(4, 5, dtype=torch.bool))]).to("meta")
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 4 and all(tensor.device.type == "meta" for tensor in tensors)
    assert batch.names == ["a"]


def test_a_mask_that_only_some_samples_have_is_refused_by_name():
    with pytest.raises(ValueError, match=r"object_mask: sample 'b' has none"):
        collate([sample(object_mask=torch.ones(4, 5, dtype=torch.bool)), sample(name="b")])


def test_draws_repeat_and_differ_in_seed_epoch_and_index():
    def first(*key):
        return torch.rand(4, generator=Draw(*key).generator()).tolist()

    assert first(1, 2, 3) == first(1, 2, 3)
    streams = {tuple(first(s, e, i)) for s in range(3) for e in range(3) for i in range(3)}
    assert len(streams) == 27
    assert first(2**40, 0, 0) != first(0, 0, 0)


class Ramp(PartSet):
    classes, parts, channels, image_size = ("a", "b"), (), 2, (1, 2)
    labels = torch.tensor([0, 1, 0])

    def view(self, index, generator):
        noise = 0 if generator is None else float(torch.rand((), generator=generator))
        image = torch.tensor([[[0.1, 0.3]], [[0.5, 0.5]]]) + index / 10 + noise
        return PartSample(image, int(self.labels[index]), torch.zeros(0, 2), name=str(index))


def test_an_index_is_a_fixed_view_and_a_draw_a_random_one():
    ramp = Ramp()
    assert torch.equal(ramp[1].image, ramp[1].image)
    assert torch.equal(ramp[Draw(0, 1, 1)].image, ramp[Draw(0, 1, 1)].image)
    assert not torch.equal(ramp[Draw(0, 1, 1)].image, ramp[Draw(0, 2, 1)].image)
    assert ramp[-1].name == "2"
    with pytest.raises(IndexError):
        ramp[3]


def test_mean_and_std_are_those_of_all_pixels_of_the_fixed_views():
    ramp = Ramp()
    pixels = torch.stack([ramp[i].image for i in range(3)]).transpose(0, 1).reshape(2, -1)
    assert ramp.mean == pytest.approx(pixels.mean(1).tolist())
    assert ramp.std == pytest.approx(pixels.std(1, correction=0).tolist())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=60),
    st.floats(0.05, 0.95),
    st.integers(0, 5),
)
def test_no_group_is_split_and_the_choice_repeats(images, fraction, seed):
    labels, groups = zip(*images, strict=True)
    chosen = held_out(labels, groups, fraction=fraction, seed=seed)
    assert chosen == held_out(labels, groups, fraction=fraction, seed=seed)
    for group in set(groups):
        assert len({held for held, other in zip(chosen, groups, strict=True) if other == group}) == 1


def test_every_class_gives_its_share_and_keeps_training_images():
    labels = [0] * 100 + [1] * 10 + [2] * 2 + [3]
    chosen = torch.tensor(held_out(labels, range(len(labels)), fraction=0.2, seed=0))
    shares = [int(chosen[torch.tensor(labels) == label].sum()) for label in range(4)]
    assert shares == [20, 2, 1, 0]
    assert chosen.tolist() != held_out(labels, range(len(labels)), fraction=0.2, seed=1)


def test_a_group_too_large_for_the_share_stays_in_training():
    groups = ["film"] * 90 + list(range(10))
    chosen = held_out([0] * 100, groups, fraction=0.1, seed=3)
    assert not any(chosen[:90]) and all(chosen[90:])


@pytest.mark.parametrize("fraction", [0, 1, -0.5, float("nan")])
def test_a_share_outside_zero_and_one_is_refused(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        held_out([0, 1], [0, 1], fraction=fraction, seed=0)
