"""Dictionaries: on maps made of known parts, and against literal second implementations."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import nn

from interp_cnn.explanation.concepts.ablation import causal_effects, other_direction
from interp_cnn.explanation.concepts.concepts import Concept, FiringRule, atom_concepts, unrelated
from interp_cnn.explanation.concepts.dictionaries import (
    Dictionary,
    non_negative_codes,
    sampled_cells,
    unexplained,
)
from interp_cnn.explanation.concepts.factorisation import factorised
from interp_cnn.explanation.concepts.reconstruction import Reconstructor
from interp_cnn.explanation.concepts.sparse_dictionary import sparse_dictionary
from interp_cnn.explanation.filters.exemplars import Look, strongest_of
from interp_cnn.explanation.network.feature_maps import peaks

CHANNELS, PARTS = 12, 4
NOWHERE = torch.zeros(0, 3, dtype=torch.int64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def planted_parts():
    """(P, D): each part is seen by three channels of its own and, weakly, by one of the next part."""
    parts = torch.zeros(PARTS, CHANNELS)
    for part in range(PARTS):
        parts[part, 3 * part : 3 * part + 3] = torch.tensor([1.0, 0.7, 0.4])
        parts[part, (3 * part + 3) % CHANNELS] = 0.2
    return parts / parts.norm(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def planted():
    """Cells (n, D), each of one or two parts, and the codes (n, P) that they are made of."""
    strength = 0.5 + torch.rand(1500, PARTS, generator=generator())
    chosen = (
        torch.rand(1500, PARTS, generator=generator(1)).argsort(dim=1) < 1 + torch.arange(1500)[:, None] % 2
    )
    codes = strength * chosen
    return codes @ planted_parts(), codes


@pytest.fixture(scope="module", params=["nmf", "topk"])
def learned(request, planted):
    return of_kind(request.param, planted[0])


def of_kind(kind, cells, seed=0):
    if kind == "nmf":
        return factorised(cells, atoms=PARTS, seed=seed)
    return sparse_dictionary(cells, atoms=PARTS, active=2, generator=generator(seed))


def order_of(dictionary):
    """Of every part the nearest atom, and the cosine to it."""
    best = (planted_parts() @ dictionary.atoms.T).max(dim=1)
    return best.indices, best.values


def test_known_parts_come_out_up_to_order_and_scale(planted, learned):
    cells, codes = planted
    order, cosines = order_of(learned)
    assert sorted(order.tolist()) == list(range(PARTS)) and cosines.min() > 0.98
    torch.testing.assert_close(learned.atoms.norm(dim=1), torch.ones(PARTS))
    assert learned.atoms.min() >= 0 and unexplained(cells, learned) < 0.01
    for part, atom in enumerate(order.tolist()):
        found = learned.codes(cells)[:, atom]
        assert np.corrcoef(found, codes[:, part])[0, 1] > 0.98


@pytest.mark.parametrize("kind", ["nmf", "topk"])
def test_the_same_seed_gives_the_same_atoms_to_the_bit(planted, kind):
    one, other = (of_kind(kind, planted[0]) for _ in range(2))
    assert torch.equal(one.atoms, other.atoms) and torch.equal(one.codes(planted[0]), other.codes(planted[0]))


def test_codes_without_an_encoder_are_non_negative_least_squares():
    atoms = (
        torch.rand(9, 6, generator=generator()) - 0.4
    ).relu()  # more atoms than channels, some near each other
    atoms = atoms / atoms.norm(dim=1, keepdim=True)
    cells = torch.rand(40, 6, generator=generator(1))
    cells[3] = 0
    codes = non_negative_codes(cells, atoms)
    for cell, code in zip(cells.double().numpy(), codes, strict=True):
        _, residual = nnls(atoms.double().numpy().T, cell)
        assert np.linalg.norm(code.numpy() @ atoms.numpy() - cell) == pytest.approx(residual, abs=1e-3)
    assert codes.min() >= 0 and codes[3].sum() == 0


def test_codes_with_an_encoder_are_the_largest_of_a_cell_and_loops_agree():
    encoder, bias = torch.randn(5, 3, generator=generator()), torch.randn(5, generator=generator(1))
    dictionary = Dictionary(torch.eye(5, 3), encoder, bias, active=2)
    cells = torch.rand(20, 3, generator=generator(2))
    for cell, codes in zip(cells, dictionary.codes(cells), strict=True):
        answers = [max(0.0, float(cell @ encoder[atom] + bias[atom])) for atom in range(5)]
        kept = sorted(range(5), key=lambda atom: -answers[atom])[:2]
        expected = [answers[atom] if atom in kept else 0.0 for atom in range(5)]
        assert codes.tolist() == pytest.approx(expected, abs=1e-6)


def test_maps_have_the_codes_of_their_cells_and_files_give_them_back(learned):
    maps = torch.rand(2, CHANNELS, 3, 4, generator=generator())
    codes = learned.code_maps(maps)
    assert codes.shape == (2, PARTS, 3, 4)
    for image, row, column in ((0, 0, 0), (1, 2, 3), (0, 1, 3)):
        cell = learned.codes(maps[image, :, row, column][None])[0]
        torch.testing.assert_close(codes[image, :, row, column], cell, atol=1e-3, rtol=1e-3)
    again = Dictionary.of_arrays({f"a.{name}": values for name, values in learned.arrays().items()}, "a.")
    assert torch.equal(again.code_maps(maps), codes) and again.active == learned.active


def test_an_atom_no_cell_uses_is_taken_up_again(planted):
    cells = planted[0]
    found = sparse_dictionary(cells, atoms=3 * PARTS, active=2, generator=generator(3))
    assert ((found.codes(cells) > 0).sum(dim=0) > 0).sum() >= PARTS + 1
    assert order_of(found)[1].min() > 0.95


def test_cells_are_drawn_from_those_where_something_is_active():
    maps = torch.zeros(3, 2, 4, 4)
    maps[0, 0, 1, 1], maps[2, 1, 0, 3], maps[1, 0, 0, 0] = 2.0, 6.0, -1.0
    cells = sampled_cells(maps.split(1), torch.tensor([1.0, 3.0]), generator=generator())
    assert sorted(cells.tolist()) == [[0.0, 2.0], [2.0, 0.0]]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: factorised(torch.rand(5, 3), atoms=4), "atoms is 4; expected 1 to 3"),
        (lambda: factorised(torch.rand(0, 3), atoms=2), "no cells with an active channel"),
        (lambda: factorised(-torch.ones(5, 3), atoms=2), "cells holds -1; expected values of at least 0"),
        (
            lambda: sparse_dictionary(torch.rand(5, 3), atoms=2, active=0, generator=generator()),
            "atoms is 2, active 0, steps 2000; expected at least 1 of each",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


# Atoms as concepts


class Batch:
    def __init__(self, images, labels):
        self.images, self.labels, self.names = images, labels, list(map(str, range(len(images))))


class Parts(nn.Module):
    """The maps are the image; the logit of a class is the summed code of its planted part."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Identity()
        self.register_buffer("ways", torch.linalg.pinv(planted_parts()))  # (D, P)

    def forward(self, images):
        return self.maps(images).sum(dim=(2, 3)) @ self.ways


