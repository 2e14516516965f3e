"""The command line as a user meets it: help, refusals, exit codes, tab completion, TensorBoard, the wheel."""

import json
import logging
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import types
import urllib.request
import zipfile
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf

from interp_cnn.cli import completion, config_text, errors, limits, usage
from interp_cnn.cli import main as cli
from interp_cnn.storage.files import alone_in

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAM = Path(sys.executable).with_name("interp-cnn")


def call(*words: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "interp_cnn", *words],
        cwd=folder or REPOSITORY,
        env={**os.environ, "HYDRA_FULL_ERROR": "0", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Stands in for the command module `train`: says what it was given, and fails as it is told to."""
    module = types.ModuleType("interp_cnn.commands.train")
    module.seen, module.fail = [], lambda config: None

    def run(config):
        module.fail(config)
        module.seen.append(config)
        logging.getLogger("interp_cnn.commands.train").info("trained with seed %s", config.seed)

    module.run = run
    monkeypatch.setitem(sys.modules, "interp_cnn.commands.train", module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    GlobalHydra.instance().clear()
    handlers, level = logging.root.handlers[:], logging.root.level
    yield module
    for handler in set(logging.root.handlers) - set(handlers):
        handler.close()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def raising(error: BaseException):
    def fail(config):
        raise error

    return fail


# Help


def test_the_bare_program_lists_every_command_and_every_group_with_its_choices(capsys):
    assert cli.main([]) == 0
    bare = capsys.readouterr().out
    for command in (*cli.COMMANDS, *cli.PLAIN_COMMANDS):
        assert f"\n  {command} " in bare
    for group, choices in config_text.groups().items():
        assert any(line.split()[0] == group and all(c in line for c in choices) for line in rows(bare))
    for words in (["--help"], ["-h"], ["help"]):
        assert cli.main(words) == 0
        assert capsys.readouterr().out == bare


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_command_tells_its_choices_its_settings_and_their_defaults(command, capsys):
    assert cli.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert config_text.description(command) in shown
    assert "  seed=0 " in shown
    for group, default in config_text.chosen(command).items():
        for choice in config_text.groups().get(group, []):
            assert f"{'*' if choice == default else ' '} {group}={choice} " in shown


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_settings_used_most_come_first_and_all_of_them_when_asked(command, capsys):
    asked = usage.MOST_USED[command]
    assert [one.key for one in usage.most_used(command)] == list(asked) and len(asked) <= 20
    cli.main([command, "--help"])
    short = capsys.readouterr().out
    assert short.index(f"interp-cnn {command} --help all") < short.index("config groups")
    cli.main([command, "--help", "all"])
    every = capsys.readouterr().out
    for setting in config_text.composed(command, {}):
        assert f"  {setting.key}={setting.default}" in every
    assert len(every) > len(short)


def test_a_wrong_method_is_said_before_torch_is_loaded_and_leaves_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for words in (["explain", "network=torchvision:resnet18"], ["compare"]):
        assert cli.main([*words, "methods=lrp,ocllusion"]) == 2
        said = capfd.readouterr().err
        assert "no method 'ocllusion'; did you mean occlusion? (occlusion, occlusion_refined," in said
        assert not any(tmp_path.iterdir())
    script = "import sys, interp_cnn.explanation.methods.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_help_with_a_choice_adds_the_settings_of_that_choice(capsys):
    cli.main(["train", "data=animal_parts", "--help"])
    shown = capsys.readouterr().out
    assert "data.categories=null" in shown
    assert "data.distractors" not in shown


def test_a_choice_that_builds_on_another_shows_its_own_values_and_the_other_ones_words():
    plain = {setting.key: setting for setting in config_text.settings("model/plain")}
    assert plain["mask.enabled"].default == "false"
    base = {setting.key: setting for setting in config_text.settings("model/interpretable")}
    assert base["mask.enabled"].default == "true" and base["mask.enabled"].comment
    assert plain["mask.enabled"].comment == base["mask.enabled"].comment
    assert plain["mask.beta"] == base["mask.beta"]


def test_the_version_is_that_of_the_installed_package(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("interp-cnn 0.")


def test_help_stops_without_a_word_when_nobody_reads_on():
    reader = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m interp_cnn train --help | head -1; exit ${{PIPESTATUS[0]}}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert (reader.returncode, reader.stderr) == (0, "")


@pytest.mark.parametrize("words", [(), ("--help",), ("compare", "--help"), ("train", "data=mnist", "-h")])
def test_help_answers_without_heavy_libraries(words):
    answered = call(*words, PYTHONVERBOSE="1")
    assert answered.returncode == 0
    loaded = answered.stderr
    assert "import 'yaml'" in loaded
    for library in ("torch", "pandas", "matplotlib", "pytorch_lightning", "hydra", "tensorboard", "numpy"):
        assert f"import '{library}'" not in loaded


# Running a command


def test_a_command_gets_its_configuration_and_leaves_log_and_configuration_in_its_run_folder(train, capfd):
    assert cli.main(["train", "seed=3", "model=plain", "data.distractors=7"]) == 0
    [config] = train.seen
    assert (config.seed, config.model.kind, config.data.distractors) == (3, "plain", 7)
    [folder] = Path("outputs/train").iterdir()
    assert "trained with seed 3" in (folder / "train.log").read_text()
    assert "distractors: 7" in (folder / ".hydra" / "config.yaml").read_text()
    assert capfd.readouterr() == ("", "")


def test_arguments_of_the_program_stay_as_they_were_for_processes_started_later(train, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["interp-cnn", "train", "seed=1"])
    train.fail = lambda config: train.seen.append(list(sys.argv))
    assert cli.main() == 0
    assert train.seen[0] == ["interp-cnn", "train", "seed=1"]


def test_a_sweep_runs_every_combination_in_folders_of_its_own(train, capsys):
    assert cli.main(["train", "-m", "seed=0,1", "model=interpretable,plain"]) == 0
    assert [(config.seed, config.model.kind) for config in train.seen] == [
        (0, "interpretable"),
        (0, "plain"),
        (1, "interpretable"),
        (1, "plain"),
    ]
    [sweep] = Path("outputs/train/multirun").iterdir()
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["0", "1", "2", "3"]


def test_a_sweep_goes_on_after_a_failed_job_and_names_it_at_the_end(train, capsys):
    def fail(config):
        if config.seed == 1:
            raise ValueError("one is not wanted")

    train.fail = fail
    assert cli.main(["train", "-m", "seed=0,1,2"]) == 2
    assert [config.seed for config in train.seen] == [0, 2]
    assert capsys.readouterr().err == "interp-cnn: the job seed=1: one is not wanted\n"


def test_jobs_of_a_sweep_that_fail_alike_are_told_of_once(train, capsys):
    train.fail = raising(ValueError("no such photographs"))
    assert cli.main(["train", "-m", "seed=0,1,2"]) == 2
    assert capsys.readouterr().err == "interp-cnn: the job seed=0 and 2 more: no such photographs\n"


def test_a_sweep_refuses_a_trainer_that_would_start_the_sweep_again(train, capsys):
    assert cli.main(["train", "-m", "seed=0,1", "trainer=ddp_cpu"]) == 2
    assert "take a trainer without ddp, or hydra/launcher=submitit_slurm" in capsys.readouterr().err
    assert train.seen == []
    assert cli.main(["train", "trainer=ddp_cpu"]) == 0


def test_flags_may_stand_between_overrides(train):
    assert cli.main(["train", "seed=1", "-m", "model=plain,mask_only", "data.distractors=1"]) == 0
    assert [config.model.kind for config in train.seen] == ["plain", "mask_only"]


def test_the_configuration_can_be_printed_without_running(train, capsys):
    assert cli.main(["train", "--cfg", "job", "seed=9"]) == 0
    assert "\nseed: 9\n" in capsys.readouterr().out
    assert train.seen == []
    assert not Path("outputs").exists()


# Refusals


REFUSED = [
    (["trian"], "no command 'trian'; did you mean train? (compare, train, "),
    (["seed=1"], "no command 'seed=1'; the command comes first: (compare, "),
    (["-m", "train"], "the command comes first"),
    (["train", "seeed=1"], "no setting 'seeed'; did you mean seed?"),
    (["evaluate", "trainer=cpu"], "evaluate takes no 'trainer', which is a choice of compare, study, train"),
    (["train", "datta=digits"], "no setting 'datta'; did you mean data?"),
    (["train", "data.distractor=1"], "no setting 'data.distractor'; did you mean data.distractors?"),
    (["train", "distractors=1"], "no setting 'distractors'; did you mean data.distractors?"),
    (["train", "data=animal_parts", "data.categoriez=[fox]"], "did you mean data.categories?"),
    (["train", "data.zzz=1"], "no setting 'data.zzz'; data has "),
    (["train", "data.zzz.yyy=1"], "no setting 'data.zzz.yyy'; data has "),
    (["train", "zzz=1"], "no setting 'zzz'; train has ckpt_path, data, "),
    (["train", "~data.zzz"], "no setting 'data.zzz'; data has "),
    (["train", "zzz/yyy=1"], "no setting 'zzz/yyy'; train has "),
    (["train", "hydra.run.dirr=x"], "no setting 'hydra.run.dirr'; did you mean hydra.run.dir?"),
    (["train", "data=digitz"], "no data=digitz; did you mean digits? (data: animal_parts, "),
    (["train", "model=zzz"], "no model=zzz (model: interpretable, "),
    (["train", "trainer=dpp"], "did you mean ddp"),
    (["train", "+data=digits"], "data is chosen twice: write data=CHOICE without the +"),
    (["train", "+seed=1"], "seed exists already: leave out the +"),
    (["train", "data.root"], "'data.root' is not KEY=VALUE: write data.root=VALUE"),
    (["train", "seed=a==b"], "'seed=a==b' cannot be read: "),
    (["train", "seed=1,2"], "'seed=1,2' has several values: add -m to run each, or write seed=[1,2]"),
    (["train", "hydra.job.chdir=perhaps"], "Value 'perhaps' is not a valid bool"),
    (["train", "hydra/launcher=nowhere"], "pip install 'interp-cnn[launchers]' adds more"),
    (["train", "--cfg", "jab"], "invalid choice: 'jab'"),
    (["train", "--quick"], "unrecognized arguments: --quick (interp-cnn train --help"),
    (["train", "-m", "data=digits,digitz"], "no data=digitz; did you mean digits?"),
    (["train", "-m", "seeed=1,2"], "no setting 'seeed'; did you mean seed?"),
    (["train", "-m", "seed=1,2", "data.distractor=1"], "did you mean data.distractors?"),
    (["completion", "tcsh"], "completion takes one of bash, zsh, fish, not tcsh"),
    (["board", "nowhere"], "No such run folder: nowhere"),
    (["board", ".", "--port", "http"], "--port"),
    (["board", "--prt"], "board takes a folder and --port N: "),
]


@pytest.mark.parametrize(("words", "part"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_a_mistake_is_answered_by_one_sentence_and_exit_code_2(words, part, train, capfd):
    assert cli.main(words) == 2
    out, err = capfd.readouterr()
    assert part in err
    assert err.startswith("interp-cnn: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert out == ""
    assert train.seen == []


SAID = [
    (ValueError("templates must be at least 1, not 0"), "templates must be at least 1, not 0"),
    (ValueError("two\nlines"), "two lines"),
    (
        FileNotFoundError("no weights in x; interp-cnn train writes them"),
        "no weights in x; interp-cnn train writes",
    ),
    (
        FileNotFoundError(2, "No such file or directory", "somewhere/else"),
        "No such file or directory: somewhere/else",
    ),
    (PermissionError(13, "Permission denied", "locked"), "Permission denied: locked"),
    (OSError(28, "No space left on device"), "No space left on device"),
]


@pytest.mark.parametrize(("error", "part"), SAID, ids=lambda value: type(value).__name__)
def test_what_a_room_refuses_is_told_in_its_own_words(error, part, train, capfd):
    train.fail = raising(error)
    assert cli.main(["train"]) == 2
    err = capfd.readouterr().err
    assert part in err
    assert err.count("\n") == 1


def test_the_log_of_the_run_keeps_the_traceback_that_the_terminal_does_not_show(train, capfd):
    train.fail = raising(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    cli.main(["train"])
    [folder] = Path("outputs/train").iterdir()
    assert "Traceback" in (folder / "train.log").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["explain", "images=nowhere"], "images: No such file or directory: nowhere"),
        (["explain", "images=3"], "images: No such file or directory: 3"),
        (["export", "images=3"], "run=FOLDER"),
        (["export", "images=3", "run=nowhere"], "run: No such file or directory: nowhere"),
        (["study", "images=3"], "which study?"),
    ],
)
def test_images_are_a_folder_where_they_are_explained_and_a_number_elsewhere(words, said, capfd):
    assert cli.main(words) == 2
    assert said in capfd.readouterr().err


def test_a_missing_file_is_answered_with_the_names_beside_it(train, capfd, tmp_path):
    (tmp_path / "weights.pt").touch()
    train.fail = lambda config: Path("wieghts.pt").read_bytes()
    assert cli.main(["train"]) == 2
    assert "No such file or directory: wieghts.pt; did you mean weights.pt?" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("seed=one", "seed=one does not fit: expected a number (default 0)"),
        ("seed=true", "seed=True does not fit: expected a number (default 0)"),
        (
            "model.mask.enabled=off",
            "model.mask.enabled=off does not fit: expected true or false (default true)",
        ),
        ("model.mask.enabled=0", "model.mask.enabled=0 does not fit: expected true or false"),
        ("data.scale=2", "data.scale=2 does not fit: expected a list: [A,B] (default [2.5, 4.0])"),
    ],
)
def test_a_value_of_another_kind_than_the_default_is_refused(override, part, train, capfd):
    assert cli.main(["train", override]) == 2
    assert part in capfd.readouterr().err
    assert train.seen == []


@pytest.fixture(scope="module")
def training_settings():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_text.config_folder()), version_base="1.3"):
        config = compose("train")
    OmegaConf.set_struct(config, False)
    return config


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("seed=9223372036854775808", "seed is 9223372036854775808; expected a whole number"),
        ("seed=1.5", "seed is 1.5; expected a whole number"),
        ("training.epochs=-3", "training.epochs is -3; expected a whole number of at least 1"),
        ("training.epochs=0", "training.epochs is 0"),
        ("training.label_smoothing=1.5", "training.label_smoothing is 1.5; expected a number from 0 to 1"),
        ("training.label_smoothing=-0.1", "training.label_smoothing is -0.1"),
        ("training.warmup_share=2", "training.warmup_share is 2"),
        ("training.learning_rate=-1", "training.learning_rate is -1"),
        ("training.patience=0", "training.patience is 0"),
        ("data.workers=-1", "data.workers is -1"),
        ("data.batch_size=0", "data.batch_size is 0"),
        (
            "trainer.logger=false",
            "trainer.logger is False, but a training sets it itself; set logger=tensorboard",
        ),
        ("trainer.fast_dev_run=true", "trainer.fast_dev_run is True"),
        ("trainer.precision=bf16-true", "trainer.precision is bf16-true; expected auto, 32-true, bf16-mixed"),
        ("trainer.precision=64-true", "trainer.precision is 64-true"),
        ("trainer.precision=half", "trainer.precision is half"),
    ],
)
def test_a_value_out_of_its_limits_is_named_with_what_was_expected(override, part, training_settings):
    config = OmegaConf.merge(training_settings, OmegaConf.from_dotlist([override]))
    with pytest.raises(ValueError, match=re.escape(part)):
        limits.check_limits(config)


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["seed=-1"], "seed is -1; expected a whole number from 0 to 4294967295"),
        (["training.epochs=inf"], "training.epochs is inf"),
        (["training.learning_rate=nan"], "training.learning_rate is nan"),
        (["data.workers=1000"], "data.workers is 1000; expected a whole number from 0 to"),
        (
            ["+trainer.max_epochs=3"],
            "trainer.max_epochs is 3, but a training sets it itself; set training.epochs",
        ),
        (["data=image_folder", "data.root=nowhere/at/all"], "nowhere/at/all"),
        (
            ["data=image_folder", "data.root=~/no-such-folder-anywhere"],
            str(Path.home() / "no-such-folder-anywhere"),
        ),
        (["ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
    ],
)
def test_a_value_out_of_its_limits_is_refused_before_anything_starts_and_leaves_no_folder(
    overrides, part, train, capfd
):
    assert cli.main(["train", *overrides]) == 2
    err = capfd.readouterr().err
    assert part in err and len(err.splitlines()) == 1
    assert train.seen == [] and not Path("outputs").exists()


def test_a_refusal_leaves_what_was_in_the_folder_before(train, capfd):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep")
    assert cli.main(["train", "hydra.run.dir=mine", "training.epochs=0"]) == 2
    assert Path("mine/notes.txt").read_text() == "keep"


def test_a_command_that_refuses_before_it_writes_leaves_no_folder(train, capfd):
    def refuse(config):
        raise ValueError("run=mine: its checkpoint is damaged")

    train.fail = refuse
    assert cli.main(["train"]) == 2
    assert capfd.readouterr().err.splitlines() == ["interp-cnn: run=mine: its checkpoint is damaged"]
    assert not Path("outputs").exists()


def test_a_command_that_warned_before_it_refused_leaves_no_folder(train, capfd):
    def refuse(config):
        logging.getLogger("interp_cnn.runs.epochs").warning(
            "run=mine is not finished:\nits weights are those of epoch 2"
        )
        raise ValueError("window must fit into the image")

    train.fail = refuse
    assert cli.main(["train"]) == 2
    said = capfd.readouterr().err
    assert "run=mine is not finished" in said and "window must fit into the image" in said
    assert not Path("outputs").exists()


def test_a_command_that_refuses_after_it_began_leaves_its_log_and_what_it_wrote(train):
    def refuse(config):
        logging.getLogger("interp_cnn.commands.train").info("one epoch is done")
        raise ValueError("the loss became NaN")

    train.fail = refuse
    assert cli.main(["train", "hydra.run.dir=mine"]) == 2
    log = Path("mine/train.log").read_text()
    assert "one epoch is done" in log and "train stopped" in log and "Traceback" in log
    assert Path("mine/.hydra/overrides.yaml").is_file()


def test_who_finds_a_folder_taken_takes_nothing_away(train):
    Path("mine").mkdir()
    with alone_in(Path("mine")):
        assert cli.main(["train", "hydra.run.dir=mine"]) == 2
        assert Path("mine/.lock").is_file() and Path("mine/.hydra").is_dir()


def test_runs_started_in_the_same_second_have_folders_of_their_own(train):
    for seed in range(5):
        assert cli.main(["train", f"seed={seed}"]) == 0
    assert len(list(Path("outputs/train").iterdir())) == 5


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("data.root=~/a b", "data.root=/home/me/a b"),
        ("runs=[~/a,~/b]", "runs=[/home/me/a,/home/me/b]"),
        ("run=~", "run=/home/me"),
        ("data.root=a~b", "data.root=a~b"),
        ("~data.rotation", "~data.rotation"),
        ("data.root=a/~/b", "data.root=a/~/b"),
    ],
)
def test_the_home_folder_is_a_tilde_in_every_setting(word, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert cli.with_home(word) == expected


@pytest.mark.parametrize(
    "words",
    [
        ["explain", 'images="data/my photos (1)"'],
        ["explain", "images='it,s = \u00fcber $HOME'", 'classes="a\'b.txt"'],
        ["train", "data.categories=[fox,'giant panda']", "model.widths=[4,4]"],
        ["train", "hydra.run.dir='a;b & c|d'", "+x={a: 1}"],
        ["explain", 'images="100% `date` \\\\ *?"'],
    ],
)
def test_the_command_for_the_same_again_is_read_by_a_shell_as_it_was_given(words, monkeypatch):
    from interp_cnn.runs.provenance import provenance

    monkeypatch.setattr(sys, "argv", ["/somewhere/interp-cnn", *words])
    shown = subprocess.run(
        ["bash", "-c", provenance()["command"].replace("interp-cnn", "printf '%s\\n'", 1)],
        capture_output=True,
        text=True,
    )
    assert shown.stdout.splitlines() == words


def test_values_of_the_right_kind_and_null_pass(train):
    fitting = ["seed=1.0", "data.distractors=2.5", "training.gradient_clip=null", "data.rotation=2"]
    assert cli.main(["train", *fitting, "trainer.devices=auto", "data.scale=[1,2]", "data.redraw=null"]) == 0


@pytest.mark.parametrize(
    ("overrides", "read", "part"),
    [
        (["seed=???"], lambda config: config.seed, "seed has no value: write seed=VALUE"),
        (["seed=${nowhere}"], lambda config: config.seed, "seed: Interpolation key 'nowhere' not found"),
        ([], lambda config: config.data.nowhere, "this configuration has no 'data.nowhere'"),
        ([], lambda config: instantiate({"_target_": "pathlib.Path.nowhere"}), "Error locating target"),
        ([], lambda config: instantiate({"_target_": "collections.Counter.fromkeys"}), "missing 1 required"),
    ],
)
def test_a_value_that_the_configuration_lacks_is_named(overrides, read, part, train, capfd):
    train.fail = read
    assert cli.main(["train", *overrides]) == 2
    err = capfd.readouterr().err
    assert part in err
    assert err.count("\n") == 1


def test_what_an_instantiated_part_refuses_is_told_with_its_place(train, capfd):
    train.fail = lambda config: instantiate(
        {"data": {"_target_": "interp_cnn.commands.board._port", "text": "x"}}
    )
    assert cli.main(["train"]) == 2
    assert "data: --port must be a number from 0 to 65535, not 'x'" in capfd.readouterr().err


def test_a_bug_keeps_its_traceback_and_exit_code_1(train, capfd):
    train.fail = raising(RuntimeError("a bug"))
    assert cli.main(["train"]) == 1
    err = capfd.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("RuntimeError: a bug\n")
    train.fail = lambda config: instantiate({"_target_": "operator.truediv", "_args_": [1, 0]})
    assert cli.main(["train"]) == 1
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_bug_in_one_job_of_a_sweep_counts_more_than_a_mistake_in_another(train, capfd):
    def fail(config):
        raise ValueError("a mistake") if config.seed == 0 else RuntimeError("a bug")

    train.fail = fail
    assert cli.main(["train", "-m", "seed=0,1"]) == 1
    err = capfd.readouterr().err
    assert "the job seed=0: a mistake\n" in err
    assert "RuntimeError: a bug" in err


@pytest.mark.parametrize("words", [["train", "seeed=1"], ["train"], ["trian"], ["train", "-m", "seed=0,1"]])
def test_hydra_full_error_shows_the_traceback(words, train, capfd, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    train.fail = raising(ValueError("refused"))
    assert cli.main(words) == 1
    assert "Traceback" in capfd.readouterr().err


def test_ctrl_c_is_one_line_and_exit_code_130(train, capfd):
    train.fail = raising(KeyboardInterrupt())
    assert cli.main(["train"]) == 130
    assert capfd.readouterr().err == "interp-cnn: interrupted\n"


def test_ctrl_c_that_lightning_turned_into_exit_code_1_is_ctrl_c_all_the_same(train, capfd):
    def fail(config):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    train.fail = fail
    assert cli.main(["train"]) == 130
    assert capfd.readouterr().err == "interp-cnn: interrupted\n"


def test_a_program_that_leaves_on_its_own_keeps_its_exit_code(train):
    train.fail = raising(SystemExit(7))
    with pytest.raises(SystemExit, match="7"):
        cli.main(["train"])


def test_hydra_is_as_it_was_after_a_refusal(train):
    from hydra._internal import utils
    from hydra.core.utils import JobReturn

    before = utils.run_and_report, JobReturn.return_value
    cli.main(["train", "seeed=1"])
    assert (utils.run_and_report, JobReturn.return_value) == before
    assert not GlobalHydra.instance().is_initialized()


def test_a_trainer_that_this_machine_cannot_run_is_a_refusal():
    kind = type("MisconfigurationException", (Exception,), {})
    assert errors.sentence(kind("No GPU here."), ["train"]) == "No GPU here."


def test_nearest_prefers_the_same_last_part_and_keeps_to_what_is_alike():
    names = ["data.root", "data.rotation", "seed", "model.mask.beta"]
    assert errors.nearest("root", names) == "did you mean data.root?"
    assert errors.nearest("sede", names) == "did you mean seed?"
    assert errors.nearest("beta", names) == "did you mean model.mask.beta?"
    assert errors.nearest("xyzzy", names) == ""


# Tab completion


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "interp-cnn ",
            ["board", "compare", "completion", "evaluate", "explain", "export", "play", "study", "train"],
        ),
        ("interp-cnn tr", ["train"]),
        ("interp-cnn --", ["--help", "--version"]),
        ("interp-cnn compare da", ["data.", "data="]),
        ("interp-cnn compare data=di", ["data=digits"]),
        ("interp-cnn compare data=digits,mn", ["data=digits,mnist", "data=digits,mnist_strokes"]),
        ("interp-cnn compare model.mask.b", ["model.mask.beta=", "model.mask.beta_rule="]),
        ("interp-cnn compare model.", ["model.diversity=", "model.equivariance=", "model.extra_conv="]),
        ("interp-cnn compare data=animal_parts data.neg", ["data.negatives="]),
        ("interp-cnn compare data.neg", []),
        ("interp-cnn explain data=animal_parts data.neg", ["data.negatives="]),
        ("interp-cnn study experiment=occlusion_study study.wi", ["study.windows="]),
        ("interp-cnn study experiment=occlusion_study study", ["study."]),
        ("interp-cnn study study.wi", []),
        ("interp-cnn train seed=", ["seed=0"]),
        ("interp-cnn train data.redraw=", ["data.redraw=false", "data.redraw=true"]),
        ("interp-cnn train +da", ["+data.", "+data="]),
        ("interp-cnn train --m", ["--multirun"]),
        ("interp-cnn explain images=fol", ["images=folder/"]),
        ("interp-cnn explain images=folder/", ["images=folder/picture.png"]),
        ("interp-cnn board f", ["folder/"]),
        ("interp-cnn completion ", ["bash", "fish", "zsh"]),
        ("interp-cnn nowhere da", []),
    ],
)
def test_a_started_word_is_completed(line, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "picture.png").touch()
    (tmp_path / "folder" / ".hidden").touch()
    found = completion.candidates(line)
    assert found[: len(expected)] == expected
    assert found == expected or line.endswith("model.")


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("interp-cnn compa", "interp-cnn compare "),
        ("interp-cnn compare da", "interp-cnn compare data"),
        ("interp-cnn compare data=di", "interp-cnn compare data=digits "),
        ("interp-cnn compare data.dis", "interp-cnn compare data.distractors="),
        ("interp-cnn explain images=conf/mod", "interp-cnn explain images=conf/model/"),
    ],
)
def test_the_tab_key_completes_in_a_real_bash(typed, completed):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash on this machine")
    script = f'PATH="{PROGRAM.parent}:$PATH"; eval "$(interp-cnn completion bash)"; echo ready'
    assert completed in in_a_terminal(["bash", "--norc", "-i"], script, f"{typed}\t", expected=completed)


def in_a_terminal(shell: list[str], script: str, keys: str, *, expected: str) -> str:
    """What an interactive shell shows after `keys` were typed into it, up to what is expected."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(REPOSITORY)
        os.environ.update(TERM="dumb", PS1="$ ")
        os.execvp(shell[0], shell)
    try:
        os.write(terminal, f"{script}\n".encode())
        read_until(terminal, "\nready")
        os.write(terminal, keys.encode())
        return read_until(terminal, expected)
    finally:
        os.close(terminal)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def read_until(terminal: int, end: str, quiet: float = 10.0) -> str:
    """Everything shown up to `end`, or until the terminal has been quiet for some seconds."""
    shown = ""
    while end not in shown and select.select([terminal], [], [], quiet)[0]:
        shown += os.read(terminal, 65536).decode().replace("\r", "").replace("\a", "")
    return shown


# TensorBoard


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> Path:
    torch = pytest.importorskip("torch")
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path_factory.mktemp("run")
    with SummaryWriter(str(folder)) as writer:
        for step in range(30):
            writer.add_image("masks", torch.full((1, 4, 4), step / 30), step)
    return folder


def test_a_folder_without_event_files_is_refused(tmp_path, capsys):
    assert cli.main(["board", str(tmp_path)]) == 2
    assert "holds no event files: interp-cnn train or compare writes them" in capsys.readouterr().err


def test_help_of_the_board_needs_no_folder(capsys):
    assert cli.main(["board", "--help"]) == 0
    assert "usage: interp-cnn board" in capsys.readouterr().out


@pytest.mark.slow
def test_the_board_shows_all_images_of_a_run_on_this_machine_only_until_ctrl_c(events):
    process = subprocess.Popen(
        [sys.executable, "-m", "interp_cnn", "board", str(events), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        address = line.split(" at ")[1].split()[0]
        assert address.startswith("http://localhost:")
        deadline, images = time.monotonic() + 30, []
        while len(images) < 30 and time.monotonic() < deadline:
            time.sleep(0.2)
            with urllib.request.urlopen(f"{address}data/plugin/images/tags") as answer:
                tags = json.load(answer)
            if tags:
                [run] = tags
                with urllib.request.urlopen(
                    f"{address}data/plugin/images/images?run={run}&tag=masks&sample=0"
                ) as answer:
                    images = json.load(answer)
        assert len(images) == 30  # TensorBoard's own limit is ten
        taken = call("board", str(events), "--port", address.rstrip("/").rpartition(":")[2])
        assert taken.returncode == 2
        assert "already in use" in taken.stderr
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


# The installed package


def test_the_package_finds_its_settings_in_the_checkout_and_inside_a_wheel(tmp_path, monkeypatch):
    assert config_text.config_folder() == REPOSITORY / "conf"
    (tmp_path / "interp_cnn" / "conf").mkdir(parents=True)
    (tmp_path / "interp_cnn" / "conf" / "compare.yaml").touch()
    monkeypatch.setattr(config_text, "_PACKAGE", tmp_path / "interp_cnn")
    assert config_text.config_folder() == tmp_path / "interp_cnn" / "conf"
    monkeypatch.setattr(config_text, "_PACKAGE", tmp_path)
    with pytest.raises(FileNotFoundError, match="install interp-cnn again"):
        config_text.config_folder()


@pytest.mark.slow
def test_a_wheel_holds_the_settings_and_works_from_another_folder(tmp_path):
    build = wheel_builder(tmp_path / "dist")
    if build is None:
        pytest.skip("neither uv nor hatchling can build a wheel here (offline)")
    with zipfile.ZipFile(build) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(tmp_path / "installed")
    expected = {
        f"interp_cnn/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "conf").rglob("*.yaml")
    }
    assert expected <= names
    assert not [name for name in names if name.startswith(("tests", "outputs", "conf/"))]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    installed = {"PYTHONPATH": str(tmp_path / "installed")}
    where = subprocess.run(
        [sys.executable, "-c", "import interp_cnn.cli.config_text as s; print(s.config_folder())"],
        cwd=elsewhere,
        env={**os.environ, **installed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.strip() == str(tmp_path / "installed" / "interp_cnn" / "conf")
    composed = call("train", "--cfg", "job", "model=plain", folder=elsewhere, **installed)
    assert (composed.returncode, composed.stderr) == (0, "")
    assert "kind: plain" in composed.stdout


def wheel_builder(folder: Path) -> Path | None:
    commands = [[sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]]
    if uv := shutil.which("uv"):
        commands.append([uv, "build", "--wheel", "--quiet", "--out-dir", str(folder)])
    for command in commands:
        built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        if built.returncode == 0:
            [wheel] = folder.glob("*.whl")
            return wheel
    return None


def test_a_file_in_the_place_of_a_folder_is_said_with_what_to_do(tmp_path):
    (tmp_path / "there").write_text("")
    for make, said in (
        (lambda: (tmp_path / "there").mkdir(), "expected a folder: move the file that is there away"),
        (lambda: (tmp_path / "there" / "a").write_text(""), "expected a folder: move the file"),
        (lambda: tmp_path.write_text(""), "expected a file: move the folder that is there away"),
    ):
        with pytest.raises(OSError) as refused:
            make()
        assert said in errors.sentence(refused.value, ["train"])
