"""The work of a Ray worker: train one run, and report its progress. Nothing here imports Ray.

The run is trained in the study's folder if the worker sees it. If not, the run's files come with
the request, it is trained in a temporary folder, and its files are sent back after whole epochs and
at the end.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from normscope.records.files import storing, written_aside
from normscope.records.progress import RunProgress
from normscope.records.run import RECORD_NAME, RECORDING_NAME, SPEC_NAME, WEIGHTS_NAME
from normscope.records.store import reader
from normscope.studies.directory import RunDirectory
from normscope.studies.environment import keep_freed_memory
from normscope.studies.runner import RunResult, RunTask, execute

SECONDS_BETWEEN_TRIES = 0.2
"""To take the lock of a run whose worker died."""

FOLDERS = "normscope-ray-"
"""Prefix of the names of workers' temporary folders."""

SECONDS_TO_LOCK = 60.0
"""A folder that is younger may be somebody's who is about to lock it."""


@dataclass(frozen=True)
class RunRequest:
    """A run to be trained, as it travels to a worker."""

    task: RunTask
    token: Path  # a file in the study's folder, made for this: whoever sees it shares the folder
    files: Files | None = None  # of the run, for a temporary folder; None: in the study's folder
    seconds_between_copies: float = 0.0
    patience: float = 0.0  # seconds to wait for the run's lock, if a worker that died still has it


@dataclass(frozen=True)
class FileSnapshot:
    """The files of a run that is trained elsewhere, as they were after a whole epoch."""

    files: Files


@dataclass(frozen=True)
class FolderNotShared:
    """The worker does not see the study's folder, and has done nothing."""


Message = RunProgress | FileSnapshot | FolderNotShared | RunResult
Send = Callable[[Message], None]


def perform(request: RunRequest) -> Iterator[Message]:
    """Train a run; yields its progress, and at last its result. Ray makes these a stream."""
    keep_freed_memory()
    if request.files is not None:
        yield from _streamed(lambda send: _train_elsewhere(request, send))
    elif request.token.is_file():
        yield from _streamed(lambda send: _train_here(request, send))
    else:
        yield FolderNotShared()


def _train_here(request: RunRequest, send: Send) -> RunResult:
    deadline = time.monotonic() + request.patience
    while (result := execute(request.task, send)).status == "busy" and time.monotonic() < deadline:
        time.sleep(SECONDS_BETWEEN_TRIES)
    return result


def _train_elsewhere(request: RunRequest, send: Send) -> RunResult:
    with _temporary_folder() as folder:
        # the same name, by which the run is known to those who hear of it
        task = replace(request.task, directory=folder / request.task.directory.name)
        write_files(request.files or {}, task.directory)
        result = execute(
            task, _SnapshotSender(task.directory, request.seconds_between_copies, send)
        )
        send(FileSnapshot(read_files(task.directory)))
    # a full disk here says nothing of other machines, nor of the study's folder
    return replace(result, storage_failed=False)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Yield a locked temporary folder. Those of killed workers here are removed first."""
    for left in Path(tempfile.gettempdir()).glob(f"{FOLDERS}*"):
        if os.access(left, os.W_OK) and time.time() - left.stat().st_mtime > SECONDS_TO_LOCK:
            with RunDirectory(left).locked() as nobodys:
                if nobodys:
                    shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=FOLDERS) as folder, RunDirectory(Path(folder)).locked():
        yield Path(folder)


class _SnapshotSender:
    """Send progress, and after a whole epoch the run's files, unless that was done recently."""

    def __init__(self, directory: Path, seconds_between: float, send: Send):
        self._directory, self._seconds, self._send = directory, seconds_between, send
        self._copied = time.monotonic()
        self._resumed_at: float | None = None

    def __call__(self, progress: RunProgress) -> None:
        self._send(progress)
        if self._resumed_at is None:
            self._resumed_at = progress.epochs_done
        whole = progress.epochs_done == int(progress.epochs_done) > self._resumed_at
        if whole and time.monotonic() - self._copied >= self._seconds:
            # progress is reported by the thread that trains, outside of transactions: nobody writes
            # at this moment
            self._send(FileSnapshot(read_files(self._directory)))
            self._copied = time.monotonic()


def _streamed(work: Callable[[Send], RunResult]) -> Iterator[Message]:
    """Yield what `work` sends, at once, and then what it returns. It runs in another thread."""
    messages: SimpleQueue[Message | BaseException] = SimpleQueue()

    def do() -> None:
        try:
            messages.put(work(messages.put))
        except BaseException as error:
            messages.put(error)

    Thread(target=do, daemon=True).start()
    while True:
        message = messages.get()
        if isinstance(message, BaseException):
            raise message
        yield message
        if isinstance(message, RunResult):
            return


Files = dict[str, bytes]
"""{name: content}."""

NAMES = (SPEC_NAME, RECORDING_NAME, WEIGHTS_NAME, RECORD_NAME)
"""Files that are sent, in the order of writing: the record, which says that a run ended, last."""


def read_files(directory: Path) -> Files:
    """Return the files of a run, between two transactions. Call as the run's only writer.

    Raises:
        RecordError: if a killed writer's transaction cannot be rolled back, for the file is
            damaged.
    """
    found = {}
    for name in NAMES:
        path = directory / name
        if (
            not path.is_file() or path.stat().st_size == 0
        ):  # empty: killed before its first transaction
            continue
        if _journal(path).exists():
            with reader(path):
                pass  # opening it rolls back the transaction of a writer that was killed
        found[name] = path.read_bytes()
    return found


def write_files(files: Files, directory: Path) -> None:
    """Put a run's files in place, each written aside and renamed. Call as the run's only writer.

    Raises:
        StorageError: if one cannot be written.
    """
    with storing(f"write to {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            # the journal of a writer that was killed here would be rolled back into the file that
            # takes its place
            _journal(directory / name).unlink(missing_ok=True)
            if name in files:
                with written_aside(directory / name) as aside:
                    aside.write_bytes(files[name])


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}-journal")
