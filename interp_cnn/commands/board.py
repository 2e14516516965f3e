"""Opens TensorBoard on a run folder: `interp-cnn board [FOLDER] [--port N]`.

TensorBoard by itself keeps ten images of a tag and forgets most scalars of a long run; here all images of a
run stay. It listens on this machine only.
"""

import argparse
import io
import logging
import threading
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import NoReturn

_KEPT = "images=500,scalars=5000,histograms=500,distributions=500,text=200,pr_curves=500"
_USAGE = """usage: interp-cnn board [FOLDER] [--port N]

Opens TensorBoard on a run folder, or on all runs in a folder (default: outputs), and tells its address.
It keeps 500 images of every tag, listens on this machine only and runs until Ctrl-C.

  --port N     the port to listen on (default: 6006, or the next free one)"""


def run(arguments: list[str]) -> int:
    """Serve a run folder until Ctrl-C.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no event files.
        ValueError: if the port is no number, not possible, or taken; or an argument is not known.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.error = _refuse
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("folder", nargs="?", default="outputs")
    parser.add_argument("--port", default=None)
    options = parser.parse_args(arguments)
    if options.help:
        print(_USAGE)
        return 0
    folder = Path(options.folder.removeprefix("run=")).expanduser()
    port = None if options.port is None else _port(options.port)
    check_events(folder)
    address = serve(folder, port)
    print(f"TensorBoard shows {folder} at {address} (Ctrl-C ends it)", flush=True)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
    return 0


def check_events(folder: Path) -> None:
    """Refuse a folder that does not exist or has nothing for TensorBoard in it."""
    if not folder.is_dir():
        raise FileNotFoundError(2, "No such run folder", str(folder))
    if next(folder.rglob("events.out.tfevents.*"), None) is None:
        raise FileNotFoundError(f"{folder} holds no event files: interp-cnn train or compare writes them")


def serve(folder: Path, port: int | None = None) -> str:
    """Start TensorBoard on a folder in a thread of this process and return its address."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # that TensorFlow is missing is as intended
    from tensorboard import default, program

    board = program.TensorBoard(plugins=default.get_plugins())
    flags = ["tensorboard", "--logdir", str(folder), "--host", "localhost", "--samples_per_plugin", _KEPT]
    board.configure(argv=[*flags, *([] if port is None else ["--port", str(port)])])
    try:
        with redirect_stderr(io.StringIO()):  # a notice that its data server is experimental
            return board.launch()
    except program.TensorBoardServerException as error:
        raise ValueError(f"TensorBoard cannot start on port {port or 6006}: {error.msg}") from error


def _refuse(message: str) -> NoReturn:
    raise ValueError(f"board takes a folder and --port N: {message}")


def _port(text: str) -> int:
    if not text.isdigit() or not 0 <= int(text) < 65536:
        raise ValueError(f"--port must be a number from 0 to 65535, not {text!r}")
    return int(text)
