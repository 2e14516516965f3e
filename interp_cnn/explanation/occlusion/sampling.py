"""Many places hidden at once, at random: maps as running means, with their standard error and an early stop.

    job = SampledOcclusion(network, images, targets, masks=rise_masks((224, 224)), fill=0.0)
    for progress in job.run(4096, tolerance=0.02):
        ...                                    # job.map("rise"), job.standard_error("rise"), job.state_dict()

With masks M_i (1 shows, 0 hides), s_i the target's score under mask i, d_i = s(x) - s_i and h = 1 - M:

    mean_drop   D(p) = sum_i h_i(p) d_i / sum_i h_i(p)              drop where the pixel is hidden
    contrast    D(p) - sum_i M_i(p) d_i / sum_i M_i(p)              minus the drop where it shows
    rise        1 / (N m(p)) sum_i s_i M_i(p),  m = mean mask       score where it shows (Petsiuk et al., BMVC 2018)

With one window a mask, `mean_drop` is the occlusion map of all window positions. With several, every drop has the
others' share in it; `contrast` takes that out. Standard errors: of a ratio of sums, `sum w^2 (d - D)^2 / (sum w)^2`.
Only sums are kept: memory does not grow with the number of masks. Masks change the whole image, so whole images go
through the network; they are drawn in blocks with a seed each, so that a resumed job draws what a whole one does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.logits import (
    check_count,
    check_question,
    checked_evaluation,
    seeded,
    target_logits,
)
from interp_cnn.explanation.occlusion.costs import Progress, dense_batch
from interp_cnn.explanation.occlusion.fills import Fill, as_fill
from interp_cnn.explanation.occlusion.masks import MaskSource

BLOCK = 32  # masks drawn from one seed
FEWEST = 128  # masks before a standard error is trusted
UNITS = ("mean_drop", "contrast", "rise")
SCORES = ("logit", "probability")


class SampledOcclusion:
    """One random occlusion of some images, for one class each."""

    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        targets: Tensor,
        *,
        masks: MaskSource,
        fill: float | Tensor | Fill | Callable = 0.0,
        score: str = "logit",
        generator: torch.Generator | None = None,
    ) -> None:
        """Prepare.

        Args:
            network: images (B, C, H, W) -> logits (B, K).
            images: (B, C, H, W).
            targets: (B,) classes.
            masks: draws (n, H, W) masks, see `random_masks`; the same masks serve all images.
            fill: what replaces hidden pixels, see `fills`; half hidden pixels are mixed. A fill with several samples
                takes them in turn.
            score: "logit", or "probability" (after softmax; RISE's own).
            generator: draws the seed.

        Raises:
            ValueError: bad images, targets or an unknown score.
        """
        self.network, (self.images, self.targets) = network, check_question(images, targets)
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        self.masks, self.fill, self.score = masks, as_fill(fill), score
        self.seed = int(torch.randint(2**40, (1,), generator=seeded(generator)))
        self.done = torch.zeros(len(self.images), dtype=torch.long)  # blocks of each image
        with checked_evaluation(network, self.images), torch.no_grad():
            self.clean = self._scores(self.images, self.targets)  # (B,)
        B, _, H, W = images.shape
        # sums over masks of h^a d^b at every pixel, [a - 1, b]; and of d^b
        self.sums = torch.zeros(B, 2, 3, H, W, dtype=torch.float64)
        self.totals = torch.zeros(B, 3, dtype=torch.float64)

    @property
    def samples(self) -> Tensor:
        """(B,) masks of each image so far."""
        return self.done * BLOCK

    def run(
        self, samples: int = 4096, *, tolerance: float | None = None, unit: str = "contrast"
    ) -> Iterator[Progress]:
        """Draw masks until there are `samples` (in whole blocks), or until the map is certain enough.

        Each image stops by itself, so that its map is the same whichever images stand beside it.

        Args:
            samples: masks in all, those before this call counted.
            tolerance: stop when the median standard error is at most this share of the range of the image's map.
            unit: of the map that is judged.
        """
        check_count(samples=samples)
        start, begun, blocks = time.perf_counter(), int(self.done.min()), -(-samples // BLOCK)
        while True:
            going = self.done < blocks
            if tolerance is not None:
                going &= ~self._certain(tolerance, unit)
            if not bool(going.any()):
                return
            block = int(self.done[going].min())
            some = going & (self.done == block)
            with checked_evaluation(self.network), torch.no_grad():  # without the yield
                self._add(block, some.nonzero()[:, 0].tolist())
            self.done[some] += 1
            yield Progress(block + 1 - begun, blocks - begun, time.perf_counter() - start)

    def map(self, unit: str = "contrast") -> Tensor:
        """(B, H, W) in one of the units; 0 where a pixel was never hidden, or never showed."""
        return self._estimate(unit)[0].to(self.images)

    def standard_error(self, unit: str = "contrast") -> Tensor:
        """(B, H, W) standard error of the map."""
        return self._estimate(unit)[1].to(self.images)

    def state_dict(self) -> dict:
        """What `load_state_dict` needs to go on from here."""
        return {
            "sums": self.sums.clone(),
            "totals": self.totals.clone(),
            "done": self.done.clone(),
            "seed": self.seed,
            "clean": self.clean,
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on where another job of the same network, images and options stopped.

        Raises:
            ValueError: the state is that of other images or of another network.
        """
        same = state["sums"].shape == self.sums.shape
        if not same or not torch.allclose(state["clean"].to(self.clean), self.clean, rtol=1e-3, atol=1e-4):
            raise ValueError("state must come from a job with the same network, images and options")
        self.sums, self.totals = state["sums"].clone(), state["totals"].clone()
        self.done, self.seed = state["done"].clone(), state["seed"]

    def _add(self, block: int, chosen: list[int]) -> None:
        masks = self.masks(BLOCK, torch.Generator().manual_seed(self.seed + block)).to(self.images)
        size, hidden = dense_batch(self.images), 1 - masks
        for index in chosen:
            drops = torch.cat([self._drops(index, part, block) for part in masks.split(size)])
            powers = torch.stack([torch.ones_like(drops), drops, drops.square()])  # (3, n)
            for number, weights in enumerate((hidden, hidden.square())):
                here = powers.double() @ weights.flatten(1).double()
                self.sums[index, number] += here.view(3, *masks.shape[1:]).cpu()
            self.totals[index] += powers.double().sum(1).cpu()

    def _drops(self, index: int, masks: Tensor, block: int) -> Tensor:
        """(n,) drops of image `index` under masks (n, H, W)."""
        copies = self.images[index].expand(len(masks), -1, -1, -1)
        shown = masks[:, None]
        new = self.fill.replace(copies, shown < 1, block % self.fill.samples)
        mixed = new + shown * (copies - new)
        targets = self.targets[index].expand(len(masks))
        return self.clean[index] - self._scores(mixed, targets)

    def _scores(self, images: Tensor, targets: Tensor) -> Tensor:
        logits = self.network(images)
        chosen = target_logits(logits, targets)
        return chosen if self.score == "logit" else (chosen - logits.logsumexp(1)).exp()

    def _certain(self, tolerance: float, unit: str) -> Tensor:
        """(B,) whose map is certain enough."""
        values, errors = (value.flatten(1) for value in self._estimate(unit))
        spread = values.amax(1) - values.amin(1)
        return (self.samples >= FEWEST) & (errors.median(1).values <= tolerance * spread)

    def _estimate(self, unit: str) -> tuple[Tensor, Tensor]:
        """Map and standard error (B, H, W) from the sums."""
        if unit not in UNITS:
            raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
        totals = self.totals[..., None, None]  # (B, 3, 1, 1)
        hidden, hidden_squared = self.sums.unbind(1)  # (B, 3, H, W)
        shown, shown_squared = totals - hidden, totals - 2 * hidden + hidden_squared
        if unit == "rise":  # s = clean - d
            score, error = _weighted_mean(shown, shown_squared)
            return torch.where(shown[:, 0] > 0, self.clean.cpu()[:, None, None] - score, 0.0), error
        value, error = _weighted_mean(hidden, hidden_squared)
        if unit == "contrast":
            other, other_error = _weighted_mean(shown, shown_squared)
            both = (hidden[:, 0] > 0) & (shown[:, 0] > 0)
            value = torch.where(both, value - other, 0.0)
            error = (error.square() + other_error.square()).sqrt()
        return value, error


def _weighted_mean(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Sum w d / sum w, and its standard error, from sums (B, 3, H, W) of w d^b and w^2 d^b."""
    weight = first[:, 0]
    mean = torch.where(weight > 0, first[:, 1] / weight.clamp(min=1e-12), 0.0)
    spread = second[:, 2] - 2 * mean * second[:, 1] + mean.square() * second[:, 0]
    return mean, spread.clamp(min=0).sqrt() / weight.clamp(min=1e-12)
