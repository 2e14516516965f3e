"""Whether every method that promises something keeps it on random networks that nobody tuned to.

    python tests/benchmarks/property_sweep.py [--graphs 2000] [--first 0] [--processes 14] [--methods lrp,deeplift,...]

    lrp         every rule and composite, float32 and float64: the map sums to the logit
    deeplift    float32 and float64: the map sums to the logit's change from the baseline
    occlusion   the incremental engine in double precision: every drop is that of a plain forward pass

Prints each refusal and failure, then one table, and ends with code 1 where a map is wrong. A refusal is an answer, a
sentence in the place of a map; it is counted, and to be read.
"""

import argparse
import multiprocessing
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

import torch  # noqa: E402
from promised_sums import ALLOWED, EVERY_RULE, contributions_miss, relevance_miss  # noqa: E402
from random_networks import SIZE, random_network  # noqa: E402
from relevance_networks import images_and_targets  # noqa: E402
from test_random_graphs import examined  # noqa: E402
from torch import Tensor, nn  # noqa: E402


class Answer(NamedTuple):
    """What became of one map: its error and what is allowed, or why there is none."""

    method: str
    question: str
    error: float = 0.0
    allowed: float = 0.0
    refusal: str = ""
    crash: str = ""

    @property
    def wrong(self) -> bool:
        return bool(self.crash) or not self.error <= self.allowed


def lrp_answers(seed: int) -> Iterator[Answer]:
    """One answer a rule and precision."""
    for dtype, allowed in ALLOWED.items():
        name, network, images, targets = _question("LRP", seed, dtype)
        for rule in EVERY_RULE:
            error = partial(relevance_miss, network, images, targets, rule)
            yield _answer(name, f"random_network({seed}), {rule}", allowed, error)


def deeplift_answers(seed: int) -> Iterator[Answer]:
    """One answer a precision."""
    for dtype, allowed in ALLOWED.items():
        name, network, images, targets = _question("DeepLIFT", seed, dtype)
        baseline = ("zero", "blur", images.flip(0))[seed % 3]
        error = partial(contributions_miss, network, images, targets, baseline)
        yield _answer(name, f"random_network({seed})", allowed, error)


def occlusion_answers(seed: int) -> Iterator[Answer]:
    """One answer, for the drops of every window and class."""

    def error() -> float:
        found = examined(seed)
        if found is None:
            raise ValueError("cannot be run, or not followed")
        return found[0]

    yield _answer("occlusion", f"Drawing({seed})", 1e-8, error)


METHODS = {"lrp": lrp_answers, "deeplift": deeplift_answers, "occlusion": occlusion_answers}


def _question(method: str, seed: int, dtype: torch.dtype) -> tuple[str, nn.Module, Tensor, Tensor]:
    images, targets = images_and_targets(2, SIZE, seed=seed)
    name = f"{method} {str(dtype).removeprefix('torch.')}"
    return name, random_network(seed).to(dtype), images.to(dtype), targets


def _answer(method: str, question: str, allowed: float, error: Callable[[], float]) -> Answer:
    try:
        return Answer(method, question, error(), allowed)
    except ValueError as refusal:
        return Answer(method, question, refusal=str(refusal))
    except Exception as crash:  # whatever it is, it belongs into the table and not before it
        return Answer(method, question, crash=f"{type(crash).__name__}: {crash}")


def answers(question: tuple[str, int]) -> list[Answer]:
    """What one method answers about one network."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    method, seed = question
    return list(METHODS[method](seed))


def table(counted: dict[str, Counter], worst: dict[str, Answer]) -> str:
    """One row a method."""
    lines = [
        "| method | graphs | maps | refused | wrong | largest error | allowed | where |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, count in counted.items():
        most = worst.get(method)
        end = f"{most.error:.1e} | {most.allowed:.0e} | {most.question}" if most else "none | |"
        row = [method, *(str(count[key]) for key in ("graphs", "maps", "refused", "wrong")), end]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--methods", default=",".join(METHODS))
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.graphs)
    questions = [(method, seed) for seed in seeds for method in options.methods.split(",")]
    counted: dict[str, Counter] = {}
    worst: dict[str, Answer] = {}
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for found in pool.imap_unordered(answers, questions, chunksize=4):
            for method in dict.fromkeys(answer.method for answer in found):
                counted.setdefault(method, Counter())["graphs"] += 1
            for answer in found:
                count = counted[answer.method]
                if answer.refusal:
                    count["refused"] += 1
                    print(f"refused: {answer.method}, {answer.question}: {answer.refusal}", flush=True)
                    continue
                count["maps"] += 1
                count["wrong"] += answer.wrong
                if answer.wrong:
                    said = answer.crash or f"error {answer.error:.2g}, allowed {answer.allowed:.0e}"
                    print(f"WRONG: {answer.method}, {answer.question}: {said}", flush=True)
                if not answer.crash and (
                    answer.method not in worst or not answer.error <= worst[answer.method].error
                ):
                    worst[answer.method] = answer
    print(table(dict(sorted(counted.items())), worst))
    return int(any(count["wrong"] for count in counted.values()))


if __name__ == "__main__":
    sys.exit(main())
