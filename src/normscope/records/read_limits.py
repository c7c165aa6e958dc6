"""What reading somebody else's file may take, and what is said of one that takes more."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from normscope.errors import InputError, NormscopeError, RecordError, StorageError
from normscope.escapes import for_line

IMAGES_OPTION = "NORMSCOPE_IMAGES_GB"
DEFAULT_IMAGES_GB = 2.0

_one_reader = threading.RLock()


def images_budget() -> int:
    """Return the bytes that a split of images may take decoded.

    Raises:
        InputError: if the environment asks for what is no number of gigabytes.
    """
    asked = os.environ.get(IMAGES_OPTION, "")
    try:
        gigabytes = float(asked) if asked else DEFAULT_IMAGES_GB
        if gigabytes > 0:
            return int(gigabytes * 1e9)
    except (ValueError, OverflowError):
        pass
    raise InputError(f"{IMAGES_OPTION} is {asked[:40]!r}; expected a number of gigabytes.")


def refuse_beyond(needed: int, allowed: int, what: str) -> None:
    """Refuse images that would take more than `allowed` bytes, a part of the budget.

    Raises:
        InputError: with the number, and the option that raises it.
    """
    if needed > allowed:
        gigabytes = images_budget() / 1e9 * needed / allowed
        raise InputError(
            f"{what} would take {needed / 1e6:,.0f} MB, and at most {allowed / 1e6:,.0f} MB are "
            f"read; {IMAGES_OPTION}={gigabytes:.2g} in the environment raises that."
        )


@contextmanager
def limited_memory(budget: int) -> Iterator[None]:
    """Let this process take so many more bytes of address space; a MemoryError or a RuntimeError
    beyond. Does nothing where the system has no such limit.

    The limit is the whole process's, other threads of a user's included, and is last resort behind
    checks of sizes: give it a gigabyte more than reading should take. A child process would need
    none, but two seconds to import torch. Threads read one after the other, so that none takes
    another's limit for the process's own.
    """
    with _one_reader:
        yield from _limited(budget)


def _limited(budget: int) -> Iterator[None]:
    try:
        import resource

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError):  # Windows, macOS
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [each for each in (soft, hard) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([taken + budget, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


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
