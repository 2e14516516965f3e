import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_cnn.model.layer_information import LayerInformation, layer_information
from interp_cnn.model.mutual_information import mutual_information, mutual_information_terms, template_scores
from interp_cnn.model.paper_variants import GRADIENTS
from interp_cnn.model.templates import part_templates, peak_positions


def maps_of(seed: int, batch=5, filters=3, height=3, width=4, peak=2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(batch, filters, height, width, generator=generator, dtype=torch.float64)
    return maps.relu() * peak


def layer(maps, gradient="autograd", *, beta=4.0, gain=None, **options):
    gain = torch.ones(maps.shape[1], dtype=torch.float64) if gain is None else gain
    settings_ = LayerInformation(gain=gain, gradient=gradient, **options)
    beta = beta if isinstance(beta, torch.Tensor) else torch.tensor(beta, dtype=torch.float64)
    return layer_information(maps, beta, settings_)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), norm=st.sampled_from(["l1", "l2"]), peak=st.floats(0.1, 6))
def test_the_value_and_the_terms_of_eq_5_equal_the_literal_loops(seed, norm, peak):
    maps = maps_of(seed, peak=peak)
    bank = part_templates(3, 4, norm=norm, dtype=torch.float64)
    terms = mutual_information_terms(maps, bank)
    for index in range(3):
        one = maps[:, index].numpy()
        assert terms.value[index].item() == pytest.approx(
            reference.mutual_information(one, bank.numpy()), abs=1e-10
        )
        prior, category, spatial = reference.entropy_terms(one, bank.numpy())
        assert terms.template_entropy.item() == pytest.approx(prior, abs=1e-10)
        assert terms.category_entropy[index].item() == pytest.approx(category, abs=1e-10)
        assert terms.spatial_entropy[index].item() == pytest.approx(spatial, abs=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), peak=st.floats(0, 1e4), batch=st.integers(1, 9))
