"""A user's own network by name: torchvision's, or what a factory of theirs builds.

    torchvision:resnet50             weights: a file, torchvision's name for them (DEFAULT), or none (random)
    package.module:factory           weights: a file, or none (as the factory built it)

Both take pixels in [0, 1]: torchvision's networks stand behind the normalisation that torchvision's weights expect,
in a file too; a factory's network normalises inside, unless `mean` and `std` are given. A factory is called without
arguments (with `num_classes`, where it is given and the factory takes it); its module is looked for in the current
folder too. Weight files are read as tensors only, nothing in them runs.
"""

import importlib
import inspect
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from interp_cnn.model.backbones import Normalise, Normalised, TorchvisionClassifier, statistics_of_weights
from interp_cnn.runs.normalisation import Statistics, checked_statistics
from interp_cnn.storage.tensors import read_tensors

IMAGENET_CLASSES = 1000
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def load_network(
    spec: str,
    *,
    weights: str | None = None,
    num_classes: int | None = None,
    mean: Statistics = None,
    std: Statistics = None,
) -> nn.Module:
    """A classifier in evaluation mode: images (B, C, H, W) in [0, 1] -> logits (B, K).

    Args:
        spec: `torchvision:NAME` or `package.module:factory`.
        weights: a file (a state dict saved by `torch.save`, or safetensors); for a torchvision network also
            torchvision's own name, such as DEFAULT or IMAGENET1K_V1 (downloaded unless it is cached); None: none.
        num_classes: K; by default that of the weights, or ImageNet's 1000, or the factory's own.
        mean: of the pixels in [0, 1] that the network was trained on, one number or one per channel: it is put behind
            (images - mean) / std. None: torchvision's networks see what torchvision's weights expect, others bare
            pixels.
        std: likewise.

    Raises:
        ValueError: an unknown network, module or factory, or weights or a mean that do not fit.
        FileNotFoundError: no such weights file.

    Example:
        >>> network = load_network("torchvision:squeezenet1_1", num_classes=5, mean=0.5, std=0.25)
        >>> network(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 5])
    """
    package, _, name = spec.partition(":")
    if not package or not name:
        near = get_close_matches(spec, _torchvision_names(), 1, 0.6)
        raise ValueError(
            f"network={spec!r} is neither torchvision:NAME nor package.module:factory"
            + (f"; did you mean torchvision:{near[0]}?" if near else "")
        )
    if package == "torchvision":
        network = _torchvision_network(name, weights, num_classes)
        statistics = checked_statistics(mean, std, 3)
        if statistics is not None:
            network.normalise = Normalise(*statistics)
    else:
        network = _built(package, name, num_classes)
        if weights is not None:
            _load(network, _state(weights), weights, spec)
        statistics = checked_statistics(mean, std, image_channels(network))
        if statistics is not None:
            network = Normalised(network, *statistics)
    with suppress(NotImplementedError):  # what torch.export made is in evaluation mode for good
        network.eval()
    return network


def image_channels(network: nn.Module) -> int:
    """C of a network's images: 1 where its first convolution takes grey ones, else 3."""
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return 1 if first is not None and first.in_channels == 1 else 3


def class_names(spec: str, count: int, *, weights: str | None = None) -> tuple[str, ...]:
    """Names of a network's K classes, all different: ImageNet's for torchvision's networks with 1000 trained ones, else
    numbers.
    """
    return told_apart(known_class_names(spec, count, weights=weights)) or tuple(
        f"class {number}" for number in range(count)
    )


def told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes; those that several share with the number of the class, as in "crane (134)"."""
    several = {name for name, count in Counter(names).items() if count > 1}
    return tuple(f"{name} ({number})" if name in several else name for number, name in enumerate(names))


def known_class_names(spec: str, count: int, *, weights: str | None = None) -> tuple[str, ...]:
    """Names of a network's K classes as its weights have them, empty where nobody knows."""
    package, _, name = spec.partition(":")
    if package == "torchvision" and weights is not None and count == IMAGENET_CLASSES:
        for known in torchvision.models.get_model_weights(name):
            if len(known.meta.get("categories", ())) == count:
                return tuple(known.meta["categories"])
    return ()


