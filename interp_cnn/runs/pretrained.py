"""Trained networks from a folder, by name, or from the Hugging Face Hub: what `save_pretrained` wrote, read again.

A folder holds plain values and tensors; nothing in it runs. Nothing is downloaded unless `hf-hub:` asks for it.
"""

import importlib.util
import json
import logging
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from interp_cnn.model.backbones import build_network
from interp_cnn.model.bodies import named
from interp_cnn.pretrained.shipped import (
    CARD,
    CONFIG,
    WEIGHTS,
    is_pretrained,
    shipped_folder,
    shipped_names,
)
from interp_cnn.storage.spelling import nearest

log = logging.getLogger(__name__)
HUB = "hf-hub:"
LARGEST = 1 << 24  # bytes of config.json; one of ten thousand classes has 200 kB


def from_pretrained(place: Path | str) -> nn.Module:
    """A trained network in evaluation mode; images (B, C, H, W) in [0, 1] -> logits (B, K).

    Its `config` has what stands in config.json: `config["classes"]` are the names in the order of the logits.
    `load_run` takes the same folders and names and gives the images of its training too.

    Args:
        place: a folder that `save_pretrained` or `interp-cnn export` wrote; the name of a network that comes with the
            package (digits-interpretable, digits-plain); or `hf-hub:OWNER/NAME`, which is downloaded from the Hugging
            Face Hub (extra `hub`).

    Raises:
        FileNotFoundError: no such folder or name.
        ValueError: a folder that holds something else, or the Hub cannot be asked.

    Example:
        >>> import torch
        >>> network = from_pretrained("digits-interpretable")
        >>> network(torch.rand(2, 1, 48, 48)).shape
        torch.Size([2, 10])
        >>> network.config["classes"][:3]
        ['0', '1', '2']
    """
    text = str(place)
    if text.startswith(HUB):
        folder = _downloaded(text.removeprefix(HUB))
        _refuse_factories(folder)
        return network_in(folder)
    return network_in(pretrained_folder(place))


def pretrained_folder(place: Path | str) -> Path:
    """The folder that a path or a name stands for.

    Raises:
        FileNotFoundError: neither a folder nor a name.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir() and (shipped := shipped_folder(str(place))) is not None:
        return shipped
    if folder.is_dir():
        if is_pretrained(folder):
            return folder
        raise FileNotFoundError(
            f"{folder} holds no trained network: it has no {CONFIG} with {WEIGHTS}; save_pretrained writes them, and "
            "load_run loads a run folder"
        )
    names = shipped_names()
    near = nearest(str(place), names)
    raise FileNotFoundError(
        f"{place} is no folder and no network that comes with the package ({', '.join(names)})"
        f"{'; ' + near if near else ''}; {HUB}OWNER/NAME asks the Hugging Face Hub"
    )


def network_in(folder: Path) -> nn.Module:
    """The network of a folder, in evaluation mode; its `config` is the folder's description.

    Raises:
        ValueError: files that do not fit each other, or weights that are no numbers.
    """
    description = description_in(folder)
    try:
        network = built(description)
        weights = load_file(folder / WEIGHTS)
        network.load_state_dict(weights)
    except (SafetensorError, RuntimeError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {reason}") from error
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{folder / WEIGHTS} holds weights that are NaN or infinite: {', '.join(broken[:3])}"
        )
    network.config = description  # pyright: ignore[reportArgumentType]  # as users of transformers look for it
    return network.eval()


def description_in(folder: Path) -> dict[str, Any]:
    """What config.json says: `network` (arguments of `build_network`), `classes` and more; plain values.

    Raises:
        ValueError: no description of a network.
    """
    path = folder / CONFIG
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("it is too large")
        text = path.read_text("utf-8")
        if "${" in text:
            raise ValueError("it has interpolations ${...}")
        description = json.loads(text)
        for name, kind in (("network", dict), ("classes", list)):
            if not isinstance(description, dict) or not isinstance(description.get(name), kind):
                raise ValueError(f"it has no {name}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no description of a trained network: {error}") from error
    return description


def lacks_images(folder: Path) -> bool:
    """Whether a folder of `save_pretrained` does not tell where the images of its training lie."""
    if not is_pretrained(folder):
        return False
    data = (description_in(folder).get("training") or {}).get("data") or {}
    return "root" in data and data["root"] is None


def built(description: dict[str, Any]) -> nn.Module:
    """A network as its description says, with new weights."""
    arguments = dict(description["network"])
    arguments["image_size"] = tuple(arguments["image_size"])
    return build_network(arguments.pop("name"), **arguments)


def _downloaded(identity: str) -> Path:
    """The folder of a network of the Hugging Face Hub, from its cache where it lies there."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", identity):
        raise ValueError(
            f"{HUB}{identity} is no name of the Hugging Face Hub; expected {HUB}OWNER/NAME[@REVISION]"
        )
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ValueError(f"{HUB}{identity} needs the package huggingface_hub: pip install 'interp-cnn[hub]'")
    import huggingface_hub

    repository, _, revision = identity.partition("@")
    log.info("asking the Hugging Face Hub for %s", identity)
    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision or None, allow_patterns=[CONFIG, WEIGHTS, CARD]
        )
    except Exception as error:  # of its many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{HUB}{identity} could not be had: {reason}") from error
    if not is_pretrained(Path(folder)):
        raise ValueError(
            f"{HUB}{identity} has no {CONFIG} with {WEIGHTS}; expected what save_pretrained wrote"
        )
    return Path(folder)


def _refuse_factories(folder: Path) -> None:
    """What was downloaded does not get to name Python that is called here."""
    name = str(description_in(folder)["network"].get("name"))
    if named(name).kind == "factory":
        raise ValueError(
            f"the network is built by {name}, code that did not come with it; look at it, then give its folder: "
            f"{folder}"
        )