def test_eq_5_is_an_identity_and_the_bounds_hold(seed, peak, batch):
    maps = maps_of(seed, batch=batch, peak=peak)
    terms = mutual_information_terms(maps, part_templates(3, 4, dtype=torch.float64))
    total = terms.template_entropy - terms.category_entropy - terms.spatial_entropy
    assert torch.allclose(terms.value, total, atol=1e-9)
    assert (terms.value >= -1e-9).all()
    assert (terms.value <= min(math.log(13), math.log(batch)) + 1e-9).all()
    assert torch.allclose(terms.posterior.sum(-1), torch.ones(batch, 3, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("peak", [0.0, 1e-4, 1e4])
def test_values_and_gradients_are_finite_at_extreme_activations(dtype, peak):
    maps = maps_of(1, peak=peak).to(dtype).requires_grad_()
    beta = torch.tensor(4.0)
    for gradient in GRADIENTS:
        members = torch.tensor([[True], [False], [True], [False], [True]]).expand(5, 3)
        options = {"positions": peak_positions(maps.detach()), "members": members}
        found = layer_information(maps, beta, LayerInformation(torch.ones(3), gradient=gradient, **options))
        (slope,) = torch.autograd.grad(found.value.sum(), maps)
        assert found.value.isfinite().all() and slope.isfinite().all(), gradient
    exact = mutual_information(maps.detach().double(), part_templates(3, 4, dtype=torch.float64))
    assert torch.allclose(found.value.double(), exact, atol=2e-3)


def test_a_flat_batch_has_no_information():
    maps = torch.rand(1, 2, 4, 4).expand(6, 2, 4, 4)
    assert mutual_information(maps, part_templates(4, 4)).abs().max() < 1e-5


def test_perfect_parts_reach_the_ceiling():
    bank = part_templates(3, 3, dtype=torch.float64)
    maps = torch.cat([bank[:-1].clamp(min=0), torch.zeros(1, 3, 3)]).unsqueeze(1) * 200
    assert mutual_information(maps, bank).item() == pytest.approx(math.log(10), abs=0.02)


def test_the_size_of_the_literal_loss_is_what_the_publication_implies():
    """At tau = 0.5 / n^2 and a peak of 1, 10 and 50 there is next to no information."""
    bank = part_templates(14, 14, tau=0.5 / 14**2)
    places = torch.randint(0, 196, (64,), generator=torch.Generator().manual_seed(0))
    maps = part_templates(14, 14)[places].clamp(min=0).unsqueeze(1)
    found = [mutual_information(maps * peak, bank).item() for peak in (1, 10, 50)]
    assert found == pytest.approx([8e-5, 8.5e-3, 0.25], rel=0.15)


def test_the_score_sums_over_all_cells_not_over_a_diagonal():
    maps, bank = torch.rand(2, 1, 3, 3), part_templates(3, 3)
    expected = (maps[0, 0] * bank[4]).sum()
    assert template_scores(maps, bank)[0, 0, 4] == pytest.approx(expected.item(), abs=1e-6)


def test_images_may_come_in_any_order():
    maps, bank = maps_of(3), part_templates(3, 4, dtype=torch.float64)
    shuffled = maps[torch.tensor([4, 2, 0, 1, 3])]
    assert torch.allclose(mutual_information(maps, bank), mutual_information(shuffled, bank))


def test_mirrored_maps_have_the_same_information():
    maps, bank = maps_of(4), part_templates(3, 4, dtype=torch.float64)
    for axes in ((-1,), (-2,), (-1, -2)):
        assert torch.allclose(mutual_information(maps, bank), mutual_information(maps.flip(axes), bank))


def test_a_prior_changes_the_value_as_the_loops_say():
    maps, bank = maps_of(5), part_templates(3, 4, dtype=torch.float64)
    prior = torch.arange(1.0, 14, dtype=torch.float64) / 91
    found = mutual_information(maps, bank, prior=prior)
    expected = [
        reference.mutual_information(maps[:, d].numpy(), bank.numpy(), prior.numpy()) for d in range(3)
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-10)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"templates has shape \(10, 3, 3\)"):
        mutual_information(torch.rand(2, 1, 4, 4), part_templates(3, 3))
    with pytest.raises(ValueError, match="feature_maps has shape"):
        mutual_information(torch.rand(2, 4, 4), part_templates(4, 4))
    with pytest.raises(ValueError, match="not a distribution"):
        mutual_information(torch.rand(2, 1, 3, 3), part_templates(3, 3), prior=torch.ones(10))


def test_the_lean_layer_equals_the_plain_function_in_value_and_gradient():
    maps = maps_of(6, filters=7).requires_grad_()
    gain = torch.rand(7, dtype=torch.float64) + 0.5
    lean = layer(maps, gain=gain)
    plain = mutual_information_terms(maps * gain[:, None, None], part_templates(3, 4, dtype=torch.float64))
    assert torch.allclose(lean.value, plain.value, atol=1e-12)
    assert torch.allclose(lean.category_entropy, plain.category_entropy, atol=1e-12)
    assert torch.allclose(lean.spatial_entropy, plain.spatial_entropy, atol=1e-12)
    weights = torch.randn(7, dtype=torch.float64)
    slopes = [torch.autograd.grad(values @ weights, maps)[0] for values in (lean.value, plain.value)]
    assert torch.allclose(*slopes, atol=1e-12)


def test_blocks_of_filters_do_not_change_the_result(monkeypatch):
    maps = maps_of(7, filters=6).requires_grad_()
    whole = layer(maps)
    (slope,) = torch.autograd.grad(whole.value.sum(), maps)
    monkeypatch.setattr("interp_cnn.model.layer_information.BLOCK_BYTES", 1)
    pieces = layer(maps)
    assert torch.allclose(whole.value, pieces.value)
    assert torch.allclose(slope, torch.autograd.grad(pieces.value.sum(), maps)[0])


def test_no_copy_of_the_scores_is_kept_for_the_backward_pass():
    maps = maps_of(7, batch=64, filters=6).requires_grad_()
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(maps)
    del kept[maps.untyped_storage().data_ptr()]
    scores = 64 * 6 * 13 * maps.element_size()
    assert 0 < sum(kept.values()) < 0.05 * scores


@pytest.mark.parametrize("beta", [torch.tensor(3.7), torch.tensor([3.1, 4.2, 5.3])])
def test_the_autograd_mode_passes_gradcheck(beta):
    maps = (maps_of(8) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x, beta=beta.double()).value, maps)


