"""Results kept on disk carry the code that made them: other code, wherever it stands, is another fingerprint."""

import sys
import warnings

import pytest
import torch

from interp_cnn.attribution import folder as attribution_folder
from interp_cnn.discovery import stages
from interp_cnn.storage import fingerprints
from interp_cnn.storage.fingerprints import code_of, fingerprint
from interp_cnn.studies import parts


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a sub-package, importable as `rooms_for_a_test`."""
    inner = tmp_path / "rooms_for_a_test" / "inner"
    inner.mkdir(parents=True)
    for place in (inner.parent, inner):
        (place / "__init__.py").touch()
    (inner / "rule.py").write_text("FACTOR = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield inner.parent
    sys.modules.pop("rooms_for_a_test", None)


def test_a_changed_line_or_a_new_file_in_a_sub_folder_is_another_code(package):
    before = code_of("rooms_for_a_test")
    assert code_of("rooms_for_a_test") == before
    (package / "inner" / "rule.py").write_text("FACTOR = 2\n")
    changed = code_of("rooms_for_a_test")
    (package / "inner" / "new.py").touch()
    added = code_of("rooms_for_a_test")
    (package / "inner" / "new.py").rename(package / "new.py")
    moved = code_of("rooms_for_a_test")
    (package / "inner").rename(package / "innermost")
    renamed = code_of("rooms_for_a_test")
    assert len({before, changed, added, moved, renamed}) == 5


def test_files_that_only_word_results_may_be_left_out(package):
    before = code_of("rooms_for_a_test", without=lambda stem: stem.endswith("findings"))
    (package / "inner" / "some_findings.py").write_text("TEXT = 'much'\n")
    assert code_of("rooms_for_a_test", without=lambda stem: stem.endswith("findings")) == before


def test_what_is_no_package_is_refused():
    with pytest.raises(ValueError, match="dotted name of a package"):
        code_of("interp_cnn.storage.files")


@pytest.mark.parametrize(
    ("fingerprint", "rooms"),
    [
        (lambda: parts.fingerprint_of(1), {"explanation", "evaluation", "studies"}),
        (stages.code_fingerprint, {"explanation", "evaluation", "discovery"}),
    ],
)
def test_every_cache_reads_all_rooms_that_make_its_results(fingerprint, rooms, monkeypatch):
    """A file planted below any of the rooms changes the cache's fingerprint; one elsewhere does not."""
    asked = []
    places = fingerprints._places
    monkeypatch.setattr(fingerprints, "_places", lambda package: asked.append(package) or places(package))
    fingerprint()
    assert {f"interp_cnn.{room}" for room in rooms} == set(asked)


def test_maps_kept_in_a_folder_depend_on_all_rooms_of_explanation(tmp_path, monkeypatch):
    place = tmp_path / "propagation"
    place.mkdir()
    (place / "rule.py").touch()
    monkeypatch.setattr(fingerprints, "_places", lambda package: (tmp_path,))
    before = attribution_folder.code_of("interp_cnn.explanation")
    (place / "rule.py").write_text("FACTOR = 2")
    assert attribution_folder.code_of("interp_cnn.explanation") != before


class ExtraState(torch.nn.Linear):
    """A layer whose state is not tensors alone."""

    version = 3

    def get_extra_state(self) -> dict:
        return {"version": self.version, "scales": [torch.ones(2), 0.5]}


class Named(torch.nn.Module):
    """One parameter, of a name that its description does not tell."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.register_parameter(name, torch.nn.Parameter(torch.ones(2)))


def test_the_names_of_weights_are_part_of_a_networks_fingerprint():
    assert fingerprint(Named("scale")) == fingerprint(Named("scale")) != fingerprint(Named("shift"))


def test_states_that_are_no_tensors_are_part_of_a_networks_fingerprint():
    torch.manual_seed(0)
    network = ExtraState(2, 2)
    before = fingerprint(network)
    assert before == fingerprint(network)
    network.version = 4
    assert fingerprint(network) != before


def test_quantised_weights_are_part_of_a_networks_fingerprint():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        networks = [torch.nn.Sequential(torch.nn.Linear(3, 3)) for _ in range(2)]
        quantise = torch.ao.quantization.quantize_dynamic
        first, second = (quantise(one, {torch.nn.Linear}, dtype=torch.qint8) for one in networks)
    assert fingerprint(first) == fingerprint(first) != fingerprint(second)


def test_equal_values_that_are_quantised_otherwise_are_another_fingerprint():
    found = []
    for kind in (torch.qint8, torch.quint8):
        network = torch.nn.Module()
        network.register_buffer("table", torch.quantize_per_tensor(torch.ones(2), 0.5, 0, kind))
        found.append(fingerprint(network))
    assert found[0] != found[1]
