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
    """Return [(steps, {(layer, statistic): values})] for a record's part. `eps` is by layer."""
    batches = []
    for block in blocks:
        kept = [(at, values) for at, values in block.arrays() if at.statistic != PROBE]
        if kept:
            batches.append((block.steps, dict(_stored(at, values, eps) for at, values in kept)))
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
        fits = values.max(initial=0) <= np.iinfo(np.uint16).max
        values = values.astype(np.uint16 if fits else np.uint32)
    return (column.layer, name), values


def variance(invstd: np.ndarray, eps: float) -> np.ndarray:
    """Return the variance behind 1 / sqrt(variance + eps), exact to 1e-7 of (variance + eps); of a
    layer whose parameters are bf16, which keeps that root in bf16, to 1%.
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        exact = 1.0 / np.square(invstd.astype(np.float64)) - eps
        return np.maximum(exact, 0.0).astype(np.float32)


class NonFinite:
    """The first NaN or infinity of each layer, apart for what flows forward and for gradients."""

    def __init__(self):
        self._first: dict[tuple[str, bool], dict[str, Any]] = {}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return [{layer, statistic, step, channels}], the earliest first."""
        return sorted(self._first.values(), key=lambda row: row["step"])

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows of a recording that goes on."""
        for row in rows:
            self._first[row["layer"], "gradient" in row["statistic"]] = row

    def search(self, blocks: Iterable[HostBlock], strides: Mapping[str, int]) -> None:
        """Search blocks of floating values; `strides` are the distances of recorded channels."""
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
        if key in self._first and self._first[key]["step"] <= int(steps[row]):
            return
        per_channel = len(column.shape) == 1 and column.shape != (1,)
        self._first[key] = {
            "layer": column.layer,
            "statistic": "input" if column.statistic == PROBE else column.statistic,
            "step": int(steps[row]),
            "channels": (np.flatnonzero(bad[row]) * stride).tolist() if per_channel else [],
        }
