"""A network as files that need this package (safetensors with its configuration) or do not (torch.export, ONNX).

    model.safetensors, config.json    weights; what builds the network around them: `from_pretrained` does
    model.pt2                         torch.export.load(FILE).module()(images)
    model.onnx                        images (B, C, H, W) in [0, 1] -> logits (B, K), for any runtime

Each file is loaded again before it is handed out, and gives the logits that the network itself gives.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from interp_cnn.pretrained.shipped import CONFIG, WEIGHTS
from interp_cnn.runs.pretrained import built

FORMATS = ("safetensors", "torch_export", "onnx")
LARGEST_ERROR = 1e-3  # of a logit, relative to the largest one


def check_formats(formats: Sequence[str]) -> None:
    """Refuse a format that is unknown or that nothing installed can write."""
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"model_formats: no format {name!r}; there are {', '.join(FORMATS)}")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)]
    if "onnx" in formats and missing:
        raise ValueError(f"model_formats: onnx needs {missing[0]}: pip install 'interp-cnn[onnx]'")


def network_files(
    network: nn.Module,
    images: Tensor,
    configuration: dict[str, Any],
    formats: Sequence[str],
    *,
    place: str,
) -> Iterator[tuple[str, bytes]]:
    """Names, inside the folder `place`, and contents; the last file holds the errors that were found.

    Args:
        network: in evaluation mode.
        images: (B, C, H, W), two or more, for the check.
        configuration: plain values; `network` in it are the arguments of `build_network`.
        formats: of `FORMATS`.
        place: folder of the names.

    Raises:
        ValueError: a file whose logits are not those of the network.
    """
    with torch.no_grad():
        logits = network(images)
    errors = {}
    for kind in formats:
        write, name = _WRITERS[kind]
        content, run = write(network, images, configuration)
        errors[name] = _error(logits, [run(images), run(images[:1])], name)
        yield f"{place}/{name}", content
    about = {**configuration, "largest_relative_error": errors}
    yield f"{place}/{CONFIG}", (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def errors_in(content: bytes) -> dict[str, float]:
    """File -> largest relative error, from a config.json."""
    return json.loads(content)["largest_relative_error"]


def _safetensors(network: nn.Module, images: Tensor, configuration: dict[str, Any]):
    content = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    again = built(configuration)
    again.load_state_dict(load(content))
    return content, _without_gradient(again.eval())


def _torch_export(network: nn.Module, images: Tensor, configuration: dict[str, Any]):
    batch = ({0: torch.export.Dim("batch", min=1)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, (images,), dynamic_shapes=batch)
        buffer = BytesIO()
        torch.export.save(program, buffer)
        again = torch.export.load(BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), _without_gradient(again)


def _onnx(network: nn.Module, images: Tensor, configuration: dict[str, Any]):
    import onnxruntime

    batch = ({0: torch.export.Dim("batch", min=1)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            dynamic_shapes=batch,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
        )
    assert program is not None  # with dynamo=True
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda some: torch.from_numpy(session.run(None, {"images": some.numpy()})[0])


def _without_gradient(network: nn.Module) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            return network(images)

    return run


def _error(logits: Tensor, exported: Sequence[Tensor], name: str) -> float:
    """The largest difference, for a whole batch and for one image."""
    largest = max(float((some - logits[: len(some)]).abs().max()) for some in exported)
    relative = largest / max(float(logits.abs().max()), 1e-12)
    if not relative <= LARGEST_ERROR:
        raise ValueError(
            f"{name}: its logits differ from the network's by {relative:.1e} of the largest logit; "
            f"expected at most {LARGEST_ERROR}"
        )
    return relative


_WRITERS = {
    "safetensors": (_safetensors, WEIGHTS),
    "torch_export": (_torch_export, "model.pt2"),
    "onnx": (_onnx, "model.onnx"),
}
