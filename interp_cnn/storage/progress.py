"""The bar of long work: how far, how long, how much longer; where nobody watches, a line for each finished stage."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn, track

Item = TypeVar("Item")


def progress_bar(*, transient: bool = False) -> Progress:
    """A bar on stderr whose tasks carry a field `seen`, such as "3/10 images".

    Args:
        transient: take the bar away when the work is done.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[seen]}"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=600,
        transient=transient,
    )


def stages(items: Sequence[Item], what: str, name: Callable[[Item], str] = str) -> Iterator[Item]:
    """Hand out items one after the other, and say on stderr how far the work is.

    Args:
        items: what there is to do.
        what: is done with them.
        name: of an item, for the line that a finished one gets where stderr is no terminal.
    """
    if Console(stderr=True).is_terminal:
        yield from track(items, description=what, transient=True, console=Console(stderr=True))
        return
    for number, item in enumerate(items, 1):
        started = time.monotonic()
        yield item
        _say(f"{what}: {number}/{len(items)}, {name(item)}", started)


@contextmanager
def stage(what: str) -> Iterator[None]:
    """One piece of work that gets a line when it is done, where stderr is no terminal."""
    started = time.monotonic()
    yield
    if not Console(stderr=True).is_terminal:
        _say(what, started)


def _say(done: str, started: float) -> None:
    sys.stderr.write(f"{done}, {time.monotonic() - started:.0f} s\n")
    sys.stderr.flush()
