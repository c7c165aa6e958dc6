"""The statistics behind every verdict; `sequential` has the e-values that decide.

Runs of two arms are paired by seed, so that most quantities are differences within a seed. Small
numbers of seeds are the rule: nothing here is a bootstrap (at n = 3 a 95% bootstrap interval covers
about 79%). Distribution functions come from `scipy.special`: `scipy.stats` takes two seconds to
import. The tests compare them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from normscope.judge.sequential import critical_t, e_value, root, sign_e_value, sign_interval

LEVEL = 0.05
"""Probability of a false verdict that every test is held to; intervals cover 1 - LEVEL."""

LEAST_PAIRS = 3
"""Fewer differences say nothing that can be checked about their own spread."""

FIRM_FROM = 5
"""With fewer pairs a verdict is provisional: it says nothing of seeds that fail now and then, and
an effect that is just found there is exaggerated several times.
"""

PAIRED_FROM = 5
"""With fewer pairs two arms are compared as independent samples. What their seeds share moves them
alike hardly at all, and pairs would cost half of the degrees of freedom (docs/statistics.md).
"""

SIGN_FLIP_FROM, SIGN_FLIP_TO = 6, 20
"""Numbers of pairs for the exact test: at 5 its smallest p is 0.0625; beyond 20 t is as good."""

MOST_SEEDS = 100
"""With more than these to go, saying how many would be a guess."""


@dataclass(frozen=True)
class Estimate:
    """A mean difference between two arms. What n does not allow is None.

    `interval` and `e` hold at any number of seeds and decide; `p` and `fixed_interval` hold for a
    number that was decided beforehand, and accompany.
    """

    effect: float
    n: int  # pairs; without pairing, runs of the smaller arm
    interval: tuple[float, float] | None = None  # confidence sequence
    e: float | None = None  # against no difference
    p: float | None = None  # two-sided, of no difference
    fixed_interval: tuple[float, float] | None = None  # t distribution
    test: str = "none"  # the one behind p
    spread: float | None = None  # sd of the differences; without pairing, one that gives this error
    freedom: float = 0.0  # degrees of freedom
    paired_from: float = 0.0  # number of seeds from which such arms are paired
    resolution: float = 0.0  # step in which the quantity is read
    discordant: int | None = None  # seeds whose sign counts, where only the sign does

    def is_inside(self, margin: float) -> bool:
        """Tell whether the difference is inside the margin for certain; never where the quantity is
        read in steps as wide as the margin.
        """
        if self.interval is None or self.resolution >= margin:
            return False
        return -margin < self.interval[0] and self.interval[1] < margin

    @property
    def sign(self) -> int:
        """1 or -1 for a difference that is above or below zero for certain, else 0."""
        low, high = self.interval or (0.0, 0.0)
        return int(low > 0) - int(high < 0)


def compare(
    first: Mapping[int, float],
    second: Mapping[int, float],
    *,
    resolution: float = 0.0,
    tests: int = 1,
    within: bool = False,
) -> Estimate:
    """Estimate the first arm's mean minus the second's, from {seed: value} of each.

    Paired by seed from PAIRED_FROM shared seeds on, and always where both are readings of the same
    runs (`within`); else as independent samples, of the shared seeds or, where these are fewer than
    LEAST_PAIRS, of all. Which it is follows from the numbers of seeds alone. Other arguments as of
    `paired`.
    """
    shared = sorted(set(first) & set(second))
    options = {"resolution": resolution, "tests": tests}
    if within or len(shared) >= PAIRED_FROM:
        differences = [first[seed] - second[seed] for seed in shared]
        return paired(differences, **options, paired_from=0 if within else PAIRED_FROM)
    if is_unpaired(first, second):
        return welch(list(first.values()), list(second.values()), **options, paired_from=math.inf)
    arms = ([arm[seed] for seed in shared] for arm in (first, second))
    return welch(*arms, **options, paired_from=PAIRED_FROM)


def compare_signs(
    first: Mapping[int, float], second: Mapping[int, float], *, tests: int = 1, **_: float
) -> Estimate:
    """Estimate how much more often the first arm's value is the larger one, from {seed: value} of
    each: the share of seeds at which it is, minus that at which it is the smaller one, in percent
    of the seeds at which they differ.

    Paired by seed, without seeds in common in their order. Nothing is taken for normal or
    symmetric; p is that of the exact sign test.
    """
    seeds = sorted(set(first) & set(second))
    pairs = [(first[seed], second[seed]) for seed in seeds]
    if is_unpaired(first, second):
        pairs = list(zip(first.values(), second.values(), strict=False))
    wins, losses = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    known = Estimate(math.nan, len(pairs), discordant=wins + losses, test="exact sign test")
    if not known.discordant:
        return replace(known, test="none: no seed differs")
    known = replace(known, effect=100 * (wins - losses) / known.discordant)
    if known.n < LEAST_PAIRS:
        return known
    low, high = sign_interval(wins, losses, LEVEL / tests)
    fewer = min(wins, losses)
    return replace(
        known,
        interval=(100 * (2 * low - 1), 100 * (2 * high - 1)),
        e=sign_e_value(wins, losses),
        p=min(1.0, float(2 * special.bdtr(fewer, known.discordant, 0.5))),
    )


def is_unpaired(first: Mapping[int, float], second: Mapping[int, float]) -> bool:
    """Tell if arms share too few seeds to be compared by these, and have enough of their own."""
    return len(set(first) & set(second)) < LEAST_PAIRS <= min(len(first), len(second))


def paired(
    differences: Sequence[float] | np.ndarray,
    *,
    resolution: float = 0.0,
    tests: int = 1,
    paired_from: float = 0.0,
) -> Estimate:
    """Estimate the mean of differences within seeds.

    The fixed-n p is that of the exact sign-flip test where it can come below the level, which takes
    6 pairs; else that of the paired t test.

    Args:
        differences: one for each seed, finite.
        resolution: step in which the quantity can be read, for example one test image. Equal
            readings are not taken for exact ones: each difference has at least the spread of two
            readings rounded to it. Rounding may move all seeds alike, so that with a step as large
            as a margin nothing is found inside it.
        tests: how many intervals are to hold together.
        paired_from: as in `Estimate`.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    effect = float(values.mean()) if n else math.nan
    if n < LEAST_PAIRS:
        return Estimate(effect, n, test=f"none: n = {n}", paired_from=paired_from)
    spread = max(float(values.std(ddof=1)), resolution / math.sqrt(6))
    known = Estimate(
        effect, n, spread=spread, freedom=n - 1, paired_from=paired_from, resolution=resolution,
        test="paired t",
    )  # fmt: skip
    if SIGN_FLIP_FROM <= n <= SIGN_FLIP_TO and spread > 0:
        known = replace(known, p=sign_flip(values), test="exact sign flip")
    return _tested(known, tests)


