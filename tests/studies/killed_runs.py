"""Kills runs at chosen moments, as a script that `kill_and_resume` starts, and resumes them."""

import os
import signal
import sys
from pathlib import Path

import torch

from normscope.data import sources
from normscope.studies import run_record
from normscope.studies.run_recording import WatchedTraining
from normscope.studies.runner import ProgressCallback, RunResult, RunTask, execute
from normscope.studies.spec import RunSpec
from warm_processes import run_python


def kill_and_resume(spec, moments, directory, watch=False):
    """Kill a run at each moment, in `directory`/0, 1, ..., and resume it in this process; asserts
    that each was killed and finished.

    A moment is a call of functions below, as source; `moments` are such calls by what they are
    about.
    """
    (directory / "spec.json").write_text(spec.to_json())
    spec_file = directory / "spec.json"
    killed = run_python(__file__, spec_file, directory, int(watch), *moments.values())
    assert killed.returncode == 0, killed.stderr
    for index, (moment, code) in enumerate(moments.items()):
        output = f"{killed.stdout}{killed.stderr}"
        assert f"{code} -9\n" in killed.stdout, f"{moment}: was not killed\n{output}"
        torch.set_num_threads(2)  # the run's own number must win
        result = execute(RunTask(spec, directory / str(index), watch=watch), lambda _: None)
        torch.set_num_threads(1)
        assert result == RunResult("finished"), moment


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
    before(run_record.Store, "set_resume_state", lambda self, epoch, state: epoch == number)


def kill_before(owner, name):
    before(owner, name, lambda *_: True)


def main(spec_file, directory, watch, *moments):
    """Train a run for each moment, in a fork each: torch computes in the children only."""
    spec = RunSpec.from_json(Path(spec_file).read_text())
    sources.load(spec.data, classes=spec.classes)
    for index, moment in enumerate(moments):
        child = os.fork()
        if child == 0:
            eval(moment)  # noqa: S307 - what a test wrote
            execute(
                RunTask(spec, Path(directory, str(index)), watch=bool(int(watch))), lambda _: None
            )
            os._exit(1)
        print(moment, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
