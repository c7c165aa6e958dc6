"""Processes that died while they trained: what ended them, and how many a run has lost."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from normscope.studies.progress_message import Progress

CRASHES = frozenset({"SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS"})
"""Signals that a process brings on itself."""


def how_it_ended(exitcode: int) -> str:
    """Return what ended a process, for a sentence that begins with "its process".

    Args:
        exitcode: as `multiprocessing.Process` has it, the signal with a minus sign.
    """
    if exitcode >= 0:
        return f"ended itself with exit status {exitcode}, as sys.exit or os._exit do"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    if name in CRASHES:
        what = f"{name}, {signal.strsignal(-exitcode)}"
        return f"crashed with {what}: a fault of a native library, and no matter of memory"
    if name == "SIGKILL":
        return (
            "was killed with SIGKILL, for want of memory or by somebody: the same command tries it "
            "again from its last whole epoch, with less memory under a smaller --jobs"
        )
    return (
        f"was ended with {name}, which others send: the same command tries the run again from its "
        "last whole epoch"
    )


@dataclass
class Losses:
    """The workers that one run lost."""

    epochs: int = 0  # whole epochs that were heard of
    deaths: int = 0  # workers lost since
    total: int = 0

    def note(self, progress: Progress) -> None:
        """Forget the deaths when the run has got on."""
        if int(progress.epochs_done) > self.epochs:
            self.epochs, self.deaths = int(progress.epochs_done), 0

    def count(self) -> None:
        """Count one more."""
        self.deaths += 1
        self.total += 1

    def sentence(self) -> str:
        """Return a sentence about the workers that died; empty if none did."""
        if not self.total:
            return ""
        return f"{self.total} worker{'s' if self.total > 1 else ''} died on the way, others went on"
