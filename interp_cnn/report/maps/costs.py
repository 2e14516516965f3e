"""What the methods of explained images promise and cost, over all images: the table below the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from interp_cnn.report.maps.records import read_records
from interp_cnn.report.numbers import duration, is_known
from interp_cnn.report.words import method_title


@dataclass(frozen=True)
class NetworkRow:
    """What one method promises and costs with one network, over all images."""

    network: str
    error: str
    seconds: str
    passes: str
    refused: str


@dataclass(frozen=True)
class MethodRow:
    """One method over all images."""

    title: str
    meaning: str
    unit: str
    networks: list[NetworkRow]


def method_rows(folder: Path, names: Sequence[str], meanings: Mapping[str, str]) -> list[MethodRow]:
    """Every method over all images of a folder.

    Args:
        folder: in which `images/` lies.
        names: of the images' folders.
        meanings: method -> what its values say.
    """
    costs: dict[str, dict[str, list[tuple[float, float, float, bool]]]] = {}
    units: dict[str, str] = {}
    for _, record in read_records(folder, names):
        for answer in record.answers:
            for map_record in answer.maps:
                cost = (map_record.seconds, map_record.forward_passes)
                numbers = (map_record.relative_error, *cost, bool(map_record.refused))
                costs.setdefault(map_record.method, {}).setdefault(answer.network, []).append(numbers)
                units[map_record.method] = map_record.unit
    return [
        MethodRow(
            method_title(method),
            meanings.get(method, ""),
            units[method],
            [_network_row(network, numbers) for network, numbers in networks.items()],
        )
        for method, networks in costs.items()
    ]


def _network_row(network: str, numbers: list[tuple[float, float, float, bool]]) -> NetworkRow:
    errors = [error for error, *_ in numbers if is_known(error)]
    done = [it for it in numbers if not it[3]]
    refused = len(numbers) - len(done)
    return NetworkRow(
        network=network,
        error=_percent(median(errors)) if errors else "–",
        seconds=short_seconds(sum(it[1] for it in done) / len(done)) if done else "–",
        passes=f"{sum(it[2] for it in done) / len(done):,.0f}" if done else "–",
        refused=f"{refused} of {len(numbers)} images refused" if refused else "",
    )


def _percent(share: float) -> str:
    if share < 0.0001:
        return "under 0.01\u00a0%"
    return (
        f"{100 * share:.{0 if share >= 0.1 else 1 if share >= 0.01 else 2}f}\u00a0%"
        if share < 10
        else "over 1000\u00a0%"
    )


def short_seconds(seconds: float) -> str:
    """`12 ms`, `3.4 s`, `2 min 5 s`."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else duration(seconds)
