"""The Python layout of CIFAR-10, read without letting a pickle run anything.

A pickle is a program that may name any importable object and call it. The unpickler here knows
seven names and gives stand-ins for all of them, which only keep what they are given; whatever else
a file names ends the reading before anything is imported. The bytes that are kept are looked at
afterwards, like those of any other file.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from normscope.data.dataset import Layout, Splits
from normscope.data.layouts import binary
from normscope.errors import InputError
from normscope.records.read_limits import limited_memory
from normscope.records.regular_files import open_regular


class DType:
    """Stands in for numpy.dtype."""

    def __init__(self, name: Any = None, *flags: Any):
        self.name = name.decode("latin-1") if isinstance(name, bytes) else name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: one byte has none."""


class Array:
    """Stands in for numpy.ndarray: a dtype, a memory order, and bytes."""

    def __init__(self, *shape_and_type: Any):
        self.data, self.dtype, self.fortran = b"", DType(), False

    def __setstate__(self, state: Any) -> None:
        _version, _shape, self.dtype, self.fortran, self.data = state


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    array = Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for codecs.encode, by which Python 3 writes bytes for Python 2: Latin-1 only."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text encoded as {encoding!r}")
    return text.encode("latin-1")


# numpy moved its core in version 2; both spellings are in files that people have.
STAND_INS: Mapping[tuple[str, str], Any] = {
    ("numpy", "dtype"): DType,
    ("numpy", "ndarray"): Array,
    ("numpy.core.multiarray", "_reconstruct"): Array,
    ("numpy._core.multiarray", "_reconstruct"): Array,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}


class RestrictedUnpickler(pickle._Unpickler):  # pyright: ignore[reportAttributeAccessIssue]
    """Refuses every global that is not in `STAND_INS`; imports none of them.

    It is the one in Python: the one in C makes a table as long as the largest number that a pickle
    names.
    """

    def __init__(self, file: Any, where: str):
        super().__init__(file, encoding="bytes")
        self.where = where

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a global; an InputError that names it where there is none."""
        try:
            return STAND_INS[module, name]
        except KeyError:
            raise InputError(
                f"{self.where} is a pickle that asks for {module}.{name}, which "
                "image data does not need; "
                "it was not run."
            ) from None


def find(directory: Path) -> Layout | None:
    """The six pickle files in `directory`, or in the folder that the archive unpacks to."""
    files = binary.find_files(directory, "cifar-10-batches-py", "")
    if files is None:
        return None

    def read() -> Splits:
        return binary.assemble({path.name: read_batch(path) for path in files}, directory)

    return Layout("Python layout", directory, files, binary.CLASSES, read)


def read_batch(path: Path) -> binary.Batch:
    """Images uint8 [N, 3072] and labels int64 [N] of one file.

    Raises:
        InputError: if the file asks for a global that image data does not need, is no pickle, or
            holds anything but the two arrays in sizes that belong together.
    """
    try:
        size = path.stat().st_size
        with open_regular(path) as file, limited_memory(4 * size + (1 << 28)):
            content = RestrictedUnpickler(file, str(path)).load()
    except (InputError, OSError):
        raise
    except Exception as error:  # the pickle machine may fail in any way on damaged bytes
        raise InputError(
            f"{path} is truncated, or is no pickle: {error or type(error).__name__}."
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a {type(content).__name__}, not a dictionary with 'data' and 'labels'."
        )
    labels, array = (
        content.get(b"labels", content.get("labels")),
        content.get(b"data", content.get("data")),
    )
    if not isinstance(labels, list) or not all(
        type(label) is int and 0 <= label < 256 for label in labels
    ):
        raise InputError(f"{path} holds no list of labels.")
    if (
        not isinstance(array, Array)
        or not _holds_bytes(array)
        or len(array.data) != len(labels) * binary.IMAGE_BYTES
    ):
        raise InputError(
            f"{path} does not hold {binary.IMAGE_BYTES} bytes of data for each of "
            f"{len(labels)} labels."
        )
    return np.frombuffer(array.data, np.uint8).reshape(-1, binary.IMAGE_BYTES), np.array(
        labels, np.int64
    )


def _holds_bytes(array: Array) -> bool:
    is_plain = (
        isinstance(array.dtype, DType) and array.dtype.name in ("u1", "uint8") and not array.fortran
    )
    return is_plain and isinstance(array.data, bytes | bytearray)
