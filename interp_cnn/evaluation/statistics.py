"""How sure a figure is: bootstrap over images, exact counts, paired permutation, seeds, false discoveries.

The unit is the image. A resampling is a row of weights, how often each image was drawn, so that one function
of weights serves the estimate (all ones), the bootstrap (multinomial rows) and the jackknife (a group left
out); networks that are given the same rows are compared in pairs. Intervals are bias-corrected and
accelerated (BCa; Efron, "Better Bootstrap Confidence Intervals", JASA 1987), with the acceleration from a
jackknife by groups of images where there are many.

A p-value is always that of the interval beside it: the smallest level at which the interval leaves out zero. So the two
cannot contradict each other.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from scipy.stats import ConstantInputWarning, binomtest, false_discovery_control, norm, spearmanr, t
from torch import Tensor

JACKKNIFE_GROUPS = 100
LEVEL = 0.95  # of every interval

# Weights in double precision at a time: 16 MB.
CHUNK = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval [low, high] and the number n of images (or filters, or seeds) behind it."""

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Resampling:
    """Rows of image weights that several networks share.

    Attributes:
        rows: (1 + R + G, N) uint8: all images once; R bootstrap rows, multinomial counts within each stratum; G
            jackknife rows, one group of images at zero.
        resamples: R.
        seed: of the draws.
        key: equal for resamplings that are equal, so that differences can be taken in pairs.
    """

    rows: Tensor
    resamples: int
    seed: int
    key: tuple[int, ...]

    @property
    def images(self) -> int:
        return self.rows.shape[1]

    @property
    def bootstrap(self) -> Tensor:
        return self.rows[1 : 1 + self.resamples]

    @property
    def jackknife(self) -> Tensor:
        return self.rows[1 + self.resamples :]


def resampling(
    images: int, *, resamples: int = 500, seed: int = 0, strata: Tensor | None = None
) -> Resampling:
    """Weights for bootstrap and jackknife.

    Args:
        images: N.
        resamples: R.
        seed: the same seed, images and strata give the same rows.
        strata: (N,) int64 labels; images are drawn within their own stratum, so that no category vanishes.
    """
    if images < 2 or resamples < 1:
        raise ValueError(f"images is {images} and resamples {resamples}; expected at least 2 and 1")
    generator = torch.Generator().manual_seed(seed)
    strata = torch.zeros(images, dtype=torch.int64) if strata is None else strata.cpu()
    bootstrap = torch.zeros(resamples, images, dtype=torch.uint8)
    for stratum in strata.unique():
        members = (strata == stratum).nonzero().flatten()
        for row in bootstrap:  # one at a time: the draws themselves are 8 bytes each
            drawn = torch.randint(len(members), (len(members),), generator=generator)
            row[members] = torch.bincount(drawn, minlength=len(members)).to(torch.uint8)
    groups = min(images, JACKKNIFE_GROUPS)
    group = torch.randperm(images, generator=generator) % groups
    jackknife = (group.unsqueeze(0) != torch.arange(groups).unsqueeze(1)).to(torch.uint8)
    rows = torch.cat((torch.ones(1, images, dtype=torch.uint8), bootstrap, jackknife))
    return Resampling(rows, resamples, seed, (images, resamples, seed, hash(tuple(strata.tolist()))))


@dataclass(frozen=True)
class Sampled:
    """A figure with its bootstrap replicates (R,) and leave-a-group-out values (G,), ready to be compared in
    pairs.

    A figure that is itself biased by resampling (information, correlation) or dear to compute has no
    replicates, R = 0: its interval is the normal one of the jackknife, cut at `limits`, which the figure cannot leave.
    """

    value: float
    bootstrap: Tensor
    jackknife: Tensor
    n: int
    limits: tuple[float, float] = (-math.inf, math.inf)

    @classmethod
    def from_rows(cls, values: Tensor, draws: Resampling, n: int | None = None) -> Sampled:
        """From one value (1 + R + G,) per row of `draws`; `n` is what the figure rests on, the images by
        default.
        """
        ends = 1 + draws.resamples
        return cls(float(values[0]), values[1:ends], values[ends:], draws.images if n is None else n)

    def estimate(self) -> Estimate:
        """With the BCa interval, or the jackknife's."""
        if len(self.bootstrap):
            low, high = bca_interval(self.value, self.bootstrap, self.jackknife)
        else:
            half = float(norm.ppf((1 + LEVEL) / 2)) * float(jackknife_error(self.jackknife))
            low, high = max(self.value - half, self.limits[0]), min(self.value + half, self.limits[1])
        return Estimate(self.value, low, high, self.n)

    def p_value(self) -> float:
        """Two-sided, against zero: below 1 - `LEVEL` where the interval leaves out zero."""
        if len(self.bootstrap):
            return bca_p_value(self.value, self.bootstrap, self.jackknife)
        error = float(jackknife_error(self.jackknife))
        if error == 0:
            return float(self.value == 0)
        return 2 * float(norm.sf(abs(self.value) / error)) if math.isfinite(error) else math.nan

    @property
    def bound(self) -> float:
        """The smallest p-value that so many draws tell by themselves; 0 where the p-value comes from no draws."""
        return 2 / (len(self.bootstrap) + 1) if len(self.bootstrap) else 0.0

    def __sub__(self, other: Sampled) -> Sampled:
        """Difference; paired where both come from the same rows."""
        bootstrap, jackknife = self.bootstrap - other.bootstrap, self.jackknife - other.jackknife
        limits = (self.limits[0] - other.limits[1], self.limits[1] - other.limits[0])
        return Sampled(self.value - other.value, bootstrap, jackknife, min(self.n, other.n), limits)


