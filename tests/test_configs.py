"""Every file of conf/: composes for its command, names what exists, and reads the same in help as in Hydra."""

import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from interp_cnn.cli import config_text
from interp_cnn.cli.main import COMMANDS

CHOICES = [(group, choice) for group, choices in config_text.groups().items() for choice in choices]


@pytest.fixture(scope="module", autouse=True)
def hydra():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_text.config_folder()), version_base="1.3"):
        yield


@cache
def composed(command: str, *overrides: str) -> DictConfig:
    return compose(command, overrides=list(overrides))


def plain(command: str, *overrides: str) -> dict[str, Any]:
    return OmegaConf.to_container(composed(command, *overrides), resolve=True, throw_on_missing=True)


def commands_with(group: str) -> list[str]:
    return [command for command in COMMANDS if group in config_text.chosen(command)]


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and "_target_" not in value and value:
            yield from leaves(value, f"{prefix}{key}.")
        elif not key.startswith("_") and not (isinstance(value, dict) and "_target_" in value):
            yield f"{prefix}{key}", value


def targets(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield tree
        for value in tree.values():
            yield from targets(value)


def located(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes_as_it_is_and_needs_nothing_else(command):
    assert plain(command)["seed"] == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_writes_into_a_folder_of_its_own_and_stays_where_it_was_called(command):
    hydra = compose(command, return_hydra_config=True).hydra
    assert hydra.run.dir.startswith(f"outputs/{command}/2")
    assert hydra.sweep.dir.startswith(f"outputs/{command}/multirun/2")
    assert not hydra.job.chdir
    assert hydra.job.name == command


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_a_choice_composes_for_the_commands_that_have_its_group(group, choice):
    commands = ["compare"] if group == "experiment" else commands_with(group)
    assert commands, f"no command has the group {group}"
    assert plain(commands[0], f"{group}={choice}")
    if choice == config_text.groups()[group][0]:  # by a command without a default choice of the group
        assert plain(commands[-1], f"{group}={choice}")


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_target_exists_and_takes_the_keys_it_is_given(group, choice):
    command = "compare" if group == "experiment" else commands_with(group)[0]
    for node in targets(plain(command, f"{group}={choice}")):
        check_call(node)


def check_call(node: dict[str, Any]) -> None:
    """Fits the keys of a `_target_` to its signature; what it passes on must fit the part it passes it to."""
    given = {key for key in node if not key.startswith("_")}
    parameters = inspect.signature(located(node["_target_"])).parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    passed_on = given - named
    if passed_on:
        assert any(p.kind is p.VAR_KEYWORD for p in parameters), f"{node['_target_']} takes no {passed_on}"
        inner = [value for value in node.values() if isinstance(value, dict) and value.get("_partial_")]
        assert len(inner) == 1, f"{node['_target_']} passes {passed_on} on to nothing"
        known = inspect.signature(located(inner[0]["_target_"])).parameters
        assert passed_on <= set(known), f"{inner[0]['_target_']} takes no {passed_on - set(known)}"
    if not node.get("_partial_"):
        required = {p.name for p in parameters if p.default is p.empty and p.name in named}
        assert required <= given, f"{node['_target_']} needs {required - given}"


def test_a_target_with_a_key_too_many_is_seen():
    digits = plain("compare", "data=digits")["data"]
    check_call(digits)
    with pytest.raises(AssertionError, match="stroke"):
        check_call({**digits, "stroke": 1})
    with pytest.raises(AttributeError, match="Digit"):
        check_call({**digits, "_target_": "interp_cnn.data.digits.Digit"})


@pytest.mark.parametrize("name", [*COMMANDS, *(f"{group}/{choice}" for group, choice in CHOICES)])
def test_every_file_says_in_its_first_line_what_it_is_for(name):
    assert 15 <= len(config_text.description(name)) <= 140


@pytest.mark.parametrize(("group", "choice"), [pair for pair in CHOICES if pair[0] != "experiment"])
def test_help_lists_the_keys_and_values_that_hydra_composes(group, choice):
    config = composed(commands_with(group)[0], f"{group}={choice}")[group]
    shown = {s.key: yaml.safe_load(s.default) for s in config_text.settings(f"{group}/{choice}")}
    assert shown == dict(leaves(OmegaConf.to_container(config, resolve=False)))


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_the_values_of_a_choice_are_of_the_kinds_that_the_command_line_asks_for(group, choice):
    command = "compare" if group == "experiment" else commands_with(group)[0]
    config = composed(command, f"{group}={choice}")
    for setting in config_text.composed(command, {group: choice}):
        config_text.check_kind(setting, OmegaConf.select(config, setting.key))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_the_top_level_keys_of_a_command(command):
    composed = plain(command)
    shown = {setting.key for setting in config_text.settings(command)}
    assert shown == {
        key for key, _ in leaves({k: composed[k] for k in composed if k not in config_text.groups()})
    }


def test_an_experiment_holds_differences_only():
    for choice in config_text.groups().get("experiment", []):
        source = yaml.safe_load((config_text.config_folder() / "experiment" / f"{choice}.yaml").read_text())
        switched = [
            f"{key.removeprefix('override /')}={value}"
            for entry in source.pop("defaults", [])
            if isinstance(entry, dict)
            for key, value in entry.items()
        ]
        without = dict(leaves(plain("compare", *switched)))
        same = [key for key, value in leaves(source) if key in without and without[key] == value]
        assert not same, f"experiment={choice}: already so without it: {same}"
