"""Runs on this machine: one after the other in this process, or several at once in processes of their own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from typing import Any

from loky.backend import get_context
from loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

from normscope.errors import NormscopeError
from normscope.fused.memory import keep_freed_memory
from normscope.studies.progress import Progress, Report
from normscope.studies.runner import RunResult, RunTask, execute


class SerialExecutor:
    """One run at a time, in this process."""

    def run(self, tasks: Sequence[RunTask], report: Report) -> Iterator[tuple[RunTask, RunResult]]:
        """See `Executor.run`."""
        for task in tasks:
            yield task, execute(task, report)


class ProcessExecutor:
    """Several runs at once, each in a worker process (loky: no `if __name__ == "__main__"` needed
    in scripts).
    """

    def __init__(self, jobs: int):
        self.jobs = jobs

    def run(self, tasks: Sequence[RunTask], report: Report) -> Iterator[tuple[RunTask, RunResult]]:
        """See `Executor.run`.

        Raises:
            NormscopeError: if a worker process was killed from outside.
        """
        context = get_context("loky")
        messages = context.SimpleQueue()
        listener = threading.Thread(target=_listen, args=(messages, report), daemon=True)
        listener.start()
        pool = ProcessPoolExecutor(
            max_workers=min(self.jobs, len(tasks)),
            context=context,
            initializer=_start_worker,
            initargs=(messages, os.getpid()),
        )
        try:
            futures: dict[Any, RunTask] = {
                pool.submit(_execute_in_worker, task): task for task in tasks
            }
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise NormscopeError(
                "A worker process was killed from outside, most often for want of memory. Finished epochs are kept: "
                "the same command goes on from there, with less memory under a smaller --jobs."
            ) from error
        finally:
            pool.shutdown(kill_workers=True)
            messages.put(None)
            listener.join(timeout=5)
            messages.close()


def _listen(messages: Any, report: Report) -> None:
    while (message := messages.get()) is not None:
        report(message)


_worker: dict[str, Any] = {}


def _start_worker(messages: Any, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    keep_freed_memory()  # a worker trains and ends
    _worker.update(messages=messages, parent=parent)


def _execute_in_worker(task: RunTask) -> RunResult:
    return execute(task, _report_to_parent)


def _report_to_parent(progress: Progress) -> None:
    if os.getppid() != _worker["parent"]:
        os._exit(
            1
        )  # the command was killed: nobody waits for this run, and its finished epochs are on disk
    _worker["messages"].put(progress)
