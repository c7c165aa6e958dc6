"""Histograms of captured activations as a run's record holds them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from normscope.errors import RecordError
from normscope.records.histogram import Histogram
from normscope.records.store import Store

LIMIT = 5.0
"""Histograms cover [-LIMIT, LIMIT]; what lies beyond is counted in the first and the last entry."""

LEVELS = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""Levels of the stored quantiles; the first and the last are the minimum and the maximum."""


def capture_edges(bins: int) -> np.ndarray:
    """Return the edges [bins + 3] of a captured histogram: bins over [-LIMIT, LIMIT], and one on
    either side for what lies beyond.
    """
    return np.concatenate([[-np.inf], np.linspace(-LIMIT, LIMIT, bins + 1), [np.inf]])


def store_capture(store: Store, tensor: str, captured: Histogram, *, step: int, epoch: int) -> None:
    """Write one captured histogram. Call inside the epoch's transaction."""
    moments = [captured.n, captured.non_finite, captured.mean, captured.std, captured.zeros]
    parts: dict[str, Any] = {
        "histogram": captured.counts,
        "moments": np.array(moments, dtype=np.float64),
        "quantiles": captured.quantiles,
    }
    for statistic, array in parts.items():
        store.add_array(f"capture:{tensor}", statistic, array, first_step=step, epoch=epoch)


def load_captures(store: Store) -> dict[tuple[str, int], Histogram]:
    """Read {(tensor, epoch): histogram} of everything that was captured."""
    parts: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for layer, statistic, _, _, epoch, array in store.arrays():
        if layer.startswith("capture:") and epoch is not None:
            parts.setdefault((layer.removeprefix("capture:"), epoch), {})[statistic] = array
    return {key: _assemble(store, arrays) for key, arrays in parts.items()}


def _assemble(store: Store, arrays: dict[str, np.ndarray]) -> Histogram:
    counts, moments, quantiles = (
        arrays.get(name) for name in ("histogram", "moments", "quantiles")
    )
    if (
        counts is None or moments is None or quantiles is None
        or counts.ndim != 1 or len(counts) < 3
        or moments.shape != (5,) or quantiles.shape != (len(LEVELS),)
        or not math.isfinite(moments[1]) or moments[0] != counts.sum()
    ):  # fmt: skip
        raise RecordError(f"{store.path} is damaged: a captured distribution is incomplete.")
    _, non_finite, mean, std, zeros = moments.tolist()
    return Histogram(
        edges=capture_edges(len(counts) - 2), counts=counts, mean=mean, std=std, zeros=zeros,
        quantiles=quantiles, non_finite=int(non_finite),
    )  # fmt: skip
