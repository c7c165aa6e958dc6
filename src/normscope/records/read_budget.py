"""How much reading one record may take, and what is said of a record that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

from normscope.errors import InputError, NormscopeError, RecordError, StorageError
from normscope.escapes import for_line

READ_MB = "NORMSCOPE_READ_MB"
"""The environment variable with the megabytes that reading one record may take."""
DEFAULT_MB = 512
MOST_SECONDS = 20.0
"""For SQLite to find the next row."""
MOST_JSON = 8 << 20
"""Bytes of one description or detail."""

# SQLite's primary result codes of a machine that cannot, rather than of a file that is damaged
_MACHINE = {3, 5, 6, 7, 8, 10, 13, 14}  # permission, busy, locked, memory, read-only, I/O, full
_INTERRUPTED, _TOO_BIG = 9, 18


def budget() -> int:
    """Return the bytes of memory that reading one record may take.

    Raises:
        InputError: if the environment names something that is no number of megabytes.
    """
    given = os.environ.get(READ_MB, str(DEFAULT_MB))
    if not given.isdecimal() or not 0 < int(given) <= 1 << 20:
        raise InputError(f"{READ_MB} is {given!r}; expected a number of megabytes.")
    return int(given) * 1_000_000


def cannot_read(path: Path, error: BaseException) -> NormscopeError:
    """Return what to raise for an error of SQLite at reading: a StorageError where the file may be
    good, else a RecordError.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == _INTERRUPTED:
        return RecordError(f"{path} takes more than {MOST_SECONDS:.0f} s to search for a row.")
    if code == _TOO_BIG:
        return over_budget(path)
    if code in _MACHINE:
        return StorageError(f"{path} cannot be read now: {reason(error)}.")
    return RecordError(f"{path} cannot be read as a record: {reason(error)}.")


def reason(error: BaseException) -> str:
    """Return what SQLite says, in one line: it quotes the file."""
    return for_line(str(error)[:200])


def over_budget(path: Path) -> RecordError:
    """Return what to raise for a record that takes more memory than it may."""
    return RecordError(
        f"Reading {path} takes more than {budget() // 1_000_000} MB of memory; the environment "
        f"variable {READ_MB} raises that."
    )