class Claimed(torch.autograd.Function):
    """An objective whose gradient is claimed to be that of another value; gradcheck tells whether it is."""

    @staticmethod
    def forward(ctx, maps, objective, value):
        ctx.save_for_backward(maps)
        ctx.value = value
        return objective(maps)

    @staticmethod
    def backward(ctx, weights):
        with torch.enable_grad():
            maps = ctx.saved_tensors[0].detach().requires_grad_()
            (gradient,) = torch.autograd.grad(ctx.value(maps), maps, weights)
        return gradient, None, None


MEMBERS = torch.tensor([[True], [True], [False], [False], [True]]).expand(5, 3)


def frozen_information(scores, log_partition):
    """Eq. (1) per filter at a partition function that is held: scores (B, D, T)."""
    log_u = scores - log_partition
    log_evidence = log_u.logsumexp(-1, keepdim=True) - math.log(scores.shape[-1])
    return (log_u.exp() * (log_u - log_evidence)).mean((0, 2))


@pytest.mark.parametrize("gradient", ["frozen_partition", "target_template"])
def test_the_modes_of_eq_4_pass_gradcheck_as_derivatives_of_what_they_hold_frozen(gradient):
    """frozen_partition holds Z_T; target_template also the scores of all templates but one."""
    base = maps_of(14) + 0.1
    bank = part_templates(3, 4, dtype=torch.float64)
    positions = peak_positions(base)
    held = template_scores(base, bank)
    log_partition = held.logsumexp(0) - math.log(5)
    moves = torch.ones_like(held, dtype=torch.bool)
    if gradient == "target_template":
        moves = torch.nn.functional.one_hot(torch.where(MEMBERS, positions, 12), 13).bool()

    def objective(maps):
        return frozen_information(torch.where(moves, template_scores(maps, bank), held), log_partition)

    def value(maps):
        return layer(maps, gradient, members=MEMBERS, positions=positions).value

    assert torch.allclose(objective(base), value(base))
    assert torch.autograd.gradcheck(lambda maps: Claimed.apply(maps, objective, value), base.requires_grad_())


def test_the_released_code_passes_gradcheck_as_the_derivative_of_what_it_holds_frozen():
    """Sum of exp(s) (s - log Z) over the images of each side, with Z, the normalisation and the density held."""
    base = maps_of(15) + 0.1
    bank = part_templates(3, 4, dtype=torch.float64)
    positions = peak_positions(base)
    density = 0.6

    def scores_at(maps, places):
        return (maps.flatten(2) * bank.flatten(1)[places]).sum(-1)

    foreign = scores_at(base, positions.flip(0, 1)).logsumexp(0) - math.log(5)
    silent = (-base.sum((2, 3))).logsumexp(0) - math.log(5)
    positives = MEMBERS.double()
    norms = {}

    def objective(maps):
        terms = []
        for key, scores, log_partition, members, share in (
            ("own", scores_at(maps, positions), foreign, positives, density),
            ("other", -maps.sum((2, 3)), silent, 1 - positives, 1 - density),
        ):
            held = scores.detach()
            strength = held.exp() * (held - log_partition + 1)
            norm = norms.setdefault(key, (strength * members).sum(0) / members.sum(0))
            terms.append(scores.exp() * (scores - log_partition) * members / norm * 0.5 / share)
        return (terms[0] + terms[1]).mean(0)

    def value(maps):
        return layer(maps, "released_code", members=MEMBERS, positions=positions).value

    objective(base)  # takes the normalisation where it is held
    assert torch.autograd.gradcheck(lambda maps: Claimed.apply(maps, objective, value), base.requires_grad_())


def test_frozen_partition_is_eq_4_with_the_right_sign():
    maps = maps_of(9).requires_grad_()
    (slope,) = torch.autograd.grad(layer(maps, "frozen_partition").value.sum(), maps)
    bank = part_templates(3, 4, dtype=torch.float64).numpy()
    for d in range(3):
        expected = reference.eq4_gradient(maps[:, d].detach().numpy(), bank)
        np.testing.assert_allclose(slope[:, d], expected, atol=1e-12)


