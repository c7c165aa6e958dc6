"""Arrays as blobs: little-endian bytes with a dtype and a shape, checked before allocating."""

from __future__ import annotations

import functools
import json
import math

import numpy as np

from normscope.errors import RecordError

DTYPES = frozenset(
    {"<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "<u8", "<u4", "<u2", "|u1", "|i1", "|b1"}
)
MAX_DIMENSIONS = 8


def pack(array: np.ndarray) -> tuple[str, str, bytes]:
    """(dtype, shape as JSON, bytes) of an array, in little-endian C order.

    Raises:
        TypeError: for a dtype that the format does not carry (objects, strings, complex numbers).
    """
    little = np.asarray(array).astype(
        np.asarray(array).dtype.newbyteorder("<"), copy=False, order="C"
    )
    if little.dtype.str not in DTYPES:
        raise TypeError(f"records carry {sorted(DTYPES)}, not {little.dtype.str}")
    return little.dtype.str, json.dumps(list(little.shape)), little.tobytes()


def unpack(dtype: str, shape: str, data: bytes) -> np.ndarray:
    """The array behind (dtype, shape as JSON, bytes): read-only, a view of the bytes.

    Raises:
        RecordError: if the dtype is not one of the format's, the shape is none, or the two do not
            account for exactly the bytes that are there. Nothing is allocated from what the file
            claims.
    """
    if dtype not in DTYPES:
        raise RecordError(f"The record holds an array of unknown dtype {str(dtype)[:40]!r}.")
    if not isinstance(data, bytes):
        raise RecordError("The record holds an array whose data is not a blob.")
    sizes = _sizes(shape)
    expected = math.prod(sizes) * np.dtype(dtype).itemsize
    if expected != len(data):
        raise RecordError(
            f"The record holds an array of {len(data)} bytes where its dtype {dtype} and shape "
            f"{list(sizes)} ask for {expected}."
        )
    return np.frombuffer(data, dtype=dtype).reshape(sizes)


@functools.lru_cache  # a recording has thousands of arrays of few shapes
def _sizes(shape: str) -> tuple[int, ...]:
    try:
        sizes = json.loads(shape)
    except (TypeError, ValueError, RecursionError):
        sizes = None
    if (
        not isinstance(sizes, list)
        or len(sizes) > MAX_DIMENSIONS
        or not all(type(size) is int and size >= 0 for size in sizes)
    ):
        raise RecordError(
            f"The record holds an array with an unreadable shape {str(shape)[:40]!r}."
        )
    return tuple(sizes)