def welch(
    first: Sequence[float],
    second: Sequence[float],
    *,
    resolution: float = 0.0,
    tests: int = 1,
    paired_from: float = math.inf,
) -> Estimate:
    """Estimate mean(first) - mean(second) of independent samples, with the degrees of freedom of
    Welch (1947); arguments as of `paired`.
    """
    arms = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    n = min(len(values) for values in arms)
    effect = float(arms[0].mean() - arms[1].mean()) if n else math.nan
    if n < LEAST_PAIRS:
        return Estimate(effect, n, test=f"none: n = {n}", paired_from=paired_from)
    shares = [max(float(values.var(ddof=1)), resolution**2 / 12) / len(values) for values in arms]
    error = math.sqrt(sum(shares))
    losses = sum(share**2 / (len(arm) - 1) for share, arm in zip(shares, arms, strict=True))
    freedom = sum(shares) ** 2 / losses if losses else 0.0
    known = Estimate(
        effect, n, spread=error * math.sqrt(n), freedom=freedom, paired_from=paired_from,
        resolution=resolution, test="Welch t",
    )  # fmt: skip
    return _tested(known, tests)


def _tested(known: Estimate, tests: int) -> Estimate:
    """The estimate with its intervals, e and p, where there is a spread to judge by."""
    if not known.spread:
        return replace(known, test="none: the values have no spread")
    error = known.spread / math.sqrt(known.n)
    t = known.effect / error
    half = float(critical_t(known.n, known.freedom, LEVEL / tests)) * error
    fixed = float(special.stdtrit(known.freedom, 1 - LEVEL / 2)) * error
    return replace(
        known,
        interval=(known.effect - half, known.effect + half) if math.isfinite(half) else None,
        e=float(e_value(t, known.n, known.freedom)),
        fixed_interval=(known.effect - fixed, known.effect + fixed),
        p=float(2 * special.stdtr(known.freedom, -abs(t))) if known.p is None else known.p,
    )