def jackknife_error(values: Tensor) -> Tensor:
    """Standard error from leave-a-group-out `values` (G, ...); NaN below two groups."""
    groups = len(values)
    if groups < 2:
        return torch.full(values.shape[1:], torch.nan, dtype=torch.float64)
    deviations = values.double() - values.double().mean(dim=0)
    return (deviations.square().sum(dim=0) * (groups - 1) / groups).sqrt()


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's correlation of every two rows, (B, ...) and (B, ...) -> (B,) float64; NaN where one is constant."""
    rows = zip(first.flatten(1).double().cpu(), second.flatten(1).double().cpu(), strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        correlations = [float(spearmanr(*pair).statistic) for pair in rows]
    return torch.tensor(correlations, dtype=torch.float64, device=first.device)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """(R,) mean of `values` (N,) under `weights` (R, N); images with NaN take no part."""
    known = values.isfinite()
    means = []
    for rows in weights.split(max(1, CHUNK // max(1, len(values)))):
        drawn = rows[:, known].to(torch.float64)
        means.append(drawn @ values[known].double() / drawn.sum(dim=1))
    return torch.cat(means)


def bca_interval(
    value: float, replicates: Tensor, jackknife: Tensor, *, level: float = LEVEL
) -> tuple[float, float]:
    """BCa interval from bootstrap `replicates` (R,) and leave-a-group-out values `jackknife` (G,); NaN are
    left out.
    """
    replicates, jackknife = (values[values.isfinite()].double() for values in (replicates, jackknife))
    if not math.isfinite(value) or len(replicates) < 2:
        return math.nan, math.nan
    bias, acceleration = _correction(value, replicates, jackknife)
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + float(norm.ppf(tail))
        ends.append(float(norm.cdf(bias + z / (1 - acceleration * z))))
    low, high = torch.quantile(replicates, torch.tensor(ends, dtype=torch.float64)).tolist()
    return low, high


def bca_p_value(value: float, replicates: Tensor, jackknife: Tensor) -> float:
    """Two-sided p-value of no difference from zero: the level at which an end of `bca_interval` reaches zero.

    Where all of R replicates lie on one side of zero they bound it by 2 / (R + 1) and tell no more; beyond them the
    tail is that of a normal distribution with their standard deviation. Without a deviation the bound is the answer.
    """
    replicates, jackknife = (values[values.isfinite()].double() for values in (replicates, jackknife))
    if not math.isfinite(value) or len(replicates) < 2:
        return math.nan
    bound = 2 / (len(replicates) + 1)
    if bool((replicates > 0).all() or (replicates < 0).all()):
        spread = float(replicates.std())
        return min(bound, 2 * float(norm.sf(abs(value) / spread))) if spread > 0 else bound
    bias, acceleration = _correction(value, replicates, jackknife)

    def tail(share: float) -> float:
        """The tail of the level whose end of the interval is this quantile of the replicates."""
        distance = float(norm.ppf(share)) - bias
        if math.isinf(distance):
            return float(share > 0.5)
        return float(norm.cdf(distance / (1 + acceleration * distance) - bias))

    ordered = replicates.sort().values
    highest = _share_up_to(ordered, 0.0)  # zero is no higher than this quantile, and no lower than the next
    lowest = 1 - _share_up_to(-ordered.flip(0), 0.0)
    return min(1.0, max(bound, 2 * min(tail(highest), 1 - tail(lowest))))


def _correction(value: float, replicates: Tensor, jackknife: Tensor) -> tuple[float, float]:
    """Bias and acceleration of a BCa interval."""
    below = float((replicates < value).double().mean() + 0.5 * (replicates == value).double().mean())
    if not 0 < below < 1:  # the estimate lies outside its own replicates: no correction can mend that
        return 0.0, 0.0
    centred = jackknife.mean() - jackknife
    spread = float(centred.square().sum()) ** 1.5
    return float(norm.ppf(below)), float(centred.pow(3).sum()) / (6 * spread) if spread > 0 else 0.0


def _share_up_to(ordered: Tensor, bound: float) -> float:
    """The largest share whose quantile, interpolated as by `torch.quantile`, is at most `bound`; 0 if none is."""
    count = int((ordered <= bound).sum())
    if count in (0, len(ordered)):
        return float(count > 0)
    low, high = ordered[count - 1 : count + 1].tolist()
    return (count - 1 + (bound - low) / (high - low)) / (len(ordered) - 1)


def share_of_hits(hits: Tensor) -> Estimate:
    """Share of hits in `hits` (N,), bool or 0 and 1, with Wilson's interval, which has a width also where all or none
    are; NaN, where nobody knows, is left out.
    """
    hits = hits[hits.isfinite()]
    count, images = int(hits.sum()), len(hits)
    if images == 0:
        return Estimate(math.nan)
    ends = binomtest(count, images).proportion_ci(LEVEL, method="wilson")
    return Estimate(count / images, float(ends.low), float(ends.high), images)


def paired_share_difference(first: Tensor, second: Tensor) -> tuple[Estimate, float]:
    """Difference of two shares on the same N images, exact, with its p-value.

    Only the images on which the two differ tell: of m such images `first` hits some, a binomial share that is 1/2
    without a difference (McNemar's exact test). The interval is Clopper and Pearson's for that share, so that it leaves
    out zero where the test rejects. Without a differing image it is 0 to 0, and p is 1.

    Args:
        first: (N,) bool.
        second: (N,) bool.
    """
    if len(first) == 0:
        return Estimate(math.nan), math.nan
    images, only_first, differ = len(first), int((first & ~second).sum()), int((first != second).sum())
    if differ == 0:
        return Estimate(0.0, 0.0, 0.0, images), 1.0
    test = binomtest(only_first, differ)
    ends = test.proportion_ci(LEVEL, method="exact")
    value, low, high = (
        (2 * share - 1) * differ / images for share in (only_first / differ, ends.low, ends.high)
    )
    return Estimate(value, float(low), float(high), images), float(test.pvalue)


def percentile_interval(replicates: Tensor) -> tuple[Tensor, Tensor]:
    """Percentile interval along the first axis of `replicates` (R, ...)."""
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=replicates.dtype)
    low, high = torch.nanquantile(replicates, tails, dim=0)
    return low, high


def paired_permutation_p_value(differences: Tensor, *, permutations: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value of the mean of paired `differences` (N,) under exchange within each pair (a sign
    flip).
    """
    differences = differences[differences.isfinite()].double()
    images = len(differences)
    if images == 0:
        return math.nan
    observed = differences.sum().abs()
    generator = torch.Generator().manual_seed(seed)
    reached, done = 0, 0
    while done < permutations:
        count = min(permutations - done, max(1, 4_000_000 // images))
        signs = torch.randint(0, 2, (count, images), generator=generator, dtype=torch.int8) * 2 - 1
        sums = (signs.double() @ differences).abs()
        reached += int((sums >= observed * (1 - 1e-12)).sum())
        done += count
    return (reached + 1) / (permutations + 1)


def over_seeds(values: list[float]) -> Estimate:
    """Mean over training seeds with Student's t interval; differences of pairs go in as differences."""
    known = [value for value in values if math.isfinite(value)]
    n = len(known)
    if n == 0:
        return Estimate(math.nan)
    mean = sum(known) / n
    if n == 1:
        return Estimate(mean, n=1)
    error = math.sqrt(sum((value - mean) ** 2 for value in known) / (n - 1) / n)
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * error
    return Estimate(mean, mean - half, mean + half, n)


def benjamini_hochberg(p_values: Tensor) -> Tensor:
    """Adjusted p-values (D,): those up to q make at most a share q of false discoveries. NaN stay NaN.

    Benjamini, Hochberg, "Controlling the False Discovery Rate", JRSS B 1995.
    """
    known = p_values.isfinite()
    result = torch.full_like(p_values, torch.nan, dtype=torch.float64)
    if known.any():
        result[known] = torch.from_numpy(false_discovery_control(p_values[known].double().numpy()))
    return result
