"""LRP and DeepLIFT replayed: on a GPU a CUDA graph, here a stand-in that runs the walk again into the same tensors."""

import gc
import importlib
import logging
import weakref

import pytest
import torch
from occlusion_networks import Residual, SqueezeExcite, five_convolutions, lively, pictures
from test_host_waits import Reads
from torch import nn

from interp_cnn.explanation.propagation import recordings
from interp_cnn.explanation.propagation.deeplift import deeplift
from interp_cnn.explanation.propagation.lrp import lrp
from interp_cnn.model.backbones import build_network

lrp_module = importlib.import_module(lrp.__module__)
deeplift_module = importlib.import_module(deeplift.__module__)


def interpretable(position: str) -> nn.Module:
    return build_network(
        "small_cnn",
        num_classes=3,
        channels=3,
        image_size=(64, 64),
        mean=(0.5,),
        std=(0.25,),
        widths=(8, 12, 12, 16, 16),
        mask={"position": position},
    )


NETWORKS = {
    "five convolutions": five_convolutions,
    "batch norm": Residual,
    "squeeze and excitation": SqueezeExcite,
    **{
        f"masks by {place}": lambda place=place: interpretable(place)
        for place in ("argmax", "centroid", "template")
    },
}
METHODS = {
    "lrp": lambda network, images, targets: lrp(network, images, targets),
    "lrp, contributions": lambda *given: lrp(*given, biases="contributions"),
    "lrp, activations": lambda *given: lrp(*given, biases="activations"),
    "lrp, epsilon-plus-flat": lambda *given: lrp(*given, rule="epsilon-plus-flat"),
    "lrp, epsilon-gamma-box": lambda *given: lrp(*given, rule="epsilon-gamma-box"),
    "deeplift": lambda *given: deeplift(*given),
    "deeplift, blur and mean": lambda *given: deeplift(*given, baseline="blur"),
}


@pytest.fixture
def replaying(monkeypatch):
    """As on a GPU where replays are twice as fast; the list holds the values that the host read while recording."""
    made, times = [], iter([2.0, 1.0] * 100)

    def captured(run, device):
        with monkeypatch.context() as there:
            there.setattr(torch.cuda, "is_available", lambda: True)
            there.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            with Reads() as reads:
                out = run()
            made.append(reads.count)

        def again():
            with monkeypatch.context() as there:
                there.setattr(torch.cuda, "is_available", lambda: True)
                there.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
                for place, value in zip(out, run(), strict=True):
                    place.copy_(value)

        return out, again

    monkeypatch.setattr(recordings, "captured", captured)
    monkeypatch.setattr(recordings, "replays_on", lambda device: True)
    monkeypatch.setattr(recordings, "free_memory", lambda device: 2**30)
    monkeypatch.setattr(recordings, "timed", lambda run, device: (run(), next(times)))
    for module, of in ((lrp_module, "lrp"), (deeplift_module, "deeplift")):
        monkeypatch.setattr(module, "_recordings", recordings.Recordings(of))
    return made