def sign_flip(differences: Sequence[float] | np.ndarray) -> float:
    """Return the exact two-sided p of the mean: the share of all 2^n choices of signs that give one
    as far from zero.

    Valid for any distribution that is symmetric around zero when the arms do not differ (Fisher
    1935).
    """
    values = np.asarray(differences, dtype=np.float64)
    sums = np.array([values[0]])  # the other half of the choices is its mirror image
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    tolerance = 1e-12 * np.abs(values).sum()
    return float(np.mean(np.abs(sums) >= abs(values.sum()) - tolerance))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the adjusted p of several tests (Holm 1979): any false finding below the level is then
    as rare as that.

    A test that could not be made has None and counts for nothing.
    """
    made = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    worst = 0.0
    for rank, (p, index) in enumerate(made):
        worst = max(worst, min(1.0, (len(made) - rank) * p))
        adjusted[index] = worst
    return adjusted


def variation_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float] | None:
    """Return the 95% interval of a coefficient of variation: Vangel's modified McKay one (1996).

    Made for normal values with a coefficient below about a third; beyond, the upper end may be
    infinite. None for fewer than 3 values or a mean that is not positive.
    """
    array = np.asarray(values, dtype=np.float64)
    n = len(array)
    if n < LEAST_PAIRS or not array.mean() > 0:
        return None
    variation = float(array.std(ddof=1) / array.mean())
    ends = []
    for tail in (LEVEL / 2, 1 - LEVEL / 2):
        quantile = float(special.chdtri(n - 1, tail))  # exceeded with this probability
        under = ((quantile + 2) / n - 1) * variation**2 + quantile / (n - 1)
        ends.append(variation / math.sqrt(under) if under > 0 else math.inf)
    return ends[0], ends[1]


def restricted_time(time: float | None, horizon: float) -> float:
    """Return a time as far as it was watched: that of a run that never got there is the horizon.

    Its mean is the restricted mean survival time (Royston & Parmar 2013): it is observed in full
    although the times beyond the horizon are not, so that its differences can be tested like any
    others. Leaving such runs out would make their arm look faster than it is.
    """
    return horizon if time is None else min(time, horizon)


def probability_of_improvement(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Share of pairs of runs in which the first arm's is larger, equal ones half (Agarwal 2021)."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(a) == 0 or len(b) == 0:
        return None
    return float(np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b)))


def improvement_interval(share: float, first: int, second: int) -> tuple[float, float]:
    """Return the 95% interval of such a share of so many values of two arms: Newcombe 2006, method
    5, in which the variance is that of exponential distributions. It stays inside 0 and 1, also
    where every pair agrees, and is of independent arms at fixed numbers.
    """
    normal = float(special.ndtri(1 - LEVEL / 2))
    size = (first + second) / 2 - 1

    def excess(true: float) -> float:
        shape = 1 + size * ((1 - true) / (2 - true) + true / (1 + true))
        return (share - true) ** 2 - normal**2 * true * (1 - true) * shape / (first * second)

    beside = 1e-9  # at 0 and 1 the variance vanishes: a root that is no end
    low = root(excess, 0.0, share - beside) if share > 0 else 0.0
    high = root(excess, share + beside, 1.0) if share < 1 else 1.0
    return low, high


def more_seeds(estimate: Estimate, margin: float, *, apart_from: float = 0.0) -> int | None:
    """Return how many more seeds like these would settle it; None for more than 100 in all.

    Settled means: the confidence sequence leaves out zero and whatever is as near to it as
    `apart_from`, or lies inside the margin. As it holds at every number of seeds, the advice may be
    followed, again and again.
    """
    if estimate.n < LEAST_PAIRS:
        return LEAST_PAIRS - estimate.n
    if estimate.discordant is not None:
        return _more_signs(estimate)
    if not estimate.spread:
        return None
    for n in range(estimate.n + 1, MOST_SEEDS + 1):
        by_seed = 1.0 if n >= estimate.paired_from else estimate.freedom / (estimate.n - 1)
        half = float(critical_t(n, by_seed * (n - 1), LEVEL)) * estimate.spread / math.sqrt(n)
        apart = abs(estimate.effect) - half > apart_from
        alike = abs(estimate.effect) + half < margin and estimate.resolution < margin
        if apart or alike:
            return n - estimate.n
    return None


def _more_signs(estimate: Estimate) -> int | None:
    if not estimate.discordant:
        return None
    for n in range(estimate.n + 1, MOST_SEEDS + 1):
        differing = n * estimate.discordant / estimate.n
        wins = differing * (1 + estimate.effect / 100) / 2
        if sign_e_value(wins, differing - wins) >= 1 / LEVEL:
            return n - estimate.n
    return None
