"""The statistics behind every verdict, and the only place of them.

Runs of two arms are paired by seed, so that most quantities are differences within a seed. Small
numbers of seeds are the rule: nothing here is a bootstrap (at n = 3 a 95% bootstrap interval covers
about 79%). Distribution functions come from `scipy.special`: `scipy.stats` takes two seconds to
import. The tests compare them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

LEVEL = 0.05
"""Probability of a false verdict that every test is held to; intervals cover 1 - LEVEL."""

LEAST_PAIRS = 3
"""Fewer differences say nothing that can be checked about their own spread."""

SIGN_FLIP_FROM, SIGN_FLIP_TO = 6, 20
"""Numbers of pairs for the exact test: at 5 its smallest p is 0.0625, beyond 20 it takes long and t
is as good.
"""

MOST_SEEDS = 100
"""With more than these to go, saying how many would be a guess."""


@dataclass(frozen=True)
class Estimate:
    """A mean difference between two arms. What n does not allow is None."""

    effect: float
    interval: tuple[float, float] | None  # of the mean, t distribution, covers 95%
    n: int  # pairs; without pairing, runs of the smaller arm
    spread: float | None  # sd of the differences; without pairing, one that gives this interval
    p: float | None  # two-sided, of no difference
    p_equivalent: float | None  # two one-sided tests, of one as large as the margin; None: coarse
    test: str


def paired(
    differences: Sequence[float], margin: float, *, resolution: float = 0.0, tests: int = 1
) -> Estimate:
    """Estimate the mean of differences within seeds, and test it.

    The interval is the paired t interval. The p is that of the exact sign-flip test where it can
    come below the level, which takes 6 pairs and more of them when it is one of several tests; else
    that of the paired t test, which assumes differences that are about normal.

    Args:
        differences: one for each seed, finite.
        margin: the largest mean difference that counts as none.
        resolution: step in which the quantity can be read, for example one test image. Equal
            readings are not taken for exact ones: each difference has at least the spread of two
            readings rounded to it. Rounding may move all seeds alike, so that with a step as large
            as the margin nothing is tested for equivalence.
        tests: how many tests of one family this is one of; it only decides whether the exact test
            can say anything.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    effect = float(values.mean()) if n else math.nan
    if n < LEAST_PAIRS:
        return Estimate(effect, None, n, None, None, None, f"none: n = {n}")
    spread = max(float(values.std(ddof=1)), resolution / math.sqrt(6))
    error = spread / math.sqrt(n)
    if error == 0:
        return Estimate(effect, None, n, 0.0, None, None, "none: the differences have no spread")
    p, test = _t_p(effect, error, n - 1), "paired t"
    if SIGN_FLIP_FROM <= n <= SIGN_FLIP_TO and smallest_sign_flip_p(n) * tests < LEVEL:
        p, test = sign_flip(values), "exact sign flip"
    equivalent = _equivalence_p(effect, error, n - 1, margin, resolution)
    return Estimate(effect, _t_interval(effect, error, n - 1), n, spread, p, equivalent, test)


def welch(
    first: Sequence[float], second: Sequence[float], margin: float, *, resolution: float = 0.0
) -> Estimate:
    """Estimate mean(first) - mean(second) of arms without shared seeds: Welch (1947)."""
    arms = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    n = min(len(values) for values in arms)
    effect = float(arms[0].mean() - arms[1].mean()) if n else math.nan
    if n < LEAST_PAIRS:
        return Estimate(effect, None, n, None, None, None, f"none: n = {n}")
    shares = [max(float(values.var(ddof=1)), resolution**2 / 12) / len(values) for values in arms]
    error = math.sqrt(sum(shares))
    if error == 0:
        return Estimate(effect, None, n, 0.0, None, None, "none: the values have no spread")
    losses = (share**2 / (len(arm) - 1) for share, arm in zip(shares, arms, strict=True))
    freedom = sum(shares) ** 2 / sum(losses)
    interval, p = _t_interval(effect, error, freedom), _t_p(effect, error, freedom)
    equivalent = _equivalence_p(effect, error, freedom, margin, resolution)
    return Estimate(effect, interval, n, error * math.sqrt(n), p, equivalent, "Welch t")


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


def smallest_sign_flip_p(n: int) -> float:
    """Return the smallest p that `sign_flip` can give for n differences."""
    return 2.0 ** (1 - n)


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


def holm_estimates(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Return the estimates with p adjusted: a family of differences, a family of equivalences."""
    differences = holm([estimate.p for estimate in estimates])
    equivalences = holm([estimate.p_equivalent for estimate in estimates])
    return [
        replace(estimate, p=p, p_equivalent=p_equivalent)
        for estimate, p, p_equivalent in zip(estimates, differences, equivalences, strict=True)
    ]


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
    """Return the share of all pairs of runs in which the first arm's is larger, equal ones half
    (Agarwal et al. 2021).
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(a) == 0 or len(b) == 0:
        return None
    return float(np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b)))


def more_seeds(estimate: Estimate, margin: float, *, apart_from: float = 0.0) -> int | None:
    """Return how many more seeds like these would settle it; None for more than 100 in all.

    Settled means: the 95% interval leaves out zero and whatever is as near to it as `apart_from`,
    or two one-sided tests put the difference inside the margin.
    """
    if estimate.n < LEAST_PAIRS:
        return LEAST_PAIRS - estimate.n
    if not estimate.spread:
        return None
    for n in range(estimate.n + 1, MOST_SEEDS + 1):
        error = estimate.spread / math.sqrt(n)
        apart = abs(estimate.effect) - _t_quantile(1 - LEVEL / 2, n - 1) * error > apart_from
        alike = abs(estimate.effect) + _t_quantile(1 - LEVEL, n - 1) * error < margin
        if apart or (alike and estimate.p_equivalent is not None):
            return n - estimate.n
    return None


def _t_quantile(probability: float, freedom: float) -> float:
    return float(special.stdtrit(freedom, probability))


def _t_interval(effect: float, error: float, freedom: float) -> tuple[float, float]:
    half = _t_quantile(1 - LEVEL / 2, freedom) * error
    return effect - half, effect + half


def _t_p(effect: float, error: float, freedom: float) -> float:
    return float(2 * special.stdtr(freedom, -abs(effect) / error))


def _equivalence_p(
    effect: float, error: float, freedom: float, margin: float, resolution: float
) -> float | None:
    """Schuirmann (1987): the larger of the two one-sided p; None where values are read in steps
    like the margin.
    """
    if resolution > 0 and resolution >= margin:
        return None
    return float(special.stdtr(freedom, (abs(effect) - margin) / error))
