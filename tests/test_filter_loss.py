import pytest
import torch
from torch import nn

from interp_cnn.model.filter_categories import FilterCategories
from interp_cnn.model.filter_loss import FilterLoss
from interp_cnn.model.interpretable_conv import TemplateMask, kept_feature_maps, make_interpretable
from interp_cnn.model.layer_information import GRADIENTS
from interp_cnn.model.mutual_information import mutual_information
from interp_cnn.model.templates import part_templates
from interp_cnn.training.loss_weight import LossWeight

BETA = torch.tensor(4.0)


def batch(images=12, filters=4, grid=(5, 6), seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(images, filters, *grid, generator=generator).relu()
    return maps, torch.arange(images) % 3


def test_the_loss_does_not_depend_on_the_scale_of_the_activations():
    maps, labels = batch()
    values = [
        FilterLoss(4, (5, 6), num_classes=3)(maps * factor, labels, BETA).loss.item()
        for factor in (1e-3, 1.0, 1e3)
    ]
    assert values == pytest.approx([values[1]] * 3, rel=1e-3)


def test_a_lone_typical_peak_scores_the_temperature():
    maps = torch.zeros(6, 1, 4, 4)
    places = torch.arange(6)
    maps.view(6, -1)[places, places] = 5.0
    loss = FilterLoss(1, (4, 4), num_classes=3, temperature=2.0)
    found = loss(maps, places % 3, BETA)
    expected = mutual_information(maps / 5 * 2, part_templates(4, 4))
    assert found.information.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_autocast_does_not_touch_the_loss(precision):
    """All of its sums are taken in float32, at activations that would overflow half precision too."""
    maps, labels = batch()
    maps = (maps * 5000).to(precision).float()
    found = []
    for enabled in (True, False):
        loss = FilterLoss(4, (5, 6), num_classes=3)
        with torch.autocast("cpu", precision, enabled=enabled):
            found.append(loss(maps, labels, BETA).loss)
    assert found[0].isfinite() and torch.equal(*found)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_a_short_training_under_autocast_stays_finite(precision):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3))
    make_interpretable(network, ["1"], beta_rule="spread")
    loss = FilterLoss(4, (8, 8), num_classes=3)
    optimizer, scaler = (
        torch.optim.AdamW(network.parameters(), 1e-2),
        torch.amp.GradScaler("cpu", init_scale=64.0),
    )
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    before = [p.detach().clone() for p in network.parameters()]
    for _ in range(4):
        with kept_feature_maps(network) as maps, torch.autocast("cpu", precision):
            logits = network(images)
            assert logits.dtype == precision
            total = nn.functional.cross_entropy(logits, labels)
            total = total + loss(maps["1"], labels, network[1].mask.beta).loss
        optimizer.zero_grad()
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        assert total.isfinite()
    for old, new in zip(before, network.parameters(), strict=True):
        assert new.isfinite().all() and not torch.equal(old, new)


def test_all_state_travels_in_the_state_dict():
    trained, loaded = FilterLoss(4, (5, 6), num_classes=3), FilterLoss(4, (5, 6), num_classes=3)
    for seed in range(5):
        maps, labels = batch(seed=seed)
        trained(maps, labels, BETA)
    loaded.load_state_dict(trained.state_dict())
    for seed in range(5, 8):
        maps, labels = batch(seed=seed)
        assert torch.equal(trained(maps, labels, BETA).loss, loaded(maps, labels, BETA).loss)
    assert torch.equal(trained.categories.assigned, loaded.categories.assigned)


def test_validation_changes_nothing_and_needs_no_labels():
    loss = FilterLoss(4, (5, 6), num_classes=3)
    maps, labels = batch()
    loss(maps, labels, BETA)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.eval()
    found = loss(batch(seed=1)[0] * 9, None, BETA)
    assert found.information.shape == (4,)
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("gradient", GRADIENTS[:3])
def test_every_gradient_of_eq_4_raises_the_information_of_free_maps(gradient):
    """Gradient ascent on the maps themselves; filters of category 0 fire on a third of the images."""
    maps, labels = batch(images=24, filters=2, grid=(4, 4))
    maps = (maps + 0.2 * (labels == 0)[:, None, None, None]).requires_grad_()
    loss = FilterLoss(2, (4, 4), num_classes=3, temperature=2.0, gradient=gradient)
    first = None
    for _ in range(40):
        found = loss(maps.relu(), labels, BETA)
        first = found.information.mean() if first is None else first
        (slope,) = torch.autograd.grad(found.loss, maps)
        with torch.no_grad():
            maps -= 0.3 * slope / slope.norm()
    last = loss.eval()(maps.relu(), labels, BETA).information.mean()
    assert last > first


def test_the_released_codes_update_silences_other_categories_and_feeds_the_peaks_of_its_own():
    maps, labels = batch(images=24, filters=2, grid=(4, 4))
    maps = (maps + 0.2 * (labels == 0)[:, None, None, None]).requires_grad_()
    loss = FilterLoss(2, (4, 4), num_classes=3, temperature=1.0, gradient="released_code")
    (slope,) = torch.autograd.grad(loss(maps, labels, BETA).loss, maps)
    own = loss.categories.own_images(labels)
    assert slope[~own].sum() > 0  # descent lowers these maps
    peaks = slope.flatten(2).gather(2, maps.flatten(2).argmax(-1, keepdim=True))[..., 0]
    assert peaks[own].sum() < 0  # and raises these peaks


