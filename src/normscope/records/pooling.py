"""What several processes or steps recorded of one layer as one: moments, samples, and histograms in
physical units.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from normscope.records.recording_header import BINS, FRAME, bin_edges

Series = tuple[np.ndarray, np.ndarray]  # (steps [R], values [R, ...])

ROWS_AT_ONCE = 32  # histograms per channel that are merged together: bounds the memory
POINT = 1e-4
"""A bin narrower than this share of a bin of the result is counted at one point."""
STREAM_POOLING = {
    "stream": ("rms", "largest", "mean", "mean"),
    "attention": ("largest", "mean"),
    "token_cosine": ("mean",),
    "update_ratio": ("rms",),
}
"""How each row of a statistic of the residual stream is pooled."""
NOTHING = 1e-9
"""A smaller share of a channel's values in a bin is rounding, and none."""


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


def pooled_stream(statistic: str, parts: np.ndarray) -> np.ndarray:
    """Return what is said of the residual stream [...], float64, of processes that count alike.

    Root mean squares are pooled as such, the largest values by their largest; of everything else
    it is the mean over the processes.

    Args:
        statistic: its name, in STREAM_POOLING.
        parts: those of each process, [P, ...]; the last axis is the statistic's rows, if any.
    """
    ways = STREAM_POOLING[statistic]
    rows = parts.astype(np.float64).reshape(*parts.shape[: parts.ndim - (len(ways) > 1)], len(ways))
    pooled = [_POOLED_BY[way](rows[..., row]) for row, way in enumerate(ways)]
    return np.stack(pooled, -1).reshape(parts.shape[1:])


_POOLED_BY = {
    "rms": lambda values: np.sqrt(np.square(values).mean(0)),
    "largest": lambda values: values.max(0),
    "mean": lambda values: values.mean(0),
}


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


def physical_edges(frame: np.ndarray, side: str) -> np.ndarray:
    """The edges of all bins, under- and overflow among them, in physical units: [R, C, BINS + 3],
    rising.

    Args:
        frame: [R, 6, C], its rows as in FRAME; the extremes are in the units of the value that was
            normalized.
        side: "input" (mean + std z) or "output" (weight z + bias).
    """
    lowest, highest = _normalized_extremes(frame)
    body = np.clip(bin_edges(), lowest, highest)  # nothing lies beyond the extremes of the sample
    return _in_units(np.concatenate([lowest, body, highest], axis=2), frame, side)


def physical_extremes(frame: np.ndarray, side: str) -> np.ndarray:
    """The first and the last of `physical_edges`: [R, C, 2]."""
    return _in_units(np.concatenate(_normalized_extremes(frame), axis=2), frame, side)


def count_below(counts: np.ndarray, frame: np.ndarray, limits: Sequence[float]) -> np.ndarray:
    """The numbers of a layer's outputs below limits in its units, [limits, R, C]: the values of a
    bin are spread evenly between its `physical_edges`. NaN for a channel that has no finite ones.

    Args:
        counts: [R, C, BINS + 2].
        frame: [R, 6, C].
        limits: the limits; the number below infinity is that of all values.
    """
    weight, bias = (frame[:, FRAME.index(name)] for name in ("weight", "bias"))
    low, high = (end[..., 0] for end in _normalized_extremes(frame))
    if (turned := weight < 0).any():
        counts = np.where(turned[..., None], counts[..., ::-1], counts)
        low, high = np.where(turned, -high, low), np.where(turned, -low, high)
    until = counts.cumsum(2, dtype=np.int64)
    scale, edges, found = np.abs(weight), bin_edges(), []
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        first, last = bias + scale * low, bias + scale * high
        for limit in limits:
            if limit == np.inf:
                found.append(until[..., -1])
                continue
            at = np.where(scale > 0, (limit - bias) / scale, low)
            place = np.searchsorted(edges, at, "right")
            inner, outer = edges[np.maximum(place - 1, 0)], edges[np.minimum(place, BINS)]
            left = np.where(place == 0, low, np.clip(inner, low, high))
            right = np.where(place > BINS, high, np.clip(outer, low, high))
            part = np.nan_to_num(np.clip((at - left) / (right - left), 0, 1))
            through = np.take_along_axis(until, place[..., None], 2)[..., 0]
            held = np.take_along_axis(counts, place[..., None], 2)[..., 0]
            below = np.where(limit < first, 0, through - held * (1 - part))
            found.append(np.where(limit >= last, until[..., -1], below))
    return np.where(np.isfinite(first) & np.isfinite(last), found, np.nan)


