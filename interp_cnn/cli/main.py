"""The command line: `interp-cnn COMMAND [KEY=VALUE ...]`.

A command is a module of this package with a function `run(config)` and a YAML file of the same name in
conf/; Hydra composes the configuration from the file and the overrides, and only then is the module (and
torch with it) imported. `board` and `completion` need no configuration. Help is read from conf/ as text.

This is also the one place where errors become messages: whatever a user can put right is one sentence on
stderr and exit code 2, a bug keeps its traceback and exit code 1, Ctrl-C is exit code 130.
HYDRA_FULL_ERROR=1 shows every traceback.
"""

import importlib
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from interp_cnn.cli import config_text, limits, usage
from interp_cnn.cli import words as as_typed

COMMANDS = (
    "compare",
    "train",
    "explain",
    "evaluate",
    "export",
    "study",
    "play",
)  # each has a module here and a file in conf/
PLAIN_COMMANDS = {
    "board": "Opens TensorBoard on a run folder, with all its images.",
    "completion": "Prints the script that teaches bash, zsh or fish to complete these commands.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: `sys.argv`) and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    logging.raiseExceptions = False  # a log on a full disk: the command itself says so, once
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as leaving:  # Lightning turns Ctrl-C into exit code 1
        if isinstance(leaving.__context__, KeyboardInterrupt):
            return _interrupted()
        raise
    except Exception as error:
        return _report(error, words)


def _terminate(number: int, frame: Any) -> NoReturn:
    """A cluster wants its node back: leave through every `finally`; finished epochs and images are on disk."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("interp-cnn: terminated; the same command with the same hydra.run.dir goes on", file=sys.stderr)
    sys.exit(128 + number)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        return _show(usage.overview(COMMANDS, PLAIN_COMMANDS))
    command, rest = words[0], words[1:]
    if command == "--version":
        from interp_cnn.storage.versions import version_of

        return _show(f"interp-cnn {version_of()}")
    if command not in (*COMMANDS, *PLAIN_COMMANDS):
        near = get_close_matches(command.lstrip("-"), (*COMMANDS, *PLAIN_COMMANDS), n=1)
        hint = f"did you mean {near[0]}?" if near else "the command comes first:"
        raise ValueError(f"no command {command!r}; {hint} ({', '.join((*COMMANDS, *PLAIN_COMMANDS))})")
    if command in PLAIN_COMMANDS:
        room = "cli" if command == "completion" else "commands"
        if command == "board":
            rest = [str(as_typed.run_folder(word)) if word == as_typed.LATEST else word for word in rest]
        return _until_unread(partial(importlib.import_module(f"interp_cnn.{room}.{command}").run, rest))
    if "-h" in rest or "--help" in rest:
        return _show(usage.command_help(command, rest))
    overrides = as_typed.overrides(command, rest)
    if sys.stderr.isatty():
        print("loading ...", end="\r", file=sys.stderr, flush=True)  # the next line takes its place
    return _run_with_hydra(command, overrides)


def _show(text: str) -> int:
    return _until_unread(partial(print, text)) or 0


def _until_unread(answer: Callable[[], Any]) -> Any:
    """Answer on stdout; when the reader has seen enough (`| head`), stop without a word."""
    try:
        result = answer()
        sys.stdout.flush()
        return result
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run_with_hydra(command: str, overrides: list[str]) -> int:
    """Compose the configuration and run the command on it, once or (-m) as a sweep.

    Not through `hydra.main`: it reads `sys.argv`, which must keep the command's name, because Lightning's
    DDP starts its other processes with it.
    """
    from hydra import version
    from hydra._internal.utils import _run_hydra, get_args_parser

    version.setbase("1.3")
    parser = get_args_parser()
    setattr(parser, "error", partial(_refuse_flags, command))  # noqa: B010  (a method, replaced)
    with _errors_left_to_us() as failed:
        _run_hydra(
            args=parser.parse_intermixed_args([with_home(word) for word in overrides]),
            args_parser=parser,
            task_function=partial(_job, command),
            config_path=str(config_text.config_folder()),
            config_name=command,
        )
    if failed and failed[0].hydra_cfg.hydra.mode.name == "RUN":
        raise failed[0]._return_value
    return _report_sweep(command, failed)


def _job(command: str, config: Any) -> Any:
    try:
        with limits.nothing_left_behind():
            _refuse_processes_in_a_sweep(config)
            _refuse_wrong_kinds(command, config)
            limits.check_folders(command)
            limits.check_limits(config)
        if command != "study" and config.get("study") is not None:
            raise ValueError(f"experiment={config.study.name}_study is for the command study, not {command}")
        with _alone(config), _quiet_threads():
            return importlib.import_module(f"interp_cnn.commands.{command}").run(config)
    except Exception:
        logging.getLogger(__name__).info("%s stopped", command, exc_info=True)  # into the run folder's log
        raise
    finally:
        _close_log_files()
        if command == "play":  # writes nothing
            limits.remove_unused_folder(".lock")


def _close_log_files() -> None:
    """The job's log is closed with the job: whoever calls `main` from Python is left no open files."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]:
        root.removeHandler(handler)
        handler.close()


@contextmanager
def _alone(config: Any) -> Iterator[None]:
    """The run folder for this process alone, and gone where the command refuses before it writes into it; the further
    processes of one training belong to the first.
    """
    from hydra.core.hydra_config import HydraConfig

    from interp_cnn.storage.files import alone_in

    if any(os.environ.get(name, "0") != "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID")):
        yield
        return
    part = str(config.get("shard") or "").replace("/", "-of-")
    tidied = (
        nullcontext() if part else limits.nothing_left_behind(".lock")
    )  # the parts of a work share a folder
    with alone_in(Path(HydraConfig.get().runtime.output_dir), part=part), tidied:
        yield


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """TensorBoard's writer meets a full disk in a thread and hands the error on to the command, which says it once."""
    before = threading.excepthook
    threading.excepthook = lambda died: None if issubclass(died.exc_type, OSError) else before(died)
    try:
        yield
    finally:
        threading.excepthook = before


