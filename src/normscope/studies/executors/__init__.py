"""Executors: where runs are trained. Each takes tasks and yields results; none knows what a run does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from normscope.studies.progress import Report
from normscope.studies.runner import RunResult, RunTask


class Executor(Protocol):
    """Trains runs somewhere."""

    def run(self, tasks: Sequence[RunTask], report: Report) -> Iterator[tuple[RunTask, RunResult]]:
        """Execute every task once and yield each as it ends; `report` is called in the caller's
        process.

        When the iterator is closed early, or the caller is interrupted, what is still running is
        stopped.
        """
        ...
