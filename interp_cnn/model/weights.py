"""Files of weights: tensors by the names of parameters. Nothing in them is executed."""

from pathlib import Path

from torch import Tensor, nn

from interp_cnn.storage.tensors import read_tensors

_WRAPPERS = ("state_dict", "model_state_dict", "model")


def state_of(path: str) -> dict[str, Tensor]:
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


def without_prefix(state: dict[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """The state without what a wrapper (DDP, a Lightning module) wrote before every name."""
    while not expected & state.keys():
        heads = {key.partition(".")[0] for key in state}
        if len(heads) != 1 or not all("." in key for key in state):
            break
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return state


def load_state(network: nn.Module, state: dict[str, Tensor], path: str, spec: str) -> None:
    """Put a state into a network, or say in one sentence what does not fit."""
    expected = network.state_dict()
    state = without_prefix(state, set(expected))
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    missing = [key for key in expected if key not in state and key not in counters]
    unknown = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    faults = [*shapes, *(f"{key} is missing" for key in missing), *(f"{key} is unknown" for key in unknown)]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ValueError(f"weights file {path} does not fit {spec}: {faults[0]}{more}")
    network.load_state_dict(state, strict=False)
