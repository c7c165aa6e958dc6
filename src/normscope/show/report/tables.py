"""What travels to the page: columns of numbers as base64, decoded there and fed to the view that is shown."""

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
    """Scalars as float32: seven digits, so what the page gives as CSV is what was measured."""
    return _column("float32", np.asarray(values, dtype="<f4"))


def whole(values: np.ndarray | Sequence[int]) -> dict[str, Any]:
    """Whole numbers from 0 (indices, epochs, steps) in as few bytes as the largest asks for."""
    numbers = np.asarray(values, dtype=np.int64)
    size = next(size for size in (1, 2, 4) if numbers.max(initial=0) < 1 << (8 * size))
    return _column(f"uint{8 * size}", numbers.astype(f"<u{size}"))


def quantised(values: np.ndarray, size: int = 2) -> dict[str, Any]:
    """Values as codes of 1 or 2 bytes, evenly spaced from the smallest to the largest finite one.

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
        columns: {name: encoded column}. A column `run` refers to the page's list of runs,
            `recording` to its list of recordings, `layer` to its list of layers, `axis` to `axes`.
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
        """Plain values for the page."""
        return {
            "columns": dict(self.columns),
            "curve": self.curve,
            "points": self.points,
            "axes": self.axes,
            "levels": self.levels,
        }


def _column(kind: str, codes: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(codes).tobytes()).decode("ascii")
    return {"kind": kind, "data": data}