def asked(network_of=five_convolutions):
    torch.manual_seed(0)
    network = lively(network_of()).double()
    return network, [pictures(2, seed=seed).double() for seed in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_replayed_maps_are_those_of_the_way_as_it_is_and_nothing_is_read(
    method, network, replaying, monkeypatch
):
    network, images = asked(NETWORKS[network])
    targets = [torch.tensor([k % 3, (k + 1) % 3]) for k in range(4)]
    found = [METHODS[method](network, *each) for each in zip(images, targets, strict=True)]
    assert replaying == [0]
    monkeypatch.setattr(recordings, "replays_on", lambda device: False)
    for one, *each in zip(found, images, targets, strict=True):
        plain = METHODS[method](network, *each)
        torch.testing.assert_close(one, plain, rtol=1e-7, atol=1e-9 * float(plain.abs().max()))


def test_biases_that_outgrow_the_precision_share_by_activation_in_a_replay_too(
    replaying, monkeypatch, caplog
):
    torch.manual_seed(0)
    network, images = lively(Residual()), pictures(8)
    images[4:] *= 0.01  # some outgrow it, some do not
    with caplog.at_level(logging.INFO):
        found = [lrp(network, images, 1) for _ in range(3)]
    said = {record.message for record in caplog.records if "share by activation" in record.message}
    assert len(said) == 1
    monkeypatch.setattr(recordings, "replays_on", lambda device: False)
    plain = lrp(network, images, 1)
    for one in found:
        torch.testing.assert_close(one, plain, rtol=1e-3, atol=1e-5 * float(plain.abs().max()))


def test_a_changed_network_another_batch_and_other_rules_are_questions_of_their_own(replaying):
    network, images = asked()
    for _ in range(3):
        lrp(network, images[0], 1)
    assert len(replaying) == 1
    with torch.no_grad():
        network[0].weight.mul_(2.0)
    changed = lrp(network, images[0], 1)
    assert len(replaying) == 1
    fresh = lrp(network, images[0], 1, biases="contributions")
    torch.testing.assert_close(changed, fresh)
    lrp(network, images[0][:1], 1)
    assert len(replaying) == 1


def test_a_recording_goes_with_its_network(replaying, monkeypatch):
    network, images = asked()

    def captured(run, device):  # as a graph does, this keeps nothing of the network
        return run(), lambda: None

    monkeypatch.setattr(recordings, "captured", captured)
    for _ in range(3):
        deeplift(network, images[0], 1)
    assert deeplift_module._recordings.kept is not None
    there = weakref.ref(network)
    del network
    gc.collect()
    assert there() is None and deeplift_module._recordings.kept is None


@pytest.mark.parametrize("method", ["lrp", "deeplift"])
def test_targets_and_logits_are_checked_in_a_replay(method, replaying):
    network, images = asked()
    for _ in range(3):
        METHODS[method](network, images[0], 1)
    with pytest.raises(ValueError, match=r"targets must be classes in 0\.\.9"):
        METHODS[method](network, images[0], 10)
    network[-1].bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        METHODS[method](network, images[0], 1)


class Decides(nn.Module):
    """Uses whether the middle of an image is bright as a number."""

    def __init__(self):
        super().__init__()
        self.body = five_convolutions(classes=4).double()

    def forward(self, images):
        bright = (images[:, :, 32, 32].mean(1) > 0.5).to(images)
        return self.body(images) * (1 + bright[:, None])


def test_a_decision_that_differs_for_the_baseline_is_refused_in_a_replay(replaying):
    network = Decides().eval()
    images = torch.rand(2, 3, 64, 64).double()
    images[:, :, 32, 32] = 0.1  # dark, as the baseline
    for _ in range(3):
        deeplift(network, images, 1)
    assert len(replaying) == 1
    images[1, :, 32, 32] = 0.9
    with pytest.raises(ValueError, match="decides differently for the baseline"):
        deeplift(network, images, 1)


def test_a_recording_that_gives_other_numbers_is_not_used(replaying, monkeypatch, caplog):
    network, images = asked()
    plain = lrp(network, images[0], 1)
    monkeypatch.setattr(
        recordings, "captured", lambda run, device: (tuple(2 * one for one in run()), lambda: None)
    )
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            torch.testing.assert_close(lrp(network, images[0], 1), plain)
    assert [record.message for record in caplog.records if "not replayed" in record.message] == [
        "lrp: not replayed, because it gives other numbers"
    ]


def test_where_recording_fails_maps_are_computed_as_they_are(replaying, monkeypatch, caplog):
    def fails(run, device):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    network, images = asked()
    plain = lrp(network, images[0], 1)
    monkeypatch.setattr(recordings, "captured", fails)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            torch.testing.assert_close(lrp(network, images[0], 1), plain)
    assert sum("operation not permitted" in record.message for record in caplog.records) == 1
