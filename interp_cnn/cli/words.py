"""A command line as people type it, made into the overrides that Hydra reads.

    interp-cnn explain outputs/train/A                      run=outputs/train/A
    interp-cnn evaluate A B                                 runs=[A,B]
    interp-cnn export latest                                run= the newest run folder in outputs/
    interp-cnn explain digits-plain                         run=digits-plain, which comes with the package
    interp-cnn explain A methods=lrp,occlusion              methods=[lrp,occlusion]

Nothing of this needs Hydra or torch, so a folder that is not there is said at once and leaves nothing behind.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from interp_cnn.cli import config_text
from interp_cnn.pretrained.shipped import shipped_names

RUNS = {  # what takes run folders
    **{"explain": "run", "export": "run", "study": "run", "play": "run"},
    "evaluate": "runs",
}
OUTPUTS = Path("outputs")
LATEST = "latest"
_WITH_VALUE = (  # Hydra's flags that a value follows
    *("--cfg", "-c", "--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd"),
    *("--package", "-p", "--info", "-i", "--experimental-rerun"),
)
_SWEEP = ("-m", "--multirun")


def overrides(command: str, words: Sequence[str]) -> list[str]:
    """The overrides that the words after a command stand for.

    Args:
        command: one of those with a configuration.
        words: as typed: folders, KEY=VALUE and flags in any order.

    Returns:
        Flags and KEY=VALUE, folders as the value of `run` or `runs`.

    Raises:
        FileNotFoundError: a folder that is not there, or `latest` without a run.
        ValueError: folders, and `run=` too.

    Example:
        >>> overrides("explain", ["methods=lrp,occlusion", "limit=2"])
        ['methods=[lrp,occlusion]', 'limit=2']
    """
    key = RUNS.get(command)
    arguments: list[str] = []
    folders: list[str] = []
    before = ""
    sweeping = any(word in _SWEEP for word in words)
    lists = set() if sweeping else _lists(command)
    for word in words:
        if key and _is_folder(word) and before not in _WITH_VALUE:
            folders.append(word)
        elif key and word in (f"{key}={LATEST}", f"{key}=[{LATEST}]"):
            newest = _quoted(latest())
            arguments.append(f"{key}=[{newest}]" if key == "runs" else f"{key}={newest}")
        else:
            arguments.append(_as_list(word) if word.partition("=")[0] in lists else word)
        before = word
    if not folders:
        return arguments
    if any(word.partition("=")[0] == key for word in arguments):
        raise ValueError(f"{folders[0]} and {key}= both name run folders; write one of them")
    quoted = [word if _is_shipped(word) else _quoted(run_folder(word)) for word in folders]
    several = key == "runs" or len(quoted) > 1
    return [f"{key}=[{','.join(quoted)}]" if several else f"{key}={quoted[0]}", *arguments]


def run_folder(word: str) -> Path:
    """The folder that a word names; `latest` is the newest run.

    Raises:
        FileNotFoundError: it is not there.
    """
    if word == LATEST and not Path(word).exists():
        return latest()
    folder = Path(word).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(2, "No such run folder", word)
    return folder


def latest() -> Path:
    """The run folder in outputs/ that was begun last, by the time in its name: of a training or a comparison.

    Raises:
        FileNotFoundError: there is none.
    """
    runs = [
        folder
        for folder in (*OUTPUTS.glob("train/*"), *OUTPUTS.glob("compare/*"))
        if (folder / "config.yaml").is_file() or next(folder.glob("*/config.yaml"), None)
    ]
    if not runs:
        raise FileNotFoundError(
            f"latest: no run in {OUTPUTS}/ of this folder; interp-cnn compare or train writes one"
        )
    return max(runs, key=lambda folder: folder.name)


def _lists(command: str) -> set[str]:
    """Settings that take a list: whose default is one, and `methods`."""
    settings = config_text.settings(command)
    return {it.key for it in settings if it.default.startswith("[") or it.key == "methods"}


def _as_list(word: str) -> str:
    """`KEY=A,B` with brackets; what has some, is quoted or is null stays as it is."""
    key, equals, value = word.partition("=")
    if not equals or value in ("", "null") or value[0] in "[\"'$":
        return word
    return f"{key}=[{value}]"


def _is_folder(word: str) -> bool:
    """No flag, and no KEY=VALUE, unless a folder is called so, as those of a sweep are."""
    return not word.startswith("-") and ("=" not in word or _is_there(word))


def _is_there(word: str) -> bool:
    """Whether a folder is called so; a long list of settings is no name that a disk could have."""
    try:
        return Path(word).is_dir()
    except OSError:
        return False


def _is_shipped(word: str) -> bool:
    """Whether a word names a network that comes with the package; a folder of that name goes first."""
    return word in shipped_names() and not _is_there(word)


def _quoted(folder: Path) -> str:
    """A path as Hydra reads it, whatever signs are in it: backslashes count double before a quote alone."""
    return (
        "'"
        + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + match[2].replace("'", "\\'"), str(folder))
        + "'"
    )
