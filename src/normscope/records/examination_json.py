"""Examinations as JSON: the form in which one is kept in a file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from normscope.errors import RecordError
from normscope.records.examination import Examination

FORMAT_VERSION = 1


@dataclass(frozen=True)
class _Envelope:
    normscope: str
    format: int
    examination: Examination


def to_json(examination: Examination, digits: int | None = None) -> bytes:
    """The record as JSON; arrays as lists, optionally rounded to so many significant digits."""
    content = _Envelope("examination", FORMAT_VERSION, examination)
    return msgspec.json.encode(content, enc_hook=lambda value: _encode(value, digits))


def from_json(data: bytes) -> Examination:
    """The record behind `to_json`.

    Raises:
        RecordError: if the bytes are something else, or of another version.
    """
    try:
        envelope = msgspec.json.decode(data, type=_Envelope, dec_hook=_decode)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"This is not an examination: {error}.") from error
    if envelope.normscope != "examination" or envelope.format != FORMAT_VERSION:
        raise RecordError(
            f"This normscope reads examinations of format {FORMAT_VERSION}, not {envelope.format}."
        )
    return envelope.examination


def _encode(value: Any, digits: int | None) -> Any:
    if not isinstance(value, np.ndarray):
        raise NotImplementedError(f"examinations do not carry {type(value).__name__}")
    return _plain(value.astype(np.float64).tolist(), digits)


def _plain(value: Any, digits: int | None) -> Any:
    """Nested lists of numbers; what JSON has no number for (NaN, infinities) becomes its name."""
    if isinstance(value, list):
        return [_plain(entry, digits) for entry in value]
    if not math.isfinite(value):
        return str(value)
    return value if digits is None else float(f"{value:.{digits}g}")


def _decode(kind: type, value: Any) -> Any:
    if kind is np.ndarray:
        return np.array(value, dtype=np.float64)
    raise NotImplementedError(f"examinations do not carry {kind.__name__}")
