"""The data of a page's views: columns of numbers as base64, decoded there when a view is shown."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MISSING = {1: 255, 2: 65535}
"""{bytes: the code of a value that is not finite}. Codes below it run from the column's minimum to
its maximum.
"""


def exact(values: np.ndarray | Sequence[float]) -> dict[str, Any]:
    """Encode scalars as float32: seven digits, so the page's CSV holds what was measured."""
    return _column("float32", np.asarray(values, dtype="<f4"))


def whole(values: np.ndarray | Sequence[int]) -> dict[str, Any]:
    """Encode whole numbers from 0 (indices, epochs, steps) in as few bytes as the largest needs."""
    numbers = np.asarray(values, dtype=np.int64)
    size = next(size for size in (1, 2, 4) if numbers.max(initial=0) < 1 << (8 * size))
    return _column(f"uint{8 * size}", numbers.astype(f"<u{size}"))


def indices(rows: Sequence[Sequence[int]], *names: str) -> dict[str, dict[str, Any]]:
    """Encode rows of whole numbers as {name: column}."""
    return {name: whole(column) for name, column in zip(names, np.array(rows).T, strict=True)}


def quantised(values: np.ndarray, size: int = 2) -> dict[str, Any]:
    """Encode values in 1 or 2 bytes, evenly spaced from the smallest to the largest finite one.

    The error is at most half a step: 1/131,068 of the range for two bytes, 1/508 for one.
    """
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    low, high = (
        (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    )
    top = MISSING[size] - 1
    with np.errstate(over="ignore"):
        scale = (high / 2 - low / 2) / top * 2  # halves: the range of float64's extremes overflows
    codes = np.full(values.shape, MISSING[size], dtype=f"<u{size}")
    codes[finite] = np.rint((values[finite] - low) / scale) if scale > 0 else 0
    return _column(f"uint{8 * size}", codes) | {"low": low, "scale": scale}


@dataclass(frozen=True)
class Table:
    """The data of one view: columns of equal length, and perhaps a curve in every row.

    Attributes:
        columns: {name: encoded column}. A column `run` holds indices into the page's list of runs,
            `recording` into its recordings, `layer` into its layers, `axis` into `axes`.
        curve: encoded [rows * points], in the order of the rows, or None.
        points: length of a curve.
        axes: where a curve's points lie; without any, evenly between the columns `low` and `high`.
        levels: what the column `level` refers to: the values of a setting.
    """

    columns: Mapping[str, dict[str, Any]]
    curve: dict[str, Any] | None = None
    points: int = 0
    axes: tuple[tuple[float, ...], ...] = ()
    levels: tuple[float | str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the page."""
        return dict(vars(self))


def _column(kind: str, codes: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(codes).tobytes()).decode("ascii")
    return {"kind": kind, "data": data}
