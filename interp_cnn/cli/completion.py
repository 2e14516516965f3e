"""Tab completion: `interp-cnn completion bash` prints a script that asks `interp-cnn completion query LINE`.

Hydra's own completion takes the first word for an override and cannot know commands, so the candidates come
from conf/ read as text (`config_text.py`): commands, groups and their choices, dotted keys of the chosen
choices, and paths after KEY=. One answer takes about a tenth of a second.
"""

import os
from collections.abc import Iterator

from interp_cnn.cli import config_text

_BASH = r"""_interp_cnn() {
    local line="${COMP_LINE:0:COMP_POINT}" word cut candidate
    word="${line##*[[:space:]]}"
    cut=""                               # bash splits words at = and : itself: leave out what it has cut off
    [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && cut="${word%"${word##*=}"}"
    COMPREPLY=()
    while IFS= read -r candidate; do
        [[ -n $candidate ]] && COMPREPLY+=("${candidate#"$cut"}")
    done < <("${COMP_WORDS[0]}" completion query "$line" 2>/dev/null)
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
    return 0
}
complete -F _interp_cnn interp-cnn"""

_ZSH = r"""(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_interp_cnn() {
    local -a found open closed
    found=("${(@f)$(${words[1]} completion query "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    open=(${(M)found:#*[=./]}); closed=(${found:#*[=./]})
    (( $#open )) && compadd -Q -S '' -- $open
    (( $#closed )) && compadd -Q -- $closed
}
compdef _interp_cnn interp-cnn"""

_FISH = r"""function __interp_cnn
    set -l words (commandline -cpo)
    $words[1] completion query (commandline -cp) 2>/dev/null
end
complete -c interp-cnn -f -a '(__interp_cnn)'"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
_FLAGS = ("--cfg", "--help", "--multirun", "--resolve")


def run(arguments: list[str]) -> int:
    """Print the script of a shell, or the candidates for `query LINE` one by one.

    Raises:
        ValueError: if the shell is not one of bash, zsh and fish.
    """
    match arguments:
        case ["query", line]:
            print("\n".join(candidates(line)))
        case [shell] if shell in _SCRIPTS:
            print(_SCRIPTS[shell])
        case _:
            raise ValueError(
                f"completion takes one of {', '.join(_SCRIPTS)}, not {' '.join(arguments) or 'nothing'}"
            )
    return 0


def candidates(line: str) -> list[str]:
    """What the last word of a command line (up to the cursor) can become, sorted.

    Args:
        line: the line as typed, beginning with the program; it ends in a space when a new word begins.
    """
    from interp_cnn.cli.main import COMMANDS, PLAIN_COMMANDS

    words = line.split()
    word = words.pop() if line[-1:].strip() else ""
    if len(words) < 2:
        flags = ("--help", "--version") if word[:1] == "-" else ()
        return sorted(name for name in (*COMMANDS, *PLAIN_COMMANDS, *flags) if name.startswith(word))
    command, overrides = words[1], words[2:]
    if command == "board":
        return _paths(word)
    if command == "completion":
        return sorted(shell for shell in _SCRIPTS if shell.startswith(word))
    if command not in COMMANDS:
        return []
    if word.startswith("-"):
        return [flag for flag in _FLAGS if flag.startswith(word)]
    sign = word[:1] if word[:1] in ("+", "~") else ""
    return [sign + text for text in _overrides(command, overrides, word.removeprefix(sign))]


def _overrides(command: str, overrides: list[str], word: str) -> list[str]:
    groups = {
        group: choices
        for group, choices in config_text.groups().items()
        if group in config_text.chosen(command)
    }
    keys = _keys(command, overrides, groups)
    key, equals, value = word.partition("=")
    if not equals:
        depth = key.count(".")
        offered = {f"{group}=" for group in groups} if not depth else set()
        for name in keys:
            parts = name.split(".")
            head = ".".join(parts[: depth + 1])
            offered.add(f"{head}=" if len(parts) == depth + 1 else f"{head}.")
        return sorted(text for text in offered if text.startswith(key))
    if key in groups:
        earlier, comma, last = value.rpartition(",")  # a sweep lists several choices
        return [f"{key}={earlier}{comma}{choice}" for choice in groups[key] if choice.startswith(last)]
    default = keys.get(key, "")
    if default in ("true", "false"):
        return [f"{key}={choice}" for choice in ("false", "true") if choice.startswith(value)]
    paths = [f"{key}={path}" for path in _paths(value)] if value or default in ("null", "???") else []
    return paths or ([f"{key}={default}"] if not value and default not in ("", "null", "???") else [])


def _keys(command: str, overrides: list[str], groups: dict[str, list[str]]) -> dict[str, str]:
    """Every dotted key with its default, under the choices made so far."""
    chosen = {}
    for key, _, value in (text.lstrip("+").partition("=") for text in overrides):
        choice = value.split(",")[0]
        if choice in groups.get(key, ()):
            chosen[key] = choice
    defaults = {setting.key: setting.default for setting in config_text.composed(command, chosen)}
    inner = {name.rpartition(".")[0] for name in defaults}  # an experiment fills what is empty without it
    return {key: default for key, default in defaults.items() if key not in inner}


def _paths(start: str) -> list[str]:
    """Files and folders whose path begins so; folders end in a slash, hidden ones need their dot."""
    folder, name = os.path.split(start)
    return sorted(os.path.join(folder, entry) for entry in _entries(os.path.expanduser(folder), name))


def _entries(folder: str, name: str) -> Iterator[str]:
    try:
        with os.scandir(folder or ".") as listing:
            for entry in listing:
                if entry.name.startswith(name) and (name or not entry.name.startswith(".")):
                    yield f"{entry.name}/" if entry.is_dir() else entry.name
    except OSError:
        return
