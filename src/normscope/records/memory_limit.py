"""What reading somebody else's file may take, decided before it is read."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from normscope.errors import InputError

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