@pytest.fixture(scope="module")
def images():
    """40 images per class: its part at one cell, a faint other one at another."""
    labels = torch.arange(PARTS).repeat_interleave(40)
    pixels = torch.zeros(len(labels), CHANNELS, 5, 6)
    for number, label in enumerate(labels.tolist()):
        cells = torch.randperm(30, generator=generator(number))[:2].tolist()
        for cell, part, strength in zip(cells, (label, (label + 2) % PARTS), (1.0, 0.3), strict=True):
            pixels[number, :, cell // 6, cell % 6] = strength * planted_parts()[part]
    return pixels, labels


@pytest.fixture(scope="module")
def atoms(images, learned):
    """Concepts of the atoms by class, and their rule."""
    network, batch = Parts(), Batch(*images)
    codes = learned.code_maps(images[0])
    look = Look(codes, *peaks(codes))
    found = atom_concepts(strongest_of(network, [batch], lambda _: look, layer="maps", count=8), learned)
    return sorted(found, key=lambda one: one.category), FiringRule(torch.ones(CHANNELS), dictionary=learned)


def test_an_atom_is_named_by_its_main_channels_and_fires_at_its_part(images, atoms):
    concepts, rule = atoms
    assert [one.category for one in concepts] == list(range(PARTS))
    fires, strengths = rule.fires(images[0], concepts), rule.strengths(images[0], concepts)
    assert torch.equal(fires, rule.fires(images[0], concepts, strengths))
    for part, one in enumerate(concepts):
        assert one.channels == (3 * part,) and one.name == f"atom {one.atom} ({3 * part})"
        assert one.number == one.atom and one.occurrences.shape == (8, 3)
        there = (images[0][:, 3 * part + 1] > 0.5) & (images[1] == part)[:, None, None]
        assert torch.equal(fires[:, part], there) and there.sum() == 40
    assert unrelated(concepts).sum() == PARTS * (PARTS - 1)


def test_shares_are_what_an_atom_brings_and_for_channels_all_of_them(images, atoms):
    concepts, rule = atoms
    maps = images[0][:1]
    shares = rule.shares(maps, concepts[:1])[0]
    assert shares.min() >= 0 and shares.max() <= 1
    row, column = (
        maps[0].sum(dim=0).flatten().argmax().item() // 6,
        maps[0].sum(dim=0).flatten().argmax().item() % 6,
    )
    code = rule.codes(maps)[0, concepts[0].atom, row, column]
    for channel in range(CHANNELS):
        brought = float(code * rule.dictionary.atoms[concepts[0].atom, channel])
        value = float(maps[0, channel, row, column])
        expected = min(brought / value, 1.0) if value > 0 else shares[channel, row, column]
        assert float(shares[channel, row, column]) == pytest.approx(float(expected), abs=1e-5)
    filter_3 = Concept("3", (3,), ((0, 0),), 0, NOWHERE, 0.5)
    assert torch.equal(rule.shares(maps, [filter_3])[0, 3], torch.ones(5, 6))


def test_taking_an_atom_out_costs_its_class_its_code_and_others_of_the_same_energy_less(images, atoms):
    concepts, rule = atoms
    effect, other = causal_effects(
        Parts(),
        lambda number: images[0][number],
        concepts,
        layer="maps",
        rule=rule,
        generator=generator(),
        reach=0,
    )
    assert len(effect) == 8 * PARTS
    torch.testing.assert_close(effect, torch.ones(len(effect), dtype=torch.float64), atol=0.1, rtol=0)
    torch.testing.assert_close(other, torch.zeros_like(other), atol=0.1, rtol=0)  # nothing else is there


def test_another_direction_carries_the_same_energy_or_all_there_is():
    scaled = torch.rand(10, 3, 3, generator=generator())
    share = torch.rand(10, 3, 3, generator=generator(1)) * (torch.arange(10) < 4)[:, None, None]
    kept = other_direction(scaled, share, generator(2))
    assert kept.min() >= 0 and kept.max() <= 1 and not torch.allclose(1 - kept, share)
    wanted, taken = ((scaled * part).square().sum() for part in (share, 1 - kept))
    assert float(taken) == pytest.approx(float(wanted), rel=1e-3)
    strong = torch.tensor([5.0, 1.0, *[0.0] * 8])[:, None, None]
    only_first = torch.tensor([1.0, *[0.0] * 9])[:, None, None]
    assert other_direction(strong, only_first, generator()).flatten().tolist() == [1.0, 0.0, *[1.0] * 8]


def test_pictures_of_an_atom_bring_it_back_and_without_it_do_not(images, atoms):
    concepts, rule = atoms
    reconstructor = Reconstructor(Parts(), nn.Identity(), "maps", rule, reach=0)
    for mode in ("window", "channels", "full", "refine"):
        found = reconstructor.verified(lambda number: images[0][number], concepts, mode=mode)
        assert found.reactivated.mean() == 1 and found.control.mean() < 0.1, mode
    gone = reconstructor.verified(lambda number: images[0][number], concepts, mode="ablate")
    assert gone.reactivated.mean() == 0