def _torchvision_names() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def _torchvision_network(name: str, weights: str | None, num_classes: int | None) -> nn.Module:
    if name not in _torchvision_names():
        raise ValueError(f"torchvision has no classifier {name!r}{_nearest(name, _torchvision_names())}")
    names = torchvision.models.get_model_weights(name).__members__
    if weights is None:
        return TorchvisionClassifier(name, num_classes or IMAGENET_CLASSES)
    if weights in names or weights == "DEFAULT":
        if num_classes not in (None, IMAGENET_CLASSES):
            raise ValueError(
                f"num_classes={num_classes}, but weights={weights} of torchvision:{name} know 1000 classes"
            )
        return TorchvisionClassifier(name, IMAGENET_CLASSES, weights=weights)
    if not Path(weights).is_file() and not Path(weights).suffix:
        listed = ", ".join(["DEFAULT", *names])
        raise ValueError(f"weights={weights} is no file and no weights of torchvision:{name} ({listed})")
    state = _without_prefix(_state(weights), set(_skeleton(name).state_dict()))
    found = _classes_in(state, name)
    if found and num_classes not in (None, found):
        raise ValueError(f"num_classes={num_classes}, but the weights file {weights} knows {found} classes")
    mean, std = statistics_of_weights(name)
    network = TorchvisionClassifier(name, found or num_classes or IMAGENET_CLASSES, mean=mean, std=std)
    # networks with an auxiliary head use it in training only; files may hold it or not
    state = {
        key: value
        for key, value in state.items()
        if not key.lower().startswith(("aux1.", "aux2.", "auxlogits."))
    }
    _load(network.body, state, weights, f"torchvision:{name}")
    return network


def _skeleton(name: str) -> nn.Module:
    """The network of 1000 classes without memory for its weights."""
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **_quiet(name))


def _quiet(name: str) -> dict:
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


def _classes_in(state: dict[str, Tensor], name: str) -> int | None:
    """How many classes a state dict was trained for: the outputs of its last weighted layer."""
    layers = [
        key
        for key, module in _skeleton(name).named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and not key.lower().startswith("aux")
    ]
    weight = state.get(f"{layers[-1]}.weight")
    return None if weight is None or weight.dim() < 2 else weight.shape[0]


def _built(module_name: str, factory_name: str, num_classes: int | None) -> nn.Module:
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
        hint = _nearest(error.name.rpartition(".")[2], _siblings(parent))
        raise ValueError(
            f"network={spec}: no module {error.name} in the current folder or among the installed packages{hint}"
        ) from error
    except Exception as error:
        raise ValueError(f"network={spec}: importing {name} failed: {_told(error)}") from error


def _siblings(parent: str) -> list[str]:
    """Modules beside the one that was not found: in its package, or in the current folder."""
    folders = [Path.cwd()] if not parent else [Path(place) for place in sys.modules[parent].__path__]
    found = [path for folder in folders for path in sorted(folder.iterdir())]
    return [path.stem for path in found if path.suffix == ".py" or (path / "__init__.py").is_file()]


def _attribute(module, name: str, spec: str):
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            hint = _nearest(part, known)
            raise ValueError(f"network={spec}: {module.__name__} has no {name!r}{hint}")
        found = getattr(found, part)
    return found


def _state(path: str) -> dict[str, Tensor]:
    """The tensors of a weights file by name."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist")
    try:
        state = read_tensors(file)
    except Exception as error:  # safetensors raises its own kinds
        raise ValueError(f"weights file {path} cannot be read: {error}") from error
    for key in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(value, Tensor) for value in state.values())
    ):
        raise ValueError(
            f"weights file {path} holds no state dict: expected tensors by their parameters' names"
        )
    return state


def _without_prefix(state: dict[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """The state without what a wrapper (DDP, a Lightning module) wrote before every name."""
    while not expected & state.keys():
        heads = {key.partition(".")[0] for key in state}
        if len(heads) != 1 or not all("." in key for key in state):
            break
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return state


def _load(network: nn.Module, state: dict[str, Tensor], path: str, spec: str) -> None:
    own = network.state_dict()
    state = _without_prefix(state, set(own))
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in state and key not in counters]
    unknown = [key for key in state if key not in own]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = [*shapes, *(f"{key} is missing" for key in missing), *(f"{key} is unknown" for key in unknown)]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ValueError(f"weights file {path} does not fit {spec}: {faults[0]}{more}")
    network.load_state_dict(state, strict=False)


def _nearest(name: str, names: Iterable[str]) -> str:
    names = sorted(set(names))
    near = get_close_matches(name, names, 3, 0.5) or (names if len(names) <= 6 else [])
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _told(error: Exception) -> str:
    """An error of somebody else's code on one line, with its place."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    place = f" ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else ""
    return f"{type(error).__name__}: {lines[0] if lines else 'without a message'}{place}"
