"""The bar of long work: how far, how long, how much longer; nothing where nobody watches."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


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
