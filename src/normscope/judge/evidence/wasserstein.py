"""Distances between stored distributions: of one to N(0, 1), and between two."""

from __future__ import annotations

import numpy as np
from scipy import special

from normscope.records.histogram import LEVELS, LIMIT, Histogram

POINTS = 4001
"""Points of the integral. The histogram's bins, 0.125 wide, limit the accuracy far more."""


def cumulative(captured: Histogram, x: np.ndarray) -> np.ndarray:
    """Share of the values up to x, float64 like x.

    Linear inside a bin; exact zeros, which a ReLU makes, are a step at 0. Beyond the histogram what
    is left falls exponentially between the stored quantiles, down to half a value at the extremes.
    """
    counts, n = captured.counts.astype(np.float64), max(captured.n, 1)
    edges, zeros = captured.edges[1:-1], captured.zeros * n
    inside = counts[1:-1].copy()
    home = min(int(np.searchsorted(edges, 0.0, side="right")) - 1, len(inside) - 1)
    inside[home] = max(inside[home] - zeros, 0.0)
    below = (counts[0] + np.concatenate([[0.0], np.cumsum(inside)])) / n
    share = np.interp(x, edges, below) + zeros / n * (x >= 0)
    levels = np.asarray(LEVELS)
    low, high = counts[0] / n, counts[-1] / n
    left, right = x < -LIMIT, x > LIMIT
    share[left] = _tail(-x[left], low, -captured.quantiles[::-1], levels[::-1], n)
    share[right] = 1 - _tail(x[right], high, captured.quantiles, 1 - levels, n)
    return share


def _tail(
    x: np.ndarray, mass: float, quantiles: np.ndarray, remaining: np.ndarray, n: float
) -> np.ndarray:
    """Share of the values beyond x, for x above the limit, where `mass` is beyond it."""
    if mass == 0:
        return np.zeros_like(x)
    beyond = (quantiles > LIMIT) & (remaining < mass)
    places = np.concatenate([[LIMIT], quantiles[beyond]])
    logs = np.log(np.maximum(np.concatenate([[mass], remaining[beyond]]), 0.5 / n))
    return np.where(x > places[-1], 0.0, np.exp(np.interp(x, places, logs)))


def to_normal(captured: Histogram) -> float:
    """Wasserstein-1 distance to N(0, 1): the mean distance that values move; in the unit of the
    values.
    """
    reach = max(8.0, float(np.abs(captured.quantiles).max()))
    x = np.linspace(-reach, reach, POINTS)
    return float(np.trapezoid(np.abs(cumulative(captured, x) - special.ndtr(x)), x))


def between(first: Histogram, second: Histogram) -> float:
    """Wasserstein-1 distance between two distributions, in the unit of their values."""
    reach = max(LIMIT, *(float(np.abs(one.quantiles).max()) for one in (first, second)))
    x = np.linspace(-reach, reach, POINTS)
    return float(np.trapezoid(np.abs(cumulative(first, x) - cumulative(second, x)), x))
