"""The images that runs were trained on and judged by, as their folders keep them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from omegaconf import DictConfig, OmegaConf

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.split_record import SplitRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """What a run has seen.

    Attributes:
        run: what it is called in messages.
        record: its images.
        source: the data set and its folder; names mean the same images only where this is the same.
    """

    run: str
    record: SplitRecord
    source: tuple[Any, Path | None]

    @classmethod
    def by(cls, folder: Path, data: PartDataModule) -> "Seen":
        """What the run of a folder has seen, whose data these are; without a record, what its own split gives."""
        return cls(str(folder), SplitRecord.read(folder) or data.split_record(), _source(data))


def leave_out_trained_on(data: PartDataModule, runs: Sequence[Seen]) -> None:
    """Leaves out of the validation images those that one of several runs was trained on, and says so in a line.

    An image is the one that a run knows when it has the same bytes or pixels, or else the same name (whatever its
    ending) in the same data set.

    Args:
        data: the images that all runs are asked about; set up, and of the first run's sides.
        runs: all of them.

    Raises:
        ValueError: no image would be left.
    """
    trained_on: dict[int, str] = {}
    images = data.val_set
    known = list(zip(images.names, images.contents(), images.shown(), strict=True))
    for seen in runs[1:]:
        if seen.record.train == runs[0].record.train:  # twins
            continue
        learned = _Known(seen, same_names=seen.source == _source(data))
        trained_on |= {
            place: seen.run
            for place, image in enumerate(known)
            if place not in trained_on and learned.has(*image)
        }
    if not trained_on:
        return
    culprits = ", ".join(dict.fromkeys(trained_on.values()))
    if len(trained_on) == len(images):
        raise ValueError(
            f"every validation image of {runs[0].run} was a training image of {culprits}; "
            "ask about each run alone, or give images that none of them was trained on"
        )
    first = images.names[min(trained_on)]
    log.warning(
        "%d of %d validation images are left out, since %s was trained on them (%s%s)",
        len(trained_on),
        len(images),
        culprits,
        first,
        ", ..." if len(trained_on) > 1 else "",
    )
    data.judge_by([place for place in range(len(images)) if place not in trained_on])


class _Known:
    """The images that a run knows, by content, by its pixels and by name."""

    def __init__(self, seen: Seen, *, same_names: bool) -> None:
        train, val = seen.record.train, seen.record.val
        self.trained_on = {*train.contents, *train.shown} - {""}
        self.judged_by = {*val.contents, *val.shown} - {""}
        self.names = {*map(_stem, train.names)} if same_names else set()

    def has(self, name: str, *contents: str) -> bool:
        """Whether the run was trained on the image, which is known by its bytes and by its pixels."""
        for content in contents:
            if content in self.trained_on or content in self.judged_by:
                return content in self.trained_on
        return _stem(name) in self.names


def same_dataset(config: DictConfig, data: PartDataModule) -> bool:
    """Whether a configuration's section `data` is of the data set that a data module has."""
    dataset = _source(data)[0]
    return OmegaConf.select(config, "dataset._target_") == f"{dataset.__module__}.{dataset.__qualname__}"


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if name else ""


def _source(data: PartDataModule) -> tuple[Any, Path | None]:
    root = data.options.get("root")
    dataset = getattr(data.dataset, "func", data.dataset)  # of a partial
    return dataset, root if root is None else Path(root).expanduser().resolve()


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
