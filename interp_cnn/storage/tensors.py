"""Files of tensors, read as data: nothing in them runs, and what is damaged or swollen is refused.

torch.load with `weights_only=True` and safetensors execute nothing, but torch.load neither checks the checksums that
its ZIP container has nor how large the container unpacks to: a flipped bit would become a wrong weight.
"""

import warnings
import zipfile
from pathlib import Path

import torch


def read_tensors(path: Path) -> dict:
    """Content of a checkpoint, of a state dict (`torch.save`) or of a safetensors file, on the CPU.

    Raises:
        ValueError: the file is damaged, unpacks to more than its own size, or holds more than tensors and plain values.
    """
    if path.stat().st_size == 0:
        raise ValueError("it is empty: what wrote it was broken off, or the disk was full")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"it is damaged, or no safetensors file ({error})") from error
    with path.open("rb") as file:
        container = file.read(4) == b"PK\x03\x04"  # zipfile.is_zipfile itself fails on some damaged files
    if container:
        _check_container(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # of a foreign pickle, which is refused in a sentence
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises nearly every built-in exception on damaged files
        if "weights_only" in str(error):
            raise ValueError(
                "it holds more than tensors (a whole pickled network?), which is not read because it could run code; "
                "save network.state_dict() instead"
            ) from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines and not lines[0].isdigit() else type(error).__name__
        raise ValueError(f"it is damaged, or no file that torch.save wrote ({reason})") from error


def _check_container(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as container:
            unpacked = sum(entry.file_size for entry in container.infolist())
            if unpacked > path.stat().st_size:
                raise ValueError(f"it unpacks to {unpacked:,} bytes, more than its own size")
            damaged = container.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ValueError(f"it is damaged ({error or type(error).__name__})") from error
    if damaged is not None:
        raise ValueError(f"it is damaged ({damaged} does not have its checksum)")
