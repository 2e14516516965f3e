"""What a user can put right, said in one sentence with the nearest valid names.

`sentence(error, words)` knows the errors of the override grammar, of Hydra's composition, of OmegaConf, of
`instantiate`, of a missing file and of every `ValueError` or `OSError` a room raises. Anything else is a
bug of ours: it answers None, and the traceback is shown.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.errors import (
    CompactHydraException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import Container, DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from interp_cnn.cli import config_text
from interp_cnn.pretrained.shipped import shipped_names
from interp_cnn.storage.spelling import nearest

_UNKNOWN_KEY = [
    re.compile(r"Could not override '(.+?)'"),
    re.compile(r"Could not delete from config. '(.+?)' does not exist"),
    re.compile(r"Override \S+ looks like a config group override, but config group '(.+?)' does not exist"),
]
_OF_A_RUN = re.compile(r"No such run folder|runs?: No such")
_LOST_WORKER = re.compile(r"DataLoader worker \(pid")
_LOST_PROCESS = re.compile(r"gloo/transport|NCCL|TCPStore")
_WORKER = re.compile(r"^Caught \w+ in DataLoader worker process.*^\w+: ", re.DOTALL | re.MULTILINE)
_WRONG_CALL = re.compile(r"unexpected keyword argument|missing \d+ required|multiple values for")


def sentence(error: BaseException, words: Sequence[str]) -> str | None:
    """The sentence that answers an error.

    Args:
        error: what was raised while the command line `words` ran.
        words: the command and its overrides.

    Returns:
        One line without a full stop at its end, or None when the error is not the user's to mend.
    """
    command, overrides = (words[0], list(words[1:])) if words else ("", [])
    match error:
        case OverrideParseException():
            text = _grammar(error)
        case MissingConfigException():
            text = _choice(error)
        case InstantiationException():
            return _instantiation(error, words)
        case CompactHydraException():
            text = _composition(error, command, overrides)
        case OmegaConfBaseException():
            text = _value(error)
        case OSError() if error.filename is not None:
            text = _path(error)
        case ValueError() | OSError() | HydraException():
            text = _WORKER.sub("", str(error)) or repr(error)
        case RuntimeError() if _LOST_WORKER.search(str(error)):
            text = (
                "a process that prepares images was lost (killed, often for want of memory); the same command with "
                "the same hydra.run.dir goes on, data.workers=0 does without such processes"
            )
        case RuntimeError() if _LOST_PROCESS.search(str(error)):
            text = (
                "another process of this training ended (its own log in the run folder says why) or could not be "
                "reached; the same command with the same hydra.run.dir goes on"
            )
        case _ if any(kind.__name__ == "MisconfigurationException" for kind in type(error).__mro__):
            text = str(error)  # Lightning's word for a trainer that this machine cannot run
        case _:
            return None
    return " ".join(text.split())


def _grammar(error: OverrideParseException) -> str:
    if "=" not in error.override:
        return f"{error.override!r} is not KEY=VALUE: write {error.override}=VALUE"
    lines = str(error.message).splitlines()
    reason = lines[1] if lines[0].startswith("Error parsing") and len(lines) > 1 else lines[0]
    reason = reason.partition(" expecting {")[0]
    return f"{error.override!r} cannot be read: {reason}; special signs need quotes: 'KEY=\"a==b\"'"


def _choice(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    options = sorted(error.options or config_text.groups().get(group, []))
    if not group:
        return str(error)
    if group in ("hydra/launcher", "hydra/sweeper") and choice not in options:
        listed = f"installed: {', '.join(options)}"
        return f"no {group}={choice} ({listed}); pip install 'interp-cnn[launchers]' adds more"
    hint = nearest(choice, options)
    listed = f"{group}: {', '.join(options)}" if options else f"the group {group} has no choices"
    return f"no {group}={choice}; {hint} ({listed})" if hint else f"no {group}={choice} ({listed})"


def _composition(error: CompactHydraException, command: str, overrides: list[str]) -> str:
    text, cause = str(error), error.__cause__
    for pattern in _UNKNOWN_KEY:
        if match := pattern.match(text):
            return _key(match[1], command, overrides)
    if match := re.match(r"Ambiguous value for argument '(.+?)'", text):
        key, _, value = match[1].partition("=")
        return f"{match[1]!r} has several values: add -m to run each, or write {key}=[{value}] for a list"
    if match := re.match(r"You must specify '(.+?)'", text):
        return f"{match[1]} has no choice: write {match[1]}=CHOICE ({_choices(match[1])})"
    if match := re.match(r"(\S+) appears more than once in the final defaults list", text):
        return f"{match[1]} is chosen twice: write {match[1]}=CHOICE without the + ({_choices(match[1])})"
    if match := re.match(r"Could not append to config. An item is already at '(.+?)'", text):
        return f"{match[1]} exists already: leave out the +"
    if isinstance(cause, OmegaConfBaseException):
        return f"{text.splitlines()[0] if text else 'the settings do not fit'}: {_value(cause)}"
    return text


def _choices(group: str) -> str:
    return ", ".join(config_text.groups().get(group, []))


def _key(key: str, command: str, overrides: list[str]) -> str:
    """Answer a key that does not exist, with the keys that do."""
    if key in config_text.groups() and key not in config_text.chosen(command):
        commands = sorted(file.stem for file in config_text.config_folder().glob("*.yaml"))
        takers = [other for other in commands if key in config_text.chosen(other)]
        return f"{command} takes no {key!r}, which is a choice of {', '.join(takers)}"
    known = list(_known_keys(command, overrides, hydra=key.startswith("hydra")))
    hint = nearest(key, [name for name in known if not key.startswith(f"{name}.")])
    parent = key
    while not hint and parent:
        parent = parent.rpartition(".")[0]
        inside = sorted({name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == parent})
        hint = f"{parent or command} has {', '.join(inside)}" if inside else ""
    return f"no setting {key!r}; {hint}"


def _known_keys(command: str, overrides: list[str], hydra: bool) -> Iterator[str]:
    """Dotted names of everything that can be set under the group choices among the overrides."""
    from hydra import compose, initialize_config_dir

    groups = config_text.groups()
    yield from (group for group in groups if group in config_text.chosen(command))
    pairs = [word.lstrip("+").partition("=") for word in overrides if not word.startswith("~")]
    chosen = {key: value.split(",")[0] for key, _, value in pairs if key in groups}
    valid = [f"{key}={value}" for key, value in chosen.items() if value in groups[key]]
    with initialize_config_dir(str(config_text.config_folder()), version_base="1.3"):
        for choice in (valid, []):
            try:
                config = compose(command, overrides=choice, return_hydra_config=hydra)
            except HydraException:
                continue
            yield from _leaves(config, "")
            return


def _leaves(config: Container, prefix: str) -> Iterator[str]:
    if isinstance(config, DictConfig) and not config._is_none() and not config._is_missing():
        for key in config:
            if str(key).startswith("_"):
                continue
            yield f"{prefix}{key}"
            child = config._get_node(key)
            if isinstance(child, DictConfig):
                yield from _leaves(child, f"{prefix}{key}.")


def _value(error: OmegaConfBaseException) -> str:
    key = error.full_key or error.key
    if isinstance(error, MissingMandatoryValue):
        return f"{key} has no value: write {key}=VALUE"
    text = (error.msg or str(error)).splitlines()[0]
    if text.endswith("is not in struct"):
        return f"this configuration has no {key!r}"
    return f"{key}: {text}" if key and str(key) not in text else text


def _instantiation(error: InstantiationException, words: Sequence[str]) -> str | None:
    """The sentence of the error inside, told with the place in the configuration."""
    cause = error.__cause__
    where = re.search(r"^full_key: (\S+)$", str(error), flags=re.MULTILINE)
    place = f"{where[1]}: " if where else ""
    if isinstance(cause, TypeError) and _WRONG_CALL.search(str(cause)):
        return f"{place}{' '.join(str(cause).split())}"
    if cause is None or isinstance(cause, ImportError):
        return " ".join(str(error).partition(", set env var")[0].split())
    inner = sentence(cause, words)
    return f"{place}{inner}" if inner else None


def _path(error: OSError) -> str:
    path = Path(str(error.filename))
    text = f"{error.strerror or type(error).__name__}: {path}"
    parent = path.parent
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{text}; expected a folder: move the file that is there away, or give another place"
    if isinstance(error, IsADirectoryError):
        return f"{text}; expected a file: move the folder that is there away, or give another place"
    if isinstance(error, FileNotFoundError) and parent.is_dir():
        shipped = shipped_names() if parent == Path() and _OF_A_RUN.match(error.strerror or "") else []
        hint = nearest(path.name, [*sorted(entry.name for entry in parent.iterdir()), *shipped])
        hint += f" (with the package come {', '.join(shipped)})" * bool(shipped)
        hint = hint.strip()
        return f"{text}; {hint}" if hint else text
    return text
