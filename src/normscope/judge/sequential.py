"""Evidence that may be looked at after every seed: e-values and confidence sequences.

An e-value is what a fair bet against "no difference" has made of 1. Under no difference it ever
reaches 20 in at most one case of twenty, however often it is looked at and whenever one stops
(Ville 1939), so that seeds may be added until it does. A confidence sequence is the set of
differences whose e-value is below 20: it holds the true one at all numbers of seeds at once, in 95%
of studies.

The bet on a mean is the t mixture: a scale-invariant prior on the standard deviation (right Haar)
and N(0, PRIOR) on the difference in standard deviations. Lai 1976, "On confidence sequences";
Pérez-Ortiz, Lardy, de Heide & Grünwald 2022 (arXiv:2208.07610); Wang & Ramdas 2023
(arXiv:2310.03722). It is exact for normal differences. With Welch's degrees of freedom, for two
independent arms, it is an approximation as Welch's test is one. docs/statistics.md has simulations
of both, the tests repeat them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import optimize, special

PRIOR = 10.0
"""Variance of the standardized difference that is bet on: differences of three standard deviations
are usual between networks with and without normalization. At three seeds it is about the best
choice there is; docs/statistics.md has what others cost.
"""


def e_value(t: Any, n: Any, freedom: Any) -> Any:
    """Return the t mixture's e-value against a mean of zero, elementwise.

    Args:
        t: mean over its standard error.
        n: pairs, or runs of each arm.
        freedom: degrees of freedom, n - 1 for pairs.
    """
    widening = 1 + np.multiply(n, PRIOR)
    growth = np.log1p(np.square(t) / freedom) - np.log1p(np.square(t) / (freedom * widening))
    return np.exp(0.5 * ((np.add(freedom, 1)) * growth - np.log(widening)))


def critical_t(n: Any, freedom: Any, level: float) -> Any:
    """Return the |t| at which `e_value` reaches 1 / level, elementwise; infinite where it cannot.

    Times the standard error it is the half width of the confidence sequence that covers 1 - level.
    """
    widening = 1 + np.multiply(n, PRIOR)
    bound = (np.sqrt(widening) / level) ** (2 / np.add(freedom, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        square = np.where(bound < widening, (bound - 1) / (1 - bound / widening), np.inf)
    return np.sqrt(freedom * square)


def sign_e_value(wins: float, losses: float, share: float = 0.5) -> float:
    """Return the e-value of so many wins and losses against a win's probability of `share`.

    The bet is a mixture over that probability, Jeffreys' Beta(1/2, 1/2) (Robbins 1970). It holds
    for any distribution, also where runs fail now and then; all of 7 seeds reach 20.
    """
    return math.exp(min(_log_sign_e(wins, losses, share), 700.0))


def _log_sign_e(wins: float, losses: float, share: float) -> float:
    log = special.betaln(wins + 0.5, losses + 0.5) - special.betaln(0.5, 0.5)
    return float(log - special.xlogy(wins, share) - special.xlogy(losses, 1 - share))


def sign_interval(wins: float, losses: float, level: float) -> tuple[float, float]:
    """Confidence sequence of a win's probability: shares whose `sign_e_value` < 1 / level."""
    middle = wins / (wins + losses)

    def beyond(share: float) -> float:
        return _log_sign_e(wins, losses, share) + math.log(level)

    least = 1e-12
    low = root(beyond, least, middle) if wins else 0.0
    high = root(beyond, middle, 1 - least) if losses else 1.0
    return low, high


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a continuous function is 0 between two ends at which its sign differs."""
    found: Any = optimize.brentq(function, low, high)
    return float(found)


def e_benjamini_hochberg(e_values: Sequence[float], level: float) -> list[bool]:
    """Return which of a family of e-values stand together: of those that do, at most a share of
    `level` is false on average, whatever their dependence and whenever one stops (Wang & Ramdas
    2022, arXiv:2009.02824).
    """
    ranked = sorted(e_values, reverse=True)
    enough = [e for rank, e in enumerate(ranked, 1) if e >= len(ranked) / (level * rank)]
    return [bool(enough) and e >= enough[-1] for e in e_values]
