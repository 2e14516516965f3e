"""What is asked for: how patterns are mined, and how pictures of them are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from interp_cnn.explanation.concepts.reconstruction import MODES
from interp_cnn.runs.decoders import DecoderSettings

KINDS = ("patterns", "filters", "graph", "nmf", "topk")
DICTIONARIES = KINDS[3:]
OF_SOURCES = ("layer", "unmasked")  # settings that say which layers are asked, see `sources_of`


@dataclass(frozen=True)
class Mining:
    """How patterns are mined; see `mine_patterns` and `position_transactions`.

    Attributes:
        kinds: what is mined, of `KINDS`.
        shown: occurrences that are kept of each, at most.
        atoms: of a dictionary of nmf or topk; None: quota times classes, at most as many as channels.
        active: atoms of a cell, of topk.
    """

    kinds: tuple[str, ...] = KINDS[:2]
    images: int = 1000
    top: int = 20
    neighbours: int = 0
    min_support: float = 0.01
    lengths: tuple[int, int] = (2, 4)
    quota: int = 5
    most_overlap: float = 0.5
    false_discovery_rate: float = 0.05
    null_draws: int = 3
    shown: int = 9
    seed: int = 0
    atoms: int | None = None
    active: int = 4

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ValueError(f"patterns.kinds: no kind {kind!r}; expected some of {', '.join(KINDS)}")
        if not self.kinds:
            raise ValueError(f"patterns.kinds=[] mines nothing; expected some of {', '.join(KINDS)}")
        for name in ("images", "shown", "quota", "atoms", "active"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"patterns.{name}={value}: expected 1 or more")


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn.

    Attributes:
        modes: of `MODES`; "window" and "full", the ceiling, always among them.
        decoder: of its training.
        decoders: folders of decoders that were trained before.
        trainer: arguments of Lightning's Trainer.
    """

    modes: tuple[str, ...] = ("window", "channels", "full", "ablate")
    decoder: DecoderSettings = field(default_factory=DecoderSettings)
    decoders: tuple[str, ...] = ()
    trainer: Mapping | None = None

    def __post_init__(self) -> None:
        for mode in self.modes:
            if mode not in MODES:
                raise ValueError(
                    f"reconstructions.modes: no mode {mode!r}; expected some of {', '.join(MODES)}"
                )
        lacking = [mode for mode in ("window", "full") if mode not in self.modes]
        object.__setattr__(self, "modes", (*lacking, *self.modes))


def settings_of(
    patterns: Mapping[str, Any], reconstructions: Mapping[str, Any], *, seed: int, device: str
) -> tuple[Mining, Drawing]:
    """From the two sections of a configuration.

    Args:
        patterns: of `Mining`, but the seed.
        reconstructions: modes, decoders, epochs.
        seed: of halves, swaps and decoders.
        device: "cpu" or another, where decoders are trained.

    Raises:
        ValueError: a value that makes no sense.
    """
    mining = {name: _tuple(value) for name, value in patterns.items() if name not in OF_SOURCES}
    epochs = {} if reconstructions["epochs"] is None else {"epochs": reconstructions["epochs"]}
    drawing = Drawing(
        _tuple(reconstructions["modes"]),
        DecoderSettings(**epochs, seed=seed),
        _tuple(reconstructions["decoders"]),
        {"accelerator": "cpu" if device == "cpu" else "gpu", "devices": 1, "deterministic": device == "cpu"},
    )
    return Mining(**mining, seed=seed), drawing


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
