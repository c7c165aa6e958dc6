"""Runs on a Ray cluster: each a task with its CPUs and GPUs, on whatever machine has them free."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from normscope.errors import InputError
from normscope.records.files import storing
from normscope.records.progress import RunProgress
from normscope.records.run import status_of
from normscope.studies.directory import RunDirectory
from normscope.studies.executors import ray_worker
from normscope.studies.executors.ray_cluster import connect
from normscope.studies.executors.ray_worker import (
    FileSnapshot,
    FolderNotShared,
    RunRequest,
    read_files,
    write_files,
)
from normscope.studies.process_ends import Losses
from normscope.studies.runner import RunResult, RunTask, record_failure
from normscope.training.callbacks import Report

MOST_DEATHS = 3
"""Workers that a run may lose without finishing an epoch; with the last of them it has failed."""

SECONDS_BETWEEN_COPIES = 10.0
"""Work that a run in a temporary folder loses at most, beside its epoch, when its worker dies."""

SECONDS_TO_LET_GO = 60.0
"""For a shared folder to notice that the holder of a lock is dead, which may take that long."""

SECONDS_BETWEEN_COUNTS = 10.0
"""Between questions for the cluster's size, which may change."""


class RayExecutor:
    """An executor on a Ray cluster.

    Where a worker sees the study's folder, it trains there, under the run's lock, as a process of
    this machine would. Where one does not, the run's files travel through Ray, and this process
    holds the run's lock. A run whose worker dies is given to another, and goes on from what is in
    the study's folder.

    Args:
        address: of the cluster, see `connect`.
        jobs: runs at once; None: as many as the cluster has room for.
        seconds_between_copies: between two copies of the files of a run that is trained elsewhere.
        shared: False has no worker write into the study's folder, also where it sees it, as for a
            file server without working locks.

    Raises:
        InputError: if there is no Ray, here or at the address.
    """

    def __init__(
        self,
        address: str = "auto",
        jobs: int | None = None,
        *,
        seconds_between_copies: float = SECONDS_BETWEEN_COPIES,
        shared: bool = True,
    ):
        self._ray, self._ours = connect(address)
        self._jobs, self._seconds_between_copies = jobs, seconds_between_copies
        self._shared = shared  # until a worker says otherwise
        self._room, self._counted = 0, -SECONDS_BETWEEN_COUNTS

    def run(self, tasks: Sequence[RunTask], report: Report) -> Iterator[tuple[RunTask, RunResult]]:
        """See `Executor.run`.

        Raises:
            InputError: if no machine of the cluster has what a run needs.
            StorageError: if what came back of a run cannot be stored.
        """
        waiting, active = deque(tasks), list[_RemoteRun]()
        needs = _needs(tasks[0])
        self._check_that_a_machine_has(needs)
        with _token(tasks[0].directory.parent) as token, _cancelling(self._ray, active):
            while waiting or active:
                while waiting and len(active) < self._most_at_once(needs):
                    run = _RemoteRun(waiting.popleft(), token)
                    active.append(run)
                    if (result := self._start(run)) is not None:
                        yield self._finish(run, active), result
                for run in self._ready(active):
                    if (result := self._receive(run, report)) is not None:
                        yield self._finish(run, active), result

    def close(self) -> None:
        """Leave the cluster, unless this process was in it before; end one started for it."""
        if self._ours:
            self._ray.shutdown()

    def _start(self, run: _RemoteRun) -> RunResult | None:
        """Give the run to a worker; returns a result only if that cannot be."""
        files = None
        if not self._shared:
            if not run.locked():
                return RunResult("busy")
            files = read_files(run.task.directory)
        patience = SECONDS_TO_LET_GO if run.losses.deaths else 0.0
        request = RunRequest(run.task, run.token, files, self._seconds_between_copies, patience)
        remote = self._ray.remote(ray_worker.perform).options(
            name=run.task.directory.name,
            num_returns="streaming",
            max_retries=0,  # this process does it: it knows what is left of the run
            scheduling_strategy="SPREAD",
            **_needs(run.task),
        )
        run.stream = remote.remote(request)
        return None

    def _ready(self, active: list[_RemoteRun]) -> list[_RemoteRun]:
        """The active with a message; waits a moment for one."""
        streams = [run.stream for run in active]
        self._ray.wait(streams, num_returns=1, timeout=1.0)
        # all of them, else the first would always win
        ready, _ = self._ray.wait(streams, num_returns=len(streams), timeout=0)
        return [run for run in active if run.stream in ready]

    def _receive(self, run: _RemoteRun, report: Report) -> RunResult | None:
        """Take one message from a run; returns the run's result when it has one."""
        errors = self._ray.exceptions
        try:
            message = self._ray.get(next(run.stream))
        except errors.RayTaskError as error:  # raised by the worker's code, outside of the run
            return self._failed(run, f"on a worker, {_last_line(error)}")
        except errors.RayError as error:  # its process or its machine is gone
            run.losses.count()
            if run.losses.deaths < MOST_DEATHS:
                return self._start(run)
            return self._failed(
                run,
                f"its worker died {MOST_DEATHS} times without finishing an epoch "
                f"({_how_it_died(error)})",
            )
        match message:
            case RunProgress():
                run.losses.note(message)
                report(message)
            case FileSnapshot():
                write_files(message.files, run.task.directory)
            case FolderNotShared():
                self._shared = False
                return self._start(run)
            case RunResult(status="failed") if self._failed_elsewhere(run.task):
                return self._failed(run, message.error or "")
            case RunResult():
                return replace(
                    message, note="; ".join(filter(None, (message.note, run.losses.sentence())))
                )
        return None

    def _failed_elsewhere(self, task: RunTask) -> bool:
        return not self._shared and status_of(task.directory) != "failed"

    def _failed(self, run: _RemoteRun, why: str) -> RunResult:
        return record_failure(run.task, why) if run.locked() else RunResult("busy")

    def _finish(self, run: _RemoteRun, active: list[_RemoteRun]) -> RunTask:
        active.remove(run)
        run.lock.close()
        return run.task

    def _most_at_once(self, needs: dict[str, float]) -> int:
        """Return how many runs to start: twice what has room, so that no worker waits."""
        if self._jobs is not None:
            return self._jobs
        if time.monotonic() - self._counted >= SECONDS_BETWEEN_COUNTS:
            sizes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self._room = sum(_room(size, needs) for size in sizes)
            self._counted = time.monotonic()
        return max(2, 2 * self._room)

    def _check_that_a_machine_has(self, needs: dict[str, float]) -> None:
        sizes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(_room(size, needs) for size in sizes):
            what = "a GPU" if needs["num_gpus"] else f"{needs['num_cpus']} CPUs for a run"
            raise InputError(f"None of the {len(sizes)} machines of this Ray cluster has {what}.")


