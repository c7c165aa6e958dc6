"""Runs on this machine, in worker processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any

from loky.backend.process import LokyProcess

from normscope.records.progress import RunProgress
from normscope.studies.directory import RunDirectory
from normscope.studies.environment import keep_freed_memory
from normscope.studies.process_ends import Losses, how_it_ended
from normscope.studies.runner import RunResult, RunTask, execute, record_failure
from normscope.training.callbacks import Report

MOST_DEATHS = 2
"""Processes that a run may lose without finishing an epoch; with the last of them it has failed."""

SECONDS_TO_END = 30.0
"""For a process that let go of its connection to be gone, too."""

SECONDS_BETWEEN_LOOKS = 1.0
"""Between a worker's looks at whether the command that started it is there."""

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows knows but one way


class ProcessExecutor:
    """An executor for `jobs` runs at once, each in a worker process, a single one too: a native
    library that crashes ends the worker, not the command.

    The processes are loky's, which need no `if __name__ == "__main__"` in scripts. A run whose
    process dies is given to a new one, which resumes it after its last whole epoch. One that loses
    MOST_DEATHS of them without finishing an epoch has failed, and the others go on.
    """

    def __init__(self, jobs: int):
        self.jobs = jobs

    def run(self, tasks: Sequence[RunTask], report: Report) -> Iterator[tuple[RunTask, RunResult]]:
        """See `Executor.run`."""
        waiting = deque(tasks)
        workers = [_Worker() for _ in range(min(self.jobs, len(tasks)))]
        try:
            while waiting or any(worker.task for worker in workers):
                for worker in workers:
                    if worker.task is None and waiting:
                        worker.take(waiting.popleft())
                busy = {worker.connection: worker for worker in workers if worker.task is not None}
                for connection in wait(list(busy)):
                    worker = busy[connection]
                    if ended := worker.hear(report):
                        yield ended
        finally:
            for worker in workers:
                worker.stop()


class _Worker:
    """A process that trains one run after the other, seen from here; a new one where it died."""

    def __init__(self) -> None:
        self.task: RunTask | None = None
        self.connection: Any = None
        self._losses = Losses()
        self._process: LokyProcess | None = None

    def _start(self) -> None:
        self.connection, theirs = Pipe()
        self._process = LokyProcess(target=_work, args=(theirs, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()  # so that the worker's death ends the connection

    def take(self, task: RunTask) -> None:
        """Give it a run."""
        self.task, self._losses = task, Losses()
        self._send()

    def _send(self) -> None:
        if self._process is None:
            self._start()
        with suppress(OSError):  # it died meanwhile; `hear` finds out
            self.connection.send(self.task)

    def hear(self, report: Report) -> tuple[RunTask, RunResult] | None:
        """Take a message from it, or notice its death; returns its run once that has ended."""
        assert self.task is not None
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            message = self._lost()
        if isinstance(message, RunProgress):
            self._losses.note(message)
            report(message)
        if not isinstance(message, RunResult):
            return None
        note = "; ".join(filter(None, (message.note, self._losses.sentence())))
        ended = self.task, replace(message, note=note if message.status != "failed" else "")
        self.task = None
        return ended

    def _lost(self) -> RunResult | None:
        """Have a new process go on with the run; returns a result if it has lost too many."""
        assert self.task is not None
        how = how_it_ended(self.stop(SECONDS_TO_END))
        self._losses.count()
        if self._losses.deaths < MOST_DEATHS:
            self._send()
            return None
        with RunDirectory(self.task.directory).locked() as ours:
            error = f"its process {how} ({MOST_DEATHS} times at the same place)"
            return record_failure(self.task, error) if ours else RunResult("busy")

    def stop(self, patience: float = 0.0) -> int:
        """End the process after `patience` seconds; returns its exit code, 0 without one."""
        process, self._process = self._process, None
        if process is None or process.pid is None:
            return 0
        self.connection.close()
        process.join(patience)
        if process.exitcode is None:
            os.kill(process.pid, KILL)
        process.join()
        return process.exitcode or 0


def _work(connection: Any, parent: int) -> None:
    """Train what comes through the connection until it ends, also when the command is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    keep_freed_memory()  # a worker trains and ends
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()

    def send(message: RunProgress | RunResult) -> None:
        try:
            connection.send(message)
        except OSError:  # the command was killed: nobody waits for this run
            os._exit(1)

    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        send(execute(task, send))


def _end_with(parent: int) -> None:
    """End this process soon after the one that started it; finished epochs are on the disk."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(1)
