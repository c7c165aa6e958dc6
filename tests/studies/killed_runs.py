"""Runs that are killed at chosen moments and then go on: as a script it does that, `kill_and_resume` starts it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch._dynamo  # what the first optimizer loads, in a second: once, not in every child

from normscope.data import sources
from normscope.studies import runner
from normscope.studies.run_recording import WatchedTraining
from normscope.studies.runner import ProgressCallback, RunTask, execute
from normscope.studies.spec import RunSpec


def kill_and_resume(spec, moments, directory, watch=False):
    """Kill a run at each moment and resume it, in `directory`/0, 1, ...; asserts that each was
    killed and finished.

    A moment is a call of functions below, as source; `moments` are such calls by what they are
    about.
    """
    (directory / "spec.json").write_text(spec.to_json())
    told = subprocess.run(
        [sys.executable, __file__, directory / "spec.json", directory, str(int(watch)), *moments.values()],
        capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    for moment, code in moments.items():
        assert f"{code} False -9" in told.stdout, (
            f"{moment}: was not killed\n{told.stdout}{told.stderr}"
        )
        assert f"{code} True 0" in told.stdout, (
            f"{moment}: did not finish\n{told.stdout}{told.stderr}"
        )


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner, name, when, what=kill):
    """Do `what` before a method is called with arguments for which `when` is true."""
    original = getattr(owner, name)

    def wrapped(*args, **kwargs):
        if when(*args):
            what()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def kill_at_step(epoch, index):
    before(ProgressCallback, "on_step", lambda self, e, i: (e, i) == (epoch, index))


def flush_at_step(epoch, index):
    watched = []
    before(WatchedTraining, "on_epoch_start", lambda self, e: watched.append(self))
    before(
        ProgressCallback,
        "on_step",
        lambda self, e, i: (e, i) == (epoch, index),
        lambda: watched[0]._watcher.flush(),
    )


def kill_after_epoch(number):
    before(ProgressCallback, "on_epoch", lambda self, epoch: epoch.number == number)


def kill_in_transaction(number):
    before(runner.Store, "set_resume_state", lambda self, epoch, state: epoch == number)


def kill_before(owner, name):
    before(owner, name, lambda *_: True)


def main(spec_file, directory, watch, *moments):
    """Train a run for each moment, in a fork each: torch computes in the children only."""
    spec = RunSpec.from_json(Path(spec_file).read_text())
    sources.load(spec.data, classes=spec.classes)  # its library as well
    for index, moment in enumerate(moments):
        for attempt in (moment, None):
            child = os.fork()
            if child == 0:
                torch.set_num_threads(1)
                if attempt:
                    eval(attempt)  # noqa: S307 - what a test wrote
                else:
                    torch.set_num_threads(2)  # the run's own number must win
                task = RunTask(spec, Path(directory, str(index)), watch=bool(int(watch)))
                result = execute(task, lambda _: None)
                os._exit(0 if result.status == "finished" and not result.note else 1)
            status = os.waitpid(child, 0)[1]
            print(moment, attempt is None, os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
