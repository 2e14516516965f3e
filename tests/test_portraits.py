"""What the report shows of trained networks: masks, decodes, maps and answers are those of the networks."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_training import data

from interp_cnn.attribution.request import MapSettings
from interp_cnn.commands.compare_contents import (
    confusion,
    contested_first,
    filter_decodes,
    filter_masks,
    mistaken,
    pages_beside,
    sample_images,
)
from interp_cnn.explanation.filters.exemplars import exemplars
from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.network.feature_maps import feature_maps
from interp_cnn.explanation.occlusion.maps import occlusion_map
from interp_cnn.model.backbones import build_network
from interp_cnn.model.interpretable_conv import kept_feature_maps
from interp_cnn.report import Network
from interp_cnn.report.folder import GENERATOR
from interp_cnn.runs.inputs import set_pictures, spread


@pytest.fixture(scope="module")
def digits():
    return data()


def network_of(digits, *, enabled: bool):
    torch.manual_seed(0)
    sizes = {"image_size": (24, 24), "widths": [4, 4, 4, 4, 6], "mask": {"enabled": enabled}}
    return build_network(
        "small_cnn", num_classes=10, channels=1, mean=digits.mean, std=digits.std, **sizes
    ).eval()


def few(digits, count: int = 24):
    samples = [digits.val_set[number] for number in range(count)]
    images = torch.stack([sample.image for sample in samples])
    labels = torch.tensor([sample.label for sample in samples])
    return [SimpleNamespace(images=images, labels=labels, names=[sample.name for sample in samples])]


def test_a_filters_mask_is_what_turns_its_map_into_what_is_passed_on(digits):
    network = network_of(digits, enabled=True)
    found = exemplars(network, few(digits), layer="conv5", count=3)
    masks = filter_masks(network, found)
    assert masks.shape == found.maps.shape
    for number, rank in [(0, 0), (3, 2), (5, 1)]:
        image = found.images[int(found.image_numbers[number, rank])].float()[None] / 255
        with kept_feature_maps(network) as kept, torch.no_grad():
            network(image)
            before = kept["conv5"][0, number].clone()
        passed_on = feature_maps(network, image, "conv5")[0, number]
        torch.testing.assert_close(before * masks[number, rank], passed_on)
    assert filter_masks(network_of(digits, enabled=False), found) is None


def test_a_decoder_is_shown_one_filters_map_and_nothing_else(digits):
    network = network_of(digits, enabled=True)
    found = exemplars(network, few(digits), layer="conv5", count=2)
    seen = []

    def decoder(maps):
        seen.append(maps)
        return maps.sum((1, 2, 3))[:, None, None, None].expand(-1, 1, 24, 24)

    pictures = filter_decodes(network, decoder, found)
    assert pictures.shape == (6, 1, 24, 24)
    for maps in seen:
        assert (maps.abs().amax((2, 3)) > 0).sum(1).max() <= 1
    image = found.images[int(found.image_numbers[2, 0])].float()[None] / 255
    assert pictures[2, 0, 0, 0] == pytest.approx(
        feature_maps(network, image, "conv5")[0, 2].sum().item(), rel=1e-4
    )


def test_every_method_explains_the_true_class_of_the_same_images_for_both_networks(digits, tmp_path):
    networks = {kind: network_of(digits, enabled=kind == "a") for kind in ("a", "b")}
    runs = [
        SimpleNamespace(kind=kind, network=it, data=digits, layers=["conv5"], seen=None, folder=tmp_path)
        for kind, it in networks.items()
    ]
    settings = MapSettings(("occlusion", "saliency"), Options(window=6, stride=6), target="true")
    portraits = [
        Network(
            kind,
            "conv5",
            0,
            {},
            pd.DataFrame({"filter": range(6)}),
            exemplars(it, few(digits), layer="conv5"),
        )
        for kind, it in networks.items()
    ]
    samples = sample_images(
        runs, portraits, tmp_path, pictures=spread(set_pictures(digits), 3), settings=settings
    )
    assert {(one.network, one.target) for one in samples[1].decisions} >= {("a", "1"), ("b", "1")}
    assert list(samples[0].maps) == ["a.occlusion", "a.saliency", "b.occlusion", "b.saliency"]
    assert [sample.record.label for sample in samples] == ["0", "1", "2"]
    sample = samples[1]
    assert [answer.target for answer in sample.record.answers] == ["1", "1"]
    image, target = torch.from_numpy(sample.image)[None], torch.tensor([1])
    expected = occlusion_map(networks["b"], image, target, window=6, stride=6, overhang="end")[0]
    np.testing.assert_allclose(sample.maps["b.occlusion"], expected, atol=1e-5)
    peaks = feature_maps(networks["a"], image, "conv5").amax((2, 3))[0]
    np.testing.assert_allclose(sample.peaks["a"], peaks, atol=1e-5)
    with torch.no_grad():
        chances = networks["a"](image).softmax(1)[0]
    first = sample.record.answers[0].scores[0]
    assert (first.name, first.probability) == (
        str(int(chances.argmax())),
        pytest.approx(float(chances.max()), abs=1e-5),
    )


def test_answers_are_counted_by_class():
    observed = SimpleNamespace(labels=torch.tensor([0, 1, 1, 2]), predictions=torch.tensor([0, 1, 0, 0]))
    counts = confusion(SimpleNamespace(observations=observed), 3)
    assert counts.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0]]


def test_pages_of_ours_beside_the_report_are_found_and_no_others(tmp_path):
    for place, text in {
        "report": GENERATOR,
        "patterns": GENERATOR,
        "interpretable/decoder_gallery": GENERATOR,
        "patterns/images/a": GENERATOR,
        "other": "<html>",
    }.items():
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "index.html").write_text(f"<head>{text}</head>")
    assert pages_beside(tmp_path / "report") == {
        "Interpretable decoder gallery": "../interpretable/decoder_gallery/index.html",
        "Patterns": "../patterns/index.html",
    }


def test_images_that_a_network_gets_wrong_come_first_and_are_half_at_most(digits):
    labels = digits.val_set.labels
    right, wrong = labels.clone(), labels.clone()
    wrong[3], wrong[7], wrong[11] = (wrong[[3, 7, 11]] + 1) % 10
    names = [one.name for one in set_pictures(digits)]
    chosen = [one.name for one in contested_first(digits, [right, wrong], 10)]
    assert {*chosen[:3]} == {names[3], names[7], names[11]} and len({*chosen}) == 10
    chosen = [one.name for one in contested_first(digits, [right, wrong], 4)]
    assert len({*chosen[:2]} & {names[3], names[7], names[11]}) == 2
    assert not {*chosen[2:]} & {names[3], names[7], names[11]}
    everything = contested_first(digits, [(labels + 1) % 10, right], 6)
    assert len({one.name for one in everything}) == 6
    assert [it.name for it in contested_first(digits, [right], 5)] == [
        it.name for it in spread(set_pictures(digits), 5)
    ]


def test_mistaken_images_have_the_networks_answer(digits):
    answers = digits.val_set.labels.clone()
    answers[4] = (answers[4] + 3) % 10
    (one,) = mistaken(digits, answers)
    assert one.name == digits.val_set.names[4] and one.answer == digits.classes[int(answers[4])]
    assert one.label == digits.classes[int(digits.val_set.labels[4])]
    np.testing.assert_array_equal(one.image, digits.val_set[4].image)
