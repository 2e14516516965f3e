"""The grid study: which images fill which tiles, what a network gets that knows its classes, and who is left out."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from interp_cnn.commands import study
from interp_cnn.data.parts import PartSample, PartSet
from interp_cnn.explanation.decisions.contributions import filter_contributions
from interp_cnn.explanation.decisions.evidence import filter_evidence
from interp_cnn.explanation.methods.options import Options
from interp_cnn.studies.findings import Averages
from interp_cnn.studies.grid_study import GridStudy
from interp_cnn.studies.grids import Layout, grids_of
from interp_cnn.studies.judged import Judged
from interp_cnn.studies.ranking import Ranking
from interp_cnn.studies.shared import map_of, maps_of_classes
from interp_cnn.studies.single_deletion_study import SingleDeletionStudy

FOCUS = Layout(2, focus=True)


def drawn(layout, labels, *, background=None, most=99, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return grids_of(layout, torch.tensor(labels), background=background, most=most, generator=generator)


@pytest.mark.parametrize("side", [2, 3])
def test_tiles_of_a_grid_show_different_classes_and_every_image_is_used_once(side):
    labels = [number % 11 for number in range(120)]
    labels[7], tiles = -1, side**2
    grids = drawn(Layout(side), labels)
    assert len(grids) >= 0.7 * len(labels) / tiles
    used = [image for grid in grids for image in grid.images]
    assert len(set(used)) == len(used) and 7 not in used
    for grid in grids:
        assert grid.classes == tuple(labels[image] for image in grid.images) and len({*grid.classes}) == tiles
        assert grid.right == tuple(tuple(row) for row in np.eye(tiles, dtype=bool).tolist())
    assert drawn(Layout(side), labels) == grids != drawn(Layout(side), labels, seed=1)
    assert len(drawn(Layout(side), labels, most=3)) == 3 and drawn(Layout(side), [0, 1, 2] * 9) == []


def test_focus_has_two_tiles_of_a_class_and_two_others_and_classes_take_turns():
    labels = [number % 5 for number in range(100)]
    grids = drawn(FOCUS, labels)
    assert len(grids) >= 20 and len({image for grid in grids for image in grid.images}) == 4 * len(grids)
    for grid in grids:
        [asked], [right] = grid.classes, grid.right
        shown = [labels[image] for image in grid.images]
        assert [label == asked for label in shown] == list(right) and sum(right) == 2
        assert len({*shown}) in ((3,) if grid in grids[:20] else (2, 3))  # two others as long as there are
    assert Counter(grid.classes[0] for grid in grids[:20]) == dict.fromkeys(range(5), 4)
    assert len({grid.right for grid in grids}) == 6  # all places
    two = drawn(FOCUS, [0, 1] * 8)
    assert len(two) == 4 and {grid.classes[0] for grid in two} == {0, 1}


def test_the_background_fills_tiles_and_is_never_asked_about():
    labels = [number % 4 for number in range(40)]
    for layout in (Layout(2), FOCUS):
        grids = drawn(layout, labels, background=0)
        assert len(grids) > 5 and not any(0 in grid.classes for grid in grids)
        assert any(labels[image] == 0 for grid in grids for image in grid.images)


class Colours(PartSet):
    """Images that are bright in the channel of their class, with a dark border."""

    parts, image_size = (), (6, 6)

    def __init__(self, classes: int, count: int, background: int | None = None) -> None:
        self.classes, self.channels = tuple(f"c{number}" for number in range(classes)), classes
        self.labels, self.background = torch.arange(count) % classes, background
        self.names = [str(number) for number in range(count)]

    def view(self, index, generator):
        image = torch.zeros(self.channels, 6, 6)
        image[self.labels[index], 1:5, 1:5] = 0.5 + index / 1000
        return PartSample(image, int(self.labels[index]), torch.zeros(0, 2), name=self.names[index])


class Knows(nn.Module):
    """Answers with the brightness of the class's channel, if it is `sharp`; takes pictures of any size, or of one."""

    def __init__(self, classes: int, *, sharp: bool = True, any_size: bool = True) -> None:
        super().__init__()
        self.maps, self.relu, self.any_size = nn.Conv2d(classes, classes, 1, bias=False), nn.ReLU(), any_size
        weights = 60 * torch.eye(classes) if sharp else torch.ones(classes, classes)
        self.maps.weight.data = weights[:, :, None, None]
        self.head = nn.Linear(classes, classes)
        self.head.weight.data, self.head.bias.data = torch.eye(classes), torch.zeros(classes)

    def forward(self, images):
        maps = self.relu(self.maps(images))
        if not self.any_size and maps.shape[2:] != (6, 6):
            raise RuntimeError("6 x 6 only")
        return self.head(maps.mean((2, 3)))


