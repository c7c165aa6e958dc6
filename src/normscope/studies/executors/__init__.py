"""Executors, which train runs somewhere: each takes tasks and yields results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from normscope.studies.progress_message import Report
from normscope.studies.runner import RunResult, RunTask


class Executor(Protocol):
    """A place where runs are trained."""

    def run(self, tasks: Sequence[RunTask], report: Report) -> Iterator[tuple[RunTask, RunResult]]:
        """Execute every task once and yield each as it ends; `report` is called in the caller's
        process.

        When the iterator is closed early, or the caller is interrupted, what is still running is
        stopped.
        """
        ...
