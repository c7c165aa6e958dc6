"""Worker processes that die while they train: what is said of it, and what becomes of the runs."""

import contextlib
import dataclasses
import os
import signal
import sys
import time
from multiprocessing import Pipe
from pathlib import Path

import pytest
from rich.console import Console
from run_cases import OPTIONS, assert_same_bits, ignore

from normscope.commands.compare import CompareOptions, compare
from normscope.records.run import load_run
from normscope.studies import executors as execution
from normscope.studies.executors import local
from normscope.studies.executors.local import ProcessExecutor
from normscope.studies.grid import lay_out
from normscope.studies.process_ends import how_it_ended
from normscope.studies.runner import RunResult, RunTask, execute
from warm_processes import run_python

CRASHED = "crashed with {}: a fault of a native library, and no matter of memory"


@pytest.fixture(scope="module")
def spec():
    return lay_out(OPTIONS).specs[0]


def tasks_of(spec, directory, *norms):
    """Runs of these norms_that_end, and a sound one that is called good."""
    specs = {norm: dataclasses.replace(spec, norm=f"norms_that_end:{norm}") for norm in norms}
    specs["good"] = spec
    return [RunTask(each, directory / name) for name, each in specs.items()]


@pytest.mark.parametrize(
    ("number", "name"),
    [(11, "SIGSEGV, Segmentation fault"), (6, "SIGABRT, Aborted"), (7, "SIGBUS, Bus error"),
     (8, "SIGFPE, Floating point exception"), (4, "SIGILL, Illegal instruction")],
)  # fmt: skip
def test_a_crash_is_named_and_is_no_matter_of_memory(number, name):
    assert how_it_ended(-number) == CRASHED.format(name)


def test_who_is_killed_is_told_how_to_go_on():
    assert "killed with SIGKILL, for want of memory or by somebody" in how_it_ended(-9)
    assert "the same command tries it again" in how_it_ended(-9)
    assert "SIGTERM" in how_it_ended(-15)
    assert "memory" not in how_it_ended(-15)
    assert how_it_ended(3) == "ended itself with exit status 3, as sys.exit or os._exit do"
    assert "signal 64" in how_it_ended(-64) or "SIGRTMAX" in how_it_ended(-64)


def test_runs_that_end_their_process_twice_fail_and_say_how_and_the_others_finish(
    spec, tmp_path, monkeypatch, worker_processes
):
    """One worker, so that all of them pass through it: the command outlives each."""
    monkeypatch.setenv("NORMSCOPE_TEST_MARKERS", str(tmp_path))
    runs = tmp_path / "runs"
    tasks = tasks_of(spec, runs, "crashes_once", "crashes", "dies", "exits", "leaves")
    ended = {task.directory.name: result for task, result in ProcessExecutor(1).run(tasks, ignore)}
    assert (tmp_path / "crashed").exists(), "nobody crashed"
    assert ended["crashes_once"] == RunResult(
        "finished", note="1 worker died on the way, others went on"
    )
    crash = CRASHED.format("SIGSEGV, Segmentation fault")
    assert ended["crashes"].error == f"its process {crash} (2 times at the same place)"
    assert "killed with SIGKILL" in ended["dies"].error
    assert "exit status 3" in ended["exits"].error
    assert ended["leaves"] == RunResult("failed", "SystemExit: the norm had enough")
    assert ended["good"] == RunResult("finished")
    for name in ("crashes", "dies", "exits", "leaves"):
        failed = load_run(runs / name)
        assert (failed.status, failed.meta["error"]) == ("failed", ended[name].error)
    (once, *_) = tasks_of(spec, tmp_path / "here", "crashes_once")
    assert execute(once, ignore) == RunResult("finished")
    assert_same_bits(runs / "crashes_once", tmp_path / "here" / "crashes_once")


def test_a_command_with_one_job_survives_a_crash_and_records_it(
    tmp_path, worker_processes, monkeypatch, blank_figures
):
    monkeypatch.setattr(local, "MOST_DEATHS", 1)
    options = dataclasses.replace(OPTIONS, norms=("norms_that_end:crashes", "batch"), jobs=1)
    asked = {each.name: getattr(options, each.name) for each in dataclasses.fields(options)}
    result = compare(CompareOptions(**asked | {"out": tmp_path}), console=Console(quiet=True))
    assert [run.status for run in result.runs] == ["failed", "finished"]
    assert "crashed with SIGSEGV" in result.runs[0].meta["error"]


COMMAND = """
import os, sys
from pathlib import Path
from loky.backend.process import LokyProcess
from normscope.studies.executors import local
from normscope.studies.runner import RunTask
from normscope.studies.spec import RunSpec
local.LokyProcess = LokyProcess  # a child of the command, which a warm process is not
spec = RunSpec.from_json(Path(sys.argv[1]).read_text())

def end(message):
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    print(children, flush=True)
    os.kill(os.getpid(), 9)

list(local.ProcessExecutor(1).run([RunTask(spec, Path(sys.argv[2]))], end))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_command_that_is_killed_leaves_no_worker_behind(spec, tmp_path):
    (tmp_path / "spec.json").write_text(spec.to_json())
    told = run_python("-c", COMMAND, tmp_path / "spec.json", tmp_path)
    assert told.returncode == -signal.SIGKILL, told.stderr
    workers = told.stdout.split()
    assert workers
    deadline = time.monotonic() + 30
    while left := [pid for pid in workers if os.path.exists(f"/proc/{pid}")]:  # noqa: PTH110
        assert time.monotonic() < deadline, f"{left} are still there"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_worker_ends_with_its_command(monkeypatch):
    """Its end of the connection alone does not tell: other workers may hold the command's."""
    monkeypatch.setattr(local, "SECONDS_BETWEEN_LOOKS", 0.01)
    ours, theirs = Pipe()
    reading, writing = os.pipe()
    command = os.fork()
    if command == 0:
        parent = os.getpid()  # the worker may begin when it is dead already
        worker = os.fork()
        if worker == 0:
            local._work(theirs, parent)
        os.write(writing, str(worker).encode())
        signal.pause()
    worker = int(os.read(reading, 20))
    assert Path(f"/proc/{worker}").exists()
    os.kill(command, signal.SIGKILL)
    os.waitpid(command, 0)
    deadline = time.monotonic() + 30
    try:
        while (place := Path(f"/proc/{worker}/stat")).exists() and " Z " not in place.read_text():
            assert time.monotonic() < deadline, "the worker is still there"
            time.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    for connection in (ours, theirs):
        connection.close()
    for pipe in (reading, writing):
        os.close(pipe)


def test_runs_that_others_train_are_waited_for_and_named_once(monkeypatch):
    monkeypatch.setattr(execution, "SECONDS_BETWEEN_TRIES", 0.0)
    answers = iter([("busy", "finished"), ("busy",), ("busy",), ("finished",)])
    said, done = [], []

    class Others:
        def run(self, tasks, report):
            for task, status in zip(tasks, next(answers), strict=True):
                yield task, RunResult(status)

    execution.execute_all(
        ["a", "b"], Others(), ignore, lambda task, _: done.append(task), said.append
    )
    assert (said, done) == ([["a"]], ["b", "a"])