def judged(classes=10, count=80, background=None, networks=None, untrained=None) -> Judged:
    images = Colours(classes, count, background)
    networks = networks or {"interpretable": Knows(classes)}
    return Judged(networks, images, count, (0.1,) * classes, dict.fromkeys(networks, 0.5), untrained)


def settings(**changed) -> GridStudy:
    given = {
        "methods": ("filter_evidence", "filter_maps", "lrp", "occlusion"),
        "sides": (2, 3),
        "focus": True,
        "confidence": 0.9,
        "most": 6,
        "seed": 0,
        "resamples": 30,
    }
    return GridStudy(**{**given, **changed})


def measured(chosen, subjects):
    parts = [make() for make in chosen.parts(subjects, 12).values()]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_a_network_that_knows_its_classes_has_all_evidence_in_the_right_tiles():
    blind = Knows(10, sharp=False)
    found = measured(settings(), judged(untrained=blind))
    assert found["layout"].tolist() == [0] * 6 + [1] * 6 + [2] * 6 and found["shares"].shape == (18, 2, 4)
    assert found["shares"][:, 0, :3] == pytest.approx(np.ones((18, 3)), abs=1e-4)
    assert (found["shares"][:, 0, 3] > 0.8).all()  # windows reach over the border
    chance = np.repeat([1 / 4, 1 / 9, 1 / 2], 6)[:, None]
    assert found["shares"][:12, 1] == pytest.approx(
        np.repeat(chance[:12], 4, 1), abs=0.02
    )  # asked for any class
    assert found["random"].reshape(3, 6).mean(1) == pytest.approx(chance[::6, 0], abs=0.1)
    assert (found["told"][:, 0] == 1).all()


def test_tiles_are_shrunk_where_a_network_takes_one_size_only():
    one_size = judged(networks={"plain": Knows(10, any_size=False), "interpretable": Knows(10)})
    once = settings(methods=("filter_evidence", "lrp"), sides=(2,), focus=False)
    found = measured(once, one_size)
    assert found["shares"].shape == (6, 2, 2) and (found["shares"] > 0.85).all()
    from interp_cnn.studies.grid_study import _takes_one_size

    assert _takes_one_size(one_size, 2) == (
        "tiles are shrunk so that a grid has 6 x 6 pixels, since the plain network takes no other size"
    )
    assert _takes_one_size(judged(), 2) == ""


def test_only_images_that_every_network_tells_surely_and_rightly_are_used():
    with pytest.raises(ValueError, match=r"no two grids can be made of the 0 images of 80 .*confidence=0\.9"):
        settings()._grids(judged(networks={"a": Knows(10), "b": Knows(10, sharp=False)}))
    few = settings()
    subjects = judged(classes=3, count=60)
    assert [len(grids) for grids in few._grids(subjects)] == [0, 0, 6]
    assert few._left_out(subjects) == {
        "2 x 2": "2 x 2 is left out: it takes 4 classes, images of 3 can be used, too few for two grids.",
        "3 x 3": "3 x 3 is left out: it takes 9 classes, images of 3 can be used, too few for two grids.",
    }


