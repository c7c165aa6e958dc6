"""Executors, which train runs somewhere, and a study's runs handed to one until each has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from normscope.errors import StorageError
from normscope.studies.environment import usable_cores
from normscope.studies.runner import RunResult, RunTask
from normscope.training.callbacks import Report


class Executor(Protocol):
    """A place where runs are trained."""

    def run(self, tasks: Sequence[RunTask], report: Report) -> Iterator[tuple[RunTask, RunResult]]:
        """Execute every task once and yield each as it ends; `report` is called in the caller's
        process.

        When the iterator is closed early, or the caller is interrupted, what is still running is
        stopped.
        """
        ...


SECONDS_BETWEEN_TRIES = 1.0


def default_jobs(device: str, runs: int, threads: int = 1) -> int:
    """Return how many runs are trained at once: on the CPU as many as have the machine's cores
    with their threads, for two single-threaded runs beat one with two threads.
    """
    return min(max(1, usable_cores() // threads), runs) if device == "cpu" else 1


def execute_all(
    tasks: Sequence[RunTask],
    executor: Executor,
    report: Report,
    ended: Callable[[RunTask, RunResult], None],
    waiting: Callable[[list[RunTask]], None] = lambda tasks: None,
) -> None:
    """Execute every task; runs that other processes are training are waited for, and taken over if
    those die.

    `waiting` is told of those that are waited for, once, when the others have had their turn.

    Raises:
        StorageError: as soon as one run cannot be stored, for none of the others could.
    """
    pending, said = list(tasks), False
    while pending:
        busy: list[RunTask] = []
        for task, result in executor.run(pending, report):
            if result.storage_failed:
                raise StorageError(result.error)
            if result.status == "busy":
                busy.append(task)
            else:
                ended(task, result)
        if busy and not said:
            waiting(busy)
            said = True
        if len(busy) == len(pending):
            time.sleep(SECONDS_BETWEEN_TRIES)
        pending = busy
