"""Feature visualisation: pictures reach what linear filters want most, keep their spectrum, and are checked."""

import csv
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_decision_sheets import asked_of
from test_training import data
from torch import nn

from interp_cnn.cli import main as cli
from interp_cnn.discovery.feature_visualisation import (
    Visualisation,
    VisualisationRequest,
    explain_visualisations,
    mean_over,
)
from interp_cnn.evaluation.statistics import Estimate
from interp_cnn.explanation.filters.exemplars import exemplars
from interp_cnn.explanation.filters.feature_visualisation import moved, visualise_filters
from interp_cnn.explanation.filters.picture_checks import (
    check_pictures,
    distances_from_real,
    typical_peaks,
)
from interp_cnn.explanation.filters.picture_parameters import (
    PARAMETRISATIONS,
    FourierPictures,
    PhasePictures,
    colour_axes,
    frequencies,
    natural_magnitude,
    odd,
)
from interp_cnn.explanation.network.feature_maps import feature_maps
from interp_cnn.model.interpretable_conv import TemplateMask
from interp_cnn.report.concepts.feature_visualisation import (
    FilterPicture,
    VisualisationReading,
    said_of_pictures,
    write_visualisations,
)

KINDS = sorted(PARAMETRISATIONS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_images(count=12, channels=3, size=(16, 12), seed=0):
    """Images whose neighbouring pixels are alike, as those of the world are."""
    noise = torch.randn(count, channels, *size, generator=seeded(seed))
    blurred = nn.functional.avg_pool2d(noise, 5, 1, 2)
    return (0.5 + 0.6 * blurred).clamp(0, 1)


def network_of(channels=3, filters=4, mask=False, seed=0):
    torch.manual_seed(seed)
    first = nn.Conv2d(channels, filters, 5)
    with torch.no_grad():
        first.weight -= first.weight.mean((1, 2, 3), keepdim=True)
        first.bias.fill_(0.05)
    layers = [first, TemplateMask(filters) if mask else nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(filters, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_for_a_linear_filter_the_picture_correlates_more_than_any_real_image(kind):
    """The response of a linear filter is its cross-correlation with the picture, so that is what must rise."""
    images = smooth_images(60, 1, (16, 16))
    network = nn.Sequential(nn.Conv2d(1, 3, 7, bias=False), nn.Flatten(), nn.Linear(300, 2))
    with torch.no_grad():
        kernels = nn.functional.avg_pool2d(torch.randn(3, 1, 7, 7, generator=seeded(3)), 3, 1, 1)
        network[0].weight.copy_(kernels - kernels.mean((1, 2, 3), keepdim=True))
    found = visualise_filters(network, images, [0, 1, 2], layer="0", parametrisation=kind, steps=60)
    for channel, picture in enumerate(found.pictures):
        real = nn.functional.conv2d(images, network[0].weight[channel : channel + 1]).amax((1, 2, 3))
        own = nn.functional.conv2d(picture[None], network[0].weight[channel : channel + 1]).amax()
        assert own > real.max()
        assert own.item() == pytest.approx(found.responses[channel].item(), rel=1e-5)


def test_without_a_bound_of_phases_the_sigmoid_goes_to_the_filters_own_signs():
    """A filter as large as the image: the best picture in [0, 1] is 1 where its weight is positive, else 0."""
    images = smooth_images(20, 1, (6, 6))
    network = nn.Sequential(nn.Conv2d(1, 1, 6, bias=False), nn.Flatten(), nn.Linear(1, 2))
    [picture] = visualise_filters(
        network, images, [0], layer="0", parametrisation="fourier", steps=400
    ).pictures
    weight = network[0].weight[0, 0].detach()
    best = float(weight.clamp(min=0).sum())
    assert float((weight * picture[0]).sum()) > 0.8 * best


@pytest.mark.parametrize("size", [(16, 12), (9, 7), (8, 9), (11, 10), (6, 1)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_phases_leave_the_magnitudes_of_real_images(size, channels):
    images = smooth_images(6, channels, size)
    for first in ({"noise": torch.randn(4, channels, *size)}, {"starts": images[:4]}):
        pictures = PhasePictures(images, **first)
        wanted = natural_magnitude(images) if "noise" in first else torch.fft.rfft2(images[:4]).abs()
        with torch.no_grad():
            pictures.values += 3 * torch.randn(pictures.values.shape, generator=seeded())
        spectrum = torch.fft.rfft2(pictures().double()).abs()
        assert torch.allclose(spectrum, wanted.double().expand_as(spectrum), atol=1e-5 * wanted.max())
        assert pictures().mean((0, 2, 3)).detach() == pytest.approx(
            wanted.expand_as(spectrum)[..., 0, 0].mean(0) / (size[0] * size[1]), abs=1e-5
        )


def test_turns_are_those_of_a_real_picture():
    for width in (7, 8):
        turns = odd(torch.randn(2, 6, width // 2 + 1, generator=seeded()), even_width=width % 2 == 0)
        for column in (0, width // 2) if width % 2 == 0 else (0,):
            for row in range(6):
                assert torch.allclose(turns[:, row, column], -turns[:, -row % 6, column])


@pytest.mark.parametrize("kind", KINDS)
def test_what_starts_from_an_image_starts_as_it(kind):
    images = smooth_images(5, 3, (9, 8))
    begun = PARAMETRISATIONS[kind](images, starts=images[:2])()
    assert (begun - images[:2]).abs().max() < 0.021
    still = visualise_filters(
        network_of(), images, [0, 1], layer="1", parametrisation=kind, starts=images[:2], steps=0
    )
    assert (still.pictures - images[:2]).abs().max() < 0.025
    assert torch.equal(still.pictures, still.starts)


def test_what_starts_from_an_image_stays_nearer_the_more_it_costs():
    images, network = smooth_images(10), network_of(filters=8)
    maps = feature_maps(network, images[:4], "1")
    changes = []
    for closeness in (0.0, 30.0):
        found = visualise_filters(
            network, images, range(4), layer="1", starts=images[:4], closeness=closeness, steps=30
        )
        changes.append(float((feature_maps(network, found.pictures, "1") - maps).square().mean()))
    assert changes[1] < changes[0]


def test_frequencies_and_colours_are_what_they_are_called():
    assert frequencies((4, 4))[0].tolist() == [0.25, 0.25, 0.5] and frequencies((4, 4))[2, 0] == 0.5
    images = torch.rand(50, 3, 4, 4, generator=seeded())
    images[:, 1] = images[:, 0] * 0.9
    axes = colour_axes(images)
    assert axes.norm(dim=0).max() == pytest.approx(1)
    covariance = torch.cov(images.transpose(0, 1).flatten(1))
    ratio = (axes @ axes.T) / covariance.norm() / ((axes @ axes.T).norm() / covariance.norm() ** 2)
    assert torch.allclose(ratio, covariance, atol=2e-3 * float(covariance.norm()) + 1e-3)
    grey = images[:, :1].expand(-1, 3, -1, -1)
    assert torch.linalg.cond(colour_axes(grey)) < 1e3  # can be inverted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "size"), [(1, (9, 14)), (3, (12, 12)), (5, (11, 8))])
def test_any_channels_and_size_and_the_same_seed_gives_the_same_picture(kind, channels, size):
    images, network = smooth_images(8, channels, size), network_of(channels)
    first, again, other = (
        visualise_filters(network, images, [2, 0], layer="1", parametrisation=kind, steps=4, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first.pictures.shape == (2, channels, *size)
    assert torch.equal(first.pictures, again.pictures) and not torch.equal(first.pictures, other.pictures)
    assert first.pictures.min() >= 0 and first.pictures.max() <= 1
    steps = first.pictures * 255
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    alone = visualise_filters(network, images, [0], layer="1", parametrisation=kind, steps=4, seed=1)
    assert torch.allclose(alone.pictures[0], first.pictures[1], atol=2 / 255)


@pytest.mark.parametrize("start", ["noise", "exemplar"])
@pytest.mark.parametrize("objective", ["peak", "mean"])
def test_a_masked_network_is_asked_like_any_other_and_left_as_it_was(start, objective):
    images, network = smooth_images(), network_of(mask=True)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = visualise_filters(
        network,
        images,
        torch.arange(4),
        layer="1",
        starts=images[:4] if start == "exemplar" else None,
        objective=objective,
        closeness=0.1,
        steps=25,
    )
    first = feature_maps(network, found.starts, "1")[range(4), range(4)]
    last = feature_maps(network, found.pictures, "1")[range(4), range(4)]
    measured = (lambda maps: maps.amax((1, 2))) if objective == "peak" else (lambda maps: maps.mean((1, 2)))
    assert (measured(last) > measured(first)).all()
    assert network.training and all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_no_channels_give_no_pictures_and_inference_mode_is_no_obstacle():
    images, network = smooth_images(), network_of()
    assert len(visualise_filters(network, images, [], layer="1")) == 0
    with torch.inference_mode():
        assert len(visualise_filters(network, images, [1], layer="1", steps=2)) == 1


def test_a_moved_picture_is_a_little_elsewhere():
    pictures = smooth_images(3, 1, (20, 20))
    generators = [seeded(number) for number in range(3)]
    one, two = moved(pictures, generators), moved(pictures, generators)
    assert one.shape == pictures.shape and not torch.equal(one, two)
    assert 0 < (one - pictures).abs().mean() < 0.2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"parametrisation": "pixels"}, "parametrisation is 'pixels'; expected one of phase, fourier"),
        ({"objective": "loudest"}, "objective is 'loudest'; expected one of peak, mean"),
        ({"steps": -1}, "steps is -1"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"closeness": float("nan")}, "closeness is nan; expected 0 or more"),
        ({"starts": torch.rand(1, 3, 16, 12)}, "starts holds 1 images; expected 2, one per channel"),
        ({"starts": torch.rand(2, 1, 16, 12)}, "starts has shape (2, 1, 16, 12); expected images like"),
        ({"layer": "7"}, "layer '7' is not a module of the network"),
        ({"channels": [0, 9]}, "channels is [0, 9]; expected numbers from 0 to 3, filters of 1"),
        ({"images": torch.rand(3, 16, 12)}, "images has shape (3, 16, 12); expected (M, C, H, W)"),
    ],
)
def test_values_that_make_no_sense_get_a_sentence(words, sentence):
    given = {"images": smooth_images(), "channels": [0, 1], "layer": "1", "steps": 1} | words
    with pytest.raises(ValueError, match=re.escape(sentence)):
        visualise_filters(network_of(), **given)


def test_checks_are_what_a_loop_finds():
    network, pictures = network_of(filters=6), smooth_images(5)
    channels, typical = torch.tensor([0, 3, 5, 3, 1]), torch.tensor([1.0, 2.0, 0.0, 0.5, 1.0, 0.25])
    checks = check_pictures(network, pictures, channels, typical, layer="1", batch_size=2)
    maps = feature_maps(network, pictures, "1")
    for row, channel in enumerate(channels.tolist()):
        relative = {d: float(maps[row, d].max() / typical[d]) for d in range(6) if typical[d] > 0}
        reached = sum(value >= relative[channel] for d, value in relative.items() if d != channel)
        assert checks.reactivation[row] == pytest.approx(relative[channel], rel=1e-5)
        assert checks.rank[row] == 1 + reached and checks.control[row] == pytest.approx(reached / 4)
    with torch.no_grad():
        assert torch.allclose(checks.probabilities.float(), network(pictures).softmax(1), atol=1e-6)
    with pytest.raises(ValueError, match="channels holds 5 numbers; expected 4"):
        check_pictures(network, pictures[:4], channels, typical, layer="1")
    with pytest.raises(ValueError, match="typical holds 3 values; expected 6"):
        check_pictures(network, pictures, channels, torch.ones(3), layer="1")


def test_on_its_exemplars_a_filter_answers_as_on_its_exemplars():
    images, network = smooth_images(), network_of()
    batch = SimpleNamespace(images=images, labels=torch.zeros(12).long(), names=[str(it) for it in range(12)])
    strongest = exemplars(network, [batch], layer="1", count=3)
    typical = typical_peaks(strongest)
    for channel in (~strongest.silent).nonzero().flatten().tolist():
        shown = images[strongest.image_numbers[channel][strongest.image_numbers[channel] >= 0]]
        checks = check_pictures(network, shown, torch.full((len(shown),), channel), typical, layer="1")
        assert checks.reactivation.mean() == pytest.approx(1, rel=1e-5)


def test_a_real_image_is_as_far_as_real_images_are_and_noise_is_farther():
    real = torch.randn(200, 4, generator=seeded())
    assert distances_from_real(real, real).median() == pytest.approx(1, rel=1e-6)
    assert distances_from_real(real[:5] + 50, real).min() > 10
    assert torch.isfinite(distances_from_real(real[:1].repeat(3, 1), real)).all()
    with pytest.raises(ValueError, match="real holds 2 images; expected at least 3"):
        distances_from_real(real, real[:2])


def test_a_mean_over_filters_has_an_interval_and_one_filter_has_none():
    assert str(mean_over(torch.tensor([2.0]))) == "2.000 [nan, nan]"
    found = mean_over(torch.tensor([1.0, 2.0, 3.0, 4.0, torch.nan], dtype=torch.float64))
    assert found.n == 4 and found.low < found.value == 2.5 < found.high


def reading(name, count=3):
    patches = [torch.rand(1, 6, 6, generator=seeded(it)) for it in range(6)]
    checks = {"reactivation": 1.5, "control": 0.25, "rank": 2.0, "distance": 3.0}
    pictures = [
        FilterPicture(
            number,
            "4" if number % 2 else "<seven>",
            torch.full((1, 12, 12), number / 10),
            patches,
            checks | {"control": float("nan")} if number == 2 else checks,
            checks | {"rank": 1.0},
            {"interpretable": ("4", 0.875), "<plain>": ("<seven>", 0.5)},
        )
        for number in range(count)
    ]
    means = {
        "reactivation": Estimate(1.5, 1.25, 1.75, 3),
        "control": Estimate(0.25, n=1),
        "first": Estimate(0.5, 0.25, 0.75, 3),
        "own_class": Estimate(0.5, 0.25, 0.75, 3),
        "distance": Estimate(3.0, 2.0, 4.0, 3),
    }
    return VisualisationReading(name, "conv5", 8, 2, pictures, means, means)


def test_the_page_shows_every_picture_with_its_checks_and_escapes_names(tmp_path):
    readings = [reading("interpretable"), reading("<plain>", 2)]
    page = write_visualisations(tmp_path, readings, facts={"start": "noise"}, first="index.html")
    text = page.read_text("utf-8")
    assert "<plain>" not in text and "<seven>" not in text and "http" not in text
    assert text.count("<article>") == 5 and "25.0 %" in text and "1.25 to 1.75" in text
    sources = re.findall(r'src="([^"]+)"', text)
    assert len([it for it in sources if it.endswith(".png")]) == 10
    for source in sources:
        assert (tmp_path / source).is_file()
    rows = list(csv.DictReader((tmp_path / "feature_visualisation.csv").read_text("utf-8").splitlines()))
    assert [row["filter"] for row in rows] == ["0", "1", "2", "0", "1"]
    assert rows[1]["class"] == "4" and rows[1]["rank"] == "2" and rows[1]["real_rank"] == "1"
    assert rows[0]["probability of <plain>"] == "0.5"
    drawn = np.asarray(Image.open(tmp_path / rows[1]["picture"]))
    assert drawn.shape == (12, 12, 3) and (drawn == round(25.5)).all()
    assert len(list(tmp_path.glob("feature_visualisation-*.png"))) == 2
    assert said_of_pictures(readings[0]) == (
        "interpretable: 3 pictures, re-activation 1.50, as much by 25.0 % of the other filters (on real images "
        "25.0 %), class seen in 50 % [25, 75], 3.0 times as far from real images as these from each other"
    )


@pytest.mark.parametrize("start", ["noise", "exemplar"])
def test_filters_of_networks_are_drawn_on_their_own_images(start, tmp_path, monkeypatch):
    from interp_cnn.discovery import feature_visualisation as room

    digits = data()
    mine = asked_of(digits)
    subjects = [SimpleNamespace(name=name, data=digits) for name in ("mine", "yours")]
    monkeypatch.setattr(room, "pretrained_features", lambda device: None)

    def asked(subject, device, layer):
        return SimpleNamespace(**{**vars(mine), "name": subject.name})

    monkeypatch.setattr(room, "asked_of", asked)
    settings = Visualisation(filters=3, steps=2, images=20, start=start)
    request = VisualisationRequest(subjects, torch.device("cpu"), None, settings, 0, "index.html")
    page, sentences = explain_visualisations(request, tmp_path)
    assert [it.split(",")[0] for it in sentences] == ["mine: 3 pictures", "yours: 3 pictures"]
    assert "class seen by the others" in page.read_text("utf-8")
    rows = list(csv.DictReader((tmp_path / "feature_visualisation.csv").read_text("utf-8").splitlines()))
    assert len(rows) == 6 and all(float(row["distance"]) > 0 for row in rows)
    assert all(row["class seen by mine"] == row["class seen by yours"] for row in rows)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["filters=0"], "feature_visualisation.filters=0: expected 1 or more"),
        (["steps=0"], "feature_visualisation.steps=0: expected 1 or more"),
        (["images=2"], "feature_visualisation.images=2: expected 3 or more"),
        (["closeness=-1"], "feature_visualisation.closeness=-1: expected 0 or more"),
        (["parametrisation=pixels"], "parametrisation=pixels: expected phase or fourier"),
        (["start=here"], "feature_visualisation.start=here: expected noise or exemplar"),
        (["objective=most"], "feature_visualisation.objective=most: expected peak or mean"),
    ],
)
def test_what_cannot_be_drawn_is_said(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [f"feature_visualisation.{word}" for word in words]
    assert cli.main(["explain", "digits-plain", "what=[feature_visualisation]", *given]) == 2
    assert sentence in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_draws_filters_of_a_network_that_comes_along(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["filters=2", "steps=1", "images=4"]
    given = [f"feature_visualisation.{word}" for word in words]
    assert cli.main(["explain", "digits-plain", "what=feature_visualisation", *given]) == 0
    said = capsys.readouterr().out
    assert "plain: 2 pictures, re-activation" in said
    page = tmp_path / re.search(r"Pictures of filters: (\S+)", said)[1]
    assert page.name == "index.html" and page.with_name("feature_visualisation.csv").is_file()


def test_fourier_pictures_need_no_images_of_many_colours():
    images = torch.full((3, 3, 8, 8), 0.25)
    pictures = FourierPictures(images, noise=torch.zeros(1, 3, 8, 8))()
    assert torch.allclose(pictures, torch.tensor(0.25), atol=1e-6)