def _normalized_extremes(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, std, _, _, minimum, maximum = (frame[:, row, :, None] for row in range(len(FRAME)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num((minimum - mean) / std), np.nan_to_num((maximum - mean) / std)


def _in_units(normalized: np.ndarray, frame: np.ndarray, side: str) -> np.ndarray:
    """Turn rising normalized values [R, C, ...] into rising ones in the units of a side."""
    names = ("std", "mean") if side == "input" else ("weight", "bias")
    scale, offset = (frame[:, FRAME.index(name), :, None] for name in names)
    with np.errstate(invalid="ignore", over="ignore"):
        values = offset + scale * normalized
    turned = scale < 0  # by a negative weight
    return np.where(turned, values[:, :, ::-1], values) if turned.any() else values


def merge(
    counts: np.ndarray, frame: np.ndarray, side: str, bins: int, limits: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(edges [C, bins + 1], counts [C, bins]) of several steps' histograms, merged in physical
    units.

    Merging the normalized histograms would erase the spread of the batch means, which is what there
    is to see.

    Args:
        counts: [R, C, BINS + 2].
        frame: [R, 6, C].
        side: "input" or "output".
        bins: number of bins of the result.
        limits: [C, 2], the range of each channel; by default the extremes of the samples.
    """
    fine = physical_edges(frame, side)
    if side == "output":
        counts = np.where(
            (frame[:, FRAME.index("weight"), :, None] < 0), counts[:, :, ::-1], counts
        )
    if limits is None:
        limits = _extremes(counts, fine)
    cumulative = np.zeros((counts.shape[1], bins + 1))
    for start in range(0, len(counts), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        cumulative += _cumulative(counts[rows], fine[rows], limits, bins)
    merged = np.diff(cumulative)
    merged[merged < NOTHING * cumulative[:, -1:]] = 0.0
    return np.linspace(limits[:, 0], limits[:, 1], bins + 1, axis=1), merged


def _extremes(counts: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """[C, 2]: the range of the bins that hold something, over all steps; widened where it is a
    point.
    """
    held = (counts > 0) & np.isfinite(fine).all(2, keepdims=True)
    low = np.where(held, fine[:, :, :-1], np.inf).min((0, 2))
    high = np.where(held, fine[:, :, 1:], -np.inf).max((0, 2))
    low, high = np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 1.0)
    width = np.maximum(high - low, 1e-6 * np.maximum(1.0, np.abs(low)))
    return np.stack([low, low + width], axis=1)


def _cumulative(counts: np.ndarray, fine: np.ndarray, limits: np.ndarray, bins: int) -> np.ndarray:
    """[C, bins + 1]: the counts below each edge of the result's bins, summed over the steps [R].

    A bin's count spread evenly from a to b adds count / (b - a) * (max(x - a, 0) - max(x - b, 0))
    below x. In units of the result's bins x is a whole number, so each of the two terms is added
    as a slope and an offset at the first edge beyond its corner, and a sum along the edges carries
    them on.
    """
    low, high = limits[:, 0, None], limits[:, 1, None]
    with np.errstate(invalid="ignore"):
        at = (fine - low) * (bins / np.maximum(high - low, np.finfo(float).tiny))
        kept = (counts > 0) & (at[:, :, :-1] <= bins * (1 + NOTHING))
    kept &= np.isfinite(fine).all(2, keepdims=True)
    places = np.flatnonzero(kept)
    row, bin_index = np.divmod(places, counts.shape[2])
    a, b = at.ravel()[row * at.shape[2] + bin_index], at.ravel()[row * at.shape[2] + bin_index + 1]
    count, start = counts.ravel()[places], row % counts.shape[1] * (bins + 2)

    def summed(edge: np.ndarray, start: np.ndarray, values: np.ndarray) -> np.ndarray:
        index = np.clip(edge, 0, bins + 1).astype(np.int64) + start
        table = np.bincount(index, values, minlength=len(limits) * (bins + 2))
        return table.reshape(-1, bins + 2)[:, :-1].cumsum(1, dtype=np.float64)

    point = (b <= 0) | (b - a < POINT)  # what lies below all edges is a point there
    below = summed(np.minimum(np.floor(a[point]) + 1, bins), start[point], count[point])
    spread = np.flatnonzero(~point)
    a, b, start = a[spread], b[spread], start[spread]
    slope = count[spread] / (b - a)
    for corner, rise in ((a, slope), (b, -slope)):
        edge = np.floor(corner) + 1
        below += summed(edge, start, rise) * np.arange(bins + 1)
        below -= summed(edge, start, rise * corner)
    return below
