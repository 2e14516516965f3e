"""What filters bring to classes, how few of them suffice, and scoring sheets, against literal second versions."""

import gc
import importlib
import weakref

import pytest
import torch
from test_decisions import Pooled
from torch import nn

from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.filters.scoring_sheet import (
    ScoringSheet,
    fitted,
    scoring_path,
    sparsest_within,
)
from interp_cnn.explanation.decisions.class_filters import (
    class_filters,
    image_shares,
    right_with_few,
)
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.explanation.propagation.tape import Value, record

LABELS = torch.tensor([4, 0, 1, 1, 3, 0, 4, 1, 0])  # no image of class 2


def pixels():
    return torch.rand(len(LABELS), 1, 12, 12, generator=torch.Generator().manual_seed(3))


def batches(size):
    images = pixels()
    return [
        PartBatch(images[at : at + size], LABELS[at : at + size], torch.zeros(0, 0, 2), None, None, None, [])
        for at in range(0, len(LABELS), size)
    ]


@pytest.fixture(scope="module", params=[False, True], ids=["linear", "hidden"])
def network(request):
    return Pooled(hidden=request.param).eval()


@pytest.fixture(scope="module")
def found(network):
    return image_shares(network, batches(4), layer="relu" if network.hidden is None else "second")


def test_shares_and_rest_are_each_images_own_logit(network, found):
    with torch.no_grad():
        logits = network(pixels())
    torch.testing.assert_close(found.logits, logits)
    own = logits.gather(1, LABELS[:, None])[:, 0]
    torch.testing.assert_close(found.shares.sum(1) + found.rest, own, rtol=1e-5, atol=1e-5)
    assert (
        found.linear == (network.hidden is None)
        and found.right.tolist() == (logits.argmax(1) == LABELS).tolist()
    )