def test_a_grid_with_the_background_in_it_counts_its_classes_once_each():
    found = measured(settings(sides=(2,), focus=False), judged(classes=5, count=60, background=0))
    assert found["shares"][:, 0, 0] == pytest.approx(np.ones(6), abs=1e-4)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"methods": ("lrpp",)}, "no method 'lrpp'; expected filter_evidence, filter_maps, occlusion"),
        ({"methods": ()}, "study.methods: expected at least one of"),
        ({"methods": ("occlusion_class",)}, "no method 'occlusion_class'"),
        ({"confidence": 0}, "study.confidence=0: expected a share"),
        ({"most": 1}, "study.most=1: expected whole numbers of 2"),
        ({"sides": (1,)}, r"study.sides=\[1\]: expected whole numbers of 2"),
        ({"sides": (), "focus": False}, r"study.sides=\[\]: expected"),
    ],
)
def test_settings_that_cannot_be_are_refused(changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        settings(**changed)


def test_a_ranking_compares_the_first_two_networks_and_names_who_is_surely_ahead():
    generator = np.random.default_rng(0)
    base = generator.normal(size=(60, 1, 3))
    scores = np.concatenate([base + np.array([0.5, 0, -0.5]), base, 0 * base], 1)
    scores[:, 0] += 0.1 * generator.normal(size=(60, 3))
    ranking = Ranking(scores, ("a", "b", "untrained"), ("x", "y", "z"), Averages(60, resamples=200, seed=0))
    assert ranking.ahead() == [["x"], ["z"]] and ranking.best("a").method == "x"
    shown = ranking.shown({"even": "0.000"})
    assert list(shown.columns) == ["method", "a", "b", "untrained", "a - b", "q"]
    assert shown.q.tolist()[0] == "< 0.0001" and shown.iloc[3].tolist() == ["even"] + ["0.000"] * 3 + ["", ""]
    alone = Ranking(scores[:, [0, 2]], ("a", "untrained"), ("x", "y", "z"), ranking.averages)
    assert not alone.pair and alone.ahead() == [[], []] and "q" not in alone.shown({})


def test_single_deletion_puts_the_shares_of_a_linear_network_in_the_right_order():
    chosen = SingleDeletionStudy(methods=("filter_evidence", "lrp"), seed=0, resamples=20)
    subjects = judged(classes=4, count=6, untrained=Knows(4, sharp=False))
    found = chosen.measured(subjects, subjects.batch(range(6)), 0)
    assert (
        found["scores"].shape == (6, 2, 2) and found["correct"].all() and found["controls"].shape == (6, 2, 2)
    )
    assert (found["scores"][:, 0] > 0.9).all()


def test_several_runs_of_a_kind_are_numbered_and_runs_of_other_classes_refused():
    def run(kind, classes=("a", "b"), size=(8, 8), folder="x"):
        config = SimpleNamespace(training={"deleted_patches": 0.5})
        images = SimpleNamespace(mean=(0.1,), val_set=range(9), classes=classes, image_size=size)
        return SimpleNamespace(kind=kind, network=nn.Identity(), config=config, data=images, folder=folder)

    config, chosen = SimpleNamespace(images=5), SimpleNamespace(needs_untrained=False)
    subjects = study._subjects(config, [run("plain"), run("mask_only"), run("plain")], chosen)  # pyright: ignore
    assert list(subjects.networks) == ["plain 1", "mask_only", "plain 2"] and subjects.count == 5
    assert subjects.deleted_patches == dict.fromkeys(subjects.networks, 0.5)
    for other in (run("plain", classes=("a", "c"), folder="y"), run("plain", size=(9, 9), folder="y")):
        with pytest.raises(ValueError, match=r"y knows 2 classes .* x 2 classes .*expected runs of the same"):
            study._check_together([run("plain"), other])  # pyright: ignore


@pytest.mark.parametrize("name", ["occlusion", "lrp", "filter_evidence"])
def test_maps_of_several_classes_are_those_of_each_class_alone(name):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    network, images, classes = (
        nn.Sequential(*layers),
        torch.rand(2, 1, 12, 12),
        torch.tensor([[0, 3], [4, 1]]),
    )
    found = maps_of_classes(name, network, images, classes)
    assert found.shape == (2, 2, 12, 12)
    for image in range(2):
        for place in range(2):
            one, target = images[image : image + 1], classes[image, place : place + 1]
            if name == "filter_evidence":
                alone = filter_evidence(
                    filter_contributions(network, one, target, method="deeplift"), (12, 12)
                )
            else:
                alone = map_of(name, network, one, target, Options()).maps
            torch.testing.assert_close(found[image, place], alone[0], atol=1e-5, rtol=1e-4)
