"""The images that a run was trained on and judged by, as its folder keeps them."""

import logging
from pathlib import Path

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.split_record import SplitRecord

log = logging.getLogger(__name__)


def follow_images(data: PartDataModule, folder: Path) -> None:
    """Lets a data module that is not set up yet take the sides of a run."""
    record = SplitRecord.read(folder)
    if record is not None:
        data.follow(record, str(folder))
    elif "val_fraction" in data.options:  # a folder of images, split here; other sets come split
        log.warning(
            "%s keeps no list of its images: its split is drawn anew, and it may be judged by images that it was "
            "trained on; train again to be sure",
            folder,
        )
