"""What can be set: the folder conf/ read as plain text, without Hydra.

Help and tab completion must answer at once, so they read the YAML files themselves. A group is a folder
of conf/, its choices are the files in it, a setting is a key of a file; the comment that opens a file says
what it is for, and the comment beside (or above) a key explains the key. What Hydra makes of these files
when a command runs is Hydra's business (`cli.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Setting:
    """One key of a YAML file: its dotted name, its default as written, and its comment."""

    key: str
    default: str
    comment: str


def config_folder() -> Path:
    """The folder conf/: inside the package when it was installed from a wheel, else beside it."""
    for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf"):
        if (folder / "compare.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"conf/compare.yaml lies neither in {_PACKAGE} nor beside it: install interp-cnn again"
    )


def groups() -> dict[str, list[str]]:
    """Every config group with its choices, both sorted; Hydra's own settings are left out."""
    choices_of = {}
    for folder in sorted(path for path in config_folder().iterdir() if path.is_dir()):
        choices = sorted(file.stem for file in folder.glob("*.yaml"))
        if folder.name != "hydra" and choices:
            choices_of[folder.name] = choices
    return choices_of


def description(name: str) -> str:
    """The comment that opens conf/NAME.yaml, on one line; '# @package' headers are not part of it."""
    lines = []
    for line in _read(name).splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.lstrip("# ").strip())
    return " ".join(lines)


def chosen(name: str) -> dict[str, str | None]:
    """The choice of each group in the defaults list of conf/NAME.yaml, in its order."""
    choices = {}
    for entry in (yaml.safe_load(_read(name)) or {}).get("defaults", []):
        if isinstance(entry, dict):
            [(key, choice)] = entry.items()
            if not key.startswith("override "):
                choices[key.removeprefix("optional ")] = choice
    return choices


def settings(name: str) -> list[Setting]:
    """The settings of conf/NAME.yaml in its order; those of a sibling it builds on come first."""
    source = _read(name)
    tree = yaml.compose(source)
    if not isinstance(tree, yaml.MappingNode):
        return []
    by_key: dict[str, Setting] = {}
    for sibling in (yaml.safe_load(source) or {}).get("defaults", []):
        if isinstance(sibling, str) and sibling != "_self_":
            by_key |= {setting.key: setting for setting in settings(str(Path(name).parent / sibling))}
    for setting in _leaves(tree, source.splitlines(), prefix=""):
        inherited = by_key[setting.key].comment if setting.key in by_key else ""
        by_key[setting.key] = replace(setting, comment=setting.comment or inherited)
    return list(by_key.values())


def composed(command: str, choices: Mapping[str, str | None]) -> list[Setting]:
    """The settings of a command by their dotted names, under the choices made (default: its own ones)."""
    all_settings = settings(command)
    for group, choice in {**chosen(command), **choices}.items():
        if choice in groups().get(group, ()):
            prefix = "" if group == "experiment" else f"{group}."  # an experiment speaks of all settings
            all_settings += [
                replace(item, key=f"{prefix}{item.key}") for item in settings(f"{group}/{choice}")
            ]
    return all_settings


def check_kind(setting: Setting, value: Any) -> None:
    """Refuse a word where the default is a number, true or false, or a list of these; null fits everywhere.

    Only the kind is checked: what a number may be is the business of the room that takes it.
    """
    default = yaml.safe_load(setting.default)
    match default:
        case bool():
            fits, wanted = isinstance(value, bool), "true or false"
        case int() | float():
            fits, wanted = _is_number(value), "a number"
        case list():
            fits, wanted = isinstance(value, Sequence) and not isinstance(value, str), "a list: [A,B]"
            if fits and default and all(map(_is_number, default)):
                fits, wanted = all(map(_is_number, value)), "a list of numbers: [1,2]"
        case _:
            return
    if value is not None and not fits:
        raise ValueError(f"{setting.key}={value} does not fit: expected {wanted} (default {setting.default})")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read(name: str) -> str:
    return (config_folder() / f"{name}.yaml").read_text(encoding="utf-8")


def _leaves(tree: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[Setting]:
    for key, value in tree.value:
        name = f"{prefix}{key.value}"
        if name in ("defaults", "hydra") or key.value.startswith("_"):
            continue
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _leaves(value, lines, prefix=f"{name}.")
            continue
        start, end = value.start_mark, value.end_mark
        if start.line == end.line:
            written, rest = lines[start.line][start.column : end.column], lines[end.line][end.column :]
        else:
            plain = yaml.safe_load(yaml.serialize(value))
            written = yaml.safe_dump(plain, default_flow_style=True, width=10_000, sort_keys=False).strip()
            rest = ""
        comment = rest.strip().lstrip("# ") if rest.strip().startswith("#") else ""
        yield Setting(name, written or "null", comment or _above(lines, key.start_mark.line))


def _above(lines: list[str], line: int) -> str:
    """The comment lines directly above a line, unless they open the file (those describe the file)."""
    first = line
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(text.strip().lstrip("# ") for text in lines[first:line]) if first > 0 else ""
