"""From blocks on the host to the arrays of a record, and the search for what is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from normscope.watching.row_buffers import Column, HostBlock

PROBE = "probe"  # the statistic that is looked at for every step, and not stored

_NARROW = {"training": np.dtype(np.bool_), "values_per_channel": np.dtype(np.int64)}


def record_arrays(
    blocks: Iterable[HostBlock], eps: dict[str, float]
) -> list[tuple[np.ndarray, dict]]:
    """[(steps, {(layer, statistic): values})] as a record's part takes them. `eps` is by layer."""
    batches = []
    for block in blocks:
        arrays = dict(
            _stored(column, values, eps)
            for column, values in block.arrays()
            if column.statistic != PROBE
        )
        if arrays:
            batches.append((block.steps, arrays))
    return batches


def _stored(
    column: Column, values: np.ndarray, eps: dict[str, float]
) -> tuple[tuple[str, str], np.ndarray]:
    name = column.statistic
    if name == "batch_invstd":
        return (column.layer, "batch_var"), variance(values, eps.get(column.layer, 0.0))
    if name in _NARROW:
        values = values.astype(_NARROW[name])
    elif name.endswith("histogram"):
        values = values.astype(
            np.uint16 if values.max(initial=0) <= np.iinfo(np.uint16).max else np.uint32
        )
    return (column.layer, name), values


def variance(invstd: np.ndarray, eps: float) -> np.ndarray:
    """The biased variance behind 1 / sqrt(variance + eps), exact to 1e-7 of (variance + eps)."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        exact = 1.0 / np.square(invstd.astype(np.float64)) - eps
        return np.maximum(exact, 0.0).astype(np.float32)


class NonFinite:
    """The first value of each layer that is NaN or infinite, apart for what flows forward and for
    gradients.
    """

    def __init__(self):
        self._first: dict[tuple[str, bool], dict[str, Any]] = {}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """[{layer, statistic, step, channels}], the earliest first."""
        return sorted(self._first.values(), key=lambda row: row["step"])

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows that were found before."""
        for row in rows:
            self._first[row["layer"], "gradient" in row["statistic"]] = row

    def search(self, blocks: Iterable[HostBlock], strides: Mapping[str, int]) -> None:
        """Look through blocks of floating values, of every so many channels of a layer."""
        for block in blocks:
            if block.values.dtype.kind != "f" or np.isfinite(block.values).all():
                continue
            for column, values in block.arrays():
                bad = ~np.isfinite(values.reshape(len(values), -1))
                if bad.any():
                    stride = 1 if column.statistic == PROBE else strides.get(column.layer, 1)
                    self._note(column, block.steps, bad, stride)

    def _note(self, column: Column, steps: np.ndarray, bad: np.ndarray, stride: int) -> None:
        row = int(np.argmax(bad.any(1)))
        key = (column.layer, "gradient" in column.statistic)
        known = self._first.get(key)
        if known is not None and known["step"] <= int(steps[row]):
            return
        per_channel = len(column.shape) == 1 and column.shape != (1,)
        self._first[key] = {
            "layer": column.layer,
            "statistic": "input" if column.statistic == PROBE else column.statistic,
            "step": int(steps[row]),
            "channels": (np.flatnonzero(bad[row]) * stride).tolist() if per_channel else [],
        }
