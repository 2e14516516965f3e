"""Images on their way into a folder of explanations: asked, recorded, drawn, and never asked twice.

An image is done when its record says so (`report.explained`), and its record carries a fingerprint of everything that
its maps depend on: pixels, weights, methods, options, code. Work that was interrupted goes on with the batches in which
a record is missing or was made otherwise. Memory does not grow with the number of images.

The images go in blocks of neighbours, and a process with a share of the work takes every so many-th block. Batches end
where blocks end, so that the maps have the same bits, however many processes make them. Whoever takes all blocks
afterwards finds the work of the shares done, and does what is missing.

manifest.csv                  a row per image: the file of its maps, its checksum, the fingerprint
manifest-0-of-2.csv, ...      the same of one share
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from interp_cnn.attribution.request import MapSettings
from interp_cnn.attribution.targets import resolve_targets
from interp_cnn.explanation.methods.registry import method_named
from interp_cnn.explanation.methods.run import ImageMap, asked, estimated, fitting_batch
from interp_cnn.explanation.network.precision import precision_now
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.report.maps import records as explained
from interp_cnn.report.maps.records import Answer, ImageRecord, Look, MapRecord
from interp_cnn.report.numbers import duration
from interp_cnn.runs.devices import frozen
from interp_cnn.runs.inputs import InputPicture, Subject
from interp_cnn.storage.files import written_table
from interp_cnn.storage.fingerprints import code_of, fingerprint
from interp_cnn.storage.names import folder_name
from interp_cnn.storage.progress import progress_bar

log = logging.getLogger(__name__)
BLOCK = 32  # images, where no batch size is given: the largest that `fitting_batch` gives
CELLS_DRAWN = 40  # along an image's longer side: single pixels of a large image cannot be seen


@dataclass(frozen=True)
class _Waiting:
    """An image whose turn it is."""

    name: str
    picture: InputPicture
    pixels: Tensor
    fingerprint: str
    done: bool


@dataclass
class Explanations:
    """Explained images in a folder.

    Attributes:
        folder: in which `images/` lies.
        networks: whose decisions are explained.
        settings: methods, options and target.
        device: where the networks compute.
        skip_bad: leave out images that cannot be read.
        share: (k, n) to explain every n-th block of images, from the k-th on.
        names: folders of the explained images, in order.
        bad: images that were left out: name and reason.
        refused: (network, method) to the number of images that it refused.
    """

    folder: Path
    networks: Sequence[Subject]
    settings: MapSettings
    device: torch.device | str = "cpu"
    skip_bad: bool = False
    share: tuple[int, int] = (0, 1)
    names: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for subject in self.networks:
            frozen(subject.network.to(self.device))
        networks = [f"{it.name} {it.classes} {fingerprint(it.network)}" for it in self.networks]
        self._asks = "\n".join(
            [code_of("interp_cnn.explanation"), precision_now(), repr(asdict(self.settings)), *networks]
        )
        self._pictures: dict[str, InputPicture] = {}
        self._sizes: dict[tuple[int, ...], int] = {}  # images that go together, by their shape

    def add(
        self, pictures: Sequence[InputPicture], *, batch_size: int | None = None, look: Look | None = None
    ) -> None:
        """Explain images; those that are explained already are only counted.

        Args:
            pictures: the images.
            batch_size: images in one pass; None: as many as fit into memory.
            look: draw each batch at once like this; None: leave the pictures to `draw`.

        Raises:
            ValueError: an image that cannot be read (unless bad ones are skipped), or a question that a method refuses.
        """
        blocks = self._blocks(pictures, batch_size or BLOCK)
        bar = progress_bar(transient=True)
        count = sum(map(len, blocks))
        task = bar.add_task("explaining", total=float(count), seen=f"0/{count} images")
        with bar, written_table(self.folder / self._named("manifest")) as manifest:
            manifest.writerow(("file", "maps", "sha256", "question"))
            for batch in (batch for block in blocks for batch in self._batches(block, batch_size)):
                if not all(waiting.done for waiting in batch):
                    self._explain(
                        batch, self._size(batch[0], batch_size), look, lambda share: bar.advance(task, share)
                    )
                seen = len(self.names) + len(self.bad)
                bar.update(task, seen=f"{seen}/{count} images", completed=float(seen))
                for waiting in batch:
                    record = explained.read_record(self.folder / "images" / waiting.name)
                    assert record is not None  # it was found whole, or has just been written
                    self._note_refusals(record)
                    place = f"images/{waiting.name}/{explained.MAPS}"
                    manifest.writerow((waiting.picture.name, place, record.map_sha256, waiting.fingerprint))
        self._write_quarantine()
        if not self.names and self.bad:
            raise ValueError(f"none of the {len(self.bad)} images could be read; the first: {self.bad[0][1]}")

    def refusals(self) -> str:
        """Which methods that were asked for by name gave no map of some images, in a sentence; empty for none."""
        if not self.refused or self.settings.tolerant:
            return ""
        counts = [
            f"{method} of {network} in {count} of {len(self.names)}"
            for (network, method), count in self.refused.items()
        ]
        return (
            f"images without a map: {', '.join(counts)} "
            "(the reasons stand above and on the pages); all others are written"
        )

    def estimate(self, pictures: Sequence[InputPicture]) -> list[str]:
        """What the maps of these images will cost, by the first of them, in lines; nothing is asked yet."""
        lines, total, image = [], 0.0, pictures[0].pixels().to(self.device)
        for subject in self.networks:
            for name in self.settings.methods:
                passes, seconds = estimated(name, subject.network, image, self.settings.options)
                cost = f"{passes:,.0f} forward passes, {seconds:.2g} s an image"
                lines.append(f"{subject.name}, {name}: {cost}")
                total += seconds * len(pictures)
        return [*lines, f"{len(pictures)} images: about {duration(total)}"]

    def draw(self, look: Look) -> None:
        """Draw the pictures that are missing or look different."""
        bar = progress_bar(transient=True)
        task = bar.add_task("drawing", total=float(len(self.names)), seen="")
        with bar:
            for number, name in enumerate(self.names):
                folder = self.folder / "images" / name
                record = explained.read_record(folder)
                if record is not None:
                    picture = self._pictures[name]
                    explained.draw(
                        folder, record, look, image=lambda picture=picture: picture.pixels().numpy()
                    )
                bar.update(task, completed=number + 1.0, seen=f"{number + 1}/{len(self.names)} images")

    def common_scales(self) -> dict[str, float]:
        """For each method the size that its values stay within in every image of every network."""
        scales: dict[str, float] = {}
        for name in self.names:
            record = explained.read_record(self.folder / "images" / name)
            for it in (it for answer in (record.answers if record else ()) for it in answer.maps):
                scales[it.method] = max(scales.get(it.method, 0.0), it.scale)
        return scales

    def _blocks(self, pictures: Sequence[InputPicture], size: int) -> list[list[tuple[str, InputPicture]]]:
        """This share's images with their folders; images of one name are told apart by their turn."""
        folders: dict[str, InputPicture] = {}
        for picture in pictures:
            folder, turn = folder_name(picture.name), 1
            while folder in folders:
                turn += 1
                folder = folder_name(f"{picture.name} {turn}")
            folders[folder] = picture
        named, (first, every) = list(folders.items()), self.share
        return [named[start : start + size] for start in range(first * size, len(named), every * size)]

    def _batches(
        self, block: Sequence[tuple[str, InputPicture]], batch_size: int | None
    ) -> Iterator[list[_Waiting]]:
        """Images of one size, as many as go together; the same ones whatever is explained already.

        In a batch of other images a convolution may round otherwise, so that interrupted work would not end with the
        same bits.
        """
        batch: list[_Waiting] = []
        for name, picture in block:
            waiting = self._looked_at(name, picture)
            if waiting is None:
                continue
            if batch and (
                batch[0].pixels.shape != waiting.pixels.shape or len(batch) == self._size(waiting, batch_size)
            ):
                yield batch
                batch = []
            batch.append(waiting)
        if batch:
            yield batch

    def _size(self, waiting: _Waiting, batch_size: int | None) -> int:
        shape = tuple(waiting.pixels.shape)
        if shape not in self._sizes:
            pixels = waiting.pixels.to(self.device)
            self._sizes[shape] = batch_size or min(fitting_batch(it.network, pixels) for it in self.networks)
        return self._sizes[shape]

    def _looked_at(self, name: str, picture: InputPicture) -> _Waiting | None:
        """An image, and whether it is explained already; None for one that cannot be read."""
        try:
            pixels = picture.pixels()
        except (ValueError, OSError) as error:
            if not self.skip_bad:
                raise
            log.warning("left out: %s", error)
            self.bad.append((picture.name, " ".join(str(error).split())))
            return None
        self.names.append(name)
        self._pictures[name] = picture
        content = hashlib.sha256(self._asks.encode())
        content.update(repr((tuple(pixels.shape), picture.name, picture.label)).encode())
        content.update(pixels.contiguous().numpy().tobytes())
        folder = self.folder / "images" / name
        record = explained.read_record(folder)
        done = (
            record is not None
            and record.question == content.hexdigest()
            and explained.maps_are_whole(folder, record)
        )
        return _Waiting(name, picture, pixels, content.hexdigest(), done)

    def _explain(
        self, batch: list[_Waiting], size: int, look: Look | None, advance: Callable[[float], None]
    ) -> None:
        """Ask every network by every method, then record and draw; `advance` hears of the work, 1.0 an image."""
        options = replace(self.settings.options, batch_size=size)
        images = torch.stack([it.pixels for it in batch]).to(self.device)
        pictures = [it.picture for it in batch]
        answers: list[list[Answer]] = [[] for _ in batch]
        maps: list[dict[str, np.ndarray]] = [{} for _ in batch]
        for subject in self.networks:
            network, targets, heads = resolve_targets(self.settings, subject, images, pictures)
            records: list[list[MapRecord]] = [[] for _ in batch]
            for name, share in self._shares(images):
                results = asked(name, network, images, targets, options, tolerant=True)
                for place, result in enumerate(results):
                    records[place].append(_map_record(name, result, self.settings, subject.classes))
                    if isinstance(result, ImageMap):
                        key = explained.map_key(subject.name, name, len(self.networks))
                        maps[place][key] = result.values.numpy()
                advance(len(batch) * share)
            self._check_answered(records)
            for place, head in enumerate(heads):
                answers[place].append(replace(head, maps=records[place]))
        for place, waiting in enumerate(batch):
            folder = self.folder / "images" / waiting.name
            map_bytes, map_sha256 = explained.write_maps(folder, maps[place])
            _, height, width = waiting.pixels.shape
            record = ImageRecord(
                file=waiting.picture.name,
                label=waiting.picture.label,
                size=(height, width),
                question=waiting.fingerprint,
                answers=answers[place],
                map_bytes=map_bytes,
                map_sha256=map_sha256,
            )
            if look is None:
                explained.write_record(folder, record)
            else:
                explained.draw(folder, record, look, image=lambda waiting=waiting: waiting.pixels.numpy())

    def _check_answered(self, records: list[list[MapRecord]]) -> None:
        """Raise where methods were asked for by name and none of them has a map of any image of a batch."""
        asked_by_name, map_records = not self.settings.tolerant, [it for row in records for it in row]
        if asked_by_name and all(it.refused for it in map_records):
            raise Refusal(f"{map_records[0].method}: {map_records[0].refused}")

    def _note_refusals(self, record: ImageRecord) -> None:
        """Count an image's refusals; the first of each method is said."""
        for answer in record.answers:
            for map_record in (map_record for map_record in answer.maps if map_record.refused):
                if not self.refused[answer.network, map_record.method]:
                    log.warning("%s of %s refused: %s", map_record.method, answer.network, map_record.refused)
                self.refused[answer.network, map_record.method] += 1

    def _shares(self, images: Tensor) -> list[tuple[str, float]]:
        """Each method's share of the work on an image."""
        size, options = (images.shape[2], images.shape[3]), self.settings.options
        methods = {name: method_named(name, options) for name in self.settings.methods}
        costs = {name: method.cost(size, options) * method.work for name, method in methods.items()}
        return [(name, cost / sum(costs.values()) / len(self.networks)) for name, cost in costs.items()]

    def _write_quarantine(self) -> None:
        path = self.folder / self._named("quarantine")
        if not self.bad:
            path.unlink(missing_ok=True)
            return
        with written_table(path) as table:
            table.writerows([("file", "reason"), *self.bad])

    def _named(self, table: str) -> str:
        share, count = self.share
        return f"{table}.csv" if count == 1 else f"{table}-{share}-of-{count}.csv"


def _map_record(
    name: str, result: ImageMap | Refusal, settings: MapSettings, classes: Sequence[str]
) -> MapRecord:
    method = method_named(name, settings.options)
    if isinstance(result, Refusal):
        return MapRecord(name, method.unit, method.signed, refused=str(result))
    values = result.values.numpy()
    grain = settings.grain or max(1, round(max(values.shape) / CELLS_DRAWN))
    shown = np.unique(values).astype(int).tolist() if method.classes else []
    record = MapRecord(
        method=name,
        unit=method.unit,
        signed=method.signed,
        grain=grain if method.cells else 1,
        cells=method.cells,
        sum=None if method.classes else result.sum,
        expected=result.expected,
        seconds=result.seconds,
        forward_passes=result.forward_passes,
        note=result.note,
        classes=[[number, classes[number]] for number in shown],
    )
    return record.with_values(values)
