"""Processes for tests that begin with torch loaded: forked from one server per suite worker.

A process of its own loads torch in 2 s of CPU, and torch._dynamo, which the first optimizer wants,
in 1.6 more: most of what a test with a child process would cost.
"""

from __future__ import annotations

import atexit
import gc
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import forkserver, get_context, resource_tracker
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO

from normscope.studies.executors import local

get_context("forkserver").set_forkserver_preload(
    [
        "torch",
        "torch._dynamo",
        "normscope.commands.compare",
        "normscope.studies.executors.local",
        "normscope.show.figures.comparison_figure",
    ]
)


class WarmProcess(ForkServerProcess):
    """Takes loky's place: has this process's environment and folder, and thinks it is its child."""

    def __init__(self, target: Callable[..., object], args: Sequence, daemon: bool | None = None):
        forkserver._forkserver.ensure_running()
        server = forkserver._forkserver._forkserver_address
        here = dict(os.environ), Path.cwd(), os.getpid(), server
        super().__init__(target=_run, args=(*here, target, args), daemon=daemon)


def _run(
    environment: dict[str, str], folder: Path, parent: int, server: str, target, args: Sequence
) -> None:
    # warm processes of this one come from the same server: else it would start another, 5 s
    forkserver._forkserver._forkserver_address = server
    forkserver._forkserver.ensure_running = resource_tracker.ensure_running
    gc.freeze()  # else each collection would touch, and so copy, the server's memory: 0.2 s
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.getppid = lambda: parent
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell ignores it
    target(*args)


class Python:
    """A warm process that does what Python would with these arguments: `-c CODE`, `-m MODULE` or a
    file, and its arguments. Used like a `subprocess.Popen` with pipes and text.
    """

    def __init__(self, *arguments: object):
        theirs, self.stdin = _pipe()
        self.stdout, back = _pipe()
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `communicate`
        with theirs, back:
            streams = [_Travelling(stream) for stream in (theirs, back, self._errors)]
            self._process = WarmProcess(_python, (streams, list(map(str, arguments))))
            self._process.start()
        self.pid, self.kill = self._process.pid, self._process.kill
        self.send_signal = partial(os.kill, self.pid)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode

    def communicate(self, text: str = "") -> tuple[str, str]:
        """Wait for its end; returns what is left of its output, and its errors."""
        if not self.stdin.closed:
            with self.stdin:
                self.stdin.write(text)
        with self.stdout, self._errors:
            output = self.stdout.read()
            self._process.join()
            self._errors.seek(0)
            return output, self._errors.read()

    def __enter__(self) -> Python:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.stdout.closed:
            self.communicate()


COMMAND = """
import sys
from matplotlib.figure import Figure
from PIL import Image
from normscope.cli import main
dot = Image.new("RGB", (1, 1))
Figure.savefig = lambda _, path, **__: dot.save(path)
main(sys.argv[1:])
"""


def command(*arguments: object) -> Python:
    """A warm process of `normscope ARGUMENTS`, which saves a dot in place of each figure: drawing
    them is most of what a small study takes.
    """
    return Python("-c", COMMAND, *arguments)


def run_python(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a warm process to its end, whatever its status."""
    with Python(*arguments) as process:
        output, errors = process.communicate()
    return subprocess.CompletedProcess(list(arguments), process.returncode or 0, output, errors)


def _pipe() -> tuple[IO[str], IO[str]]:
    reading, writing = os.pipe()
    return os.fdopen(reading), os.fdopen(writing, "w", buffering=1)


class _Travelling:
    """A stream on its way into a process that is being started, where it is a descriptor."""

    def __init__(self, stream: IO[str]):
        self.stream = stream

    def __reduce__(self):
        return _arrived, (DupFd(self.stream.fileno()),)


def _arrived(duplicate) -> int:
    return duplicate.detach()


def _python(streams: Sequence[int], arguments: Sequence[str]) -> None:
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # not the server's objects, which remember what their descriptors were
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, buffering=1, closefd=False) for number, mode in enumerate("rww")
    )
    sys.path.insert(0, "")
    kind, *rest = arguments
    local.LokyProcess = WarmProcess
    try:
        if kind == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
        elif kind == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(arguments)
            runpy.run_path(kind, run_name="__main__")
    finally:
        atexit._run_exitfuncs()
