import pytest
import torch
from reference_measures import exact_quantile

from interp_cnn.evaluation.filters.threshold import StreamingThreshold


def activations(batches=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(8, 5, 9, 11, generator=generator).relu() for _ in range(batches)]
    scale = torch.tensor([1.0, 1e-6, 1e4, 0.0, 1.0]).reshape(5, 1, 1)
    maps = [batch * scale for batch in maps]
    for batch in maps:
        batch[:, 4] *= (
            torch.rand(batch[:, 4].shape, generator=generator) < 0.004
        )  # fewer active cells than the tail
    return maps


def all_values(maps):
    return torch.cat([batch.transpose(0, 1).flatten(1) for batch in maps], dim=1)


@pytest.mark.parametrize("tail", [0.005, 0.05, 0.3])
def test_two_passes_give_the_exact_quantile(tail):
    maps = activations()
    accumulator = StreamingThreshold(5, tail=tail)
    for batch in maps:
        accumulator.update(batch)
    for batch in maps:
        accumulator.refine(batch)
    values = all_values(maps)
    assert torch.equal(accumulator.thresholds(), exact_quantile(values, tail))
    by_hand = values[0].sort(descending=True).values[int(tail * values.shape[1])]
    assert accumulator.thresholds()[0] == by_hand and (values[0] > by_hand).double().mean() <= tail


@pytest.mark.parametrize("tail", [0.005, 0.05])
def test_one_pass_is_within_a_hundredth_and_never_has_too_many_cells_above(tail):
    maps, values = activations(), all_values(activations())
    accumulator = StreamingThreshold(5, tail=tail)
    for batch in maps:
        accumulator.update(batch)
    sketched, exact = accumulator.thresholds(), exact_quantile(values, tail)
    assert (sketched >= exact).all() and torch.allclose(sketched, exact, rtol=1 / 127, atol=0)
    above = (values > sketched.unsqueeze(1)).double().mean(dim=1)
    assert (above <= tail).all()


def test_a_dead_filter_and_one_that_is_rarely_active_have_the_threshold_zero():
    accumulator = StreamingThreshold(5)
    for batch in activations():
        accumulator.update(batch)
    assert accumulator.thresholds()[3] == 0 and accumulator.thresholds()[4] == 0


def test_negative_activations_lie_below_every_threshold():
    maps = torch.randn(40, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    accumulator = StreamingThreshold(2)
    accumulator.update(maps)
    accumulator.refine(maps)
    assert torch.equal(accumulator.thresholds(), exact_quantile(all_values([maps])))
    accumulator = StreamingThreshold(2)
    accumulator.update(-maps.abs())
    assert accumulator.thresholds().tolist() == [0, 0]


def test_memory_does_not_grow_with_the_images():
    accumulator = StreamingThreshold(3)
    sizes = set()
    for _ in range(5):
        accumulator.update(torch.rand(10, 3, 6, 6))
        sizes.add(accumulator.counts.numel())
    assert len(sizes) == 1


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="tail is 1"):
        StreamingThreshold(3, tail=1)
    with pytest.raises(ValueError, match="no activation was counted"):
        StreamingThreshold(3).thresholds()
