"""Worker processes that die while they train: what is said of it, and what becomes of the runs."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
from run_cases import OPTIONS, assert_same_bits, ignore

from normscope.records.run import load_run
from normscope.studies.execution import execute_all
from normscope.studies.executors import local
from normscope.studies.executors.local import ProcessExecutor, SerialExecutor
from normscope.studies.executors.losses import how_it_ended
from normscope.studies.grid import lay_out
from normscope.studies.runner import RunResult, RunTask

CRASHED = "crashed with {}: a fault of a native library, and no matter of memory"


@pytest.fixture(scope="module")
def spec():
    return lay_out(OPTIONS).specs[0]


def tasks_of(spec, directory, *norms):
    """Runs of these norms_that_end, and a sound one that is called good."""
    specs = {norm: dataclasses.replace(spec, norm=f"norms_that_end:{norm}") for norm in norms}
    specs["good"] = spec
    return [RunTask(each, directory / name) for name, each in specs.items()]


def run_all(tasks, jobs=2):
    ended = {}
    execute_all(
        tasks,
        ProcessExecutor(jobs),
        ignore,
        lambda task, result: ended.update({task.directory.name: result}),
    )
    return ended


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


def test_runs_that_end_their_process_fail_and_say_how_and_the_others_finish(
    spec, tmp_path, monkeypatch
):
    monkeypatch.setattr(local, "MOST_DEATHS", 1)
    ended = run_all(tasks_of(spec, tmp_path, "crashes", "dies", "exits", "leaves"))
    assert ended["good"] == RunResult("finished")
    assert CRASHED.format("SIGSEGV, Segmentation fault") in ended["crashes"].error
    assert "killed with SIGKILL" in ended["dies"].error
    assert "exit status 3" in ended["exits"].error
    assert ended["leaves"] == RunResult("failed", "SystemExit: the norm had enough")
    for name in ("crashes", "dies", "exits", "leaves"):
        failed = load_run(tmp_path / name)
        assert (failed.status, failed.meta["error"]) == ("failed", ended[name].error)


def test_one_crash_is_survived_and_a_second_at_the_same_place_is_a_failure(
    spec, tmp_path, monkeypatch
):
    monkeypatch.setenv("NORMSCOPE_TEST_MARKERS", str(tmp_path))
    ended = run_all(tasks_of(spec, tmp_path / "runs", "crashes_once", "crashes"))
    assert (tmp_path / "crashed").exists(), "nobody crashed"
    assert ended["crashes_once"] == RunResult(
        "finished", note="1 worker died on the way, others went on"
    )
    assert ended["crashes"].error == (
        f"its process {CRASHED.format('SIGSEGV, Segmentation fault')} (2 times at the same place)"
    )
    assert ended["good"] == RunResult("finished")
    once = tasks_of(spec, tmp_path / "here", "crashes_once")[:1]
    assert [result.status for _, result in SerialExecutor().run(once, ignore)] == ["finished"]
    assert_same_bits(tmp_path / "runs" / "crashes_once", tmp_path / "here" / "crashes_once")


def test_sys_exit_in_a_norm_does_not_end_the_command(spec, tmp_path):
    (leaving, _) = tasks_of(spec, tmp_path, "leaves")
    assert list(SerialExecutor().run([leaving], ignore)) == [
        (leaving, RunResult("failed", "SystemExit: the norm had enough"))
    ]


COMMAND = """
import os, sys
from pathlib import Path
from normscope.studies.executors.local import ProcessExecutor
from normscope.studies.runner import RunTask
from normscope.studies.spec import RunSpec
spec = RunSpec.from_json(Path(sys.argv[1]).read_text())
tasks = [RunTask(spec, Path(sys.argv[2]) / name) for name in ("one", "two")]
for _ in ProcessExecutor(2).run(tasks, lambda message: None):
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    print(children, flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_command_that_is_killed_leaves_no_worker_behind(spec, tmp_path):
    (tmp_path / "spec.json").write_text(spec.to_json())
    command = [sys.executable, "-c", COMMAND, tmp_path / "spec.json", tmp_path]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == -signal.SIGKILL, told.stderr
    workers = told.stdout.split()
    assert len(workers) >= 2
    deadline = time.monotonic() + 30
    while left := [pid for pid in workers if os.path.exists(f"/proc/{pid}")]:  # noqa: PTH110
        assert time.monotonic() < deadline, f"{left} are still there"
        time.sleep(0.05)
