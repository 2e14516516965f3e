"""Command `play`: a page on this machine where an image is painted over and filters are switched off, answered live.

    interp-cnn play                                   the two digits networks that come with the package
    interp-cnn play outputs/compare/...               both networks of a comparison
    interp-cnn play network=torchvision:squeezenet1_0 weights=FILE images=DIR

The page runs until Ctrl-C and listens on this machine only. Nothing is written.
"""

import signal
import sys
import tempfile
import webbrowser
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from interp_cnn.commands.explain_inputs import crops, pictures_and_networks, size_of
from interp_cnn.data.photographs import Photograph
from interp_cnn.decisions.recipe import asked_of
from interp_cnn.play.playground import Playground
from interp_cnn.play.server import Server
from interp_cnn.pretrained.shipped import shipped_names
from interp_cnn.runs.devices import device_named
from interp_cnn.runs.inputs import Subject, spread
from interp_cnn.storage.progress import stages

EXEMPLARS_AMONG = 400  # validation images


def run(config: DictConfig) -> None:
    """Serve the page until Ctrl-C."""
    port = config.port
    if port is not None and (not isinstance(port, int) or not 0 <= port < 65536):
        raise ValueError(f"port={port}: expected a number from 0 to 65535, or null")
    server = Server(playground(config), port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its end is no accident
    with server, suppress(KeyboardInterrupt):
        print(f"play at {server.address} (Ctrl-C ends it)", flush=True)
        if config.browser and sys.stdout.isatty():
            webbrowser.open(server.address)
        server.serve_forever()


def playground(config: DictConfig) -> Playground:
    """What a composed `play` configuration asks to play with."""
    if config.run is None and config.network is None:
        config = OmegaConf.merge(config, {"run": list(shipped_names())})  # pyright: ignore[reportAssignmentType]
    device = device_named(config.device)
    pictures, networks = pictures_and_networks(config)
    first = networks[0]
    asked = [
        asked_of(subject, device, config.layer, most=EXEMPLARS_AMONG)
        for subject in stages(networks, "looking at filters", lambda it: it.name)
    ]
    crop = crops(config, first)
    size = first.image_size or size_of(config.image_size)
    shown = spread(pictures, config.limit)
    return Playground(
        asked, shown, reads=lambda content, name: _read(content, name, first, size, crop), layer=config.layer
    )


def _read(content: bytes, name: str, subject: Subject, size: tuple[int, int] | None, crop: bool) -> Tensor:
    """An image file that somebody dropped on the page, as the networks take it."""
    with tempfile.TemporaryDirectory(prefix="interp-cnn-play-") as folder:
        path = Path(folder) / "dropped"
        path.write_bytes(content)
        try:
            return Photograph(path, name, ()).pixels(size, channels=subject.channels, crop=crop)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), name)) from error