def test_the_scale_follows_a_new_batch_by_a_fiftieth():
    labels = torch.arange(12) % 3
    loss = FilterLoss(4, (5, 6), num_classes=3, temperature=2.0)
    first, second = batch(seed=0)[0], 3 * batch(seed=1)[0]
    peaks = [maps.amax((2, 3)).mean(0) for maps in (first, second)]
    loss(first, labels, BETA)
    torch.testing.assert_close(loss.scale, peaks[0])
    loss(second, labels, BETA)
    torch.testing.assert_close(loss.scale, 0.98 * peaks[0] + 0.02 * peaks[1])


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="gradient is 'flat'"):
        FilterLoss(4, (5, 6), num_classes=3, gradient="flat")
    with pytest.raises(ValueError, match="temperature is 0"):
        FilterLoss(4, (5, 6), num_classes=3, temperature=0)
    with pytest.raises(ValueError, match=r"grid of \(5, 6\)"):
        FilterLoss(4, (5, 6), num_classes=3)(torch.rand(2, 4, 3, 3), torch.tensor([0, 1]), BETA)
    with pytest.raises(ValueError, match="labels are missing"):
        FilterLoss(4, (5, 6), num_classes=3)(torch.rand(2, 4, 5, 6), None, BETA)


def test_a_filter_belongs_to_the_category_that_excites_it_most():
    categories = FilterCategories(2, 3)
    maps = torch.zeros(6, 2, 2, 2)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    maps[labels == 1, 0] = 1.0
    maps[labels == 2, 1] = 1.0
    categories.update(maps, labels)
    assert categories.assigned.tolist() == [1, 2]
    assert categories.own_images(labels)[:, 0].tolist() == [False, True, False] * 2


def test_the_two_assignment_rules_differ_as_they_should():
    maps = torch.zeros(2, 1, 4, 4)
    maps[0, 0, 0, 0] = 2.0  # category 0: one high peak
    maps[1] = 1.0  # category 1: a broad map
    labels = torch.tensor([0, 1])
    found = []
    for rule in ("sum", "maximum"):
        categories = FilterCategories(1, 2, rule=rule)
        categories.update(maps, labels)
        found.append(categories.assigned.item())
    assert found == [1, 0]


def test_the_background_gets_no_filters():
    categories = FilterCategories(3, 2, background=0)
    categories.update(torch.rand(4, 3, 2, 2), torch.zeros(4, dtype=torch.long))
    assert categories.assigned.tolist() == [1, 1, 1]


def test_a_category_missing_from_a_batch_keeps_its_statistics():
    categories = FilterCategories(1, 3, rule="sum")
    categories.update(torch.ones(3, 1, 2, 2), torch.arange(3))
    categories.update(torch.zeros(1, 1, 2, 2), torch.tensor([0]))
    assert categories.response[0].tolist() == pytest.approx([4 * 0.9, 4.0, 4.0])


def test_negatives_of_a_filter_leave_out_its_own_category():
    categories = FilterCategories(1, 3)
    categories.update(torch.ones(1, 1, 2, 2), torch.tensor([2]))
    own = categories.own_images(torch.tensor([0, 1, 2, 2]))[:, 0]
    assert own.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("warmup", [0, 1, 1]),
        ("inverse_epoch", [1, 1 / 3, 1 / 11]),
    ],
)
def test_schedules(schedule, expected):
    weight = LossWeight(1.0, schedule=schedule, warmup_epochs=2)
    assert [weight.target(epoch) for epoch in (0, 2, 10)] == pytest.approx(expected)


def test_without_a_warm_up_the_loss_pulls_from_the_start():
    assert [LossWeight(0.3, warmup_epochs=0).target(epoch) for epoch in (0, 0.5, 9)] == [0.3, 0.3, 0.3]


def trained_on(maps, labels):
    """Loss, gradient of the maps and everything remembered, after three batches."""
    loss, mask = FilterLoss(4, (5, 6), num_classes=3), TemplateMask(4, beta_rule="spread")
    for factor in (1.0, 0.5, 2.0):
        variable = (maps * factor).requires_grad_()
        mask.match_spread(variable.detach())
        value = loss(variable, labels, BETA).loss
        (slope,) = torch.autograd.grad(value, variable)
    return {"loss": value.detach(), "slope": slope, "state": loss.state_dict() | mask.state_dict()}


def train_on_a_rank(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    maps, labels = batch()
    torch.save(trained_on(maps[rank::2], labels[rank::2]), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_remember_and_teach_what_one_does_with_all_images(tmp_path):
    torch.multiprocessing.spawn(train_on_a_rank, args=(tmp_path,), nprocs=2)
    whole = trained_on(*batch())
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in whole["state"].items():
        assert torch.equal(ranks[0]["state"][name], ranks[1]["state"][name]), name
        assert torch.allclose(ranks[0]["state"][name], value, atol=1e-5), name
    assert torch.allclose((ranks[0]["loss"] + ranks[1]["loss"]) / 2, whole["loss"], atol=1e-5)
    for rank in range(2):  # gradients of the ranks are averaged
        assert torch.allclose(ranks[rank]["slope"] / 2, whole["slope"][rank::2], atol=1e-6)