def _refuse_processes_in_a_sweep(config: Any) -> None:
    """Lightning starts its other processes with the whole command line, and each would sweep again."""
    from hydra.core.hydra_config import HydraConfig

    hydra, trainer = HydraConfig.get(), config.get("trainer") or {}
    sweeping = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    if sweeping and "ddp" in str(trainer.get("strategy")) and "submitit" not in hydra.launcher._target_:
        raise ValueError(
            "a sweep (-m) cannot start several processes for one run: take a trainer without ddp, or "
            "hydra/launcher=submitit_slurm, where the cluster starts them"
        )


def _refuse_wrong_kinds(command: str, config: Any) -> None:
    """A word for a number would fail far inside, and `enabled=off` (a word to Hydra) would count as true."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    for setting in config_text.composed(command, HydraConfig.get().runtime.choices):
        if not setting.key.startswith("trainer."):  # Lightning takes words and numbers alike, and checks them
            config_text.check_kind(setting, OmegaConf.select(config, setting.key))


def with_home(word: str) -> str:
    """An override with `~` for the home folder, also in a list, which neither the shell nor Hydra replaces there.

    Example:
        >>> with_home("data.root=~/images") == f"data.root={Path.home()}/images"
        True
    """
    home = re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", str(Path.home()))
    return re.sub(r"(?<=[=\[,])~(?=[/,\]]|$)", lambda _: home, word)


def _refuse_flags(command: str, message: str) -> None:
    raise ValueError(f"{message} (interp-cnn {command} --help lists the flags)")


@contextmanager
def _errors_left_to_us() -> Iterator[list]:
    """Hydra prints errors and leaves with code 1; here it raises them, and yields the jobs that failed."""
    from hydra._internal import utils
    from hydra.core.utils import JobReturn, JobStatus

    failed: list = []
    report, result = utils.run_and_report, JobReturn.return_value

    def return_value(job: Any) -> Any:
        if job.status is JobStatus.FAILED and job not in failed:
            failed.append(job)
        return None if job.status is JobStatus.FAILED else job._return_value

    def call(function: Callable[[], Any]) -> Any:
        return function()

    utils.run_and_report = call
    JobReturn.return_value = property(return_value, result.fset)
    try:
        yield failed
    finally:
        utils.run_and_report, JobReturn.return_value = report, result


def _interrupted() -> int:
    print("interp-cnn: interrupted", file=sys.stderr)
    return 130


def _report(error: Exception, words: list[str]) -> int:
    text = _sentence(error, words)
    if text is None:
        traceback.print_exception(error)
        return 1
    print(f"interp-cnn: {text}", file=sys.stderr)
    return 2


def _report_sweep(command: str, failed: list) -> int:
    """Each distinct sentence once, with the jobs that it is about; a bug counts more than a mistake."""
    jobs: dict[str, list[str]] = {}
    bugs = 0
    for job in failed:
        text = _sentence(job._return_value, [command, *job.overrides])
        if text is None:
            traceback.print_exception(job._return_value)
            bugs += 1
        else:
            jobs.setdefault(text, []).append(" ".join(job.overrides))
    for text, [first, *others] in jobs.items():
        more = f" and {len(others)} more" if others else ""
        print(f"interp-cnn: the job {first}{more}: {text}", file=sys.stderr)
    return 1 if bugs else 2 if jobs else 0


def _sentence(error: Exception, words: list[str]) -> str | None:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        return None
    from interp_cnn.cli import errors

    return errors.sentence(error, words)
