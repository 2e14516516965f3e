"""Networks, images, and what a visitor asks: what is said of an image with paint on it and with filters switched off.

A filter that is switched off is silent: its map is zero everywhere. Shares are those of the network that is left, so
they still sum to its logit.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

import torch
from torch import Tensor

from interp_cnn import figures
from interp_cnn.decisions.sheet import Asked, chosen, looks_like
from interp_cnn.explanation.decisions.class_filters import by_first_that_works
from interp_cnn.explanation.decisions.contributions import Contributions, filter_contributions
from interp_cnn.explanation.decisions.head import chosen_layer
from interp_cnn.explanation.methods.occlusion import occlusion_job
from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.network.feature_maps import evaluation_mode, feature_maps
from interp_cnn.explanation.network.placement import beside
from interp_cnn.explanation.occlusion.windows import map_of_drops
from interp_cnn.play.pictures import painted, png_address
from interp_cnn.play.questions import Outdated, Question
from interp_cnn.play.silence import silent_filters
from interp_cnn.report.album import within
from interp_cnn.report.decisions.contents import others_of
from interp_cnn.report.decisions.views import how_shared, lit_cell
from interp_cnn.runs.inputs import InputPicture

TOP = 5  # classes that are listed
SIDE = 360  # pixels of the pictures of maps
STRIDES = (
    0.04,
    0.06,
    0.08,
    0.12,
    0.17,
)  # of the occluding square, as shares of the image; coarse where time is short
WINDOW = 0.17
SECONDS = 1.0  # that an occlusion map may take, about
ADDED = 50  # images of the visitor's that are remembered


class _Remembered:
    """The last answers to some questions, by key."""

    def __init__(self, *, most: int) -> None:
        self.most, self.kept = most, OrderedDict()

    def get(self, key: Hashable, answer: Callable[[], Any]) -> Any:
        if key not in self.kept:
            self.kept[key] = answer()
            if len(self.kept) > self.most:
                self.kept.popitem(last=False)
        return self.kept[key]


class Playground:
    """Some networks and images; answers one question at a time, and drops an occlusion map that nobody waits for."""

    def __init__(
        self,
        networks: Sequence[Asked],
        pictures: Sequence[InputPicture],
        *,
        reads: Callable[[bytes, str], Tensor],
        layer: str | None = None,
    ) -> None:
        """Prepare to answer.

        Args:
            networks: names differ.
            pictures: at least one; names differ.
            reads: the bytes of an image file and its name -> pixels (C, H, W) as the networks take them.
            layer: dotted name of the layer whose filters are meant; None: as `chosen_layer` says.
        """
        self.networks = {network.name: network for network in networks}
        self.pictures = OrderedDict((picture.name, picture) for picture in pictures)
        self.reads = reads
        self._added: OrderedDict[str, Tensor] = OrderedDict()
        self._alone, self._newest = threading.Lock(), 0
        self._untouched = _Remembered(most=200)
        self._whole = _Remembered(most=2)
        self._square_seconds: dict[str, float] = {}  # that a square took, as it was measured last
        self._ways: dict[str, str] = {}  # network -> the method that shared out its last logit
        self.layers, self.filters = {}, {}
        for name, asked in self.networks.items():
            image = beside(asked.network, pictures[0].pixels())[None]
            with evaluation_mode(asked.network), torch.no_grad():
                known = layer if asked.strongest is None else asked.strongest.layer
                self.layers[name] = chosen_layer(asked.network, image, known)
            maps = feature_maps(asked.network, image, layer=self.layers[name])
            self.filters[name] = maps.shape[1]

    def welcome(self) -> dict[str, Any]:
        """What the page shows before anything is asked: networks, layers, images."""
        return {
            "networks": [
                {"name": name, "layer": self.layers[name], "classes": list(asked.classes)}
                for name, asked in self.networks.items()
            ],
            "images": [{"name": it.name, "label": it.label} for it in self.pictures.values()],
        }

    def add(self, content: bytes, name: str) -> str:
        """Take an image file in; returns the name to ask about it by.

        Raises:
            ValueError: no image.
        """
        pixels = self.reads(content, name)
        taken = {*self.pictures, *self._added}
        free = next(it for it in (name, *(f"{name} ({n})" for n in range(2, 10_000))) if it not in taken)
        self._added[free] = pixels
        while len(self._added) > ADDED:
            self._added.popitem(last=False)
        return free

    def pixels(self, name: str) -> Tensor:
        """An image (C, H, W) by its name.

        Raises:
            ValueError: there is none.
        """
        if name in self._added:
            return self._added[name]
        if name not in self.pictures:
            raise ValueError(f"image: nothing is called {name!r}")
        return self.pictures[name].pixels()

    def picture(self, name: str) -> str:
        """An image as it is, each pixel one pixel."""
        return png_address(figures.to_rgb(self.pixels(name)))

    def looks(self, network: str, filter: int) -> str | None:
        """The images on which a filter fires most, side by side; None where no data are at hand."""
        strongest = self._asked(network).strongest
        if strongest is None or not 0 <= filter < len(strongest):
            return None
        highest = float(strongest.maps[filter].max())
        cells = [lit_cell(image, values, highest) for image, values in looks_like(strongest, filter)]
        return png_address(figures.montage(cells, columns=len(cells), gap=2)) if cells else None

    def answer(self, question: Question) -> dict[str, Any]:
        """What every network says of the image, and one decision as a sum over filters.

        Raises:
            ValueError: no such image, network, class or filter.
        """
        self._newest += 1
        start = time.perf_counter()
        asked = self._asked(question.network)
        image = painted(self.pixels(question.image), question.paint)
        with self._alone:
            said = [self._said(network, image, question) for network in self.networks.values()]
            mine = said[list(self.networks).index(question.network)]
            target = mine["class"] if question.target is None else self._class(asked, question.target)
            sheet = self._sheet(asked, image, question, target)
        return {"networks": said, "sheet": sheet, "seconds": time.perf_counter() - start}

    def hiding(self, question: Question) -> dict[str, Any]:
        """The occlusion map of the decision: how far the logit falls when a square is hidden.

        Raises:
            Outdated: another question has come.
            Refusal: the network's answers are no logits.
            ValueError: as `answer`.
        """
        mine = self._newest
        start = time.perf_counter()
        asked = self._asked(question.network)
        image = painted(self.pixels(question.image), question.paint)
        with self._alone, self._silenced(asked, question.off.get(asked.name, ())):
            images = beside(asked.network, image)[None]
            with evaluation_mode(asked.network), torch.no_grad():
                logits = asked.network(images)[0]
                if (
                    asked.name not in self._square_seconds
                ):  # a pass for each square, until one map has told better
                    before = time.perf_counter()
                    asked.network(images)
                    self._square_seconds[asked.name] = time.perf_counter() - before
            target = int(logits.argmax()) if question.target is None else self._class(asked, question.target)
            affordable = [it for it in STRIDES if self._square_seconds[asked.name] / it**2 < SECONDS]
            options = Options(window=WINDOW, stride=(affordable or STRIDES[-1:])[0])
            before = time.perf_counter()
            job = occlusion_job(asked.network, images, options)
            for _ in job.run():
                if mine != self._newest:
                    raise Outdated
            self._square_seconds[asked.name] = (time.perf_counter() - before) / len(job.grid)
        drops = job.drops[0, target]
        values = map_of_drops(job.grid, drops[None])[0].cpu().numpy()
        place = divmod(int(drops.argmax()), drops.shape[1])
        (top, bottom), (left, right) = job.grid.rows[place[0]], job.grid.columns[place[1]]
        rgb = within(figures.to_rgb(image), SIDE)
        limits = figures.common_limits([values], colours="green-red")
        return {
            "picture": png_address(figures.overlay(rgb, values, colours="green-red", limits=limits)),
            "target": asked.classes[target],
            "largest": float(drops.max()),
            "most": [left, top, right - left, bottom - top],
            "windows": len(job.grid),
            "seconds": time.perf_counter() - start,
        }

    def _asked(self, name: str) -> Asked:
        if name not in self.networks:
            raise ValueError(f"network: nothing is called {name!r}; there are {', '.join(self.networks)}")
        return self.networks[name]

    @staticmethod
    def _class(asked: Asked, target: int) -> int:
        if not 0 <= target < len(asked.classes):
            raise ValueError(f"target={target}: {asked.name} tells {len(asked.classes)} classes apart")
        return target

    def _silenced(self, asked: Asked, off: Sequence[int]) -> AbstractContextManager[None]:
        """Some filters give maps of zeros within the block."""
        count = self.filters[asked.name]
        if not all(0 <= number < count for number in off):
            raise ValueError(f"off={list(off)}: {asked.name} has filters 0 to {count - 1}")
        return silent_filters(asked.network, self.layers[asked.name], count, off)

    def _logits(self, asked: Asked, image: Tensor, off: Sequence[int]) -> Tensor:
        with self._silenced(asked, off), evaluation_mode(asked.network), torch.no_grad():
            return asked.network(beside(asked.network, image)[None])[0].float().cpu()

    def _said(self, asked: Asked, image: Tensor, question: Question) -> dict[str, Any]:
        """The highest logits of a network, beside those of the untouched image with all filters on."""
        off = question.off.get(asked.name, ())
        logits, chances = (now := self._logits(asked, image, off)), now.softmax(0)
        touched = bool(off) or question.paint is not None
        before = self._untouched.get(
            (asked.name, question.image),
            lambda: self._logits(asked, self.pixels(question.image), ()) if touched else logits,
        )
        listed = logits.argsort(descending=True)[:TOP].tolist()
        asked_about = question.target if asked.name == question.network else None
        for more in (int(before.argmax()), asked_about):
            if more is not None and more not in listed and 0 <= more < len(logits):
                listed.append(more)
        return {
            "name": asked.name,
            "class": listed[0],
            "says": asked.classes[listed[0]],
            "said": asked.classes[int(before.argmax())],
            "classes": [
                {
                    "number": number,
                    "name": asked.classes[number],
                    "logit": float(logits[number]),
                    "probability": float(chances[number]),
                    "change": float(logits[number] - before[number]),
                }
                for number in listed
            ],
        }

    def _sheet(self, asked: Asked, image: Tensor, question: Question, target: int) -> dict[str, Any]:
        """The logit of a class as a sum over filters; those that are off with what they would bring."""
        layer, off = self.layers[asked.name], sorted(set(question.off.get(asked.name, ())))
        images = beside(asked.network, image)[None]
        targets = torch.tensor([target], device=images.device)
        about = {"network": asked.name, "target": target, "class": asked.classes[target], "layer": layer}
        try:
            with self._silenced(asked, off):
                now = self._shared(asked, images, targets)
            whole = self._whole.get(
                (asked.name, question.image, question.paint, target),
                lambda: self._shared(asked, images, targets) if off else now,
            )
        except ValueError as refusal:  # an operation that no rule knows, too
            return {**about, "refusal": str(refusal)}
        against_most = max(1, question.rows // 3)
        shown = chosen(now.shares[0], question.rows - against_most, against_most)
        rows = [self._row(asked, image, number, now, off=False) for number in shown]
        speaking_for, against = others_of(now.shares[0].double().cpu().numpy(), [*shown, *off])
        return {
            **about,
            "method": now.method,
            "note": how_shared(now.method, linear=now.linear),
            "score": float(now.scores[0]),
            "rest": float(now.rest[0]),
            "filters": now.shares.shape[1],
            "rows": rows,
            "others_for": [len(speaking_for), float(speaking_for.sum())],
            "others_against": [len(against), float(against.sum())],
            "off": [self._row(asked, image, number, whole, off=True) for number in off],
        }

    def _shared(self, asked: Asked, images: Tensor, targets: Tensor) -> Contributions:
        """By the method that shared out this network's last logit, or where it does not now, by the first that does."""
        layer, known = self.layers[asked.name], self._ways.get(asked.name)
        if known is not None:
            with suppress(ValueError):
                return filter_contributions(asked.network, images, targets, layer=layer, method=known)
        shared = by_first_that_works(asked.network, images, targets, layer=layer)
        self._ways[asked.name] = shared.method
        return shared

    def _row(
        self, asked: Asked, image: Tensor, number: int, shared: Contributions, *, off: bool
    ) -> dict[str, Any]:
        values = shared.activations[0, number].cpu().numpy()
        highest = float(values.max())
        if asked.strongest is not None:
            highest = max(highest, float(asked.strongest.maps[number].max()))
        rgb = within(figures.to_rgb(image), SIDE // 2)
        return {
            "filter": number,
            "label": asked.labels[number] if asked.labels else "",
            "share": float(shared.shares[0, number]),
            "off": off,
            "picture": png_address(figures.lit(rgb, values, highest=highest)),
        }