def test_it_does_not_matter_how_images_are_batched(network, found):
    alone = image_shares(network, batches(1), layer=found.layer)
    torch.testing.assert_close(alone.shares, found.shares, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(alone.presences, found.presences)
    assert alone.labels.equal(found.labels) and alone.method == found.method


def test_presences_are_the_largest_values_of_the_maps(found):
    network = Pooled()
    with torch.no_grad():
        maps = network.second(torch.relu(network.first(pixels())))
    maps = maps.clamp(min=0) if found.layer == "relu" else maps
    torch.testing.assert_close(found.presences, maps.flatten(2).max(2).values)


def test_a_class_has_the_means_of_its_images(found):
    read = class_filters(found)
    for k in range(5):
        rows = [row for row in range(len(LABELS)) if LABELS[row] == k]
        assert read.images[k] == len(rows)
        for d in range(4):
            shares = [float(found.shares[row, d]) for row in rows]
            if not rows:
                assert read.shares[k, d].isnan()
                continue
            assert float(read.shares[k, d]) == pytest.approx(sum(shares) / len(rows), abs=1e-6)
            assert float(read.often[k, d]) == pytest.approx(sum(one > 0 for one in shares) / len(rows))
            ranked = read.shares[k, read.ranking[k]].tolist()
            assert ranked == sorted(ranked, reverse=True)


def test_the_mean_logit_of_a_class_is_the_sum_of_what_is_brought_to_it(found):
    read = class_filters(found)
    for k in (0, 1, 3, 4):
        own = found.logits[k == LABELS, k].double().mean()
        assert float(read.shares[k].sum() + read.rest[k]) == pytest.approx(float(own), abs=1e-5)


def test_the_most_relevant_images_are_those_with_the_largest_shares_that_are_positive(found):
    for k in range(5):
        for d in range(4):
            rows = [row for row in range(len(LABELS)) if LABELS[row] == k and found.shares[row, d] > 0]
            rows.sort(key=lambda row: -float(found.shares[row, d]))
            assert found.most_relevant(k, d, 2) == rows[:2]


def test_a_filter_is_shared_with_the_classes_to_which_it_brings_half_as_much(found):
    read = class_filters(found)
    shared = type(read)(
        torch.tensor([[4.0], [2.0], [1.9], [torch.nan], [-3.0]]), read.often[:, :1], read.rest, read.images
    )
    assert shared.shared_with(0, 0) == [1]
    assert shared.shared_with(1, 0) == [0, 2] and shared.shared_with(4, 0) == []


def test_with_all_filters_a_class_is_told_as_by_the_network_and_with_few_as_by_switching_the_rest_off(
    network, found
):
    ranking = class_filters(found).ranking
    right = right_with_few(network, batches(4), ranking, [0, 2, 4], layer=found.layer)
    assert right.shape == (3, len(LABELS)) and right[2].equal(found.right)
    layer = network.get_submodule(found.layer)
    for place, count in enumerate([0, 2]):
        for row, image in enumerate(pixels()):
            logits = []
            for k in range(5):
                off = torch.ones(4)
                off[ranking[k, count:]] = 0
                handle = layer.register_forward_hook(
                    lambda *call, off=off: call[-1] * off[None, :, None, None]
                )
                with torch.no_grad():
                    logits.append(float(network(image[None])[0, k]))
                handle.remove()
            assert bool(right[place, row]) == (max(range(5), key=logits.__getitem__) == LABELS[row])


def test_a_network_whose_layer_gives_no_maps_is_refused():
    with pytest.raises(Refusal, match="expected feature maps"):
        image_shares(nn.Sequential(nn.Flatten(), nn.Linear(144, 5)), batches(4), layer="1")


def planted(count=400, depth=12, classes=4, seed=0):
    """Presences of which the filters 3k and 3k + 1 rise in class k, among others that tell nothing."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    presences = torch.rand(count, depth, generator=draw)
    for k in range(classes):
        presences[labels == k, 3 * k : 3 * k + 2] += 0.6
    return presences, labels


@pytest.mark.parametrize("strength", [0.003, 0.02, 0.1])
def test_the_fit_is_where_no_weight_wants_to_change(strength):
    presences, labels = planted()
    inputs = presences.double()
    weights, biases = fitted(
        inputs,
        labels,
        torch.zeros(4, 12).double(),
        torch.zeros(4).double(),
        strength=strength,
        steps=20_000,
        still=1e-7,
    )
    weights.requires_grad_(), biases.requires_grad_()
    nn.functional.cross_entropy(inputs @ weights.T + biases, labels).backward()
    slope = weights.grad + strength
    assert (weights >= 0).all() and biases.grad.abs().max() < 1e-5
    assert slope[weights > 0].abs().max() < 1e-5 if (weights > 0).any() else True
    assert (slope[weights == 0] > -1e-5).all()


def test_a_path_goes_from_few_filters_to_many_and_finds_the_planted_ones():
    presences, labels = planted()
    path = scoring_path(presences, labels, 4)
    assert path[0].filters_per_class <= 1 and path[-1].filters_per_class > path[0].filters_per_class
    two = next(sheet for sheet in path if sheet.filters_per_class >= 2)
    chosen = {(k, d) for k, d in (two.weights > 0).nonzero().tolist()}
    assert chosen == {(k, d) for k in range(4) for d in (3 * k, 3 * k + 1)}
    later, truth = planted(seed=1)
    assert float((two.answers(later) == truth).double().mean()) > 0.8


def test_weights_are_of_the_presences_as_they_are():
    presences, labels = planted()
    factor = torch.linspace(0.01, 30, 12)
    small, large = (scoring_path(one, labels, 4, strengths=6) for one in (presences, presences * factor))
    for one, other in zip(small, large, strict=True):
        torch.testing.assert_close(one.weights, other.weights * factor, rtol=1e-3, atol=1e-3)


def test_a_filter_that_never_changes_has_no_weight_and_silence_has_a_sheet():
    presences, labels = planted()
    presences[:, 5] = 7.0
    assert all((sheet.weights[:, 5] == 0).all() for sheet in scoring_path(presences, labels, 4, strengths=4))
    (silent,) = scoring_path(torch.zeros(6, 3), torch.tensor([0, 1, 1, 1, 0, 1]), 2)
    assert silent.filters_per_class == 0 and silent.answers(torch.zeros(2, 3)).tolist() == [1, 1]


def test_how_sparse_is_chosen_on_one_half_and_stated_on_the_other():
    labels = torch.zeros(8, dtype=torch.long)
    presences = torch.eye(8)

    def sheet(hits, filters):
        """Says 0 for some of the images; class 1 has filters to fill up."""
        weights = torch.zeros(2, 8, dtype=torch.float64)
        weights[0, hits] = 1
        weights[1, :] = 0
        found = ScoringSheet(0.0, weights, torch.tensor([0.0, 0.5], dtype=torch.float64))
        assert found.filters_per_class == filters
        return found

    path = [sheet([0, 2, 4, 6], 2), sheet([0, 1, 2, 3, 4, 5, 6], 3.5), sheet(list(range(8)), 4)]
    network = torch.ones(8, dtype=torch.bool)
    found = sparsest_within(path, presences, labels, network)
    # the even half is content with the first sheet, right on none of the odd images; the odd half needs the last one
    assert found.filters_per_class == (2 + 4) / 2 and found.accuracy == 0.5 and found.network == 1
    generous = sparsest_within(path, presences, labels, network, loss=0.25)
    assert generous.filters_per_class == (2 + 3.5) / 2 and generous.accuracy == 0.5


def test_large_images_are_asked_in_pieces_with_the_same_answers(network, found, monkeypatch):
    module = importlib.import_module(class_filters.__module__)

    monkeypatch.setattr(module, "PIXELS", 2 * 12 * 12)
    assert [one.stop - one.start for one in module.pieces(pixels())] == [2, 2, 2, 2, 1]
    again = image_shares(network, batches(9), layer=found.layer)
    torch.testing.assert_close(again.shares, found.shares, rtol=1e-5, atol=1e-6)
    assert again.labels.equal(found.labels)


def test_what_a_network_computed_is_freed_at_once_and_not_when_the_collector_comes():
    network, alive = Pooled().eval(), []
    gc.disable()
    try:
        tape = record(network, pixels())
        alive = [weakref.ref(value.tensor) for step in tape.steps for value in step.outputs]
        assert len(alive) > 3 and all(one() is not None for one in alive)
        del tape
        assert not [one for one in alive if one() is not None]
        image_shares(network, batches(9), layer="relu")
        known = [one for one in gc.get_objects() if type(one) is Value]
        assert not [one for one in known if one.tensor.dim() == 4 and len(one.tensor) == len(LABELS)]
    finally:
        gc.enable()
