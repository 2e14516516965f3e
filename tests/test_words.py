"""Folders, `latest` and lists without brackets on the command line."""

import os

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from interp_cnn.cli import main as cli
from interp_cnn.cli.words import latest, overrides


def read(override: str):
    """What Hydra reads in one override."""
    return OverridesParser.create().parse_override(override).value()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["A", "with space", "model=plain,seed=0", "it's", "back\\slash", "a[0](1){2}"]
)
def test_a_folder_of_any_name_is_the_value_of_run(name, here):
    (here / name).mkdir()
    [found] = overrides("explain", [name])
    assert found.startswith("run=") and read(found) == name
    [found] = overrides("evaluate", [name])
    assert found.startswith("runs=") and read(found) == [name]


def test_folders_stand_anywhere_and_keep_their_order(here):
    for name in ("B", "A"):
        (here / name).mkdir()
    folders, *others = overrides("evaluate", ["B", "--cfg", "job", "seed=1", "A"])
    assert read(folders) == ["B", "A"]
    assert others == ["--cfg", "job", "seed=1"]


@pytest.mark.parametrize("command", ["train", "compare"])
def test_commands_without_runs_take_no_folder(command, here):
    (here / "A").mkdir()
    assert overrides(command, ["A"]) == ["A"]


def test_a_folder_that_is_not_there_and_one_named_twice_are_refused_with_nothing_left_behind(here, capsys):
    (here / "A").mkdir()
    for words, said in (
        (["explain", "nowhere"], "No such run folder: nowhere"),
        (["evaluate", "A", "nowhere"], "No such run folder: nowhere"),
        (["export", "A", "run=A"], "A and run= both name run folders; write one of them"),
        (["explain", "latest"], "latest: no run in outputs/"),
        (["explain", "run=latest"], "latest: no run in outputs/"),
        (["board", "latest"], "latest: no run in outputs/"),
        (["evaluate", "runs=A,nowhere"], "runs: No such file or directory: nowhere"),
    ):
        assert cli.main(words) == 2, words
        assert said in capsys.readouterr().err
        assert os.listdir(here) == ["A"]


def test_latest_is_the_run_that_was_begun_last_finished_or_not_but_no_folder_of_maps(here):
    for folder in (
        "train/2026-01-31_12-00-00",
        "compare/2026-02-01_12-00-00/plain",
        "explain/2026-03-01_12-00-00",
    ):
        (here / "outputs" / folder).mkdir(parents=True)
        (here / "outputs" / folder / "config.yaml").touch()
    (here / "outputs/train/2026-04-01_12-00-00").mkdir()  # refused before anything was written
    newest = os.path.join("outputs", "compare", "2026-02-01_12-00-00")
    assert str(latest()) == newest
    for word in ("latest", "run=latest"):
        [found] = overrides("export", [word])
        assert read(found) == newest
    for word in ("latest", "runs=latest", "runs=[latest]"):
        [found] = overrides("evaluate", [word])
        assert found.startswith("runs=[") and newest in found


def test_lists_need_no_brackets_unless_a_sweep_is_meant():
    assert overrides("explain", ["methods=lrp,occlusion"]) == ["methods=[lrp,occlusion]"]
    assert overrides("compare", ["methods=lrp"]) == ["methods=[lrp]"]
    assert overrides("evaluate", ["runs=A"]) == ["runs=[A]"]
    assert overrides("explain", ["what=maps,patterns"]) == ["what=[maps,patterns]"]
    for kept in (
        "methods=null",
        "methods=[lrp]",
        "methods='[lrp]'",
        "seed=1,2",
        "window=1,2",
        "methods=${what}",
    ):
        assert overrides("explain", [kept]) == [kept]
    assert overrides("explain", ["-m", "methods=lrp,occlusion"]) == ["-m", "methods=lrp,occlusion"]


def test_a_list_longer_than_any_name_of_a_file_is_a_setting():
    long = "methods=" + ",".join(["occlusion"] * 60)
    assert overrides("explain", [long, "limit=2"]) == [
        f"methods=[{long.removeprefix('methods=')}]",
        "limit=2",
    ]
