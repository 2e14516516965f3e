"""A network that somebody's own function builds, by name: `package.module:factory`.

Its module is looked for in the current folder too.
"""

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from torch import nn


def built(module_name: str, factory_name: str, num_classes: int | None) -> nn.Module:
    """What a factory returns, called with `num_classes` where it is given and the factory takes it.

    Raises:
        ValueError: no such module or factory, or what it raised, or something else than a network.
    """
    spec = f"{module_name}:{factory_name}"
    with _current_folder_importable():
        module = _imported(module_name, spec)
        factory = _attribute(module, factory_name, spec)
        if isinstance(factory, nn.Module):
            return factory
        if not callable(factory):
            raise ValueError(
                f"{spec} is {type(factory).__name__}; expected a function that returns an nn.Module"
            )
        try:
            network = factory(**_arguments(factory, num_classes))
        except Exception as error:
            raise ValueError(f"{spec} failed: {_told(error)}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{spec} returned {type(network).__name__}; expected an nn.Module")
    return network


def _arguments(factory: Callable, num_classes: int | None) -> dict:
    if num_classes is None:
        return {}
    try:
        takes = "num_classes" in inspect.signature(factory).parameters
    except ValueError:  # written in C
        takes = False
    return {"num_classes": num_classes} if takes else {}


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """What lies in the current folder can be imported, after what is installed."""
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


def _imported(name: str, spec: str):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"network={spec}: {name} needs the module {error.name}, which is not installed"
            ) from error
        parent = error.name.rpartition(".")[0]
        hint = nearest(error.name.rpartition(".")[2], _siblings(parent))
        raise ValueError(
            f"network={spec}: no module {error.name} in the current folder or among the installed packages{hint}"
        ) from error
    except Exception as error:
        raise ValueError(f"network={spec}: importing {name} failed: {_told(error)}") from error


def _siblings(parent: str) -> list[str]:
    """Modules beside the one that was not found: in its package, or in the current folder."""
    folders = [Path.cwd()] if not parent else [Path(place) for place in sys.modules[parent].__path__]
    paths = [path for folder in folders for path in sorted(folder.iterdir())]
    return [path.stem for path in paths if path.suffix == ".py" or (path / "__init__.py").is_file()]


def _attribute(module, name: str, spec: str):
    attribute = module
    for part in name.split("."):
        if not hasattr(attribute, part):
            known = [
                key for key, value in vars(attribute).items() if callable(value) and not key.startswith("_")
            ]
            hint = nearest(part, known)
            raise ValueError(f"network={spec}: {module.__name__} has no {name!r}{hint}")
        attribute = getattr(attribute, part)
    return attribute


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean ...?` with the names that are most like one; nothing where none is."""
    names = sorted(set(names))
    near = get_close_matches(name, names, 3, 0.5) or (names if len(names) <= 6 else [])
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _told(error: Exception) -> str:
    """An error of somebody else's code on one line, with its place."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    place = f" ({Path(foreign[-1].filename).name}, line {foreign[-1].lineno})" if foreign else ""
    return f"{type(error).__name__}: {lines[0] if lines else 'without a message'}{place}"
