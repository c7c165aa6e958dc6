"""Files of tensors that others made: nothing in them is executed, and what they may take is decided
by the bytes on the disk, not by the shapes that they claim.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

import numpy as np
import torch
from numpy._core import multiarray
from torch import Tensor

from normscope.arguments import given_path
from normscope.errors import InputError, one_line
from normscope.records.read_limits import limited_memory
from normscope.records.regular_files import check_regular

T = TypeVar("T")

_WRITTEN = {
    "a checkpoint": "what torch.save wrote of model.state_dict()",
    "safetensors": "what safetensors.torch.save_file wrote",
}

SPARE_BYTES = 256 << 20
"""What reading may take beside a few times the file's size, and a tensor beside its storage."""


def read_torch(path: Path, what: str) -> Any:
    """Return what torch.save wrote: plain data and tensors.

    Args:
        path: the file.
        what: "a checkpoint", or what else it is to be, for messages.

    Raises:
        InputError: if it cannot be read, would unpack to much more than it is, or holds Python
            objects, which would have to be executed.
    """

    def read() -> Any:
        _check_archive(path)
        try:
            with torch.serialization.safe_globals(_inert_classes()):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if "nsupported" not in str(error):  # neither a global nor an operation: damaged
                raise
            found = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
            raise InputError(
                f"{path} holds Python objects{f' ({found[1]})' if found else ''}, which would have "
                "to be executed to be read; normscope refuses. Where you trust it, load it in "
                "Python, and save model.state_dict() alone."
            ) from error

    return _read(path, what, read)


def _inert_classes() -> list[Any]:
    """Return what checkpoints of training scripts hold beside tensors, and can do nothing: command
    lines, paths, numbers of numpy.
    """
    rebuild = [
        (getattr(multiarray, name), f"{module}.multiarray.{name}")
        for module in ("numpy.core", "numpy._core")
        for name in ("scalar", "_reconstruct")
    ]
    paths = [
        (kind, f"{module}.{kind.__name__.removeprefix('Pure')}")
        for module in ("pathlib", "pathlib._local")
        for kind in (PurePosixPath, PureWindowsPath)
    ]
    dtypes = [type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdSU"]
    builtins = [list, dict, set, int, float, str, bool, tuple]
    return [
        argparse.Namespace, PurePosixPath, PureWindowsPath, np.dtype, np.ndarray, *dtypes,
        *builtins, *rebuild, *paths, (_without_factory, "collections.defaultdict"),
    ]  # fmt: skip


def _without_factory(*_: Any) -> dict[Any, Any]:
    """Make a dict in place of a defaultdict, which would call something for a key it lacks."""
    return {}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file.

    Raises:
        InputError: if it cannot be read, or the package is missing.
    """
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise InputError(
            "Reading .safetensors needs the package: pip install safetensors."
        ) from None
    return _read(path, "safetensors", lambda: load_file(path))


def read_array(path: Path) -> Tensor:
    """Return the numbers in a .npy file.

    Raises:
        InputError: if it cannot be read, or holds no real numbers, or fewer than it says.
    """

    def read() -> Tensor:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # refuses more than the file has
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            held = getattr(array, "dtype", None) or "an archive"
            raise InputError(f"{path} holds no array of numbers ({held}).")
        return torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))

    return _read(path, "an array", read)


def _read(path: Path, what: str, read: Callable[[], T]) -> T:
    """Read a regular file within a budget of memory; whatever goes wrong is one line."""
    if not given_path(path).exists():
        raise InputError(f"There is no {'checkpoint' if what in _WRITTEN else 'data'} at {path}.")
    try:
        check_regular(path)
        with limited_memory(4 * path.stat().st_size + 4 * SPARE_BYTES), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of readers, on what somebody wrote: not for users
            return read()
    except InputError:
        raise
    except Exception as error:  # damaged bytes make readers raise anything
        expected = f"; expected {_WRITTEN[what]}" if what in _WRITTEN else ""
        raise InputError(
            f"{path} cannot be read as {what} ({one_line(error)}){expected}."
        ) from error


def _check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is, as torch.save does not compress, and one
    whose content is not that of its checksums, at which torch.load does not look.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        large = unpacked > path.stat().st_size + SPARE_BYTES
        if not large and (damaged := archive.testzip()):
            raise InputError(f"{path} is damaged: {damaged} in it is not what was written.")
    if large:
        raise InputError(
            f"{path} has {path.stat().st_size / 1e6:.1f} MB and would unpack to "
            f"{unpacked / 1e6:,.0f} MB; torch.save does not compress."
        )


def is_dense(value: Any) -> bool:
    """Tell if a value is a tensor of real numbers that are there: in memory, one beside the other.

    A tensor that repeats what it stores (stride 0) counts while it is small.
    """
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return False
    if value.is_nested or value.is_quantized or value.is_meta or value.is_complex():
        return False
    claimed = value.numel() * value.element_size()
    return claimed <= SPARE_BYTES >> 4 or claimed <= value.untyped_storage().nbytes()
