"""Distributions of activations as a run's record holds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from normscope.errors import RecordError
from normscope.records.store import Store

LIMIT = 5.0
"""Histograms cover [-LIMIT, LIMIT]; what lies beyond is counted in the first and the last entry."""

LEVELS = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""Levels of the quantiles that are stored; the first and the last are the minimum and the maximum.
"""


@dataclass(frozen=True, eq=False)
class Distribution:
    """The distribution of one tensor's values over some batches."""

    counts: np.ndarray  # int64 [bins + 2]: below -LIMIT, the bins, above LIMIT
    n: int  # finite values
    non_finite: int
    mean: float
    std: float  # the population's
    zero_fraction: float  # exact zeros: what a ReLU cut off
    quantiles: np.ndarray  # float64 [len(LEVELS)]

    @property
    def edges(self) -> np.ndarray:
        """Edges of the bins inside the limits, float64 [bins + 1]."""
        return np.linspace(-LIMIT, LIMIT, len(self.counts) - 1)

    @property
    def density(self) -> np.ndarray:
        """Share of all finite values per unit, float64 [bins]; its integral is what lies inside the
        limits.
        """
        width = 2 * LIMIT / (len(self.counts) - 2)
        return self.counts[1:-1] / (max(self.n, 1) * width)


def store_distribution(
    store: Store, tensor: str, distribution: Distribution, *, step: int, epoch: int
) -> None:
    """Write one captured distribution. Call inside the epoch's transaction."""
    moments = [
        distribution.n,
        distribution.non_finite,
        distribution.mean,
        distribution.std,
        distribution.zero_fraction,
    ]
    parts: dict[str, Any] = {
        "histogram": distribution.counts,
        "moments": np.array(moments, dtype=np.float64),
        "quantiles": distribution.quantiles,
    }
    for statistic, array in parts.items():
        store.add_array(f"capture:{tensor}", statistic, array, first_step=step, epoch=epoch)


def load_distributions(store: Store) -> dict[tuple[str, int], Distribution]:
    """{(tensor, epoch): distribution} of everything that was captured."""
    parts: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for layer, statistic, _, _, epoch, array in store.arrays():
        if layer.startswith("capture:") and epoch is not None:
            parts.setdefault((layer.removeprefix("capture:"), epoch), {})[statistic] = array
    return {key: _assemble(store, arrays) for key, arrays in parts.items()}


def _assemble(store: Store, arrays: dict[str, np.ndarray]) -> Distribution:
    counts, moments, quantiles = (
        arrays.get(name) for name in ("histogram", "moments", "quantiles")
    )
    if (
        counts is None or moments is None or quantiles is None
        or counts.ndim != 1 or len(counts) < 3
        or moments.shape != (5,) or quantiles.shape != (len(LEVELS),)
        or not all(math.isfinite(value) for value in moments[:2])
    ):  # fmt: skip
        raise RecordError(f"{store.path} is damaged: a captured distribution is incomplete.")
    n, non_finite, mean, std, zero_fraction = moments.tolist()
    return Distribution(counts, int(n), int(non_finite), mean, std, zero_fraction, quantiles)
