import numpy as np
import pytest
import torch
from planted import SIZE, PlantedNetwork, planted_batches
from torch.utils._python_dispatch import TorchDispatchMode

from interp_cnn.data.animal_parts import AnimalParts
from interp_cnn.data.parts import collate
from interp_cnn.evaluation.filters.comparison import measure_network
from interp_cnn.evaluation.filters.observations import ObservationRecorder
from interp_cnn.evaluation.filters.passes import Reader, first_pass, mask_pass
from interp_cnn.evaluation.filters.regions import RegionRule
from interp_cnn.explanation.network.feature_maps import feature_maps_and_logits
from interp_cnn.explanation.receptive_field.field import receptive_field
from interp_cnn.model.interpretable_conv import make_interpretable
from interp_cnn.runs.measuring import readout_of


def test_a_recorder_keeps_the_places_of_the_peaks():
    network = PlantedNetwork()
    recorder = ObservationRecorder(receptive_field(network, "maps", (SIZE, SIZE)))
    for batch in planted_batches():
        recorder.update(*feature_maps_and_logits(network, batch.images, "maps"), batch)
    observed = recorder.result()
    _, positions, scores = observed.block(torch.arange(4))
    assert positions.shape == (120, 4, 2) and scores.shape == (120, 4) and len(observed.names) == 120
    assert positions[:, 1].tolist() == [[11.0, 11.0]] * 120


def test_the_batch_size_changes_nothing():
    one, two = (
        first_pass(
            Reader(PlantedNetwork(), planted_batches(size=size), "maps", (SIZE, SIZE)), probes=True, seed=3
        )
        for size in (7, 120)
    )
    assert torch.equal(one.images.cells, two.images.cells)
    assert torch.equal(one.images.scores, two.images.scores)
    assert torch.equal(one.offset, two.offset) and torch.equal(one.scale, two.scale)
    assert torch.allclose(one.near, two.near) and torch.equal(one.active, two.active)


def test_every_network_sees_the_same_views_and_noise():
    network = torch.nn.Sequential()
    network.add_module("maps", torch.nn.Conv2d(3, 2, 3, padding=1))
    one, two = (
        first_pass(Reader(some, planted_batches(), "maps", (SIZE, SIZE)), probes=True, seed=3)
        for some in (PlantedNetwork(), network)
    )
    assert torch.equal(one.offset, two.offset) and torch.equal(one.scale, two.scale)
    assert torch.equal(one.viewed.landmarks.nan_to_num(-9), two.viewed.landmarks.nan_to_num(-9))


def test_maps_of_another_size_are_refused():
    recorder = ObservationRecorder(receptive_field(PlantedNetwork(), "maps", (SIZE, SIZE)))
    with pytest.raises(ValueError, match=r"grid \(5, 5\)"):
        recorder.update(torch.rand(1, 4, 5, 5), torch.rand(1, 3), planted_batches()[0])
    with pytest.raises(ValueError, match="no batch"):
        recorder.result()


class Waits(TorchDispatchMode):
    """Counts reads of single numbers, for which a program waits until a graphics card is done."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*args, **(kwargs or {}))


def waits(filters):
    network = torch.nn.Sequential()
    network.add_module("maps", torch.nn.Conv2d(3, filters, 3, padding=1))
    network.add_module("head", torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()))
    reader = Reader(network, planted_batches(masks=True), "maps", (SIZE, SIZE))
    reader.field(3)
    with Waits() as counted:
        seen = first_pass(reader, probes=True, seed=0)
        mask_pass(
            reader, seen, torch.ones(filters, dtype=torch.int64), rule=RegionRule(field="exact"), seed=0
        )
    return counted.count


def test_the_passes_never_wait_for_single_filters():
    assert waits(4) == waits(32)


def readout_by_hand(maps, beta, norm):
    """The cell whose template, 1 - beta distance / n and at least -1, has the largest product with each map."""
    height, width = maps.shape[2:]
    found = torch.zeros(maps.shape[:2], dtype=torch.int64)
    for image, filter_ in np.ndindex(*maps.shape[:2]):
        fits = []
        for row, column in np.ndindex(height, width):
            rows, columns = (torch.arange(height) - row).abs()[:, None], (torch.arange(width) - column).abs()
            distance = rows + columns if norm == "l1" else (rows**2 + columns**2).sqrt()
            template = (1 - float(beta[filter_]) * distance / max(height, width)).clamp(min=-1)
            fits.append(float((maps[image, filter_] * template).sum()))
        found[image, filter_] = int(np.argmax(fits))
    return found


@pytest.mark.parametrize("options", [{}, {"beta": 1.5}, {"norm": "l1", "beta": 7.0}, {"beta_rule": "spread"}])
@pytest.mark.parametrize("position", ["argmax", "centroid"])
def test_the_template_readout_uses_the_layers_own_templates(options, position):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    make_interpretable(network, "0", image_size=(9, 8), position=position, **options)
    mask = network[0].mask
    if mask.beta.dim():
        mask.beta.data = torch.tensor([1.0, 2.0, 4.0, 9.0])
    maps = torch.rand(5, 4, 7, 6)
    expected = readout_by_hand(maps, mask.beta.detach().expand(4), mask.norm)
    assert torch.equal(readout_of(network, "0", "template")(maps), expected)
    assert readout_of(network, "0", "peak") is None


def test_a_network_without_templates_is_read_by_the_publications():
    maps = torch.rand(3, 2, 6, 7, generator=torch.Generator().manual_seed(1))
    found = readout_of(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3)), "0", "template")(maps)
    assert torch.equal(found, readout_by_hand(maps, torch.full((2,), 4.0), "l2"))
    assert not torch.equal(found, maps.flatten(2).argmax(dim=2))
    with pytest.raises(ValueError, match="readout is 'best'; expected peak or template"):
        readout_of(torch.nn.Sequential(), "0", "best")


def test_a_readout_moves_positions_and_leaves_scores():
    options = {
        "layer": "maps",
        "name": "n",
        "kind": "k",
        "classes": ("a", "b", "c"),
        "parts": ("head", "tail"),
    }
    options |= {"image_size": (SIZE, SIZE), "background": 0, "probes": False, "resamples": 5}
    corner = measure_network(
        PlantedNetwork(),
        planted_batches(),
        readout=lambda maps: torch.zeros(maps.shape[:2], dtype=torch.int64),
        **options,
    )
    peak = measure_network(PlantedNetwork(), planted_batches(), **options)
    assert corner.observations.cells.eq(0).all() and peak.observations.cells.ne(0).any()
    assert torch.equal(corner.observations.scores, peak.observations.scores)


@pytest.mark.slow
def test_an_untrained_resnet_on_real_photographs_is_no_better_than_chance(data_root):
    import torchvision

    data = AnimalParts(
        "val", root=data_root / "animalparts64_small", categories=["fox", "horse"], negatives=True
    )
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=3)
    loader = torch.utils.data.DataLoader(data, batch_size=32, collate_fn=collate)
    measures = measure_network(
        network,
        loader,
        layer="layer2",
        name="untrained",
        kind="untrained",
        classes=data.classes,
        parts=data.parts,
        image_size=data.image_size,
        background=data.background,
        resamples=100,
    )
    summary = measures.summary
    assert set(measures.filters["category"].dropna()) <= {"fox", "horse"}
    assert summary["tracking_gain"].high < 0 and summary["offset_gain"].value < 0.1
    share, null = summary["part_interpretability"], summary["part_interpretability_null"]
    assert share.low < null.high, "regions of an untrained network hit parts as often as other images' parts"
    assert not measures.filters["tracks"].all()
