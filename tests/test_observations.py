import pytest
import torch
from planted import SIZE, PlantedNetwork, planted_batches

from interp_cnn.data.animal_parts import AnimalParts
from interp_cnn.data.parts import collate
from interp_cnn.evaluation.filters.comparison import measure_network
from interp_cnn.evaluation.filters.observations import ObservationRecorder
from interp_cnn.evaluation.filters.passes import Reader, first_pass
from interp_cnn.explanation.network.feature_maps import feature_maps_and_logits
from interp_cnn.explanation.receptive_field.field import receptive_field


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
