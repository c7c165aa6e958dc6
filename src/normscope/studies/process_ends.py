"""How processes end: those that a run lost, in words, and in a fork for a user's own code."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch

from normscope.errors import InputError
from normscope.records.progress import RunProgress
from normscope.words import plural

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

    def note(self, progress: RunProgress) -> None:
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
        return f"{plural(self.total, 'worker')} died on the way, others went on"


def refuse_what_ends_processes(name: str, action: Callable[[], object]) -> None:
    """Run what a user's normalization is needed for in a fork, where there are forks: one that
    ends its process would end the command without a word. What it raises is told where it is run
    for good.

    Raises:
        InputError: if the process ended, by itself or by a signal.
    """
    if not hasattr(os, "fork"):
        return
    sys.stdout.flush()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads are left behind: none is used
        child = os.fork()
    if child == 0:
        _try(action, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as survived:
        whole = survived.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not whole:
        raise InputError(
            f"Normalization {name!r} cannot be had: its process {how_it_ended(status)}."
        )


def _try(action: Callable[[], object], writing: int) -> None:
    status = 0
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # it is said where it is run for good
            os.dup2(silent, stream)
        torch.set_num_threads(1)  # the pool's threads stayed behind
        with suppress(Exception):
            action()
        os.write(writing, b"survived")
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    finally:
        os._exit(status)
