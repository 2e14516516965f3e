"""What the occlusion engine does with networks that it does not understand, and how it finds out that it errs."""

import logging

import pytest
import torch
from occlusion_networks import lively, small_network
from torch import nn

from interp_cnn.explanation.occlusion import OcclusionJob, occlusion_drops
from interp_cnn.explanation.occlusion.checks import windows_to_check
from interp_cnn.explanation.occlusion.incremental import operations
from interp_cnn.explanation.occlusion.incremental.graph import graph_of


class Around(nn.Module):
    """A network whose middle is a function of maps."""

    def __init__(self, middle):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)
        self.head = nn.Linear(24, 5)
        self.middle = middle

    def forward(self, x):
        x = self.middle(self.first(x).relu())
        return self.head(self.second(x).relu().mean((2, 3)))


UNUSUAL = {
    "where": lambda x: torch.where(x > 0.1, x, torch.zeros_like(x)),
    "comparison times value": lambda x: (x > 0.1) * x,
    "comparison as number": lambda x: x * (x > 0.1).float(),
    "mean of a comparison": lambda x: x * (x > 0.1).to(x.dtype).mean((2, 3), keepdim=True),
    "masked fill": lambda x: x.masked_fill(x < 0.1, 0.5),
    "a cast there and back": lambda x: x.half().float(),
    "double inside": lambda x: x.double().sqrt().float(),
    "bfloat16 inside": lambda x: (x.bfloat16() * 2).to(torch.float32),
    "topk": lambda x: x * (x >= x.flatten(2).topk(3, 2).values[..., -1:, None]),
    "branch on the value": lambda x: x if x.mean() > 0 else -x,
    "item": lambda x: x * float(x.max().item() > -1),
    "numpy": lambda x: torch.from_numpy(x.numpy() * 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_steps_give_the_drops_of_plain_passes_and_at_most_one_line(name, caplog):
    network, images = Around(UNUSUAL[name]).eval(), torch.rand(2, 3, 32, 32)
    options = {"window": 8, "stride": 2}
    with caplog.at_level(logging.WARNING):
        found = occlusion_drops(network, images, **options)
    expected = occlusion_drops(network, images, engine="dense", **options)
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max()) + 1e-6
    assert len(caplog.records) <= 1


def test_a_graph_on_the_same_memory_is_followed_through_all_its_names():
    class Names(nn.Module):
        def forward(self, x):
            y = nn.functional.dropout(x, 0.5, False)
            y = nn.functional.relu_(y)  # x too
            y += 1
            return (x + y).flatten(1)

    images = torch.randn(1, 2, 4, 4)
    graph = graph_of(Names(), images)
    assert torch.equal(
        graph.dense({graph.image: images}, [graph.output])[graph.output], Names()(images.clone())
    )


def wrong_relu(self, site, delta):
    below = site.before(derived="below", make=lambda z: z.clamp(max=0))
    above = site.before(derived="above", make=lambda z: -z.clamp(min=0))
    return torch.maximum(delta + below, above) * 1.5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_wrong_rule_is_noticed_in_every_precision_and_engine(precision, monkeypatch, caplog):
    monkeypatch.setattr(operations.Relu, "delta", wrong_relu)
    network = lively(small_network())
    images = torch.zeros(3, 3, 40, 40)
    images[:, :, 16:30, 10:28] = torch.rand(3, 3, 14, 18)  # most windows hide black by black
    options = {"window": 6, "stride": 2, "precision": precision}
    with pytest.raises(ValueError, match=r"^network cannot be occluded incrementally: window"):
        occlusion_drops(network, images, engine="incremental", **options)
    with caplog.at_level(logging.WARNING):
        found = occlusion_drops(network, images, **options)
    assert torch.equal(found, occlusion_drops(network, images, engine="dense", window=6, stride=2))
    assert len(caplog.records) == 1


def test_a_job_that_went_on_plainly_is_taken_up_again(monkeypatch):
    network, images = lively(small_network()), torch.rand(2, 3, 40, 40)
    expected = occlusion_drops(network, images, window=6, stride=2, engine="dense")
    monkeypatch.setattr(operations.Affine, "delta", lambda self, site, delta: delta * 3)
    monkeypatch.setattr(operations.Relu, "delta", lambda self, site, delta: delta * 3)
    job = OcclusionJob(network, images, window=6, stride=2)
    assert job.engine == "incremental"
    steps = job.run()
    for _ in range(3):
        next(steps)
    again = OcclusionJob(network, images, window=6, stride=2)
    again.load_state_dict(job.state_dict())
    assert list(again.run())
    assert torch.equal(again.drops, expected)


def test_checked_windows_change_something_and_come_from_every_run():
    runs = [(0, 4), (1, 2), (3,), (5, 6)], [(0, 1, 2), (3, 4)]
    changes = torch.zeros(2, 7, 5)
    changes[1] = torch.rand(7, 5) + 0.1
    windows = windows_to_check(runs, changes, work=1000)
    assert len(set(windows)) == len(windows) == 4
    assert all(image == 1 for image, _, _ in windows)
    for axis, place in ((0, 1), (1, 2)):
        assert all(any(window[place] in run for window in windows) for run in runs[axis])
    assert len(windows_to_check(runs, changes, work=10)) == 3
    assert windows_to_check(runs, torch.zeros(2, 7, 5), work=1000) == []


def test_the_users_images_stay_as_they_were_though_the_network_changes_them():
    class Normalising(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small_network()

        def forward(self, x):
            return self.body(x.sub_(0.4).div_(0.2))

    network, images = Normalising().eval(), torch.rand(2, 3, 40, 40)
    before = images.clone()
    found = occlusion_drops(network, images, window=6, stride=2)
    assert torch.equal(images, before)
    hidden = images.clone()
    hidden[:, :, 2:8, 4:10] = 0
    with torch.no_grad():
        expected = network(images.clone()) - network(hidden)
    torch.testing.assert_close(found[:, :, 1, 2], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "wrapped",
    [nn.DataParallel, pytest.param(torch.compile, marks=pytest.mark.slow)],
    ids=["DataParallel", "compile"],
)
def test_wrapped_networks_are_unwrapped(wrapped):
    network, images = small_network().eval(), torch.rand(1, 3, 40, 40)
    graph = graph_of(wrapped(network), images)
    assert not graph.unknown()
    assert graph.steps.keys() == graph_of(network, images).steps.keys()


class WrittenByAnotherName(nn.Module):
    """A step in place on one name of a memory; what is read later is another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.first(x)
        other = x.contiguous()
        other.mul_(-2.0)
        return self.head(self.second(x).relu().mean((2, 3)))


@pytest.mark.parametrize("engine", ["incremental", "one_batch"])
def test_who_reads_overwritten_memory_by_another_name_reads_what_was_written(engine):
    network, images = WrittenByAnotherName().eval(), torch.rand(2, 3, 16, 16)
    wanted = occlusion_drops(network, images, window=5, stride=4, engine="dense")
    found = occlusion_drops(network, images, window=5, stride=4, engine=engine)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-3)