@dataclass(eq=False)
class _RemoteRun:
    """A run that is on its way, over all the workers that it may take."""

    task: RunTask
    token: Path
    stream: Any = None  # the messages of the worker that has it now
    losses: Losses = field(default_factory=Losses)
    lock: ExitStack = field(default_factory=ExitStack)
    _ours: bool = False

    def locked(self) -> bool:
        """Take the run's lock, if it is not taken yet; returns whether this process has it now."""
        self._ours = self._ours or self.lock.enter_context(
            RunDirectory(self.task.directory).locked()
        )
        return self._ours


@contextmanager
def _cancelling(ray: Any, active: list[_RemoteRun]) -> Iterator[None]:
    """However it ends, no worker goes on with a run, and every lock is let go."""
    try:
        yield
    finally:
        for run in active:
            if run.stream is not None:
                ray.cancel(run.stream, force=True)
            run.lock.close()


@contextmanager
def _token(folder: Path) -> Iterator[Path]:
    """A file that only those see who share the folder: its name was never there before."""
    token = folder / f".normscope-{uuid.uuid4().hex}"
    with storing(f"write to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        token.touch()
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


def _needs(task: RunTask) -> dict[str, float]:
    return {"num_cpus": task.spec.threads, "num_gpus": 1 if task.spec.device == "cuda" else 0}


def _room(size: dict[str, float], needs: dict[str, float]) -> int:
    """Runs that fit into a machine at once."""
    room = int(size.get("CPU", 0) // needs["num_cpus"])
    return min(room, int(size.get("GPU", 0) // needs["num_gpus"])) if needs["num_gpus"] else room


def _how_it_died(error: Exception) -> str:
    """Return what Ray says of a worker's end: not by which signal."""
    kind = type(error).__name__
    return {
        "OutOfMemoryError": "ended by Ray for want of memory",
        "NodeDiedError": "its machine is gone",
        "WorkerCrashedError": "killed, or crashed in a native library; Ray's logs say which",
    }.get(kind, kind)


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
