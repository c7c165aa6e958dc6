"""What several processes recorded of one layer, as one process would have."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

Series = tuple[np.ndarray, np.ndarray]  # (steps [R], values [R, ...])


def common_steps(axes: Sequence[np.ndarray]) -> np.ndarray:
    """Return the steps that are in all of these."""
    return reduce(np.intersect1d, axes)


def at_steps(series: Series, steps: np.ndarray) -> np.ndarray:
    """Return the values [R, ...] at these of a series' steps."""
    return series[1][np.searchsorted(series[0], steps)]


def pooled_moments(
    n: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and biased variance [...], float64, of batches that are taken together.

    Args:
        n: values of each batch, [P] or [P, ...]; a batch may be empty.
        mean: their means, [P, ...].
        variance: their biased variances, [P, ...].
    """
    n = n.astype(np.float64).reshape(*n.shape, *(1,) * (mean.ndim - n.ndim))
    n = np.broadcast_to(n, mean.shape)
    mean, variance = (np.where(n > 0, each.astype(np.float64), 0) for each in (mean, variance))
    with np.errstate(invalid="ignore"):
        share = n / n.sum(0)
    whole = (share * mean).sum(0)
    return whole, (share * (variance + (mean - whole) ** 2)).sum(0)


def pooled_shapes(n: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Return (mean, standard deviation, skewness, kurtosis) of values that are taken together,
    float64 [..., 4, C]; the last two are 0 where all values are the same.

    Chan, Golub, LeVeque (1979) and Pébay (2008): central moments about the common mean.

    Args:
        n: values of each part, [P, ..., C]; a part may be empty.
        moments: the four of each part, [P, ..., 4, C].
    """
    moments = np.where(n[..., None, :] > 0, moments.astype(np.float64), 0)
    mean, std, skewness, kurtosis = np.moveaxis(moments, -2, 0)
    variance, third, fourth = std**2, skewness * std**3, kurtosis * std**4
    whole, spread = pooled_moments(n, mean, variance)
    with np.errstate(invalid="ignore", divide="ignore"):
        share, d = n / n.sum(0), mean - whole
        above = fourth + d * (4 * third + d * (6 * variance + d**2))
        third = third + d * (3 * variance + d**2)
        shapes = [(share * m).sum(0) / spread**power for m, power in ((third, 1.5), (above, 2))]
    return np.stack([whole, np.sqrt(spread), *(np.where(spread > 0, s, 0) for s in shapes)], -2)


def pooled_samples(n: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Return (mean, standard deviation, minimum, maximum) over all samples, float64 [..., 4, G].

    Args:
        n: a number of each part that its samples are proportional to, [P, ...].
        moments: the four of each part, [P, ..., 4, G].
    """
    mean, variance = pooled_moments(
        n, moments[..., 0, :], moments[..., 1, :].astype(np.float64) ** 2
    )
    here = (n > 0)[..., None]
    low = np.where(here, moments[..., 2, :], np.inf).min(0)
    high = np.where(here, moments[..., 3, :], -np.inf).max(0)
    return np.stack([mean, np.sqrt(variance), low, high], -2)


def copies(parts: Sequence[Series], channels: int | None) -> list[Series]:
    """Return a value per channel as often as the processes hold all of it: each process on its own,
    or several in a row, of which each has the next channels.

    Args:
        parts: of each process, in the order of the channels; empty where it has none.
        channels: of the whole layer, None where that is not known.
    """
    whole: list[Series] = []
    held: list[Series] = []
    for part in parts:
        held += [part] if part[1].size else []
        width = sum(values.shape[1] for _, values in held)
        if held and (channels is None or width == channels):
            whole.append(held[0] if len(held) == 1 else _beside(held))
        held = [] if channels is None or width >= channels else held
    return whole


def _beside(shards: Sequence[Series]) -> Series:
    steps = common_steps([steps for steps, _ in shards])
    return steps, np.concatenate([at_steps(shard, steps) for shard in shards], 1)