def test_frozen_partition_equals_finite_differences_at_fixed_z():
    maps = maps_of(10, filters=1)
    bank = part_templates(3, 4, dtype=torch.float64).numpy()
    variable = maps.clone().requires_grad_()
    (slope,) = torch.autograd.grad(layer(variable, "frozen_partition").value.sum(), variable)
    at = maps[:, 0].numpy()
    partition = reference.Likelihoods(at, bank).partition

    def value(x):
        p = reference.Likelihoods(x, bank, partition=partition)
        return sum(
            p.prior[t] * p.given[i][t] * math.log(p.given[i][t] / p.image[i])
            for t in range(len(bank))
            for i in range(len(x))
        )

    step = 1e-6
    for place in [(0, 0, 0), (1, 2, 3), (4, 1, 1)]:
        up, down = at.copy(), at.copy()
        up[place] += step
        down[place] -= step
        difference = (value(up) - value(down)) / (2 * step)
        assert slope[:, 0][place].item() == pytest.approx(difference, abs=1e-7)


def test_target_template_keeps_one_template_of_eq_4():
    maps = maps_of(11).requires_grad_()
    members = torch.tensor([[True], [True], [False], [False], [True]]).expand(5, 3)
    positions = peak_positions(maps.detach())
    found = layer(maps, "target_template", members=members, positions=positions)
    (slope,) = torch.autograd.grad(found.value.sum(), maps)
    bank = part_templates(3, 4, dtype=torch.float64).numpy()
    for d in range(3):
        p = reference.Likelihoods(maps[:, d].detach().numpy(), bank)
        for x in range(5):
            t = int(positions[x, d]) if members[x, d] else 12
            factor = p.prior[t] * p.given[x][t] * (p.score[x][t] - math.log(p.partition[t] * p.image[x]))
            np.testing.assert_allclose(slope[x, d], factor * bank[t], atol=1e-12)


def test_the_released_codes_update_equals_its_literal_loops():
    maps = maps_of(12).requires_grad_()
    members = torch.tensor([[True], [True], [False], [False], [True]]).expand(5, 3)
    positions = peak_positions(maps.detach(), position="centroid")
    found = layer(maps, "released_code", members=members, positions=positions)
    (slope,) = torch.autograd.grad(found.value.sum(), maps)
    bank = part_templates(3, 4, dtype=torch.float64).numpy()
    x = maps.detach().numpy()
    for d in range(3):
        score = [(x[b, d] * bank[positions[b, d]]).sum() for b in range(5)]
        foreign = [(x[b, d] * bank[positions[4 - b, 2 - d]]).sum() for b in range(5)]
        log_z = math.log(np.mean(np.exp(foreign)))
        negative = [-x[b, d].sum() for b in range(5)]
        negative_z = math.log(np.mean(np.exp(negative)))
        strength = {b: math.exp(score[b]) * (score[b] - log_z + 1) for b in (0, 1, 4)}
        silence = {b: math.exp(negative[b]) * (negative[b] - negative_z + 1) for b in (2, 3)}
        for b in range(5):
            if b in strength:
                expected = (
                    bank[positions[b, d]] * strength[b] / np.mean(list(strength.values())) * (0.5 / 0.6)
                )
            else:
                expected = np.full((3, 4), -silence[b] / np.mean(list(silence.values())) * (0.5 / 0.4))
            np.testing.assert_allclose(slope[b, d], expected / 5, atol=1e-10)


def test_label_based_gradients_ask_for_labels():
    with pytest.raises(ValueError, match="needs the labels"):
        layer(maps_of(0), "target_template")


@pytest.mark.parametrize("activation", [10, 50, 200])
def test_the_papers_approximation_points_along_the_exact_gradient_on_strong_parts(activation):
    """Cosine 0.50, 0.88 and 0.97 at peaks of 10, 50 and 200 were found before; the order must hold."""
    tau = 0.5 / 14**2
    places = torch.randint(0, 196, (32,), generator=torch.Generator().manual_seed(1))
    maps = (part_templates(14, 14, dtype=torch.float64)[places].clamp(min=0) * activation).unsqueeze(1)
    maps.requires_grad_()
    gain = torch.tensor([tau], dtype=torch.float64)
    members = torch.ones(32, 1, dtype=torch.bool)
    slopes = [
        torch.autograd.grad(
            layer(maps, mode, gain=gain, members=members, positions=peak_positions(maps.detach())).value, maps
        )[0].flatten()
        for mode in ("frozen_partition", "target_template")
    ]
    cosine = torch.cosine_similarity(*slopes, dim=0).item()
    assert cosine > {10: 0.3, 50: 0.75, 200: 0.9}[activation]
